"""Where images come from: each data set's files, read and cut into train, val and test."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv

from errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# fmt: off
CIFAR10_CLASSES = [  # in label order
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]
VISDA_CLASSES = [
    "aeroplane", "bicycle", "bus", "car", "horse", "knife", "motorcycle", "person", "plant",
    "skateboard", "train", "truck",
]
# fmt: on
# As released: train = the first int(images · data_number), val = from there to the end.
INDEX_SPLITS = {"cifar10": (45000, 50000), "cifar100": (45000, 50000), "svhn": (68257, 73257)}
DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer


class Split(NamedTuple):
    """Images, a uint8 tensor (N, 3, H, W) or file names (N,) as bytes, and labels (N,) int64."""

    images: Tensor | np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray | slice) -> "Split":
        return Split(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    """The splits of a data set; labels index `classes`. test is None where there is none."""

    classes: list[str]
    train: Split
    val: Split
    test: Split | None


def load_splits(dataset: str, root: str, data_number: float, classes: str | None) -> Splits:
    """Read a data set and split it; raise InputError when something is missing or wrong.

    CIFAR and SVHN split by index as released. The others split per class in file-name order:
    a missing val is the last tenth of each training class, data_number the first part of the rest.
    """
    if not 0 < data_number <= 1:
        raise InputError(f"data_number {data_number}: must be above 0 and at most 1")
    if dataset in INDEX_SPLITS:
        return _index_splits(dataset, root, data_number, classes)
    if dataset == "digits":
        return _digits_splits(data_number, classes)
    if dataset == "visda":
        return _visda_splits(Path(root), data_number, classes)
    return _folder_splits(Path(root), data_number, classes, imagenet=dataset == "imagenet")


# ---------------------------------------------------------------------------- arrays


def _index_splits(dataset: str, root: str, data_number: float, wanted: str | None) -> Splits:
    names, whole, test = _READERS[dataset](root)
    start, end = INDEX_SPLITS[dataset]
    if len(whole.labels) < end:
        raise InputError(f"{root}: {dataset} has {len(whole.labels)} training images, not {end}")
    count = int(start * data_number)
    keep = choose_classes(names, wanted)
    splits = Splits(
        keep,
        _only(whole.take(slice(count)), names, keep),
        _only(whole.take(slice(start, end)), names, keep),
        _only(test, names, keep),
    )
    if len(splits.train.labels) == 0:
        raise InputError(f"data_number {data_number}: leaves no training image of {dataset}")
    return splits


def _only(split: Split, names: list[str], keep: list[str]) -> Split:
    """Keep the images of the classes `keep`, numbered by their place in it."""
    if keep == names:
        return split
    number = np.array([keep.index(name) if name in keep else -1 for name in names])
    labels = number[split.labels]
    chosen = np.flatnonzero(labels >= 0)
    return Split(split.images[chosen], labels[chosen])


def _read_cifar(kind: type[tv.CIFAR10], root: str) -> tuple[list[str], Split, Split]:
    files = f"the folder {kind.base_folder}/ (unpacked from {kind.url})"
    parts = []
    for train in (True, False):
        part = _open(root, files, kind, train=train)
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
        parts.append(Split(images, np.asarray(part.targets, dtype=np.int64)))
    return list(part.classes), parts[0], parts[1]


def _read_svhn(root: str) -> tuple[list[str], Split, Split]:
    parts = []
    for name in ("train", "test"):
        url, filename, _ = tv.SVHN.split_list[name]
        part = _open(root, f"the file {filename} (from {url})", tv.SVHN, split=name)
        parts.append(Split(torch.from_numpy(part.data), part.labels))
    return [str(digit) for digit in range(10)], parts[0], parts[1]


_READERS: dict[str, Callable[[str], tuple[list[str], Split, Split]]] = {
    "cifar10": lambda root: _read_cifar(tv.CIFAR10, root),
    "cifar100": lambda root: _read_cifar(tv.CIFAR100, root),
    "svhn": _read_svhn,
}


def _open(root: str, files: str, kind: Callable[..., Any], **arguments: Any) -> Any:
    """Open a torchvision data set, whose MD5 sums it checks; download it only if it is missing."""
    try:
        return kind(root, download=False, **arguments)
    except RuntimeError:  # not there, or damaged
        pass
    existed = os.path.isdir(root)
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT):
            return kind(root, download=True, **arguments)
    except (OSError, RuntimeError) as error:
        if not existed and os.path.isdir(root) and not os.listdir(root):
            os.rmdir(root)  # made for the download that failed
        reason = " ".join(str(error).split())
        raise InputError(
            f"{root}: {kind.__name__} is not there (or damaged) and could not be downloaded "  # type: ignore[attr-defined]
            f"({reason}); put {files} into {root}"
        ) from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _digits_splits(data_number: float, wanted: str | None) -> Splits:
    from sklearn.datasets import load_digits  # optional: only this data set needs it

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), levels 0 … 16
    images = torch.from_numpy(gray)[:, None].repeat(1, 3, 1, 1)
    names = [str(digit) for digit in range(10)]
    keep = choose_classes(names, wanted)
    whole = _only(Split(images, digits.target.astype(np.int64)), names, keep)
    rest, test = _per_class(whole.labels, lambda n: n - n // 5)
    train, val = split_per_class(whole.take(rest), data_number, keep)
    return Splits(keep, train, val, whole.take(test))


# ---------------------------------------------------------------------------- per class


def _per_class(labels: np.ndarray, first: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut each class after its first `first(n)` images: indices before and after, by class."""
    before, after = [], []
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        cut = first(len(members))
        before.append(members[:cut])
        after.append(members[cut:])
    return np.concatenate(before), np.concatenate(after)


def split_per_class(
    split: Split, data_number: float, classes: Sequence[str]
) -> tuple[Split, Split]:
    """Take val (the last tenth of each class) off and keep the first data_number of the rest.

    At least one image of each class lands in either.
    """
    counts = np.bincount(split.labels, minlength=len(classes))
    if (counts < 2).any():
        name = classes[int(counts.argmin())]
        raise InputError(f"class {name}: {counts.min()} image(s); train and val need one each")
    rest, val = _per_class(split.labels, lambda n: n - max(1, n // 10))
    return fraction_per_class(split.take(rest), data_number), split.take(val)


def fraction_per_class(split: Split, data_number: float) -> Split:
    """Keep the first data_number of each class, at least one image."""
    if data_number == 1:
        return split
    return split.take(_per_class(split.labels, lambda n: max(1, int(n * data_number)))[0])


def choose_classes(names: list[str], wanted: str | None) -> list[str]:
    """Return the classes `wanted` of the sorted `names`: a number N = the first N, or a file.

    A line of the file is a class name; what follows a tab on it is ignored. The numbering follows
    `names`, not the lines.
    """
    if wanted is None:
        return names
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(names):
            raise InputError(f"classes {wanted}: must be 1 to {len(names)}, the classes there are")
        return names[: int(wanted)]
    try:
        lines = Path(wanted).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"classes {wanted}: neither a number nor a readable file that names classes"
        ) from error
    listed = {line.split("\t")[0].strip() for line in lines} - {""}
    unknown = sorted(listed - set(names))
    if unknown:
        raise InputError(f"{wanted}: no such class in the data set: {_short(unknown)}")
    if not listed:
        raise InputError(f"{wanted}: names no class; write one class folder a line")
    return [name for name in names if name in listed]


# ---------------------------------------------------------------------------- folders


def _folder_splits(root: Path, data_number: float, wanted: str | None, imagenet: bool) -> Splits:
    """train/ + val/ (ImageNet), or train/ and test/ and/or val/: what is there is used as it is.

    Without val/ it comes out of train/; without test/, val/ serves as the test set too.
    """
    layout = "train/CLASS/* and val/CLASS/*" if imagenet else "train/CLASS/* and test/ or val/"
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with {layout}")
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    needed = {"train", "val"} if imagenet else {"train"}
    if needed - set(present) or len(present) < 2:
        missing = sorted(needed - set(present)) or ["test or val"]
        raise InputError(f"{root}: no folder {missing[0]}; expected {layout}")
    keep = choose_classes(_class_folders(root / "train"), wanted)
    train = _scan(root / "train", keep)
    if "val" not in present:
        train, val = split_per_class(train, data_number, keep)
    else:
        train = fraction_per_class(train, data_number)
        val = _scan_like(root, "val", keep, wanted)
    if imagenet:
        return Splits(keep, train, val, None)
    test = _scan_like(root, "test", keep, wanted) if "test" in present else val
    return Splits(keep, train, val, test)


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in found if entry.is_dir())
    if names:
        return names
    if any(entry.name.lower().endswith(EXTENSIONS) for entry in found):
        raise InputError(
            f"{folder}: its images lie loose; sort them into {folder}/CLASS/, the same class "
            "folders as in train (for ImageNet's val by the validation labels of its devkit)"
        )
    raise InputError(f"{folder}: no class folders in it; expected {folder}/CLASS/*")


def _scan(folder: Path, classes: list[str]) -> Split:
    """List the images below each class folder, in file-name order."""
    files: list[bytes] = []
    counts = []
    for name in classes:
        below = [
            os.path.join(parent, file)
            for parent, _, members in os.walk(folder / name, followlinks=True)
            for file in members
            if file.lower().endswith(EXTENSIONS)
        ]
        if not below:
            raise InputError(f"{folder / name}: no image in it (one of {' '.join(EXTENSIONS)})")
        files.extend(os.fsencode(path) for path in sorted(below))
        counts.append(len(below))
    # One block of bytes, not a million str objects, which every forked worker would copy.
    return Split(np.array(files), np.repeat(np.arange(len(classes)), counts))


def _scan_like(root: Path, part: str, keep: list[str], wanted: str | None) -> Split:
    """Scan another split; its class folders must be those of train (of the chosen ones)."""
    here = set(_class_folders(root / part))
    lacking, extra = sorted(set(keep) - here), sorted(here - set(keep))
    if lacking:
        raise InputError(f"{root / part}: class folders of train missing: {_short(lacking)}")
    if extra and wanted is None:
        raise InputError(f"{root / part}: class folders that train has not: {_short(extra)}")
    return _scan(root / part, keep)


def _visda_splits(root: Path, data_number: float, wanted: str | None) -> Splits:
    """VisDA-2017: train/ and validation/, which is val and test, listed by image_list.txt."""
    keep = choose_classes(VISDA_CLASSES, wanted)
    train, val = (
        _only(_read_list(root / name), VISDA_CLASSES, keep) for name in ("train", "validation")
    )
    for name, part in (("train", train), ("validation", val)):
        if len(part.labels) == 0:
            raise InputError(f"{root / name / 'image_list.txt'}: no image of the chosen classes")
    return Splits(keep, fraction_per_class(train, data_number), val, val)


def _read_list(folder: Path) -> Split:
    listing = folder / "image_list.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{listing}: not there; VisDA needs lines `path label` in it") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdigit() or int(label) >= len(VISDA_CLASSES):
            raise InputError(f"{listing}:{number}: not `path label` with a label of 0 to 11")
        entries.append((int(label), os.fsencode(folder / path.strip())))
    if not entries:
        raise InputError(f"{listing}: lists no image")
    entries.sort()
    return Split(
        np.array([path for _, path in entries]),
        np.array([label for label, _ in entries], dtype=np.int64),
    )


def _short(names: Sequence[str], limit: int = 5) -> str:
    """Join names, the first few of many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
