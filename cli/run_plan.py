"""A run's plan as a value: what `--dry_run` prints as text, and with `--json` as one JSON object.

Costs are estimates from FLOPs, never measurements, and say so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

ASSUMED_RATE = 50e12  # FLOP/s that one data-centre GPU is taken to sustain, for GPU-hours


@dataclass(frozen=True)
class Input:
    """A file or folder that the run reads, and the flag that names it."""

    name: str
    path: str
    missing: bool


@dataclass(frozen=True)
class PlannedState:
    state: int
    density: float  # of the convolution weights, 0 to 1
    epochs: int


@dataclass(frozen=True)
class Written:
    """One file below the run's folder, or one for each number of a range; `text` names them all."""

    text: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """Estimates. `passes` is the number of times that one image goes through the network."""

    passes: int
    flop: float
    gpu_hours: float
    network_bytes: float  # weights, gradients, momentum, masks
    activation_bytes: float  # of `images_per_pass` images
    images_per_pass: int
    disk_bytes: float


@dataclass(frozen=True)
class Timing:
    """What --time_it measured: `hours` of training on one such device.

    `whole_hours` count evaluation too, its passes as fast as those of training.
    """

    device: str
    images_per_step: int
    images_per_second: float
    hours: float
    whole_hours: float


@dataclass(frozen=True)
class RunPlan:
    """What a run would do. `task` is imp, omp, random, transfer or evaluation.

    Fields that a task has no use for are None or empty: an evaluation has no epochs, a one-shot
    ticket no cost. So is what is unknown: steps and cost, where the images of a transfer are not
    counted. `epochs_taken` counts those before them that the run of --continue_from made. `tests`
    maps the further tests of an evaluation to how they were asked for.
    """

    task: str
    settings: str
    inputs: tuple[Input, ...]
    save_dir: str
    writes: tuple[Written, ...]
    states: tuple[PlannedState, ...] = ()
    epochs: int | None = None
    epochs_taken: int = 0
    steps_per_epoch: int | None = None
    batch_size: int | None = None
    evaluations: int | None = None
    validation_images: int | None = None
    test_images: int | None = None
    tests: Mapping[str, str | bool] = dataclasses.field(default_factory=dict)
    writes_elsewhere: str | None = None
    last_ticket: int | None = None
    cost: Cost | None = None
    timed: Timing | None = None

    def shown(self, *, as_json: bool) -> str:
        return self.to_json() if as_json else self.to_text()

    def to_json(self) -> str:
        """One JSON object on one line; `writes` lists every file by its own name."""
        values = dataclasses.asdict(self)
        values["writes"] = [file for written in self.writes for file in written.files]
        return json.dumps(values)

    def to_text(self) -> str:
        lines = [self.settings]
        lines += [f"  {i.name} {i.path}" + "   <- MISSING" * i.missing for i in self.inputs]
        lines += self._what_is_done()
        lines += [f"writes into {self.save_dir}:", *(f"  {file.text}" for file in self.writes)]
        lines += [f"and {self.writes_elsewhere}"] if self.writes_elsewhere else []
        lines += _cost_lines(self.cost) if self.cost else []
        lines += [_timing_line(self.timed)] if self.timed else []
        return "\n".join(lines)

    def _what_is_done(self) -> list[str]:
        lines = []
        for planned in self.states:
            dense = planned.state == 0
            density = f"{100 * planned.density:.{0 if dense else 2}f} %"
            training = " of dense training" if dense else ""
            lines.append(
                f"  state {planned.state}: density {density}, {planned.epochs} epochs{training}"
            )
        if self.task == "imp":
            lines.append(f"  {self.steps_per_epoch} steps per epoch of {self.batch_size} images")
        if self.task == "transfer" and self.steps_per_epoch is None:
            lines.append(
                f"  {self.epochs} epochs; images not counted, so steps and cost are unknown"
            )
        elif self.task == "transfer":
            lines += [
                f"  {self.epochs} epochs of {self.steps_per_epoch} steps of {self.batch_size}",
                f"  {self.evaluations} evaluations on {self.validation_images} validation images, "
                f"a final test on {self.test_images}",
            ]
        return lines + [f"  {name} {value}" for name, value in self.tests.items()]


def _cost_lines(cost: Cost) -> list[str]:
    return [
        f"cost (estimate from FLOPs): {cost.passes:.3g} passes of one image, {cost.flop:.2g} FLOP, "
        f"{cost.gpu_hours:.2g} GPU-hours at {ASSUMED_RATE / 1e12:.0f} TFLOP/s",
        f"memory (estimate): {cost.network_bytes / 1e9:.2g} GB for weights, gradients, momentum "
        f"and masks, {cost.activation_bytes / 1e9:.2g} GB for {cost.images_per_pass} images per "
        "pass (--micro_batch N: fewer)",
        f"disk (estimate): {cost.disk_bytes / 1e9:.2g} GB",
    ]


def _timing_line(timed: Timing) -> str:
    return (
        f"timed here: {timed.images_per_second:.3g} images/s in steps of {timed.images_per_step} "
        f"random images on {timed.device}: {timed.hours:.3g} hours of training on one such device, "
        f"{timed.whole_hours:.3g} with evaluation"
    )
