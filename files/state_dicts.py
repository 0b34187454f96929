"""Where in a stranger's file the weights lie: the file itself, or one of its entries."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from errors import InputError
from files.weight_names import is_no_weight

# Entries that hold weights, the first one that is there is taken; then the entry of their averages.
WEIGHT_KEYS = (
    *("state_dict", "model", "model_state_dict", "net", "network", "weights", "params"),
    *("online_network_state_dict", "teacher", "student"),
)
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model"),
    *("ema", "ema_network", "swa_model", "swa_state_dict", "averaged_model"),
)
NOT_AVERAGED = "current_model_state"  # of Lightning, which puts averages under state_dict
INITIAL = ("init_weight", "init")  # beside trained weights: those before the first prune
MASKS = ("mask", "masks")  # a ticket
NORMALIZERS = ("normalize", "normalizer", "normalization")  # of mean and std beside a state dict
SETTINGS = ("hyper_parameters", "args", "opt", "config")  # scripts' flags; mean and std may be some
ITEMS = "(items)"  # of a stranger's dictionary, whose class is not here
CONSTANTS = "(mean and std)"  # of a whole network, where its state dict lacks them; see below
DEPTH = 3  # how many dictionaries deep weights are looked for


@dataclass(frozen=True)
class Taken:
    """A state dict, the key that it lay under (None: it is the file), and what was ignored."""

    state: dict[str, Tensor]
    key: str | None
    notes: list[str]


def take_state_dict(
    payload: Mapping[str, Any], where: str, key: str | None = None, flag: str = "--init_key"
) -> Taken:
    """Find the state dict in a file: under `key` (`outer.inner`), or where it usually lies.

    Entries that are no weights are ignored, with a note. Raises InputError where there is none, and
    where several could be meant: then `flag` is what the user chooses one by.
    """
    chosen, value = (key, _entry(payload, key)) if key is not None else _usual(payload)
    if value is None:
        raise InputError(f"{where}: {_lack(payload, key, flag)}")
    state = {
        str(name): entry if entry.layout == torch.strided else entry.to_dense()
        for name, entry in value.items()
        if isinstance(entry, Tensor) and not is_no_weight(str(name))
    }
    ignored = [str(name) for name in value if str(name) not in state]
    more = f", … ({len(ignored)} in all)" if len(ignored) > 3 else ""
    notes = [f"ignored, no weights: {', '.join(ignored[:3])}{more}"] if ignored else []
    if chosen is not None and key is None and chosen not in WEIGHT_KEYS:
        notes.append(f"the weights are those under {chosen}")
    return Taken(state, chosen, notes)


def holds_weights(value: Any) -> bool:
    """Whether a value is a dictionary of tensors, counters and tools' extra state aside."""
    if not isinstance(value, Mapping):
        return False
    entries = {str(name): entry for name, entry in value.items() if not is_no_weight(str(name))}
    tensors = [entry for entry in entries.values() if isinstance(entry, Tensor)]
    nested = any(isinstance(entry, (Mapping, list)) for entry in entries.values())
    return any(t.dim() for t in tensors) and not nested and 2 * len(tensors) > len(entries)


def as_state_dicts(value: Any) -> Any:
    """The same nest of dictionaries, networks in it as state dicts, NumPy arrays as tensors."""
    if isinstance(value, nn.Module):
        value = vars(value).get(ITEMS, value)
    if isinstance(value, nn.Module):
        state = value.state_dict()
        return {"state_dict": state, **_constants_of(value)} if state else state
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {name: as_state_dicts(entry) for name, entry in value.items()}
    return value


def _constants_of(network: nn.Module) -> dict[str, str]:
    """Mean and std that a module keeps as plain attributes, as transforms.Normalize does."""
    for name, module in network.named_modules():
        if found := _mean_and_std(vars(module)):
            part = f" ({name})" if name else ""
            return {CONSTANTS: _shown(found) + part}
    return {}


def _mean_and_std(entries: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    mean, std = (_three_numbers(entries.get(name)) for name in ("mean", "std"))
    return (mean, std) if mean and std else None


def _shown(constants: Sequence[Sequence[float]]) -> str:
    """As --mean and --std take them."""
    mean, std = (",".join(f"{number:.6g}" for number in numbers) for numbers in constants)
    return f"mean {mean} and std {std}"


def _three_numbers(value: Any) -> list[float] | None:
    """Three numbers; None for anything else."""
    try:
        numbers = np.asarray(value, dtype=float).ravel()
    except (TypeError, ValueError, RuntimeError):
        return None
    return numbers.tolist() if len(numbers) == 3 else None


def constants_beside(payload: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Mean and std that lie beside a file's state dict: as such, in a dictionary, in settings."""
    beside = [payload.get(name) for name in (*NORMALIZERS, *SETTINGS)]
    holders = (payload, *(vars(b) if isinstance(b, argparse.Namespace) else b for b in beside))
    found = (_mean_and_std(holder) for holder in holders if isinstance(holder, Mapping))
    return next(filter(None, found), None)


def unsaved_constants(payload: Mapping[str, Any]) -> str | None:
    """What no state dict holds of mean and std: `as_state_dicts` found it, or it lies beside."""
    if CONSTANTS in payload:
        return str(payload[CONSTANTS])
    if beside := constants_beside(payload):
        return _shown(beside)
    nested = (unsaved_constants(value) for value in payload.values() if isinstance(value, Mapping))
    return next(filter(None, nested), None)


def other_entries(
    payload: Mapping[str, Any], taken: Taken, flag: str
) -> tuple[list[str], list[str]]:
    """Say what of a file was not looked at, and how other weights in it can be had: by `flag`.

    Returns:
        Notes, and what to warn of: a search that starts from trained weights in place of initial
        ones finds other tickets.
    """
    notes, warnings = [], []
    others = [name for name, value in entries_with_weights(payload) if _is_network(name, value)]
    others = [name for name in others if name != taken.key] if taken.key else []
    seen = {*taken.state, "arch", "mask", CONSTANTS} | {name.split(".")[0] for name in others}
    seen |= {taken.key.split(".")[0]} if taken.key else set()
    seen |= {"mean", "std", *NORMALIZERS} if constants_beside(payload) else set()
    rest = [str(n) for n in payload if str(n) not in seen and not is_no_weight(str(n))]
    if rest:
        notes.append(f"left out: {', '.join(rest)}")
    for name in others:
        if name == NOT_AVERAGED and "averaging_state" in payload:
            notes.append(
                f"these are averaged weights ({taken.key}), which Lightning's callback puts there; "
                f"{flag} {name} takes those of the last step"
            )
        elif name in INITIAL:
            warnings.append(
                f"these are the weights as trained ({taken.key}); the initial ones as a file: "
                f"python -m models.convert IN OUT --key {name}"
            )
        else:
            what = (
                "averaged weights (EMA)" if set(name.split(".")) & {*AVERAGED} else "other weights"
            )
            notes.append(f"{what} lie under {name}: {flag} {name} takes them")
    return notes, warnings


def _is_network(name: str, value: Mapping[str, Any]) -> bool:
    """Whether an entry with weights is a convolutional network's, no optimiser's or ticket's."""
    convolutions = any(isinstance(v, Tensor) and v.dim() == 4 for v in value.values())
    return convolutions and _may_be_network(name)


def _may_be_network(name: str) -> bool:
    return not any(part in MASKS or part.startswith("optim") for part in name.split("."))


def entries_with_weights(
    payload: Mapping[str, Any], depth: int = DEPTH
) -> Iterator[tuple[str, Mapping]]:
    """All entries of a file that hold weights, nested ones as `outer.inner`."""
    for name, value in payload.items():
        if holds_weights(value):
            yield str(name), value
        elif isinstance(value, Mapping) and depth > 1:
            for inner, found in entries_with_weights(value, depth - 1):
                yield f"{name}.{inner}", found


def _entry(payload: Mapping[str, Any], key: str) -> Mapping | None:
    return next((value for name, value in entries_with_weights(payload) if name == key), None)


def _usual(payload: Mapping[str, Any]) -> tuple[str | None, Mapping | None]:
    found = dict(entries_with_weights(payload))
    if there := [key for key in WEIGHT_KEYS if key in found]:
        return _first(there, found)
    if holds_weights(payload):
        return None, payload
    networks = [key for key in found if _may_be_network(key)]
    usual = [key for key in networks if key.rpartition(".")[2] in WEIGHT_KEYS]
    # As {"checkpoint": {"state_dict": …, "ema": …}}; but {"best": {…}, "last": {…}} is a choice.
    if len({key.rpartition(".")[0] for key in usual}) == 1:
        usual.sort(key=lambda key: WEIGHT_KEYS.index(key.rpartition(".")[2]))
        return _first(usual, found)
    return (networks[0], found[networks[0]]) if len(networks) == 1 else (None, None)


def _first(keys: Sequence[str], found: Mapping[str, Mapping]) -> tuple[str | None, Mapping | None]:
    """The first of these entries; none where several are networks that differ: a choice."""
    networks = [found[key] for key in keys if _is_network(key, found[key])]
    differ = any(not _equal(networks[0], other) for other in networks[1:])
    if differ and not all(map(_is_of_dino, networks)):
        return None, None
    return keys[0], found[keys[0]]


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state dicts hold the same numbers under the same names."""
    own, theirs = (
        {name: v.to_dense() if v.layout != torch.strided else v for name, v in d.items()
         if isinstance(v, Tensor)} for d in (one, other)
    )  # fmt: skip
    return own.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name].to(value)) for name, value in own.items()
    )


def _is_of_dino(network: Mapping[str, Any]) -> bool:
    """Whether a network has the head that DINO trains by: its result is the teacher."""
    return any("head.mlp." in str(name) for name in network)


def _lack(payload: Mapping[str, Any], key: str | None, flag: str) -> str:
    fitting = [name for name, _ in entries_with_weights(payload)]
    if key is not None:
        return f"no dictionary of tensors under {key!r}; there is {', '.join(fitting) or 'none'}"
    networks = ", ".join(filter(_may_be_network, fitting))
    if networks:
        return f"weights lie in several places; choose by {flag}, of {networks}"
    found = ", ".join(str(name) for name in list(payload)[:8]) or "nothing"
    return (
        "no state dict found; it must be the file itself or lie under "
        f"{', '.join(WEIGHT_KEYS[:4])} (the file holds: {found})"
    )
