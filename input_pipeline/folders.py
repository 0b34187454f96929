"""Image folders ROOT/SPLIT/CLASS/*: which folders are the splits and the classes, and their images.

Whatever is left out of them, or counted otherwise than one may expect, ends in the notes.
"""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import InputError
from input_pipeline.disk import (
    SUFFIXES,
    LeftOut,
    entries,
    images_below,
    is_folder,
    is_system,
    same_files,
)
from input_pipeline.listings import ANNOTATIONS, read_annotations
from input_pipeline.names import (
    choose_classes,
    class_name,
    counted,
    few,
    missing_classes,
    shown,
)
from input_pipeline.splits import Split, Splits, fraction_per_class, split_per_class

# The usual names of the splits, in small letters; the first is preferred where several are there.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
HINT_FOLDERS = 200  # looked at for a better root, where there is no train folder


class Part(NamedTuple):
    """The images of a split as they lie on the disk; inodes (N,), 0 where unknown."""

    split: Split
    inodes: np.ndarray
    notes: tuple[str, ...]


def folder_splits(root: Path, data_number: float, wanted: str | None, imagenet: bool) -> Splits:
    """Read train/ + val/ (ImageNet), or train/ and test/ and/or val/: used as they are.

    Without val/ it comes out of train/; without test/, or where test/ has no labels, val/ serves
    as the test set too.
    """
    layout = "train/CLASS/* and val/CLASS/*" if imagenet else "train/CLASS/* and test/ or val/"
    if not os.path.isdir(root):
        what = "a file, not a folder" if os.path.exists(root) else "no such folder"
        raise InputError(f"{shown(root)}: {what}; expected one with {layout}")
    folders, notes = split_folders(root, ("train", "val") if imagenet else tuple(SPLIT_NAMES))
    needed = {"train", "val"} if imagenet else {"train"}
    if needed - set(folders) or len(folders) < 2:
        missing = sorted(needed - set(folders)) or ["test or val"]
        hint = _better_root(root) if "train" not in folders else ""
        raise InputError(f"{shown(root)}: no folder {missing[0]}; expected {layout}{hint}")
    left_out = LeftOut(folders["train"])
    classes = class_folders(folders["train"], left_out)
    _at_least_two(folders["train"], classes)
    keep, more = choose_classes(tuple(classes), wanted)
    notes += more
    parts = {"train": scan({name: classes[name] for name in keep}, left_out)}
    for name in ("val", "test"):
        if name in folders and name == "test" and is_unlabelled(folders[name], set(classes)):
            if "val" not in folders:
                raise _loose(folders[name])
            notes.append(
                f"{shown(folders[name])}: has no class folders, so no labels; "
                f"{folders['val'].name}/ is the test set too"
            )
        elif name in folders:
            parts[name] = _scan_like(folders[name], keep, set(classes), whole=wanted is None)
    notes += [line for part in parts.values() for line in part.notes] + _shared(parts)
    if "val" in parts:
        train, val = fraction_per_class(parts["train"].split, data_number), parts["val"].split
    else:
        train, val = split_per_class(parts["train"].split, data_number, keep)
    test = parts["test"].split if "test" in parts else val
    return Splits(keep, train, val, None if imagenet else test, tuple(notes))


# ---------------------------------------------------------------------------- splits


def split_folders(root: Path, wanted: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of the wanted splits that are there, and a note on those not used."""
    there = [e.name for e in entries(root) if not is_system(e.name) and is_folder(e)]
    folders = {}
    for split in wanted:
        usual = SPLIT_NAMES[split]
        found = sorted(
            (name for name in there if name.casefold() in usual),
            key=lambda name: (name != usual[0], name),
        )
        if len(found) > 1 and found[0] != usual[0]:
            raise InputError(
                f"{shown(root)}: {' and '.join(found)} may all be {split}; "
                f"rename the right one to {usual[0]}"
            )
        if found:
            folders[split] = root / found[0]
    used = {folder.name for folder in folders.values()}
    spare = [shown(name) + "/" for name in there if name not in used]
    if not spare or "train" not in folders:
        return folders, []
    return folders, [f"{shown(root)}: not used: {few(spare)}"]


def _better_root(root: Path) -> str:
    """Say which folder is meant instead of `root`, if one above or below it has a train folder."""
    usual = {name for names in SPLIT_NAMES.values() for name in names}
    if root.resolve().name.casefold() in usual:
        return f"; {shown(root)} seems to be a split itself: give the folder above it"
    waiting, looked_at = [root], 0
    while waiting and looked_at < HINT_FOLDERS:
        folder, looked_at = waiting.pop(0), looked_at + 1
        try:
            below = [e for e in entries(folder) if not is_system(e.name) and e.is_dir()]
        except (InputError, OSError):
            continue
        if any(entry.name.casefold() in SPLIT_NAMES["train"] for entry in below):
            return f"; there is one in {shown(folder)}"
        waiting += [Path(entry.path) for entry in below]
    return ""


def is_unlabelled(folder: Path, classes: set[str]) -> bool:
    """Whether a split's images lie in no folder, or in a single one that is no class."""
    left_out = LeftOut(folder)
    below = {}
    for entry in entries(folder):
        if not is_system(entry.name) and is_folder(entry):
            below[class_name(entry.name)] = entry.path
        elif not is_system(entry.name) and entry.name.lower().endswith(tuple(SUFFIXES)):
            left_out.loose[""] += 1
    if not below:
        return left_out.loose.total() > 0
    if len(below) > 1 or set(below) & classes or (folder / ANNOTATIONS).is_file():
        return False
    (only,) = below.values()
    return not any(is_folder(e) for e in entries(only)) and any(images_below(only, left_out))


def _shared(parts: Mapping[str, Part]) -> list[str]:
    """Say how many files two splits have in common: what is learnt or chosen by is not tested."""
    notes = []
    for first, name in itertools.combinations(("train", "val", "test"), 2):
        if not {first, name} <= parts.keys():
            continue
        other, own = parts[first], parts[name]
        both = np.intersect1d(other.inodes, own.inodes)
        left, right = np.isin(other.inodes, both), np.isin(own.inodes, both)
        files = np.concatenate([other.split.images[left], own.split.images[right]])
        inodes, count = np.concatenate([other.inodes[left], own.inodes[right]]), left.sum()
        pairs = [(a, b) for a, b in same_files(files, inodes) if a < count <= b]
        if pairs:
            here, there = (shown(files[place]) for place in reversed(pairs[0]))
            notes.append(
                f"{name}: {counted(len(pairs), 'image')} also in {first}, by links: {here} is "
                f"{there}"
            )
    return notes


# ---------------------------------------------------------------------------- classes


def class_folders(folder: Path, left_out: LeftOut) -> dict[str, str]:
    """Return the paths of a split's class folders by name, in the order that numbers them."""
    found: dict[str, str] = {}
    for entry in entries(folder):
        if is_system(entry.name):
            left_out.system.append(entry.name)
        elif is_folder(entry):
            name = class_name(entry.name)
            if name in found:
                raise InputError(f"{shown(folder)}: two folders {name}, in two Unicode forms of "
                                 "the same name; join them")  # fmt: skip
            found[name] = entry.path
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise InputError(f"{shown(entry.path)}: a link to nothing; repair or remove it")
        else:
            left_out.loose[os.path.splitext(entry.name)[1].lower()] += 1
    if not found and SUFFIXES & set(left_out.loose):
        raise _loose(folder)
    if not found:
        kinds = f" (there are {few(sorted(left_out.loose))} files)" if left_out.loose else ""
        raise InputError(
            f"{shown(folder)}: no class folders in it{kinds}; expected {shown(folder)}/CLASS/*"
        )
    return found


def _loose(folder: Path) -> InputError:
    return InputError(
        f"{shown(folder)}: its images lie loose; sort them into {shown(folder)}/CLASS/, the same "
        "class folders as in train (for ImageNet's val by the validation labels of its devkit)"
    )


def _at_least_two(folder: Path, classes: Mapping[str, str]) -> None:
    """Refuse a single class folder, and show the level where the classes seem to lie."""
    if len(classes) > 1:
        return
    ((name, path),) = classes.items()
    below = [e for e in entries(path) if not is_system(e.name) and is_folder(e)]
    while len(below) == 1:
        path = below[0].path
        below = [e for e in entries(path) if not is_system(e.name) and is_folder(e)]
    meant = f"a classifier needs two; expected {shown(folder)}/CLASS/*"
    if below:
        inside = few([class_name(entry.name) for entry in below], 3)
        meant = f"{shown(path)} holds {len(below)} ({inside}): move them up into {shown(folder)}"
    raise InputError(f"{shown(folder)}: one class folder only, {name}; {meant}")


def scan(classes: Mapping[str, str], left_out: LeftOut) -> Part:
    """List the images below each class folder, in file-name order.

    An image that links lead to several times within a class is counted once.
    """
    files: list[bytes] = []
    inodes: list[int] = []
    counts, nested = [], {}
    for name, folder in classes.items():
        before = left_out.suffixes.copy()
        below = sorted((os.fsencode(path), inode) for path, inode in images_below(folder, left_out))
        if not below:
            raise _no_image(folder, left_out, before)
        heads = _heads(folder, [path for path, _ in below])
        if len(heads) > 1:
            nested[name] = heads
        files.extend(path for path, _ in below)
        inodes.extend(inode for _, inode in below)
        counts.append(len(below))
    # One block of bytes, not a million str objects, which every forked worker would copy.
    whole = Split(np.array(files), np.repeat(np.arange(len(classes)), counts))
    split, numbers, notes = _each_once(whole, np.array(inodes, dtype=np.uint64), left_out.folder)
    if nested:
        name, heads = next(iter(nested.items()))
        notes.append(
            f"{shown(left_out.folder)}: folders of images lie within {few(list(nested))} "
            f"(in {name}: {few(heads, 3)}); their images count for the class above them"
        )
    return Part(split, numbers, (*left_out.notes(), *notes))


def _no_image(folder: str, left_out: LeftOut, before: dict[str, int]) -> InputError:
    there = [f"{n - before.get(s, 0)} {s or 'files with no suffix'}"
             for s, n in sorted(left_out.suffixes.items()) if n > before.get(s, 0)]  # fmt: skip
    seen = f"; there are {few(there)}" if there else ""
    return InputError(
        f"{shown(folder)}: no image in it (one of {' '.join(sorted(SUFFIXES))}){seen}"
    )


def _heads(folder: str, files: list[bytes]) -> list[str]:
    """Return the folders in which a class's images lie, if none lies in the class folder itself."""
    start = len(os.fsencode(folder)) + 1
    heads = set()
    for path in files:
        head, inner, _ = path[start:].partition(b"/")
        if not inner:
            return []
        heads.add(head)
    return sorted(shown(head) for head in heads)


def _each_once(
    split: Split, inodes: np.ndarray, folder: Path
) -> tuple[Split, np.ndarray, list[str]]:
    """Drop the later of two paths to the same file of a class; name files of two classes."""
    assert isinstance(split.images, np.ndarray)
    pairs, notes = same_files(split.images, inodes), []
    again = [later for earlier, later in pairs if split.labels[earlier] == split.labels[later]]
    apart = [pair for pair in pairs if split.labels[pair[0]] != split.labels[pair[1]]]
    if again:
        notes.append(
            f"{shown(folder)}: left out {counted(len(again), 'path')} to images of the same class "
            f"that links lead to twice: {shown(split.images[again[0]])}"
        )
    if apart:
        one, other = (shown(split.images[place]) for place in apart[0])
        notes.append(
            f"{shown(folder)}: {counted(len(apart), 'file')} with two labels, by links: {one} "
            f"is {other}"
        )
    kept = np.setdiff1d(np.arange(len(inodes)), again)
    return split.take(kept), inodes[kept], notes


def _scan_like(folder: Path, keep: tuple[str, ...], known: set[str], whole: bool) -> Part:
    """Scan another split; its class folders must be those of train (of the chosen ones)."""
    if (folder / ANNOTATIONS).is_file():
        listed = read_annotations(folder, keep, known)
        if listed is not None:
            return Part(listed[0], np.zeros(len(listed[0].labels), np.uint64), listed[1])
    left_out = LeftOut(folder)
    here = class_folders(folder, left_out)
    lacking = [name for name in keep if name not in here]
    extra = [name for name in here if name not in (set(keep) if whole else known)]
    if lacking:
        raise InputError(
            f"{shown(folder)}: class folders of train missing: {missing_classes(lacking, extra)}"
        )
    if extra and whole:
        raise InputError(f"{shown(folder)}: class folders that train has not: {few(extra)}")
    return scan({name: here[name] for name in keep}, left_out)
