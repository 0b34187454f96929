"""Small image folders as people have them, built around one good folder."""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NFC = "café"
NFD = unicodedata.normalize("NFD", NFC)
LATIN = os.fsdecode(b"caf\xe9")


def picture(seed: int = 0, size: int = 16) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def images(folder: Path, count: int, suffix: str = ".png", kind: str | None = None) -> None:
    """Write `count` different images of a format told by `kind`, or by the suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        picture(k).save(folder / f"{k:03}{suffix}", format=kind)


def split(root: Path, name: str, count: int, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for label in classes:
        images(root / name / label, count)
    return root


def good(root: Path) -> Path:
    """6 training and 3 test images of cat and dog: splits of 10, 2 and 6 images."""
    return split(split(root, "train", 6), "test", 3)


def text(path: Path, content: str | bytes = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def renamed(root: Path, before: str, after: str) -> None:
    (root / after).parent.mkdir(parents=True, exist_ok=True)
    (root / before).rename(root / after)


def tiny_imagenet(root: Path) -> None:
    """train/n1/images/*, val/images/* with its annotations, test/images/* without labels."""
    for name in ("n1", "n2"):
        images(root / "train" / name / "images", 4, ".JPEG")
        text(root / "train" / name / f"{name}_boxes.txt")
    images(root / "val" / "images", 4, ".JPEG")
    lines = ["003.JPEG\tn1\t0\t0\t9\t9", "001.JPEG\tn2\t0\t0\t9\t9", "000.JPEG\tn2", "002.JPEG\tn1"]
    text(root / "val" / "val_annotations.txt", "\n".join(lines) + "\n")
    images(root / "test" / "images", 5, ".JPEG")


@dataclass(frozen=True)
class Case:
    """What is done to the good folder, and what comes of it.

    counts: images of (train, val, test). notes: words of each note, in the order of the notes.
    refused: words of the error instead. classes: the value of --classes, below the folder if it
    ends in .txt. bare: begin with an empty folder.
    """

    name: str
    change: Callable[[Path], object]
    counts: tuple[int, ...] = (10, 2, 6)
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    names: tuple[str, ...] = ("cat", "dog")
    classes: str | None = None
    dataset: str = "folder"
    bare: bool = False
