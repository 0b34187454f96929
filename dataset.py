"""Loaders of data sets by name: how each is framed and normalised. docs/data.md has the rest."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from errors import InputError
from input_pipeline.counts import Counts
from input_pipeline.counts import count_images as count_stored
from input_pipeline.loader import Loader
from input_pipeline.sources import is_there, load_splits
from input_pipeline.splits import Split
from input_pipeline.transforms import Transform

DATASETS = (
    *("cifar10", "cifar100", "svhn", "cifar10_2", "cifar10_3"),
    *("digits", "folder", "imagenet", "visda"),
)
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052)),
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


def mean_std(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channel means and standard deviations, in [0, 1], that normalise a data set."""
    _check_name(dataset)
    return STATISTICS.get(_stored_as(dataset), IMAGENET_STATISTICS)


def holds(dataset: str, root: str) -> bool:
    """Whether a folder holds the files of a data set, judged by the first that is looked for."""
    return is_there(_stored_as(dataset), Path(root))


def count_images(spec: DataSpec) -> Counts | None:
    """Count the images of the chosen classes, for an estimate; None where they are not counted.

    All of the training images are counted, whatever share of them is taken.
    """
    return count_stored(_stored_as(spec.dataset), spec.root, spec.classes)


def _check_name(dataset: str) -> None:
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")


def _stored_as(dataset: str) -> str:
    return "cifar10" if dataset in ("cifar10_2", "cifar10_3") else dataset


def train_transform(spec: DataSpec) -> Transform:
    """Return what training does to an image."""
    if spec.augment == "rrc":
        scale = (0.75, 1.33) if spec.dataset == "visda" else (0.08, 1.0)
        return Transform(spec.input_size, "random", hflip=spec.hflip, scale=scale)
    pad = max(1, spec.input_size // 8) if spec.augment == "crop" else 0
    return replace(eval_transform(spec), pad=pad, hflip=spec.hflip)


def eval_transform(spec: DataSpec) -> Transform:
    """Return what evaluation does to an image: nothing random.

    visda stretches, cifar10_2 and images at their native size ("crop", or "none" below 64 pixels)
    are seen whole, everything else after a resize to S·256/224.
    """
    size = spec.input_size
    if spec.dataset == "visda":
        return Transform(size, "stretch")
    native = spec.augment == "crop" or (spec.augment == "none" and size < 64)
    if native or spec.dataset == "cifar10_2":
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
) -> tuple[Loader, Loader, Loader | None]:
    """Return the train, val and test loaders of a data set (test: None for an ImageNet layout).

    batch_size counts the images of a global training batch. Each loader's `notes` are those of the
    whole set, to be printed once. Raises InputError for missing files,
    wrong layouts and values out of range.
    """
    _check_name(spec.dataset)
    if spec.input_size < 1:
        raise InputError(f"input size {spec.input_size}: must be at least 1 pixel")
    if spec.augment not in ("rrc", "crop", "none"):
        raise InputError(f"augment {spec.augment!r}: choose from rrc, crop, none")
    splits = load_splits(_stored_as(spec.dataset), spec.root, spec.data_number, spec.classes)

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
        )

    train, val = loader(splits.train, True), loader(splits.val, False)
    if splits.test is None:
        return train, val, None
    return train, val, val if splits.test is splits.val else loader(splits.test, False)
