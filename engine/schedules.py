"""Which epoch belongs to which state, and its learning rate; plain numbers, no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class States:
    """Which epoch belongs to which state of a ticket search; the dense state 0 comes first."""

    pretrain_epochs: int
    epochs: int
    prune_epoch: int

    @property
    def total_epochs(self) -> int:
        return self.pretrain_epochs + self.epochs

    @property
    def last(self) -> int:
        """The last state that is trained; its successor's ticket is the last file of the run."""
        return -(-self.epochs // self.prune_epoch)

    def of(self, epoch: int) -> int:
        """The state that `epoch` trains; the one after the last when all epochs are done."""
        if epoch < self.pretrain_epochs:
            return 0
        if epoch >= self.total_epochs:
            return self.last + 1
        return 1 + (epoch - self.pretrain_epochs) // self.prune_epoch

    def first_epoch(self, state: int) -> int:
        if state == 0:
            return 0
        return min(self.pretrain_epochs + (state - 1) * self.prune_epoch, self.total_epochs)


@dataclass(frozen=True)
class Schedule:
    """Learning rate by epoch (counted from 0), with a linear warm-up by step.

    kind: "constant", "multistep" (x0.1 from each milestone on) or "cosine" (to 0 over `epochs`).
    """

    kind: str
    lr: float
    epochs: int
    milestones: tuple[int, ...] = ()
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "multistep", "cosine"):
            raise ValueError(f"no schedule of learning rates: {self.kind!r}")

    def __str__(self) -> str:
        words = {"constant": "constant", "cosine": f"by a cosine to 0 over {self.epochs} epochs"}
        if self.milestones:
            last = "" if self.milestones[-1] < self.epochs else f"; the last is {self.epochs - 1}"
            epochs = ", ".join(map(str, self.milestones))
            words["multistep"] = f"divided by ten at epochs {epochs} (counted from 0{last})"
        warmup = f", after linear warm-up to epoch {self.warmup}" if self.warmup else ""
        return f"{self.lr:g}, {words.get(self.kind, 'constant')}{warmup}"

    def at(self, epoch: int, step: int = 0, steps_per_epoch: int = 1) -> float:
        """The rate of a step, which changes within an epoch in warm-up only.

        Args:
            epoch, step: counted from 0, the step within its epoch.
        """
        if epoch < self.warmup:
            return self.lr * (epoch * steps_per_epoch + step + 1) / (self.warmup * steps_per_epoch)
        if self.kind == "multistep":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if self.kind == "cosine":  # Deviation: PyTorch's recursion goes on from warm-up's last rate
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr
