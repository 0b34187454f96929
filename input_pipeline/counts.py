"""How many images a data set has, for estimates: nothing is opened, downloaded or checked."""

import os
from pathlib import Path
from typing import NamedTuple

from input_pipeline.disk import LeftOut, entries, images_below, is_folder, is_system
from input_pipeline.folders import SPLIT_NAMES, is_unlabelled, split_folders
from input_pipeline.names import choose_classes, class_name, count_chosen
from input_pipeline.splits import held_out, share_of


class Counts(NamedTuple):
    """Images of a data set's splits, whether those of val are the test images too, and classes.

    train: those that a run takes.
    """

    train: int
    val: int
    test: int
    shared: bool = False
    classes: int = 0


# Of the sets that are always the same: the images, and the classes.
KNOWN = {
    "cifar10": (Counts(45_000, 5_000, 10_000), 10),
    "cifar100": (Counts(45_000, 5_000, 10_000), 100),
    "svhn": (Counts(68_257, 5_000, 26_032), 10),
    "digits": (Counts(1_302, 140, 355), 10),
}
IMAGENET = Counts(1_281_167, 50_000, 0), 1000


def count_images(
    dataset: str, root: str, wanted: str | None, data_number: float = 1.0
) -> Counts | None:
    """Count the images of the wanted classes; None where class folders do not show any.

    Of CIFAR and the like they are taken to be equally many in each class, and so of an ImageNet
    that is not there.
    """
    if dataset in KNOWN:
        return _share(*KNOWN[dataset], wanted, data_number)
    found = _in_folders(Path(root), wanted, dataset, data_number)
    return found or (_share(*IMAGENET, wanted, 1.0) if dataset == "imagenet" else None)


def _share(counts: Counts, classes: int, wanted: str | None, data_number: float) -> Counts:
    chosen = count_chosen(wanted, classes)
    all_of = int(counts.train * data_number), counts.val, counts.test
    train, val, test = (count * chosen // classes for count in all_of)
    return Counts(max(train, 1), val, test, classes=chosen)


def _in_folders(root: Path, wanted: str | None, dataset: str, data_number: float) -> Counts | None:
    """Count what ROOT/SPLIT/CLASS/* holds; a split that is not there is made of another."""
    folders = split_folders(root, tuple(SPLIT_NAMES))[0] if root.is_dir() else {}
    classes = _class_folders(folders.pop("train")) if "train" in folders else {}
    if not classes:
        return None
    there = wanted is None or wanted.isdecimal() or os.path.isfile(wanted)
    keep = choose_classes(tuple(classes), wanted if there else None)[0]
    train = [_images(classes[name]) for name in keep]
    if not any(train):
        return None
    counts = {
        split: _of_split(folder, keep, len(classes))
        for split, folder in folders.items()
        if split != "test" or (dataset == "folder" and not is_unlabelled(folder, set(classes)))
    }
    if not counts.get("val") and dataset == "folder":
        counts["val"] = sum(map(held_out, train))
        train = [images - held_out(images) for images in train]
    taken = sum(share_of(images, data_number) for images in train)
    val = counts.get("val", 0)
    test = counts.get("test")
    return Counts(taken, val, test or val, not test, len(keep))


def _of_split(folder: Path, keep: tuple[str, ...], classes: int) -> int:
    """Count the kept classes; of images whose classes stand in a list, their share of all."""
    here = _class_folders(folder)
    if set(here) & set(keep):
        return sum(_images(here[name]) for name in keep if name in here)
    return _images(str(folder)) * len(keep) // classes


def _class_folders(folder: Path) -> dict[str, str]:
    return {
        class_name(entry.name): entry.path
        for entry in entries(folder)
        if not is_system(entry.name) and is_folder(entry)
    }


def _images(folder: str) -> int:
    return sum(1 for _ in images_below(folder, LeftOut(Path(folder))))
