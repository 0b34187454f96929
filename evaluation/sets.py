"""Data sets that only evaluation uses: CIFAR-10-C and saved adversarial images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset import DataSpec, Loader, eval_transform
from errors import InputError
from files.checkpoints import load_checkpoint
from input_pipeline.sources import CIFAR10_CLASSES, Split
from input_pipeline.transforms import Transform


def corruptions(root: str) -> list[str]:
    """Name the corruptions of CIFAR-10-C whose {corruption}.npy lie in a folder."""
    names = sorted(path.stem for path in Path(root).glob("*.npy") if path.stem != "labels")
    if not names:
        raise InputError(f"{root}: no {{corruption}}.npy in it; unpack CIFAR-10-C.tar there")
    return names


def cifar10_c_loader(
    spec: DataSpec, corruption: str, severity: int, *, batch_size: int, workers: int = 0
) -> Loader:
    """Return CIFAR-10-C under spec.root at one severity (1 to 5), framed like spec's evaluation."""
    if severity not in range(1, 6):
        raise InputError(f"severity {severity}: must be 1 to 5")
    names = corruptions(spec.root)
    if corruption not in names:
        raise InputError(f"{spec.root}: no {corruption}.npy; there are {', '.join(names)}")
    images = _load_npy(Path(spec.root) / f"{corruption}.npy")
    labels = _load_npy(Path(spec.root) / "labels.npy")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise InputError(f"{spec.root}/{corruption}.npy: not uint8 images (N, H, W, 3)")
    if len(images) % 5 or labels.shape != images.shape[:1] or not _in_range(labels, 10):
        raise InputError(f"{spec.root}/labels.npy: not {len(images)} labels of 0 to 9")
    per = len(images) // 5  # 10,000 in the published files
    rows = slice((severity - 1) * per, severity * per)
    pixels = torch.from_numpy(np.array(images[rows])).permute(0, 3, 1, 2)
    split = Split(pixels, labels[rows].astype(np.int64))
    return Loader(
        split, eval_transform(spec), CIFAR10_CLASSES, batch_size=batch_size, workers=workers
    )


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
    path: str, spec: DataSpec, classes: list[str], *, batch_size: int, workers: int = 0
) -> Loader:
    """Return a saved adversarial set, a file {"data": images (N, 3, H, W), "label": (N,)}.

    Floats in [0, 1] are the network's inputs and stay floats, so they must be of spec's size; uint8
    images (also as (N, H, W, 3)) are framed like spec's evaluation. classes: those of the network.
    """
    content = load_checkpoint(path)
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
    if not _in_range(labels.numpy(), len(classes)):
        raise InputError(f"{path}: labels are not integers of 0 to {len(classes) - 1}")
    transform = eval_transform(spec)
    if data.is_floating_point():
        data = data.float()
        if data.shape[2:] != (spec.input_size, spec.input_size):
            raise InputError(
                f"{path}: images of {data.shape[2]}×{data.shape[3]} pixels for an input size of "
                f"{spec.input_size}; floats are taken as they are"
            )
        if not (data.min() >= 0 and data.max() <= 1):
            raise InputError(f"{path}: float images outside [0, 1]")
        transform = Transform(spec.input_size, "stretch")  # leaves images of this size alone
    elif data.dtype != torch.uint8:
        raise InputError(f"{path}: images of type {data.dtype}; uint8 or floats in [0, 1] expected")
    split = Split(data, labels.numpy().astype(np.int64))
    return Loader(split, transform, classes, batch_size=batch_size, workers=workers)
