"""Where images come from: each data set's files, read and cut into train, val and test."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torchvision import datasets as tv

from errors import InputError
from files.features import discard, lock_by_process
from input_pipeline.decoding import pixel_notes
from input_pipeline.disk import unreadable
from input_pipeline.folders import SPLIT_NAMES, folder_splits
from input_pipeline.listings import visda_splits
from input_pipeline.names import choose_classes, few
from input_pipeline.splits import Split, Splits, cut_per_class, only, split_per_class

CIFAR10_CLASSES = (  # in label order
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# As released: train = the first int(images · data_number), val = from there to the end.
INDEX_SPLITS = {"cifar10": (45000, 50000), "cifar100": (45000, 50000), "svhn": (68257, 73257)}
FIRST_FILE = {
    "cifar10": tv.CIFAR10.base_folder,
    "cifar100": tv.CIFAR100.base_folder,
    "svhn": "train_32x32.mat",
    "visda": "train/image_list.txt",
}
DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer
DOWNLOAD_LOCK = ".download.lock"  # in the data's folder, while a process downloads into it
MOST_STALE = 20  # locks in a row that were removed before they were had


def is_there(dataset: str, root: Path) -> bool:
    """Whether a folder holds the files of a data set, judged by the first that is looked for."""
    if dataset == "digits":
        return True  # scikit-learn's
    if dataset in FIRST_FILE:
        return (root / FIRST_FILE[dataset]).exists()
    below = os.listdir(root) if root.is_dir() else []
    return any(name.casefold() in SPLIT_NAMES["train"] for name in below)


def load_splits(dataset: str, root: str, data_number: float, classes: str | None) -> Splits:
    """Read a data set and split it; raise InputError when something is missing or wrong.

    CIFAR and SVHN split by index as released. The others split per class in file-name order:
    a missing val is the last tenth of each training class, data_number the first part of the rest.
    """
    if not 0 < data_number <= 1:
        raise InputError(f"data_number {data_number}: must be above 0 and at most 1")
    if dataset in INDEX_SPLITS:
        splits = _index_splits(dataset, root, data_number, classes)
    elif dataset == "digits":
        splits = _digits_splits(data_number, classes)
    elif dataset == "visda":
        splits = visda_splits(Path(root), data_number, classes)
    else:
        splits = folder_splits(Path(root), data_number, classes, imagenet=dataset == "imagenet")
    return splits._replace(notes=(*splits.notes, *_absent(splits), *_pixels(splits)))


def _absent(splits: Splits) -> list[str]:
    """Name classes without a training image."""
    there = set(splits.train.labels.tolist())
    absent = [name for label, name in enumerate(splits.classes) if label not in there]
    return [f"no training image of {few(absent)}"] if absent else []


def _pixels(splits: Splits) -> list[str]:
    """Tell what is special about the pixels of image files."""
    parts = [splits.train, splits.val]
    if splits.test is not None and splits.test is not splits.val:
        parts.append(splits.test)
    files = [part.images for part in parts if isinstance(part.images, np.ndarray)]
    return pixel_notes(np.concatenate(files)) if files else []


# ---------------------------------------------------------------------------- arrays


def _index_splits(dataset: str, root: str, data_number: float, wanted: str | None) -> Splits:
    names, whole, test = _READERS[dataset](root)
    start, end = INDEX_SPLITS[dataset]
    if len(whole.labels) < end:
        raise InputError(f"{root}: {dataset} has {len(whole.labels)} training images, not {end}")
    count = int(start * data_number)  # by floats, as released: 31,499 of 45,000 at 0.7
    keep, notes = choose_classes(names, wanted)
    splits = Splits(
        keep,
        only(whole.take(slice(count)), names, keep),
        only(whole.take(slice(start, end)), names, keep),
        only(test, names, keep),
        notes,
    )
    if len(splits.train.labels) == 0:
        raise InputError(f"data_number {data_number}: leaves no training image of {dataset}")
    return splits


def _read_cifar(kind: type[tv.CIFAR10], root: str) -> tuple[list[str], Split, Split]:
    parts = []
    for train in (True, False):
        part = _open(root, kind.base_folder, kind.url, kind, train=train)
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
        parts.append(Split(images, np.asarray(part.targets, dtype=np.int64)))
    return list(part.classes), parts[0], parts[1]


def _read_svhn(root: str) -> tuple[list[str], Split, Split]:
    parts = []
    for name in ("train", "test"):
        url, filename, _ = tv.SVHN.split_list[name]
        part = _open(root, filename, url, tv.SVHN, split=name)
        parts.append(Split(torch.from_numpy(part.data), part.labels))
    return [str(digit) for digit in range(10)], parts[0], parts[1]


_READERS: dict[str, Callable[[str], tuple[list[str], Split, Split]]] = {
    "cifar10": lambda root: _read_cifar(tv.CIFAR10, root),
    "cifar100": lambda root: _read_cifar(tv.CIFAR100, root),
    "svhn": _read_svhn,
}


def _open(root: str, own: str, url: str, kind: Callable[..., Any], **arguments: Any) -> Any:
    """Open a torchvision data set, whose MD5 sums it checks; download it only if it is missing.

    Args:
        own: the file or folder of `root` that holds it.
    """
    try:
        return kind(root, download=False, **arguments)
    except RuntimeError:  # not there, or damaged
        pass
    except PermissionError as error:
        raise unreadable(error.filename or root, error) from error
    existed = os.path.isdir(root)
    try:
        with _one_at_a_time(Path(root)), _socket_timeout(DOWNLOAD_TIMEOUT):
            if not (Path(root) / own).exists():
                return kind(root, download=True, **arguments)
            try:  # what another process has downloaded meanwhile
                return kind(root, download=False, **arguments)
            except RuntimeError as error:
                raise InputError(
                    f"{Path(root) / own}: not as published (by its MD5 sums), so changed, torn or "
                    "incomplete; move it away, and it is downloaded; images of your own go as "
                    "class folders (--dataset folder)"
                ) from error
    except (OSError, RuntimeError) as error:
        if not existed and os.path.isdir(root) and not os.listdir(root):
            os.rmdir(root)  # made for the download that failed
        reason = " ".join(str(error).split())
        raise InputError(
            f"{root}: {kind.__name__} is not there and could not be downloaded "  # type: ignore[attr-defined]
            f"({reason}); put {own} (from {url}) into {root}"
        ) from error


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Let one process download into a folder, as far as its file system knows locks.

    The runs of a study begin together, and the first of them finds no data.
    """
    root.mkdir(parents=True, exist_ok=True)
    path, told, stale = root / DOWNLOAD_LOCK, False, 0
    while True:
        with open(path, "a") as lock:
            if not lock_by_process(lock, root, "let one run download before others begin"):
                if not told:
                    print(f"{root}: another process downloads into it; waiting", file=sys.stderr)
                told = True
                time.sleep(0.5)
            # Else the process before has removed it meanwhile; some file systems never tell.
            elif _is_at(path, lock) or (stale := stale + 1) > MOST_STALE:
                try:
                    yield
                finally:
                    discard(path)
                return


def _is_at(path: Path, file: IO[Any]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _digits_splits(data_number: float, wanted: str | None) -> Splits:
    try:
        from sklearn.datasets import load_digits  # optional: only this data set needs it
    except ImportError as error:
        raise InputError("digits needs scikit-learn: pip install scikit-learn") from error

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), levels 0 … 16
    images = torch.from_numpy(gray)[:, None].repeat(1, 3, 1, 1)
    names = [str(digit) for digit in range(10)]
    keep, notes = choose_classes(names, wanted)
    whole = only(Split(images, digits.target.astype(np.int64)), names, keep)
    rest, test = cut_per_class(whole.labels, lambda n: n - n // 5)
    train, val = split_per_class(whole.take(rest), data_number, keep)
    return Splits(keep, train, val, whole.take(test), notes)
