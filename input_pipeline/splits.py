"""What a data set is cut into: splits of images and labels, and how a split is cut by class."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch import Tensor

from errors import InputError

FIRST_BYTES = 2**16  # of a file, by which another is told from it


class Split(NamedTuple):
    """Images, a uint8 tensor (N, 3, H, W) or file names (N,) as bytes, and labels (N,) int64."""

    images: Tensor | np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray | slice) -> "Split":
        return Split(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    """The splits of a data set; labels index `classes`. test is None where there is none.

    notes: one line for each thing that was found and left out, or that may surprise.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...] = ()


def fingerprint(split: Split, classes: Sequence[str]) -> str:
    """Return the SHA-256 of a split's class names, labels and images, in their order.

    Images count by their pixels, image files by their bytes (a file that cannot be read by none),
    so the same files give the same fingerprint in every place and on every machine.
    """
    digest = hashlib.sha256("\n".join(classes).encode())
    digest.update(split.labels.astype("<i8").tobytes())
    if isinstance(split.images, Tensor):
        digest.update(f"{split.images.dtype} {tuple(split.images.shape)}".encode())
        for image in split.images:
            digest.update(image.contiguous().numpy().tobytes())
        return digest.hexdigest()
    for path in split.images.tolist():
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:  # told, or skipped, when its batch is made
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def short_fingerprint(split: Split, classes: Sequence[str]) -> str:
    """Return a short hash of class names, labels, and all file names or about 1,000 images."""
    digest = hashlib.sha256("\n".join(classes).encode())
    digest.update(split.labels.tobytes())
    if isinstance(split.images, Tensor):
        some = split.images[:: max(1, len(split.labels) // 1000)]
        digest.update(some.contiguous().numpy().tobytes())
    else:
        digest.update(b"\n".join(os.path.basename(path) for path in split.images.tolist()))
    return digest.hexdigest()[:16]


def sampled_fingerprint(split: Split, classes: Sequence[str]) -> str:
    """The same, with the sizes of about 1,000 of the files: images made anew have others."""
    digest = hashlib.sha256(short_fingerprint(split, classes).encode())
    for path in _some_files(split):
        with contextlib.suppress(OSError):  # told, or skipped, when its batch is made
            digest.update(f"{os.stat(path).st_size} ".encode())
    return digest.hexdigest()[:16]


def bytes_fingerprint(split: Split, classes: Sequence[str]) -> str:
    """The same, with how these files begin: others of equal sizes, of BMP or of noise, differ."""
    digest = hashlib.sha256(short_fingerprint(split, classes).encode())
    for path in _some_files(split):
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            digest.update(hashlib.sha256(file.read(FIRST_BYTES)).digest())
    return digest.hexdigest()[:16]


def _some_files(split: Split) -> list[bytes]:
    if isinstance(split.images, Tensor):
        return []
    found: list[bytes] = split.images[:: max(1, len(split.labels) // 1000)].tolist()
    return found


def only(split: Split, names: Sequence[str], keep: Sequence[str]) -> Split:
    """Keep the images of the classes `keep`, numbered by their place in it."""
    if tuple(keep) == tuple(names):
        return split
    place = {name: number for number, name in enumerate(keep)}
    labels = np.array([place.get(name, -1) for name in names])[split.labels]
    chosen = np.flatnonzero(labels >= 0)
    return Split(split.images[chosen], labels[chosen])


def cut_per_class(labels: np.ndarray, first: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
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
    rest, val = cut_per_class(split.labels, lambda n: n - held_out(n))
    return fraction_per_class(split.take(rest), data_number), split.take(val)


def fraction_per_class(split: Split, data_number: float) -> Split:
    """Keep the first data_number of each class, at least one image."""
    if data_number == 1:
        return split
    return split.take(cut_per_class(split.labels, lambda n: share_of(n, data_number))[0])


def held_out(images: int) -> int:
    """How many of a class's training images are its val, where a set has none: the last tenth."""
    return max(1, images // 10)


def share_of(images: int, data_number: float) -> int:
    """How many of a class's images data_number keeps: 7 tenths of 90 are 63, by floats 62."""
    return max(1, int(images * Fraction(str(data_number))))
