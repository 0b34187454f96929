"""Data sets that only evaluation uses: CIFAR-10-C and saved adversarial images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset import DataSpec, eval_transform
from errors import InputError
from files.checkpoints import load_checkpoint
from files.class_names import class_names_in
from input_pipeline.loader import Loader
from input_pipeline.sources import CIFAR10_CLASSES
from input_pipeline.splits import Split
from input_pipeline.transforms import Transform

# The benchmark's mean is over these; the archive has four more, meant for validation.
# Hendrycks & Dietterich (2019), section 4.
BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
    *("motion_blur", "zoom_blur", "snow", "frost", "fog"),
    *("brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class Corruptions:
    """The corruptions in a folder, in alphabetical order; notes: what is missing or not used."""

    benchmark: tuple[str, ...]
    extra: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def corruptions(root: str) -> Corruptions:
    """Find the corruptions of CIFAR-10-C in a folder and check the shape of all of them.

    Raises InputError where none of the benchmark's 15 is there, or any file does not hold five
    times the images that the labels of one severity are for.
    """
    there = {path.stem for path in Path(root).glob("*.npy")}
    found = sorted(there.intersection(BENCHMARK))
    if not found:
        below = Path(root) / "CIFAR-10-C"
        hint = f"; there is a folder {below}" if below.is_dir() else ""
        raise InputError(
            f"{root}: no {{corruption}}.npy of the benchmark's 15 in it; unpack CIFAR-10-C.tar "
            f"there{hint}"
        )
    extra, missing = sorted(there.intersection(EXTRA)), sorted(set(BENCHMARK) - there)
    spare = sorted(there - {*BENCHMARK, *EXTRA, "labels"})
    notes = []
    if missing:
        notes.append(
            f"{root}: {len(found)} of the 15 corruptions of CIFAR-10-C, so its mean is not the "
            f"benchmark's; missing: {', '.join(missing)}"
        )
    if spare:
        notes.append(f"{root}: not used: {', '.join(f'{name}.npy' for name in spare)}")
    labels = _labels(root)
    for name in (*found, *extra):
        _images(root, name, labels)
    return Corruptions(tuple(found), tuple(extra), tuple(missing), tuple(notes))


def cifar10_c_loader(
    spec: DataSpec,
    corruption: str,
    severity: int,
    *,
    batch_size: int,
    workers: int | None = 0,
    processes: int = 1,
    threads: int | None = None,
) -> Loader:
    """Return CIFAR-10-C under spec.root at one severity (1 to 5), framed like spec's evaluation."""
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity}: must be 1 to 5")
    if corruption not in (*BENCHMARK, *EXTRA):
        raise InputError(f"{corruption}: no corruption; there are {', '.join(BENCHMARK + EXTRA)}")
    labels = _labels(spec.root)
    images = _images(spec.root, corruption, labels)
    per = len(labels) // 5  # 10,000 in the published files
    rows = slice((severity - 1) * per, severity * per)
    pixels = torch.from_numpy(np.array(images[rows])).permute(0, 3, 1, 2)
    split = Split(pixels, labels[rows].astype(np.int64))
    return Loader(
        split,
        eval_transform(spec),
        CIFAR10_CLASSES,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        threads=threads,
    )


def _labels(root: str) -> np.ndarray:
    """Read the labels, those of one severity five times over."""
    path = Path(root) / "labels.npy"
    labels = np.asarray(_load_npy(path))
    if labels.ndim != 1 or not _in_range(labels, 10):
        raise InputError(f"{path}: not labels of 0 to 9, one an image")
    if len(labels) % 5 or (labels.reshape(5, -1) != labels[: len(labels) // 5]).any():
        raise InputError(f"{path}: not the labels of one severity five times over")
    return labels


def _images(root: str, corruption: str, labels: np.ndarray) -> np.ndarray:
    """Open a corruption's images without reading them."""
    path = Path(root) / f"{corruption}.npy"
    images = _load_npy(path)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise InputError(f"{path}: not uint8 images (N, H, W, 3)")
    if len(images) != len(labels):
        raise InputError(
            f"{path}: {len(images)} images for {len(labels)} labels, five times {len(labels) // 5}"
        )
    return images


def _load_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a hostile header fails in many ways
        raise InputError(f"{path}: missing or not a .npy array") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive, not a .npy array")
    return array


def _in_range(labels: np.ndarray, count: int) -> bool:
    return (
        labels.dtype.kind in "iu" and len(labels) > 0 and 0 <= labels.min() <= labels.max() < count
    )


def adversarial_loader(
    path: str,
    spec: DataSpec,
    classes: Sequence[str],
    *,
    batch_size: int,
    workers: int | None = 0,
    processes: int = 1,
    threads: int | None = None,
) -> Loader:
    """Return a saved adversarial set, a file {"data": images (N, 3, H, W), "label": (N,)}.

    Floats in [0, 1] are the network's inputs and stay floats, so they must be of spec's size. uint8
    images (also as (N, H, W, 3)) of that size are so too; others are framed like spec's evaluation,
    which may spoil an attack, so that a note says it. classes: those of the network, which stand
    where the file does not name its own.
    """
    content = load_checkpoint(path)
    data, labels = _images_and_labels(path, content)
    if labels.is_floating_point() or not _in_range(labels.numpy(), len(classes)):
        raise InputError(f"{path}: labels are not integers of 0 to {len(classes) - 1}")
    of_its_size = tuple(data.shape[2:]) == (spec.input_size, spec.input_size)
    if data.is_floating_point() and not of_its_size:
        raise InputError(
            f"{path}: images of {data.shape[2]}×{data.shape[3]} pixels for an input size of "
            f"{spec.input_size}; floats are taken as they are"
        )
    data = _pixels(path, data)
    # "stretch" leaves images of this size alone.
    transform = Transform(spec.input_size, "stretch") if of_its_size else eval_transform(spec)
    height, width = data.shape[2:]
    framed = (
        f"{path}: images of {height}×{width} pixels are framed for an input size of "
        f"{spec.input_size} like clean ones: an attack may lose its effect by that"
    )
    split = Split(data, labels.numpy().astype(np.int64))
    classes = class_names_in(content) or classes
    return Loader(
        split,
        transform,
        classes,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        threads=threads,
        notes=() if of_its_size else (framed,),
    )


def _pixels(path: str, data: Tensor) -> Tensor:
    """Return images as uint8 or float32; raise InputError where their values are in no range."""
    if data.dtype == torch.uint8:
        if data.max() <= 1:
            raise InputError(
                f"{path}: uint8 images with values up to {data.max()} only, of 255: floats in "
                "[0, 1] that were cast, perhaps; save them as floats"
            )
        return data
    if not data.is_floating_point():
        raise InputError(f"{path}: images of type {data.dtype}; uint8 or floats in [0, 1] expected")
    data = data.float()
    if not (data.min() >= 0 and data.max() <= 1):
        raise InputError(f"{path}: float images outside [0, 1]")
    return data


def _images_and_labels(path: str, content: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    data, labels = content.get("data"), content.get("label")
    if not isinstance(data, Tensor) or not isinstance(labels, Tensor):
        raise InputError(f"{path}: no tensors 'data' and 'label' in it; make one with --save_adv")
    if data.ndim == 4 and data.shape[1] != 3 and data.shape[3] == 3:
        data = data.permute(0, 3, 1, 2)
    if data.ndim != 4 or data.shape[1] != 3 or labels.shape != data.shape[:1]:
        raise InputError(
            f"{path}: data {tuple(data.shape)} and label {tuple(labels.shape)}, "
            "not (N, 3, H, W) and (N,)"
        )
    return data.detach(), labels.detach()
