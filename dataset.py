"""Loaders of data sets by name: how each is framed and normalised. docs/data.md has the rest."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from errors import InputError
from input_pipeline.counts import Counts
from input_pipeline.counts import count_images as count_stored
from input_pipeline.decoding import check_there
from input_pipeline.loader import Loader
from input_pipeline.sources import INDEX_SPLITS, is_there, load_splits
from input_pipeline.splits import Split
from input_pipeline.transforms import Transform

Constants = tuple[tuple[float, ...], tuple[float, ...]]  # means and standard deviations

IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10: Constants = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100: Constants = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
SVHN: Constants = ((0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052))


@dataclass(frozen=True)
class DataSet:
    """What a data set's name stands for.

    constants: what normalises it, in [0, 1]. stored_as: the name by which `input_pipeline.sources`
    reads it, if another. crop_scale: the area range of random resized crops. framing: how
    evaluation frames an image: "resized" (to S/224·256, then the central S), "whole" (resized to S
    itself) or "stretched" (both sides to S).
    """

    constants: Constants = IMAGENET
    stored_as: str | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)
    framing: Literal["resized", "whole", "stretched"] = "resized"


DATASETS = {
    "cifar10": DataSet(CIFAR10),
    "cifar100": DataSet(CIFAR100),
    "svhn": DataSet(SVHN),
    "cifar10_2": DataSet(CIFAR10, stored_as="cifar10", framing="whole"),
    "cifar10_3": DataSet(CIFAR10, stored_as="cifar10"),
    "digits": DataSet(),
    "folder": DataSet(),
    "imagenet": DataSet(),
    "visda": DataSet(crop_scale=(0.75, 1.33), framing="stretched"),
}


@dataclass(frozen=True)
class DataSpec:
    """What to load and how to frame it.

    augment: "rrc" random resized crops (evaluated on the central S/224·256 → S crop), "crop" a
    native-size crop with S/8 zeros around (4 at 32 pixels), "none" the framing of the evaluation.
    hflip: random horizontal flips in training. data_number: the fraction of the training images.
    classes: N as text, the first N classes, or a file that names classes, one a line.
    skip_bad: a broken image file is no error; evaluation leaves it out, training takes the set's
    next image for it, with a warning.
    """

    dataset: str
    root: str
    input_size: int
    augment: Literal["rrc", "crop", "none"]
    hflip: bool
    data_number: float = 1.0
    classes: str | None = None
    skip_bad: bool = False


def mean_std(dataset: str) -> Constants:
    """Return the channel means and standard deviations, in [0, 1], that normalise a data set."""
    return _named(dataset).constants


def holds(dataset: str, root: str) -> bool:
    """Whether a folder holds the files of a data set, judged by the first that is looked for."""
    return is_there(_stored_as(dataset), Path(root))


def is_fetched(dataset: str) -> bool:
    """Whether the files of a data set are downloaded where they are missing."""
    return _stored_as(dataset) in INDEX_SPLITS


def count_images(spec: DataSpec) -> Counts | None:
    """Count the images that a run takes, for an estimate; None where they are not counted."""
    return count_stored(_stored_as(spec.dataset), spec.root, spec.classes, spec.data_number)


def _named(dataset: str) -> DataSet:
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    return DATASETS[dataset]


def _stored_as(dataset: str) -> str:
    return _named(dataset).stored_as or dataset


def train_transform(spec: DataSpec) -> Transform:
    """Return what training does to an image."""
    if spec.augment == "rrc":
        scale = _named(spec.dataset).crop_scale
        return Transform(spec.input_size, "random", hflip=spec.hflip, scale=scale)
    pad = max(1, spec.input_size // 8) if spec.augment == "crop" else 0
    return replace(eval_transform(spec), pad=pad, hflip=spec.hflip)


def eval_transform(spec: DataSpec) -> Transform:
    """Return what evaluation does to an image: nothing random.

    As the data set's `framing` says, but that images at their native size ("crop", or "none" below
    64 pixels) are seen whole where they would be resized.
    """
    size, framing = spec.input_size, _named(spec.dataset).framing
    if framing == "stretched":
        return Transform(size, "stretch")
    native = spec.augment == "crop" or (spec.augment == "none" and size < 64)
    if native or framing == "whole":
        return Transform(size, "center", resize=size)
    return Transform(size, "center", resize=size * 256 // 224)


def build_loaders(
    spec: DataSpec,
    *,
    batch_size: int,
    eval_batch_size: int,
    workers: int | None,
    processes: int = 1,
    threads: int | None = None,
    seed: int,
    pin_memory: bool = False,
    tell: Callable[[str], None] = warnings.warn,
) -> tuple[Loader, Loader, Loader | None]:
    """Return the train, val and test loaders of a data set (test: None for an ImageNet layout).

    batch_size counts the images of a global training batch. Each loader's `notes` are those of the
    whole set, to be printed once; `tell` is given a line for each broken file of skip_bad. Raises
    InputError for wrong layouts, values out of range and, without skip_bad, missing and empty files
    among the images that are evaluated, which would come up after the training.
    """
    stored_as = _stored_as(spec.dataset)
    if spec.input_size < 1:
        raise InputError(f"input size {spec.input_size}: must be at least 1 pixel")
    if spec.augment not in ("rrc", "crop", "none"):
        raise InputError(f"augment {spec.augment!r}: choose from rrc, crop, none")
    splits = load_splits(stored_as, spec.root, spec.data_number, spec.classes)
    if not spec.skip_bad:
        for split in {id(part): part for part in (splits.val, splits.test) if part}.values():
            check_there(split.images)

    def loader(split: Split, train: bool) -> Loader:
        return Loader(
            split,
            train_transform(spec) if train else eval_transform(spec),
            splits.classes,
            batch_size=batch_size if train else eval_batch_size,
            workers=workers,
            processes=processes,
            threads=threads,
            seed=seed,
            train=train,
            skip_bad=spec.skip_bad,
            pin_memory=pin_memory,
            notes=splits.notes,
            tell=tell,
        )

    train, val = loader(splits.train, True), loader(splits.val, False)
    if splits.test is None:
        return train, val, None
    return train, val, val if splits.test is splits.val else loader(splits.test, False)
