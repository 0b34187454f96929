"""What a run has to say about its data: classes that differ, surprises of a folder, lost images."""

from __future__ import annotations

from collections.abc import Sequence

from engine.distributed import gather_from_ranks
from engine.log import Warnings, say
from input_pipeline.loader import Loader

RENAME = "rename the class folders so that they sort in that order"
RESET = f"a fresh classifier is trained with --reset_fc, or {RENAME}"


def compare_classes(
    names: Sequence[str] | None,
    loader: Loader,
    holder: str,
    warnings: Warnings,
    offer: str = RENAME,
) -> None:
    """Warn where a file and a data set do not have the same classes, or may not.

    Args:
        names: the classes in the order of the file; None where it does not tell.
        holder: what the file is, and its path.
        offer: what to do about another order.

    Raises:
        InputError: they have the same classes in another order.
    """
    if names is not None:
        note = loader.compare_classes(names, holder, offer)
        if note:
            warnings.add(note)
        return
    doubt = loader.doubtful_order()
    if doubt:
        warnings.add(f"{holder}: holds no class names, and other programs may order these: {doubt}")
    else:
        say(f"{holder}: holds no class names; its classes are taken in the data set's order")


def warn_of_notes(warnings: Warnings, loader: Loader) -> None:
    """Warn of what may surprise in a loader's whole data set."""
    for note in loader.notes:
        warnings.add(f"data: {note}")


def some_images(loader: Loader, images: int | None, warnings: Warnings) -> Loader:
    """The images that `--eval_images` leaves of an evaluation split; warn where classes lack."""
    some = loader.some(images)
    absent = sorted(loader.labels_held - some.labels_held)
    if absent:
        warnings.add(
            f"--eval_images {images}: no image of {len(absent)} of {loader.num_classes} classes is "
            f"among them, first {loader.classes[absent[0]]}"
        )
    return some


def warn_of_skipped(warnings: Warnings, *loaders: Loader) -> None:
    """Say how many broken images --skip_bad left out, of all processes; each must call this."""
    everywhere = gather_from_ranks(set().union(*(loader.skipped for loader in loaders)))
    files = sorted(set().union(*everywhere))
    if files:
        images = "1 broken image" if len(files) == 1 else f"{len(files)} broken images"
        warnings.add(f"data: skipped {images} (--skip_bad), first {files[0]}")
