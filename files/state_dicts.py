"""Where in a stranger's file the weights lie: the file itself, or one of its entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        str(name): entry
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
        value = value.state_dict()
        return {"state_dict": value} if value else value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {name: as_state_dicts(entry) for name, entry in value.items()}
    return value


def averaged_weights(payload: Mapping[str, Any]) -> list[str]:
    """The entries of a file that hold averages of the weights."""
    return [name for name in AVERAGED if holds_weights(payload.get(name))]


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
    for key in WEIGHT_KEYS:
        if key in found:
            return key, found[key]
    if holds_weights(payload):
        return None, payload
    for key in found:  # as {"checkpoint": {"state_dict": …}}
        if set(key.split(".")) & set(WEIGHT_KEYS):
            return key, found[key]
    # The masks of a ticket and the momentum of an optimiser are no network.
    rest = [key for key in found if not set(key.split(".")) & {"optimizer", "mask", "masks"}]
    return (rest[0], found[rest[0]]) if len(rest) == 1 else (None, None)


def _lack(payload: Mapping[str, Any], key: str | None, flag: str) -> str:
    fitting = ", ".join(name for name, _ in entries_with_weights(payload))
    if key is not None:
        return f"no dictionary of tensors under {key!r}; there is {fitting or 'none'}"
    if fitting:
        return f"weights lie in several places; choose by {flag}, of {fitting}"
    found = ", ".join(str(name) for name in list(payload)[:8]) or "nothing"
    return (
        "no state dict found; it must be the file itself or lie under "
        f"{', '.join(WEIGHT_KEYS[:4])} (the file holds: {found})"
    )
