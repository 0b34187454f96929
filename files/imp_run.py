"""What a ticket search keeps in its folder: initial weights, a checkpoint per state, exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import InputError
from files import names
from files.atomic import sha256_of
from files.checkpoints import CONSTANTS, load_checkpoint, load_first_good, save_checkpoint
from files.class_names import CLASSES
from files.features import discard
from files.mask_layouts import as_released
from files.results import IMP
from files.state_dicts import holds_weights
from files.tickets import kind_noted, load_ticket, ticket_header

RELEASED = {"state_prune", "state_dict", "init"}  # entries of the released code's checkpoints
TRAINED = ("epoch", "arch", "best_acc1", "optimizer", "state_prune")  # and the others


@dataclass
class SearchRecord:
    """How far a search is, beside its network and its training.

    best_acc1: the state's best validation SA so far, in percent. init: `{file, sha256,
    weights_sha256}` of the initial weights, which lie beside the checkpoint; earlier versions lack
    the last. history: [state, validation SA] per epoch.
    """

    state: int = 0
    best_acc1: float = 0.0
    init: dict[str, str] = field(default_factory=dict)
    history: list[list[float]] = field(default_factory=list)

    def best_by_state(self) -> dict[int, float]:
        best: dict[int, float] = {}
        for state, accuracy in self.history:
            best[int(state)] = max(accuracy, best.get(int(state), 0.0))
        return best


def save_initial_weights(save_dir: Path, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Write what every state is rewound to, a plain state dict; give its `{file, sha256}`."""
    path = save_dir / names.INIT
    save_checkpoint(path, weights)
    return origin_of(path)


def origin_of(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256_of(path)}


def load_initial_weights(checkpoint: Path, origin: Mapping[str, str]) -> dict[str, Any]:
    """Read the weights that an IMP checkpoint rewinds to, from the file beside it that it names."""
    path = checkpoint.parent / Path(origin["file"]).name
    init = load_checkpoint(path)
    if sha256_of(path) != origin["sha256"]:
        raise InputError(f"{path}: not the initial weights that {checkpoint.name} belongs to")
    return init


def save_state(
    save_dir: Path,
    record: SearchRecord,
    *,
    epoch: int,
    arch: str,
    classes: Sequence[str],
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    is_best: bool,
    keep: str,
) -> None:
    """Write the state's checkpoint, and its best network; drop what is not to be kept any more.

    Args:
        epoch: epochs that are finished.
        classes: the names of the classes, in the order of the network's outputs.
        training: what `engine.training.Training.state` gives.
        keep: which checkpoints of earlier states stay: all, last or tickets.
    """
    network = {
        "epoch": epoch,
        "arch": arch,
        "state_dict": weights,
        "best_acc1": record.best_acc1,
        "state_prune": record.state,
        "init": record.init,
        CLASSES: list(classes),
    }
    if is_best:
        save_checkpoint(save_dir / names.imp_best(record.state), network)
    path = save_dir / names.imp_checkpoint(record.state)
    save_checkpoint(path, {**network, **training, "history": record.history}, keep_previous=True)
    # Two to resume from stay: this file and its forerunner, else the one of the state before.
    unneeded = record.state - (1 if names.previous(path).exists() else 2)
    discard(names.previous(save_dir / names.imp_checkpoint(unneeded)))
    if keep != "all":
        drop_checkpoints(save_dir, unneeded)


def read_record(checkpoint: Mapping[str, Any]) -> SearchRecord:
    """The record in a checkpoint of `save_state`; KeyError names what it lacks."""
    return SearchRecord(
        checkpoint["state_prune"],
        checkpoint["best_acc1"],
        checkpoint["init"],
        checkpoint["history"],
    )


def recall_best(save_dir: Path, beside: Path, record: SearchRecord, epoch: int) -> None:
    """Take up the accuracy of a best network that is newer than the checkpoint, after `epoch`.

    A stop came between the two files; the best network is written first. Its epoch is trained
    again and may score otherwise (on another number of threads, say): the better network stays.
    It lies in the run's folder, else in `beside`.
    """
    name = names.imp_best(record.state)
    path = next((p / name for p in (save_dir, beside) if (p / name).is_file()), None)
    if path is not None:
        kept = load_checkpoint(path)
        if kept["epoch"] > epoch:
            record.best_acc1 = kept["best_acc1"]


def drop_checkpoints(save_dir: Path, last: int) -> None:
    """Remove the checkpoints of the states up to `last`; tickets stay."""
    for state in range(last + 1):
        for name in (names.imp_checkpoint(state), names.imp_best(state)):
            discard(save_dir / name)
            discard(names.previous(save_dir / name))


def drop_at_the_end(save_dir: Path, last: int, keep: str) -> None:
    """Leave the checkpoints that `keep` asks for: all, those of the last state, or none."""
    if keep != "all":
        drop_checkpoints(save_dir, last if keep == "tickets" else last - 1)


def newest_checkpoint(save_dir: Path) -> Path | None:
    """The checkpoint of the highest state in a search's folder."""
    found = {_state_of(path): path for path in save_dir.glob(f"*{names.CHECKPOINT_SUFFIX}")}
    found.pop(None, None)
    return max(found.items())[1] if found else None


def _state_of(checkpoint: Path) -> int | None:
    number = checkpoint.name.removesuffix(names.CHECKPOINT_SUFFIX)
    return int(number) if number.isdecimal() else None


def load_newest(path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Read a state's checkpoint, or the newest good one before it; `tell` is given the reason.

    Raises InputError for one of the released code, which lacks what going on to the bit needs.
    """
    state = _state_of(path)
    earlier = [path.with_name(names.imp_checkpoint(k)) for k in range((state or 0) - 1, -1, -1)]
    checkpoint = load_first_good([path, names.previous(path), *earlier], tell)
    if checkpoint.keys() >= RELEASED and holds_weights(checkpoint["init"]):
        raise InputError(
            f"{path}: a checkpoint of the released code, state {checkpoint['state_prune']}, which "
            "lacks what going on to the bit needs. Begin that state anew: python -m models.convert "
            f"{path} init.pth.tar --key init, then --continue_from {path} --init init.pth.tar; or "
            "measure it: --evaluate"
        )
    return checkpoint


# --- for the released code ------------------------------------------------------------------------


def export_released(
    save_dir: Path,
    state: int,
    mode: str,
    theirs: Sequence[Sequence[float]],
    tell: Callable[[str], None],
) -> Path:
    """Write one state as the released code's checkpoint: float masks, the initial weights inside.

    A state without a checkpoint is written from its ticket: its masks on the initial weights,
    without an optimizer or an accuracy. In the standard mode the released code normalises in the
    transforms, so `normalize.*` goes; `tell` is told where that is not by `theirs`, the mean and
    std (3 numbers each) of those transforms.
    """
    source, ticket = save_dir / names.imp_checkpoint(state), save_dir / names.ticket(state)
    checkpoint = load_checkpoint(source) if source.is_file() else {}
    if {*TRAINED, "state_dict"} <= checkpoint.keys() and "file" in (checkpoint.get("init") or {}):
        init = load_initial_weights(source, checkpoint["init"])
        about = {key: checkpoint[key] for key in TRAINED}
        weights = checkpoint["state_dict"]
    elif ticket.is_file():  # also of a state 0 that trained the initial weights itself
        header = ticket_header(ticket)
        init = load_initial_weights(
            ticket, {"file": names.INIT, "sha256": header.get("init_sha256", "")}
        )
        kind = kind_noted(header.get("kind", IMP))
        about = {"arch": header.get("arch"), "state_prune": state, **kind}
        weights = _masked(init, load_ticket(ticket))
    elif checkpoint:
        raise InputError(
            f"{source}: names no initial weights, and {ticket.name} is not there; choose another "
            "state"
        )
    else:
        raise InputError(f"{source}: no such file, nor {ticket.name}; choose another state")

    def for_mode(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = mode == "adv"
        return {n: v for n, v in state_dict.items() if kept or not n.startswith("normalize.")}

    path = save_dir / names.released(state)
    parts = {"state_dict": for_mode(as_released(weights)), "init": for_mode(init)}
    save_checkpoint(path, {**about, **parts})
    if mode != "adv":
        _compare_constants(init, theirs, lambda line: tell(f"{path}: {line}"))
    return path


def _compare_constants(
    init: Mapping[str, Tensor], theirs: Sequence[Sequence[float]], tell: Callable[[str], None]
) -> None:
    """Tell of a network that is made for another normalisation than `theirs`, mean and std."""
    own = [init[name] for name in CONSTANTS if name in init]
    if all(torch.allclose(o, o.new_tensor(t)) for o, t in zip(own, theirs, strict=False)):
        return
    shown = ", ".join(" ".join(f"{value:.4g}" for value in values.tolist()) for values in own)
    tell(
        f"images of this network are normalised by mean and std {shown}, which the file does not "
        "hold; the released code's transforms have others and must be changed to them"
    )


def _masked(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as pruning leaves it: `weight_orig` and `weight_mask` for each masked weight."""
    masked = {name.removesuffix("_mask") for name in masks}
    return {f"{n}_orig" if n in masked else n: value for n, value in weights.items()} | dict(masks)
