"""A file of any layout, brought to bare torchvision-style keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from errors import InputError
from files.class_names import class_names_in
from files.mask_layouts import ticket_masks
from files.state_dicts import constants_beside, other_entries, take_state_dict
from files.weight_names import (
    named_child,
    strip_wrappers,
    strippings,
    torchvision_name,
    unknown_wrapper,
)
from models.layouts import CONSTANTS, LAYOUTS, Layout
from pruning_utils import MASK_SUFFIX


@dataclass(frozen=True)
class Source:
    """A file's content under bare names, and how it was read."""

    layout: str
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    constants: tuple[Tensor, Tensor] | None  # mean and std, each a vector
    names: dict[str, str]  # bare name -> name in the file
    unexpected: list[str]  # names in the file that fit no place
    unmasked: list[str]  # read from weight_orig, but without a mask
    notes: list[str]  # what is usual
    warnings: list[str]  # what bears on a figure
    arch: str | None  # what the file says it holds
    trunk_only: bool
    class_names: tuple[str, ...] | None  # in the order of the classifier's outputs


def read_layout(
    payload: Mapping[str, Any], where: str, key: str | None = None, flag: str = "--init_key"
) -> Source:
    """Bring a file's content to bare names.

    `key` names the entry with the weights, `outer.inner` for a nested one; else it is found. `flag`
    is what the user chooses one by. Raises InputError where the file holds no weights.
    """
    taken = take_state_dict(payload, where, key, flag)
    _refuse_masks_alone(taken.state, where)
    stripped = {name: strip_wrappers(name) for name in taken.state}
    names = {stage for name in taken.state for stage in strippings(name)}
    row = next(row for row in LAYOUTS if row.recognise(payload, names))
    wrapper = unknown_wrapper(strip_wrappers(name, row.prefixes) for name in taken.state)
    if wrapper is not None:
        row = replace(row, prefixes=(*row.prefixes, wrapper))
        taken.notes.append(f"the network is what lies under {wrapper}*")
    network, constants, constant_names = _split_constants(taken.state, stripped)
    if constants is None and (own := constants_beside(payload)):
        constants = torch.tensor(own[0]), torch.tensor(own[1])
        constant_names = {name: f"{name}, beside the weights" for name in ("mean", "std")}
    kept, left_out = _split_ignored(network, stripped, row)
    weights, full, unexpected = _bare(kept, row)
    weights, full, orig, doubled = _plain_names(weights, full)
    masks = {name: weights.pop(name) for name in [*weights] if name.endswith(MASK_SUFFIX)}
    beside, beside_names, beside_notes = _masks_beside(payload, masks, where)
    masks |= beside
    unmasked = [name for name in orig if name + "_mask" not in masks]
    weights, masks = _with_classifier_pruned(weights, masks)
    left_beside, other_weights = other_entries(payload, taken, flag)
    arch = payload.get("arch")
    return Source(
        layout=_layout_name(row, stripped),
        weights=weights,
        masks=masks,
        constants=constants,
        names=full | beside_names | constant_names,
        unexpected=unexpected + doubled,
        unmasked=unmasked,
        notes=[*taken.notes, *left_out, *left_beside],
        warnings=[*beside_notes, *other_weights],
        arch=arch if isinstance(arch, str) else None,
        trunk_only=row.trunk_only,
        class_names=class_names_in(payload),
    )


def _refuse_masks_alone(state: Mapping[str, Tensor], where: str) -> None:
    if all(name.endswith("weight_mask") for name in state):
        raise InputError(
            f"{where}: holds masks only, a ticket; weights are needed here "
            "(a ticket goes to --tickets_file)"
        )


def _layout_name(row: Layout, stripped: Mapping[str, str]) -> str:
    """The row's name; of a plain file the wrappers around it, too."""
    first, bare = next(iter(stripped.items()))
    prefix = first.removesuffix(bare)
    if row.name != "plain" or not prefix or prefix == first:
        return row.name
    return f"{prefix}* ({'data-parallel' if prefix == 'module.' else 'wrapped'})"


def _split_constants(
    state: Mapping[str, Tensor], stripped: Mapping[str, str]
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None, dict[str, str]]:
    """The entries without mean and std, those two as vectors, and their names in the file."""
    by_bare = {bare: name for name, bare in reversed(list(stripped.items()))}
    for mean, std in CONSTANTS:
        if mean in by_bare and std in by_bare:
            names = {"mean": by_bare[mean], "std": by_bare[std]}
            rest = {name: value for name, value in state.items() if name not in names.values()}
            vectors = [state[name].detach().flatten() for name in names.values()]
            return rest, (vectors[0], vectors[1]), names
    return dict(state), None, {}


def _split_ignored(
    network: Mapping[str, Tensor], stripped: Mapping[str, str], row: Layout
) -> tuple[dict[str, Tensor], list[str]]:
    """The entries that must fit, and a note on each group of those that are left out."""
    kept, groups = {}, dict[str, int]()
    for name, value in network.items():
        candidates = (stripped[name], strip_wrappers(name, row.prefixes))
        group = next((p for p in (*row.ignored, "sub_block1.") for c in candidates
                      if c.startswith(p)), None)  # fmt: skip
        inside = next((part for part in row.ignored_inside if part in name), None)
        if group is None and inside is None:
            kept[name] = value
            continue
        told = f"{name[: name.index(group)]}{group}*" if group else f"*{inside}*"
        groups[told] = groups.get(told, 0) + 1
    return kept, [f"left out: {count} entries {told}" for told, count in groups.items()]


def _bare(
    entries: Mapping[str, Tensor], row: Layout
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Entries and their names in the file by bare name; and those whose place another has.

    A module that hangs in two places, as the network does in BYOL, is saved twice: that is one.
    """
    weights: dict[str, Tensor] = {}
    full: dict[str, str] = {}
    unexpected = []
    bare_names = {name: _respelled(strip_wrappers(name, row.prefixes), row) for name in entries}
    numbered = {"0.weight", "1.weight"} <= set(bare_names.values())
    for name, value in entries.items():
        bare = named_child(bare_names[name]) if numbered else bare_names[name]
        bare = torchvision_name(bare)
        if bare in weights:
            unexpected += [] if _equal(weights[bare], value) else [name]
        else:
            weights[bare], full[bare] = value, name
    return weights, full, unexpected


def _respelled(name: str, row: Layout) -> str:
    for theirs, ours in row.respelled:
        name = name.replace(theirs, ours)
    return name


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _plain_names(
    weights: Mapping[str, Tensor], full: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str], list[str], list[str]]:
    """Put `weight_orig` under the name of the weight.

    Returns:
        Weights and names so; which they were; names in the file of weights that lie beside them.
    """
    renamed, names = dict(weights), dict(full)
    orig, doubled = [], []
    for name in weights:
        if name.endswith(".weight_orig"):
            plain = name.removesuffix("_orig")
            if plain in weights:
                doubled.append(full[plain])
            renamed[plain], names[plain] = renamed.pop(name), full[name]
            orig.append(plain)
    return renamed, names, orig, doubled


def _masks_beside(
    payload: Mapping[str, Any], masks: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """CV_LTH_Pre-training also keeps masks beside the weights; those in the weights come first."""
    beside = payload.get("mask")
    if not isinstance(beside, Mapping) or not beside:
        return {}, {}, []
    if masks:
        return {}, {}, ["left out: the entry mask (the masks among the weights are used)"]
    found, notes = ticket_masks({"mask": beside}, where)
    return found, {name: f"mask/{name}" for name in found}, notes


def _with_classifier_pruned(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A pruned classifier gets its zeros for good: masks are of convolutions only."""
    weights, masks = dict(weights), dict(masks)
    for name in [name for name, mask in masks.items() if mask.dim() == 2]:
        weight = weights.get(name.removesuffix("_mask"))
        if weight is not None and weight.shape == masks[name].shape:
            weights[name.removesuffix("_mask")] = weight * masks.pop(name).to(weight.dtype)
    return weights, masks
