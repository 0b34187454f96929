"""Whether a file's weights fit a network: every entry has its place, its shape, finite values."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from errors import InputError
from files.weight_names import torchvision_name
from models.source import Source
from models.zoo import classifier, guess_arch, stem_of

SHOWN = 3  # keys named in a message before the count


def check_fit(
    source: Source,
    target: dict[str, Tensor],
    model: nn.Module,
    where: str,
    *,
    droppable: bool,
) -> None:
    """Raise InputError unless every entry has its place, shape and values that it can have.

    `droppable`: the file's classifier is loaded, and a flag could leave it out.
    """
    missing = [name for name in target if name not in source.weights]
    missing += [f"{name}_mask" for name in source.unmasked]
    extra = source.unexpected + [source.names[n] for n in source.weights if n not in target]
    extra += [source.names[n] for n in source.masks if n.replace("_mask", "") not in target]
    wrong = [
        f"{source.names[name]} {size_of(source.weights[name])} where {size_of(tensor)} is expected"
        for name, tensor in target.items()
        if name in source.weights and source.weights[name].shape != tensor.shape
    ]
    for name, mask in source.masks.items():
        weight = target.get(name.replace("_mask", ""))
        if weight is not None and weight.shape != mask.shape:
            wrong.append(
                f"{source.names[name]} {size_of(mask)} where {size_of(weight)} is expected"
            )
    kinds = (("missing", missing), ("unexpected", extra), ("wrong shape", wrong))
    faults = [_listing(kind, items) for kind, items in kinds if items]
    if faults:
        arch = getattr(model, "arch", type(model).__name__)
        raise InputError(
            f"{where}: read as {source.layout}, does not fit {arch}"
            f"{_hint(source, model, droppable)}: {'; '.join(faults)}"
        )
    _check_values(source, target, where)


def _check_values(source: Source, target: dict[str, Tensor], where: str) -> None:
    whole = [
        f"{source.names[name]} ({str(source.weights[name].dtype).removeprefix('torch.')})"
        for name, tensor in target.items()
        if tensor.is_floating_point() and not source.weights[name].is_floating_point()
    ]
    if whole:
        raise InputError(f"{where}: {_listing('not floats, quantised perhaps', whole)}")
    # In the model's own type: what is finite in the file may overflow there.
    cast = {name: source.weights[name].to(tensor.dtype) for name, tensor in target.items()}
    bad = [source.names[name] for name in cast if not bool(torch.isfinite(cast[name]).all())]
    if bad:
        raise InputError(f"{where}: {_listing('not finite (NaN or Inf)', bad)}")
    negative = [
        source.names[name]
        for name, value in cast.items()
        if name.endswith("running_var") and bool((value < 0).any())
    ]
    if negative:
        raise InputError(f"{where}: {_listing('negative variances', negative)}")
    for name, mask in source.masks.items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"{where}: {source.names[name]} is no mask; entries must be 0 or 1")


def _hint(source: Source, model: nn.Module, droppable: bool) -> str:
    """Name the flag that would make the file fit, where that can be inferred."""
    return _network_hint(source, model) or (_classifier_hint(source, model) if droppable else "")


def _classifier_hint(source: Source, model: nn.Module) -> str:
    name = classifier(model)
    held = source.weights.get(torchvision_name(f"{name}.") + "weight")
    if held is not None and held.shape == model.get_parameter(f"{name}.weight").shape:
        return ""
    return " (a fresh classifier in the place of the file's: --reset_fc)"


def _network_hint(source: Source, model: nn.Module) -> str:
    own = getattr(model, "arch", None)
    guess = guess_arch(source.weights)
    if guess is None:
        return f" (the file says it is {source.arch})" if source.arch not in (None, own) else ""
    if own not in guess.alike:
        names = " or ".join(guess.alike)
        return f" (it looks like {names}: -a {guess.arch})"
    if guess.width != getattr(model, "width", guess.width):
        return f" (it looks like --width {guess.width})"
    if guess.stem is not None and guess.stem != stem_of(model):
        return f" (it looks like --stem {guess.stem})"
    return ""


def _listing(kind: str, items: Iterable[str]) -> str:
    items = list(items)
    more = f", … ({len(items)} in all)" if len(items) > SHOWN else ""
    return f"{kind}: {', '.join(items[:SHOWN])}{more}"


def size_of(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"
