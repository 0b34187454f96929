"""Masks in any file that holds them, under the names of the bare network's convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from files.weight_names import mask_names
from pruning_utils import MASK_SUFFIX

PLACES = ("state_dict", "mask", "masks", "net", "model", "model_state_dict", "network")
LARGEST = 2**30  # entries of a sparse mask, which may claim any size


def ticket_masks(payload: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Find the masks in a file's content.

    Masks are entries `LAYER.weight_mask` among weights, or a dictionary of nothing but masks by
    the names of layers, of weights (open_lth) or of masks; tensors, sparse ones, or NumPy arrays.

    Returns:
        `{layer + '.weight_mask': bool tensor}`, wrappers' prefixes removed and in torchvision's
        spelling, and a note on each mask that is left out: a convolution's has four dimensions;
        and on other masks elsewhere in the file.

    Raises:
        InputError: no masks, two of one layer that differ, or values other than 0 and 1.
    """
    found = _find(payload, where)
    if not found:
        raise InputError(
            f"{where}: holds no masks; a ticket has entries named like conv1{MASK_SUFFIX}"
        )
    names = mask_names(found)
    masks: dict[str, Tensor] = {}
    notes = []
    for name, value in found.items():
        bare, mask = names[name], _as_bool(value, name, where)
        if bare in masks and not torch.equal(masks[bare], mask):
            raise InputError(f"{where}: holds two masks of one layer under different prefixes")
        if mask.dim() == 4:
            masks[bare] = mask
        else:
            notes.append(
                f"left out: {name}, {mask.dim()}-dimensional; only convolutions have masks"
            )
    if not masks:
        raise InputError(f"{where}: holds no mask of a convolution, only of {', '.join(found)}")
    others = _others(payload, found)
    return masks, notes + [f"{entry} holds other masks, which are not used" for entry in others]


def as_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its masks as the released code keeps them: floats, of every convolution.

    That code fails on a ticket without one of them; a convolution that was never pruned gets ones.
    """
    released: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name.endswith(".weight") and value.dim() == 4:  # a convolution's
            released |= {f"{name}_orig": value, f"{name}_mask": torch.ones_like(value)}
        else:
            released[name] = value.float() if name.endswith(MASK_SUFFIX) else value
    return released


def _find(payload: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entries that are masks, if any: of the usual places, else of the only other one.

    Raises InputError for several places that differ.
    """
    usual = {place: _in_place(payload, place, where) for place in PLACES}
    usual["the file itself"] = _here(payload, of_masks=False)
    found = {place: entries for place, entries in usual.items() if entries}
    found = found or {
        str(name): masks
        for name, entries in payload.items()
        if isinstance(entries, Mapping) and (masks := _find(entries, where))
    }
    first, *others = found.values() or [{}]
    if any(not _same(first, other) for other in others):
        raise InputError(
            f"{where}: masks lie in several places ({', '.join(found)}); take one out: "
            f"python -m models.convert {where} OUT.pth.tar --key NAME"
        )
    return first


def _others(payload: Mapping[str, Any], taken: Mapping[str, Any]) -> list[str]:
    """The entries, as averages of the weights, that hold masks which differ from those taken."""
    return [
        str(name)
        for name, entries in payload.items()
        if isinstance(entries, Mapping)
        and (masks := {n: v for n, v in _arrays(entries).items() if n.endswith(MASK_SUFFIX)})
        and not _same(taken, masks)
    ]


def _in_place(payload: Mapping[str, Any], place: str, where: str) -> dict[str, Any]:
    entries = payload.get(place)
    if not isinstance(entries, Mapping):
        return {}
    return _here(entries, of_masks=place in ("mask", "masks")) or _find(entries, where)


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two places hold equal masks of the same convolutions."""
    one, other = (
        {mask_names(found)[name]: _dense(mask) for name, mask in found.items() if mask.ndim == 4}
        for found in (first, second)
    )
    return one.keys() == other.keys() and all(
        torch.equal(mask.bool(), other[name].bool()) for name, mask in one.items()
    )


def _here(entries: Mapping[str, Any], of_masks: bool) -> dict[str, Any]:
    """A dictionary's own entries that are masks, by their names or by their values."""
    if named := {str(n): v for n, v in entries.items() if str(n).endswith(MASK_SUFFIX)}:
        return named
    arrays = _arrays(entries)
    return arrays if of_masks or _are_masks(entries, arrays) else {}


def _arrays(entries: Mapping[str, Any]) -> dict[str, Tensor | np.ndarray]:
    return {str(n): v for n, v in entries.items() if isinstance(v, (Tensor, np.ndarray))}


def _are_masks(entries: Mapping[str, Any], arrays: Mapping[str, Any]) -> bool:
    """Whether a dictionary holds arrays of 0 and 1, one of a convolution at least, and numbers."""
    return (
        all(isinstance(v, (Tensor, np.ndarray, int, float, str)) for v in entries.values())
        and any(array.ndim == 4 for array in arrays.values())
        and all(_is_binary(_dense(array)) for array in arrays.values())
    )


def _dense(value: Tensor | np.ndarray) -> Tensor:
    """A tensor with strides of its own; an empty one for what cannot be a mask."""
    if isinstance(value, np.ndarray):
        numbers = value.dtype.kind in "biuf"
        return torch.from_numpy(np.ascontiguousarray(value)) if numbers else torch.empty(0)
    if value.layout != torch.strided:
        return value.to_dense() if value.numel() <= LARGEST else torch.empty(0)
    return value


def _is_binary(mask: Tensor) -> bool:
    return mask.numel() > 0 and bool(((mask == 0) | (mask == 1)).all())


def _as_bool(value: Any, name: str, where: str) -> Tensor:
    mask = _dense(value) if isinstance(value, (Tensor, np.ndarray)) else torch.empty(0)
    if not _is_binary(mask):
        raise InputError(f"{where}: {name} is no mask; every entry must be 0 or 1")
    return mask.bool()
