"""Load pre-trained weights of any known source into a network: all fits, or nothing is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from errors import InputError
from files.checkpoints import load_checkpoint
from models.layouts import MASK, Source, read_layout
from models.zoo import guess_arch

SHOWN = 3  # keys named in a message before the count


@dataclass(frozen=True)
class Loaded:
    """What was loaded: the layout recognised, what was left out or differs, the masks if any.

    `masks` is {'conv1.weight_mask': bool tensor} in bare names; None for dense weights.
    """

    layout: str
    notes: list[str] = field(default_factory=list)
    masks: dict[str, Tensor] | None = None


def load_pretrained(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    fc: str = "strict",
    stem: str = "strict",
    normalization: str = "file",
) -> Loaded:
    """Load a file of any layout of `models.layouts` into a network of `build_model`, strictly.

    fc 'drop' leaves the classifier at its fresh weights (transfer); stem 'fresh' does so with a
    conv1 whose shape differs. normalization 'file' takes the file's mean and std where it has them,
    'keep' leaves the model's. Entries `weight_orig` are loaded as weights; their masks are
    returned, not applied. Raises InputError for an unreadable file and for anything missing, left
    over, of a wrong shape or not finite; the model is then unchanged.
    """
    if fc not in ("strict", "drop") or stem not in ("strict", "fresh"):
        raise ValueError(f"fc={fc!r}, stem={stem!r}")
    if normalization not in ("file", "keep"):
        raise ValueError(f"normalization={normalization!r}")
    source = read_layout(load_checkpoint(path), str(path))
    source.constants = source.constants or header_constants(path)
    if fc == "drop":
        _drop_classifier(source)
    elif source.layout == "MoCo v2" and "fc.weight" not in source.weights:
        raise InputError(f"{path}: {source.layout} has no classifier; it can only be transferred")
    target = _targets(model, skip_fc=fc == "drop")
    if stem == "fresh":
        _drop_other_stem(source, target)
    _drop_absent_counters(source, target)
    _check(source, target, model, str(path))
    constants = _choose_constants(model, source, normalization, str(path))
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source.weights[name])
        for own, new in constants:
            own.copy_(new)
    masks = {name: mask.bool() for name, mask in source.masks.items()}
    return Loaded(source.layout, source.notes, masks or None)


def _targets(model: nn.Module, skip_fc: bool) -> dict[str, Tensor]:
    target = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("normalize.") and not (skip_fc and name.startswith("fc."))
    }
    if any(name.endswith("weight_orig") for name in target):
        raise ValueError("load weights before masks are applied")
    return target


def _drop_classifier(source: Source) -> None:
    dropped = [name for name in source.weights if name.startswith("fc.")]
    if dropped:
        weight = source.weights.get("fc.weight")
        classes = f" of {weight.shape[0]} classes" if weight is not None and weight.dim() else ""
        source.notes.append(f"left out: the source's classifier{classes} (fc.*)")
    for name in dropped:
        del source.weights[name]
    source.masks.pop(f"fc{MASK}", None)
    source.unmasked = [name for name in source.unmasked if name != "fc.weight"]


def _drop_other_stem(source: Source, target: dict[str, Tensor]) -> None:
    weight, own = source.weights.get("conv1.weight"), target["conv1.weight"]
    if weight is None or weight.shape == own.shape:
        return
    source.notes.append(
        f"left out: conv1.weight {_size(weight)}; the model's own {_size(own)} stays fresh"
    )
    del source.weights["conv1.weight"], target["conv1.weight"]
    if source.masks.pop(f"conv1{MASK}", None) is not None:
        source.notes.append(f"left out: conv1{MASK}, of the other stem")


def _drop_absent_counters(source: Source, target: dict[str, Tensor]) -> None:
    """Files older than PyTorch 0.4.1 have no `num_batches_tracked`; nothing is computed from it."""
    counters = [name for name in target if name.endswith("num_batches_tracked")]
    if counters and not any(name in source.weights for name in counters):
        source.notes.append("num_batches_tracked is not in the file (an old one); it stays 0")
        for name in counters:
            del target[name]


def _check(source: Source, target: dict[str, Tensor], model: nn.Module, where: str) -> None:
    """Raise InputError unless every entry has its place, shape and finite values."""
    missing = [name for name in target if name not in source.weights]
    missing += [f"{name}_mask" for name in source.unmasked]
    extra = source.unexpected + [source.names[n] for n in source.weights if n not in target]
    extra += [source.names[n] for n in source.masks if n.replace("_mask", "") not in target]
    wrong = [
        f"{source.names[name]} {_size(source.weights[name])} where {_size(tensor)} is expected"
        for name, tensor in target.items()
        if name in source.weights and source.weights[name].shape != tensor.shape
    ]
    for name, mask in source.masks.items():
        weight = target.get(name.replace("_mask", ""))
        if weight is not None and weight.shape != mask.shape:
            wrong.append(f"{source.names[name]} {_size(mask)} where {_size(weight)} is expected")
    kinds = (("missing", missing), ("unexpected", extra), ("wrong shape", wrong))
    faults = [_listing(kind, items) for kind, items in kinds if items]
    if faults:
        arch = getattr(model, "arch", type(model).__name__)
        raise InputError(
            f"{where}: read as {source.layout}, does not fit {arch}"
            f"{_hint(source, model)}: {'; '.join(faults)}"
        )
    _check_values(source, target, where)


def _check_values(source: Source, target: dict[str, Tensor], where: str) -> None:
    # In the model's own type: what is finite in the file may overflow there.
    cast = {name: source.weights[name].to(tensor.dtype) for name, tensor in target.items()}
    bad = [source.names[name] for name in cast if not bool(torch.isfinite(cast[name]).all())]
    if bad:
        raise InputError(f"{where}: {_listing('not finite (NaN or Inf)', bad)}")
    for name, mask in source.masks.items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"{where}: {source.names[name]} is no mask; entries must be 0 or 1")


def _hint(source: Source, model: nn.Module) -> str:
    """Name the flag that would make the file fit, where that can be told."""
    own = getattr(model, "arch", None)
    guess = guess_arch(source.weights)
    if guess is None:
        return f" (the file says it is {source.arch})" if source.arch not in (None, own) else ""
    if guess.arch != own:
        return f" (it looks like {guess.arch}: -a {guess.arch})"
    if guess.arch == "resnet20s" and guess.width != getattr(model, "width", guess.width):
        return f" (it looks like --width {guess.width})"
    if guess.stem is not None and guess.stem != getattr(model, "stem", guess.stem):
        return f" (it looks like --stem {guess.stem})"
    return ""


def _listing(kind: str, items: Iterable[str]) -> str:
    items = list(items)
    more = f", … ({len(items)} in all)" if len(items) > SHOWN else ""
    return f"{kind}: {', '.join(items[:SHOWN])}{more}"


def _size(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def header_constants(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor] | None:
    """Mean and std that `models.export` writes into the header of a safetensors file."""
    if Path(path).suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return torch.tensor(json.loads(header["mean"])), torch.tensor(json.loads(header["std"]))
    except (KeyError, TypeError, ValueError, SafetensorError):
        return None


def _choose_constants(
    model: nn.Module, source: Source, normalization: str, where: str
) -> list[tuple[Tensor, Tensor]]:
    """The (model's, file's) pairs of mean and std to copy: none where equal or to be kept."""
    if source.constants is None:
        return []
    mean, std = source.constants
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (3,) or not bool(torch.isfinite(value).all()):
            key = source.names.get(name, name)
            raise InputError(f"{where}: {key} must be three finite numbers, not {value.tolist()}")
    if not bool((std > 0).all()):
        raise InputError(f"{where}: {source.names.get('std', 'std')} must be above 0")
    own_mean, own_std = model.get_buffer("normalize.mean"), model.get_buffer("normalize.std")
    if torch.allclose(own_mean.cpu().float(), mean.float(), rtol=0, atol=1e-6) and torch.allclose(
        own_std.cpu().float(), std.float(), rtol=0, atol=1e-6
    ):
        return []
    theirs = f"mean {_numbers(mean)}, std {_numbers(std)}"
    ours = f"mean {_numbers(own_mean)}, std {_numbers(own_std)}"
    if normalization == "keep":
        source.notes.append(f"the file was made for {theirs}; the model keeps {ours}")
        return []
    source.notes.append(f"normalisation from the file: {theirs} (instead of {ours})")
    return [(own_mean, mean), (own_std, std)]


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.tolist())


def count_classes(path: str | os.PathLike[str]) -> int:
    """How many classes the classifier of a weight file has; InputError where there is none."""
    fc = read_layout(load_checkpoint(path), str(path)).weights.get("fc.weight")
    if fc is None:
        raise InputError(f"{path}: has no classifier (fc.weight); it can only be transferred")
    return fc.shape[0]
