"""Splits whose images and labels stand in a text file: VisDA-2017, and tiny-imagenet's val."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from errors import InputError
from input_pipeline.disk import SUFFIXES, unreadable
from input_pipeline.names import choose_classes, counted, few, read_lines, shown
from input_pipeline.splits import Split, Splits, fraction_per_class, only

# fmt: off
VISDA_CLASSES = (  # in label order
    "aeroplane", "bicycle", "bus", "car", "horse", "knife", "motorcycle", "person", "plant",
    "skateboard", "train", "truck",
)
# fmt: on
ANNOTATIONS = "val_annotations.txt"  # of tiny-imagenet as it unpacks, beside images/


def visda_splits(root: Path, data_number: float, wanted: str | None) -> Splits:
    """Read VisDA-2017: train/ and validation/, which is val and test, listed by image_list.txt."""
    keep, notes = choose_classes(VISDA_CLASSES, wanted)
    parts = {}
    for name in ("train", "validation"):
        whole, more = _read_visda(root / name / "image_list.txt")
        parts[name], notes = only(whole, VISDA_CLASSES, keep), (*notes, *more)
        absent = set(range(len(keep))) - set(parts[name].labels.tolist())
        if len(absent) == len(keep):
            raise InputError(
                f"{shown(root / name / 'image_list.txt')}: no image of the chosen classes"
            )
        if absent:
            lacking = few([keep[label] for label in sorted(absent)])
            notes = (*notes, f"{shown(root / name)}: lists no image of {lacking}")
    train, val = fraction_per_class(parts["train"], data_number), parts["validation"]
    return Splits(keep, train, val, val, notes)


def _read_visda(listing: Path) -> tuple[Split, tuple[str, ...]]:
    """Read lines `path label`, in the order of labels and paths."""
    try:
        lines = read_lines(listing)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{shown(listing)}: not there; VisDA needs lines `path label` in it"
        ) from error
    except OSError as error:
        raise unreadable(listing, error) from error
    labels: dict[bytes, int] = {}
    again = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, label = (line.rsplit(maxsplit=1) + [""])[:2]
        if not re.fullmatch("[0-9]{1,2}", label) or int(label) >= len(VISDA_CLASSES):
            raise InputError(f"{shown(listing)}:{number}: not `path label` with a label of 0 to 11")
        name = str(PurePosixPath(path.strip())).encode("utf-8", "surrogateescape")  # a//b is a/b
        if labels.setdefault(name, int(label)) != int(label):
            raise InputError(f"{shown(listing)}:{number}: {shown(name)} with a second label")
        again += 1
    if not labels:
        raise InputError(f"{shown(listing)}: lists no image")
    again -= len(labels)
    notes = (
        (f"{shown(listing)}: left out {counted(again, 'line')} of images listed before",)
        if again
        else ()
    )
    rows = sorted(
        (label, os.fsencode(listing.parent / os.fsdecode(name))) for name, label in labels.items()
    )
    return _split(rows), notes


def read_annotations(
    folder: Path, keep: Sequence[str], known: set[str]
) -> tuple[Split, tuple[str, ...]] | None:
    """Read tiny-imagenet's val as it unpacks: images/ and lines `file<tab>class<tab>...`.

    Returns None where its images were sorted into class folders. keep: the classes to keep, in the
    order of their labels; known: all classes of train.
    """
    listing, images = folder / ANNOTATIONS, folder / "images"
    if not images.is_dir() or any((folder / name).is_dir() for name in known):
        return None
    try:
        lines, there = read_lines(listing), set(os.listdir(images))
    except OSError as error:
        raise InputError(f"{shown(error.filename)}: cannot be read ({error.strerror})") from error
    place = {name: label for label, name in enumerate(keep)}
    rows, listed = [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        if not rest or rest[0] not in known:
            raise InputError(
                f"{shown(listing)}:{number}: not `image<tab>class` with a class folder of train"
            )
        if name in listed or name not in there:
            what = "listed before" if name in listed else f"no such image in {shown(images)}"
            raise InputError(f"{shown(listing)}:{number}: {shown(name)}: {what}")
        listed.add(name)
        if rest[0] in place:
            rows.append((place[rest[0]], os.fsencode(images / name)))
    absent = [name for label, name in enumerate(keep) if label not in {row[0] for row in rows}]
    if absent:
        raise InputError(f"{shown(listing)}: no image of {few(absent)}")
    notes = [f"{shown(folder)}: labels read from {ANNOTATIONS}"]
    spare = [name for name in there - listed if name.lower().endswith(tuple(SUFFIXES))]
    if spare:
        notes.append(
            f"{shown(images)}: left out {counted(len(spare), 'image')} that {ANNOTATIONS} "
            f"does not list: {few(sorted(map(shown, spare)))}"
        )
    return _split(sorted(rows)), tuple(notes)


def _split(rows: list[tuple[int, bytes]]) -> Split:
    return Split(
        np.array([path for _, path in rows]),
        np.array([label for label, _ in rows], dtype=np.int64),
    )
