"""Load pre-trained weights of any known source into a network: all fits, or nothing is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from errors import InputError
from files.checkpoints import load_checkpoint
from files.kinds import is_safetensors
from files.weight_names import torchvision_name
from models.constants import choose_constants, numbers, other_than_timms
from models.fit import check_fit, size_of
from models.preact_resnet import alike
from models.source import Source, read_layout
from models.timm_networks import PREFIX as TIMM
from models.zoo import (
    build_model,
    classifier,
    classifier_of_arch,
    guess_arch,
    is_arch,
    stem_and_width,
)
from pruning_utils import MASK_SUFFIX, convolutions, percent_left_in

STEM = "conv1.weight"
# What sources call the classifier, by the beginning of its entries' names.
CLASSIFIERS = ("fc.", "head.", "heads.", "classifier.", "last_linear.", "top_layer.")


@dataclass(frozen=True)
class Loaded:
    """What was loaded: the layout recognised, what was left out or differs, the masks if any.

    `warnings` tell what may bear on a figure, `notes` what is usual. `masks` is
    {'conv1.weight_mask': bool tensor}, as the model names its layers; None for dense weights.
    `trunk_only`: a self-supervised trunk, which can be transferred but not pruned by IMP without
    further training. `fresh_stem`: the model kept its own first convolution. `has_constants`: the
    file tells by which mean and std its images were normalised. `class_names`: of the classifier's
    outputs, if the file gives them.
    """

    layout: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    masks: dict[str, Tensor] | None = None
    trunk_only: bool = False
    fresh_stem: bool = False
    has_constants: bool = False
    class_names: tuple[str, ...] | None = None

    @property
    def percent_left(self) -> float:
        """Of the convolution weights that a ticket is about, as the masks tell."""
        return percent_left_in(self.masks) if self.masks else 100.0


def load_pretrained(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    fc: str = "strict",
    stem: str = "strict",
    normalization: str = "file",
    key: str | None = None,
) -> Loaded:
    """Load a file of any layout of `models.layouts` into a network of `build_model`, strictly.

    fc 'drop' leaves the classifier at its fresh weights (transfer); stem 'fresh' does so with a
    conv1 whose shape differs. normalization 'file' takes the file's mean and std where it has them,
    'keep' leaves the model's. `key` names the file's entry with the weights (`outer.inner`), if not
    the usual one. Entries `weight_orig` are loaded as weights; their masks are returned, not
    applied. Raises InputError for an unreadable file and for anything missing, left over, of a
    wrong shape or not finite; the model is then unchanged.
    """
    if fc not in ("strict", "drop") or stem not in ("strict", "fresh"):
        raise ValueError(f"fc={fc!r}, stem={stem!r}")
    if normalization not in ("file", "keep"):
        raise ValueError(f"normalization={normalization!r}")
    source = _read(path, key)
    return _fill(model, source, str(path), fc=fc, stem=stem, normalization=normalization)


def load_network(
    checkpoint: str,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    key: str | None = None,
    otherwise: tuple[Sequence[float], Sequence[float]] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    advice: str = "add --arch NAME",
    flag: str = "--init_key",
) -> nn.Module:
    """Build the network that a checkpoint holds, masks baked in, in evaluation mode.

    Args:
        arch, mean, std: used in place of the file's own.
        key: the file's entry with the weights, if not the usual one.
        otherwise: mean and std for a file without any, such as the released code's standard ones;
            `tell` gets a line about it.
        tell: gets a line for whatever may bear on a figure.
        note: gets a line for whatever the file holds that is not used, or is usual.
        advice: what helps where the architecture cannot be inferred.
        flag: what the user chooses `key` by.

    Raises InputError if architecture or normalisation can neither be inferred from the file nor are
    given, or if anything does not fit.
    """
    source = _read(checkpoint, key, flag)
    arch = arch or _arch_of(source, checkpoint, advice)
    head = f"{torchvision_name(classifier_of_arch(arch) + '.')}weight"
    if head not in source.weights:
        raise InputError(f"{checkpoint}: no {head}; a whole network is needed")
    normalization = "keep"
    if mean is None or std is None:
        normalization = "file"
        mean, std = _usual_constants(source, checkpoint, otherwise, tell)
    classes = source.weights[head].shape[0]
    model = build_model(arch, classes, mean, std, *stem_and_width(source.weights))
    loaded = _fill(model, source, checkpoint, normalization=normalization)
    for line in loaded.notes:
        note(line)
    for line in loaded.warnings:
        tell(f"{checkpoint}: {line}")
    with torch.no_grad():
        for name, mask in (loaded.masks or {}).items():
            model.get_parameter(name.removesuffix("_mask")).mul_(mask)
    return model.eval().requires_grad_(False)


def _arch_of(source: Source, checkpoint: str, advice: str) -> str:
    """What the file says that it holds, else what it looks like."""
    if source.arch is not None and is_arch(source.arch):
        return source.arch
    guess = guess_arch(source.weights)
    if guess is not None and len(guess.alike) == 1:
        return guess.arch
    could = f", it could be {' or '.join(guess.alike)}" if guess is not None else ""
    raise InputError(f"{checkpoint}: its architecture cannot be inferred{could}; {advice}")


def _usual_constants(
    source: Source,
    checkpoint: str,
    otherwise: tuple[Sequence[float], Sequence[float]] | None,
    tell: Callable[[str], None],
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std to build a network with; the file's own, if it has any, take their place."""
    if source.constants is not None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if otherwise is None:
        raise InputError(f"{checkpoint}: has no mean and std; give --mean R,G,B --std R,G,B")
    shown = ", ".join(numbers(torch.tensor(values)) for values in otherwise)
    tell(f"{checkpoint}: has no mean and std; the data set's are used: {shown}")
    return otherwise


def classes_and_stem(
    path: str | os.PathLike[str], arch: str = "resnet50", key: str | None = None
) -> tuple[int, str | None]:
    """How many classes the classifier of a weight file has, and the network's stem.

    The stem is None where the first convolution does not tell. InputError without a classifier.
    """
    name = torchvision_name(classifier_of_arch(arch) + ".") + "weight"
    weights = _read(path, key).weights
    if name not in weights:
        raise InputError(f"{path}: has no classifier ({name}); it can only be transferred")
    return weights[name].shape[0], stem_and_width(weights)[0]


def fit_masks(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name masks as the model names its layers: tickets come in torchvision's spelling."""
    own = {torchvision_name(name + "."): name for name, _ in convolutions(model)}
    fitted = {}
    for name, mask in masks.items():
        layer = name.removesuffix(MASK_SUFFIX)
        fitted[own.get(torchvision_name(layer + "."), layer) + MASK_SUFFIX] = mask
    return fitted


# --- reading and filling --------------------------------------------------------------------------


def _read(path: str | os.PathLike[str], key: str | None = None, flag: str = "--init_key") -> Source:
    source = read_layout(load_checkpoint(path), str(path), key, flag)
    header = _header(path)
    constants = source.constants or _constants_in(header)
    return replace(source, constants=constants, arch=source.arch or header.get("arch"))


def has_constants(path: str | os.PathLike[str], key: str | None, flag: str) -> bool:
    """Whether a file tells by which mean and std its network's images are normalised."""
    return _read(path, key, flag).constants is not None


def _header(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a safetensors file says beside its tensors; of another file nothing."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}


def _constants_in(header: Mapping[str, str]) -> tuple[Tensor, Tensor] | None:
    """Mean and std that `models.export` writes into the header of a safetensors file."""
    try:
        return torch.tensor(json.loads(header["mean"])), torch.tensor(json.loads(header["std"]))
    except (KeyError, TypeError, ValueError):
        return None


def _fill(
    model: nn.Module,
    source: Source,
    where: str,
    *,
    fc: str = "strict",
    stem: str = "strict",
    normalization: str = "file",
) -> Loaded:
    """Copy a source's weights into a model; see `load_pretrained`."""
    target = _targets(model)
    head = torchvision_name(f"{classifier(model)}.")
    if fc == "drop":
        source = _without_classifier(source, head, target)
        target = {name: value for name, value in target.items() if not name.startswith(head)}
    elif source.trunk_only and head + "weight" not in source.weights:
        raise InputError(f"{where}: {source.layout} has no classifier; it can only be transferred")
    fresh_stem = stem == "fresh" and _has_other_stem(source, target)
    if fresh_stem:
        source, target = _without_stem(source, target)
    source, target = _without_absent_counters(source, target)
    check_fit(source, target, model, where, droppable=fc == "strict")
    constants, notes = choose_constants(model, source, normalization, where)
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source.weights[name])
        for own, new in constants:
            own.copy_(new)
    masks = fit_masks(model, {name: mask.bool() for name, mask in source.masks.items()})
    return Loaded(
        source.layout,
        [*source.notes, *notes],
        [
            *source.warnings,
            *_other_arch(source, str(getattr(model, "arch", ""))),
            *(other_than_timms(source, model) if normalization == "file" else ()),
        ],
        masks or None,
        source.trunk_only,
        fresh_stem,
        source.constants is not None,
        source.class_names,
    )


def _other_arch(source: Source, arch: str) -> list[str]:
    """Warn where the entries fit, but the file is of a network that computes something else."""
    if source.arch is not None and source.arch not in (arch, arch.removeprefix(TIMM)):
        return [f"the file says it is {source.arch}; it is read as {arch}"]
    same = alike(arch)
    if source.arch is None and len(same) > 1:
        return [
            f"its entries are those of {' and of '.join(same)}, which compute different logits; "
            f"it is read as {arch}: see that its accuracy is the one that it is known for"
        ]
    return []


def _targets(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, to be written into, in torchvision's spelling."""
    target = {
        torchvision_name(name): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("normalize.")
    }
    if any(name.endswith("weight_orig") for name in target):
        raise ValueError("load weights before masks are applied")
    return target


def _without_classifier(source: Source, head: str, target: dict[str, Tensor]) -> Source:
    """Leave out the source's classifier, whatever it is called where nothing else has its place."""
    found = _prefix_of_classifier(source, head, target)
    if found is None:
        return source
    weight = source.weights.get(found + "weight")
    classes = f" of {weight.shape[0]} classes" if weight is not None and weight.dim() else ""
    return replace(
        source,
        weights={n: value for n, value in source.weights.items() if not n.startswith(found)},
        masks={n: mask for n, mask in source.masks.items() if not n.startswith(found)},
        unmasked=[n for n in source.unmasked if not n.startswith(found)],
        notes=[*source.notes, f"left out: the source's classifier{classes} ({found}*)"],
    )


def _prefix_of_classifier(source: Source, head: str, target: dict[str, Tensor]) -> str | None:
    for prefix in (head, *(name for name in CLASSIFIERS if name != head)):
        if any(name.startswith(prefix) for name in source.weights) and (
            prefix == head or not any(name.startswith(prefix) for name in target)
        ):
            return prefix
    return None


def _has_other_stem(source: Source, target: dict[str, Tensor]) -> bool:
    weight, own = source.weights.get(STEM), target.get(STEM)
    return weight is not None and own is not None and weight.shape != own.shape


def _without_stem(source: Source, target: dict[str, Tensor]) -> tuple[Source, dict[str, Tensor]]:
    weight, own, mask = source.weights[STEM], target[STEM], f"conv1{MASK_SUFFIX}"
    note = f"left out: {STEM} {size_of(weight)}; the model's own {size_of(own)} stays fresh"
    warnings = [*source.warnings, note]
    if mask in source.masks:
        warnings.append(f"left out: {mask}, of the other stem")
    return replace(
        source,
        weights={n: value for n, value in source.weights.items() if n != STEM},
        masks={n: value for n, value in source.masks.items() if n != mask},
        warnings=warnings,
    ), {n: value for n, value in target.items() if n != STEM}


def _without_absent_counters(
    source: Source, target: dict[str, Tensor]
) -> tuple[Source, dict[str, Tensor]]:
    """Files older than PyTorch 0.4.1 have no `num_batches_tracked`; nothing is computed from it."""
    counters = [name for name in target if name.endswith("num_batches_tracked")]
    if not counters or any(name in source.weights for name in counters):
        return source, target
    note = "num_batches_tracked is not in the file (an old one); it stays 0"
    rest = {name: value for name, value in target.items() if name not in counters}
    return replace(source, notes=[*source.notes, note]), rest
