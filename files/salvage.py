"""What is left of a ticket search whose checkpoints are lost: a ticket and the initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from errors import InputError
from files import names
from files.atomic import copy_into, sha256_of
from files.checkpoints import load_checkpoint
from files.metrics import read_metrics
from files.results import IMP
from files.tickets import Ticket, read_ticket, ticket_header
from pruning_utils import percent_left_in

NEAR, PART = 0.01, 0.05  # how far a ticket's density may be from its state's, and what part of it


@dataclass(frozen=True)
class Salvaged:
    """A ticket to go on from: its file, its state, and the file with its initial weights.

    origin: the hash of that file, as the ticket has it; None in a checkpoint of the released code,
    which holds those weights itself.
    """

    path: Path
    ticket: Ticket
    state: int
    init: Path
    origin: str | None

    def copy_files(self, save_dir: Path) -> None:
        """Bring what belongs to a run up to this state into its folder, as far as it is there.

        That is the initial weights, and beside the ticket the tickets before it and the figures of
        every epoch.
        """
        beside = self.path.parent
        tickets = [beside / names.ticket(state) for state in range(self.state)]
        found = {path.name: path for path in tickets if path.is_file() and self._is_related(path)}
        if (beside / names.METRICS).is_file():
            found[names.METRICS] = beside / names.METRICS
        if self.origin is not None:
            found[names.INIT] = self.init
        copy_into(save_dir, found)

    def _is_related(self, ticket: Path) -> bool:
        return self.origin is not None and ticket_header(ticket).get("init_sha256") == self.origin


def salvage(path: Path, init: Path, rate: float) -> Salvaged:
    """Read a ticket to go on from, and see that it and the initial weights belong together.

    Args:
        init: the file with the weights that the ticket's run rewinds to.
        rate: the fraction that every prune removes.

    Raises:
        InputError: no ticket of IMP, or one that does not say its state; other initial weights
            than the ticket's, or none; a density that is not that of the state.
    """
    ticket = read_ticket(path)
    if ticket.kind != IMP or ticket.state is None:
        what = f"a ticket of kind {ticket.kind}" if ticket.kind != IMP else "does not say a state"
        raise InputError(
            f"--continue_from {path}: {what}; a {{k}}-ticket.safetensors of an IMP run is needed"
        )
    if not init.is_file():
        raise InputError(
            f"--continue_from {path}: its run's initial weights are needed, and {init} is not "
            f"there; name {names.INIT} of that run by --init"
        )
    origin = ticket.init_sha256
    if (origin is not None and sha256_of(init) != origin) or not ticket.is_from(_weights(init)):
        raise InputError(
            f"--continue_from {path}: {init} does not hold the initial weights that it belongs to; "
            f"name {names.INIT} of its run by --init"
        )
    check_density(f"--continue_from {path}", ticket.masks, ticket.state, rate)
    return Salvaged(path, ticket, ticket.state, init, origin)


def _weights(init: Path) -> Mapping[str, Any]:
    """The state dict in a file, bare or among other entries."""
    held = load_checkpoint(init)
    return held["state_dict"] if isinstance(held.get("state_dict"), Mapping) else held


def check_density(what: str, masks: Mapping[str, Tensor], state: int, rate: float) -> None:
    """Raise InputError, which names `what` holds the masks, if they are not of such a state."""
    density, expected = percent_left_in(masks) / 100, (1 - rate) ** state
    rounded = state / sum(mask.numel() for mask in masks.values())  # a weight in every prune
    if abs(density - expected) > min(NEAR, PART * expected) + rounded:
        raise InputError(
            f"{what}: has a density of {100 * density:#.4g} %, state {state} has "
            f"{100 * expected:#.4g} % with --rate {rate:g}; give the --rate of its run"
        )


def read_history(metrics: Path, epochs: int) -> list[list[float]]:
    """[state, validation SA] of a search's first epochs, as far as `metrics.jsonl` has them."""
    return [
        [line["state"], line["val_sa"]]
        for line in (read_metrics(metrics) if metrics.is_file() else [])
        if line["epoch"] in range(epochs) and {"state", "val_sa"} <= line.keys()
    ]
