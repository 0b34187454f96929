"""What a transfer keeps in its folder: the checkpoint to resume from, and the best networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from errors import InputError
from files import names
from files.checkpoints import (
    bare_keys,
    load_checkpoint,
    load_first_good,
    save_checkpoint,
    transfer_keys,
)
from files.class_names import CLASSES
from files.mask_layouts import as_released
from files.state_dicts import holds_weights
from files.tickets import KIND, kind_noted
from pruning_utils import MASK_SUFFIX

# The curves, and the released code's names of them in a checkpoint; TA is its word for SA.
CURVES = {
    "train_acc": "train", "val_sa": "ta", "val_ra": "ra",
    "test_sa": "test_ta", "test_ra": "test_ra",
}  # fmt: skip
# The networks that are tested at the end, by the file that holds each.
KEPT = {"sa_best": names.SA_BEST, "ra_best": names.RA_BEST, "last": names.CHECKPOINT}

# The best networks: by which figure of the record, and by which curve, each was chosen.
BEST = {names.SA_BEST: ("best_sa", "val_sa"), names.RA_BEST: ("best_ra", "val_ra")}


@dataclass
class TransferRecord:
    """How far a transfer is, beside its network and its training; accuracies are percent.

    curves: an entry per epoch, None where nothing was measured, under the names of CURVES.
    """

    best_sa: float | None = None
    best_ra: float | None = None
    curves: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in CURVES}
    )

    def add(self, measured: Mapping[str, float]) -> list[str]:
        """Take up what an epoch gave; return the files of which its network is the best so far."""
        for name in CURVES:
            self.curves[name].append(measured.get(name))
        best = []
        for file, (key, curve) in BEST.items():
            score, before = measured.get(curve), getattr(self, key)
            if score is not None and (before is None or score > before):
                setattr(self, key, score)
                best.append(file)
        return best


def save_transfer(
    save_dir: Path,
    record: TransferRecord,
    *,
    epoch: int,
    arch: str,
    classes: Sequence[str],
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    lr_schedule: str,
    ticket_kind: str,
    best: Sequence[str],
    keep_epoch: bool,
) -> None:
    """Write the run's checkpoint, and its network under the best ones' names too.

    Args:
        epoch: epochs that are finished.
        classes: the names of the classes, in the order of the network's outputs.
        weights: the state dict in bare names; the file has the released code's `0.*` and `1.*`.
        ticket_kind: how the masks were found, for who takes the file as a ticket.
        training: what `engine.training.Training.state` gives.
        best: the file names of which this network is the best so far.
        keep_epoch: whether to keep the epoch's bare state dict too (--save_all), under the number
            of the epoch counted from 0.
    """
    network: dict[str, Any] = {
        "best_sa": record.best_sa,
        "best_ra": record.best_ra,
        "result": {CURVES[name]: curve for name, curve in record.curves.items()},
        "epoch": epoch,
        "arch": arch,
        "state_dict": transfer_keys(weights),
        CLASSES: list(classes),
        **kind_noted(ticket_kind),
    }
    for name in best:
        save_checkpoint(save_dir / name, network)
    if keep_epoch:
        save_checkpoint(save_dir / names.epoch_checkpoint(epoch - 1), network["state_dict"])
    scheduler = {"kind": lr_schedule, "last_epoch": epoch}
    payload = {**network, "scheduler": scheduler, **training}
    save_checkpoint(save_dir / names.CHECKPOINT, payload, keep_previous=True)


def read_record(checkpoint: Mapping[str, Any]) -> TransferRecord:
    """The record in a checkpoint of `save_transfer`; KeyError names what it lacks."""
    curves = {name: checkpoint["result"][released] for name, released in CURVES.items()}
    return TransferRecord(checkpoint["best_sa"], checkpoint["best_ra"], curves)


def read_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a transfer checkpoint, in bare names."""
    return bare_keys(checkpoint["state_dict"])


def load_kept(save_dir: Path, role: str) -> dict[str, Tensor]:
    """The weights of the network of a role of KEPT, in bare names."""
    return read_weights(load_checkpoint(save_dir / KEPT[role]))


def recall_best(save_dir: Path, record: TransferRecord, epoch: int) -> None:
    """Take up the accuracies of best networks that are newer than the checkpoint, after `epoch`.

    A stop came between the files; the best networks are written first. Their epoch is trained
    again and may score otherwise (on another number of threads, say): the better network stays.
    """
    for name, (key, _) in BEST.items():
        if (save_dir / name).is_file():
            kept = load_checkpoint(save_dir / name)
            if kept["epoch"] > epoch and kept[key] is not None:
                setattr(record, key, kept[key])


def beyond_curves(record: TransferRecord) -> list[str]:
    """Name the best networks whose figure no epoch of the curves has: a line each."""
    lines = []
    for name, (key, curve) in BEST.items():
        best = getattr(record, key)
        if best is not None and best not in record.curves[curve]:
            lines.append(
                f"{name}: of an epoch that a stop cut off and that was trained again to another "
                f"figure; the {best:.2f} % by which it was chosen is not among those of the epochs"
            )
    return lines


def check_kept(save_dir: Path, beside: Path, record: TransferRecord) -> None:
    """Raise InputError unless the best networks so far are in the run's folder or in `beside`."""
    for name, (key, _) in BEST.items():
        best: float | None = getattr(record, key)
        path = next((p / name for p in (save_dir, beside) if (p / name).is_file()), beside / name)
        if best is not None and load_checkpoint(path).get(key) != best:
            raise InputError(
                f"{path}: not the run's best network at this checkpoint, which has {best:.2f} %; "
                "resume the run in its own folder, or in a copy of all of it"
            )


def role_of(path: Path) -> str:
    """The name of a checkpoint's network in outcomes: its role, or what the file is called."""
    roles = {name: role for role, name in KEPT.items()}
    return roles.get(path.name, path.name.partition(".")[0] or "network")


def newest_checkpoint(save_dir: Path) -> Path | None:
    path = save_dir / names.CHECKPOINT
    return path if path.is_file() else None


def load_newest(path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Read a checkpoint, or the one before it if it is damaged; `tell` is given the reason.

    Raises InputError for one of the released code, which lacks what going on to the bit needs.
    """
    checkpoint = load_first_good([path, names.previous(path)], tell)
    if {"result", "state_dict"} <= checkpoint.keys() and "arch" not in checkpoint:
        raise InputError(
            f"{path}: a transfer checkpoint of the released code, which lacks what going on to the "
            f"bit needs. --evaluate --resume {path} tests its network; for a new run "
            f"--tickets_file {path} takes its masks"
        )
    return checkpoint


def export_released(checkpoint: Path, save_dir: Path) -> Path:
    """Write a transferred network as a ticket that the released code reads.

    That code looks for masks under the bare network's names, without the `1.` of a transfer.
    """
    content = load_checkpoint(checkpoint)
    found: Any = content.get("state_dict", content)  # --save_all keeps it bare
    weights = bare_keys(found) if holds_weights(found) else {}
    if not any(name.endswith(MASK_SUFFIX) for name in weights):
        raise InputError(f"{checkpoint}: no transferred network with masks, so no ticket")
    kept = {n: v for n, v in as_released(weights).items() if not n.startswith("normalize.")}
    path = save_dir / names.released_transfer(checkpoint)
    about: dict[str, Any] = {n: content[n] for n in ("epoch", "arch", KIND) if n in content}
    save_checkpoint(path, {**about, "state_dict": kept})
    return path
