"""Whether networks have the classes of the images that they are tested on."""

from __future__ import annotations

from torch import nn

from engine.data_warnings import compare_classes
from engine.log import Warnings
from errors import InputError
from evaluation.masking import load_source
from evaluation.request import Request
from files.checkpoints import load_checkpoint
from files.class_names import class_names_in
from input_pipeline.loader import Loader
from models import classifier


def check_classes(network: nn.Module, loader: Loader, what: str) -> None:
    """Raise InputError, naming `what`, if a network has other classes than the images."""
    classes = count_classes(network)
    if classes != loader.num_classes:
        raise InputError(
            f"{what}: a network of {classes} classes, the evaluation set has "
            f"{loader.num_classes}; name another set, or --classes"
        )


def check_source_classes(request: Request, loader: Loader, warnings: Warnings) -> None:
    """Compare the classes of --masking_source, which is only used at the end, with the images'.

    Raises InputError for a file without a whole network, or with one of other classes.
    """
    path = request.masking_source
    if path:
        check_classes(load_source(path), loader, f"--masking_source {path}")
        names = class_names_in(load_checkpoint(path))
        compare_classes(names, loader, f"--masking_source {path}", warnings)


def count_classes(network: nn.Module) -> int:
    return network.get_parameter(f"{classifier(network)}.weight").shape[0]
