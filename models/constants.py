"""Which mean and std a network takes with a file's weights: the file's, or its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from errors import InputError
from models.normalize import check_constants
from models.source import Source
from models.timm_networks import constants_of_timm


def choose_constants(
    model: nn.Module, source: Source, normalization: str, where: str
) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """The (model's, file's) pairs of mean and std to copy, if they differ; and what to say.

    Raises InputError where the file's are to be used and cannot normalise images.
    """
    if source.constants is None:
        return [], []
    mean, std = source.constants
    own_mean, own_std = model.get_buffer("normalize.mean"), model.get_buffer("normalize.std")
    theirs = f"mean {numbers(mean)}, std {numbers(std)}"
    ours = f"mean {numbers(own_mean)}, std {numbers(own_std)}"
    same = _nearly_equal(own_mean, mean) and _nearly_equal(own_std, std)
    if normalization == "keep":
        return [], [] if same else [f"the file was made for {theirs}; the model keeps {ours}"]
    of_mean, of_std = (f"{where}: {source.names.get(name, name)}" for name in ("mean", "std"))
    try:
        check_constants(mean.flatten().tolist(), std.flatten().tolist(), (of_mean, of_std))
    except InputError as error:
        raise InputError(f"{error}; or give --mean and --std, which are used instead") from error
    if same:
        return [], []
    has_none = not own_mean.any() and bool((own_std == 1).all())
    instead = "" if has_none else f" (instead of {ours})"
    return [(own_mean, mean), (own_std, std)], [f"normalisation from the file: {theirs}{instead}"]


def other_than_timms(source: Source, model: nn.Module) -> list[str]:
    """Warn of a file without mean and std where timm's own weights go with others than assumed."""
    timms = constants_of_timm(model)
    own = model.get_buffer("normalize.mean"), model.get_buffer("normalize.std")
    if source.constants is not None or timms is None or all(map(_nearly_equal, own, timms)):
        return []
    mean, std = (",".join(f"{value:.6g}" for value in values.tolist()) for values in timms)
    return [
        f"it tells no mean and std; if it is timm's own of {getattr(model, 'arch', '')}, they are "
        f"others than the assumed ones: add --mean {mean} --std {std}"
    ]


def _nearly_equal(own: Tensor, theirs: Tensor) -> bool:
    return own.shape == theirs.shape and torch.allclose(
        own.cpu().float(), theirs.float(), rtol=0, atol=1e-6
    )


def numbers(values: Tensor) -> str:
    """A vector in words, by four digits each."""
    return " ".join(f"{value:.4g}" for value in values.tolist())
