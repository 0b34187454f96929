"""A network in training: its epochs, the signals that stop it, and what it needs to go on.

A batch system asks a run to stop by SIGTERM, SIGINT or SIGUSR1: the run finishes its step, saves
and raises Preempted.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from attack_utils import Perturb  # the type alone
from engine.distributed import Runtime, any_rank, broadcast_from_main, gather_from_ranks
from engine.log import Progress, RunLog
from engine.steps import Execution, Meter, Metrics, Report, load_optimizer, train_one_epoch
from errors import InputError, RunFailed
from files.checkpoints import to_cpu
from input_pipeline.loader import Loader
from input_pipeline.workers import STOP_SIGNALS

LOOKED_AT_EVERY = 100  # steps: a look at the loss waits for the GPU


def check_batch(batch_size: int, images: int, nodes: int) -> None:
    """Raise InputError for a batch, over all nodes, of more than there are training images.

    Deviation: the released code makes one smaller step an epoch of it.
    """
    if batch_size > images:
        each = f" on each of {nodes} nodes" if nodes > 1 else ""
        raise InputError(
            f"--batch_size {batch_size // nodes}{each}: more than the {images} training images; "
            f"-b {images // nodes} or less would do"
        )


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved."""


class NotFinite(Exception):
    """The loss or a weight is NaN or infinite; no checkpoint holds it."""


class StopSignals:
    """Record stop signals instead of acting on them; training asks after each step.

    The block is around all of a run: a signal that comes before training stops it after the first
    step.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> StopSignals:
        self.before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step
        self.received = number

    def requested(self) -> bool:
        """Whether any process of the run was asked to stop; every process gets the same answer."""
        return any_rank(self.received is not None)


class Training:
    """A network in training, and all that a checkpoint needs so that it goes on to the bit.

    `epoch` counts finished epochs, `step` the finished steps of the next one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loader: Loader,
        execution: Execution,
        runtime: Runtime,
        perturb: Perturb | None,
        *,
        stop: StopSignals,
        save: Callable[[], None],
        save_every: int | None = None,
        print_freq: int | None = None,
    ) -> None:
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.execution, self.runtime, self.perturb = execution, runtime, perturb
        self.save, self.save_every, self.print_freq = save, save_every, print_freq
        nodes, processes = runtime.nodes, runtime.processes_here
        check_batch(loader.batch_size, loader.num_images, nodes)
        if loader.batch_size < 2 * runtime.world_size:
            raise InputError(
                f"--batch_size {loader.batch_size // nodes}: BatchNorm needs two images for each "
                f"of the {processes} processes, so -b {2 * processes} or more"
            )
        self.steps = loader.num_batches(runtime.world_size)
        self.scaler = execution.scaler()
        self.stop = stop
        self.epoch = self.step = 0
        self.meter = Meter(execution.device)
        self.random: dict[str, Any] | None = None  # as training left it, during an evaluation
        self.log: RunLog | None = None
        self.seconds: float | None = None  # that the run had taken when it was resumed in mid-epoch

    def open_log(self, save_dir: Path) -> RunLog:
        """The log of the epochs from here on; enter it."""
        self.log = RunLog(save_dir, self.epoch, self.step / self.steps, self.seconds)
        return self.log

    def one_epoch(self, learning_rate: Callable[[int], float], label: str) -> Metrics:
        """Train the next epoch, or what is left of it."""
        rank, world = self.runtime.rank, self.runtime.world_size
        with (
            self._blamed_on_loss(),
            Progress(self.steps, label, self.print_freq, done=self.step) as bar,
        ):
            trained = train_one_epoch(
                self.model,
                self.loader.epoch(self.epoch, self.step, rank, world),
                self.optimizer,
                execution=self.execution,
                learning_rate=learning_rate,
                perturb=self.perturb,
                global_batch=self.loader.images_in_batch,
                report=bar.step,
                scaler=self.scaler,
                first_step=self.step,
                meter=self.meter,
                after_step=self._after_step,
            )
        self._check_finite()
        broadcast_from_main(self.model.buffers())
        self.random = random_state(self.execution.device)
        return trained

    def _after_step(self, done: int) -> None:
        self.step = done
        if done % LOOKED_AT_EVERY == 0:
            self._check_loss()
        stopping = self.stop.requested()
        if stopping or (self.save_every and done % self.save_every == 0):
            self._check_finite()
            self.save()
        if stopping:
            raise Preempted

    def _check_finite(self) -> None:
        """Before a checkpoint: all losses since the last one, and the weights that came of them."""
        self._check_loss()
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise NotFinite(f"the weights are not finite after {self._place(self.step)}")

    def _check_loss(self) -> None:
        finite = self.meter.finite_steps()
        if finite < self.step:
            raise NotFinite(f"the loss is not finite in {self._place(finite + 1)}")

    def _place(self, step: int) -> str:
        return f"epoch {self.epoch + 1}, step {step} of {self.steps}"

    @contextlib.contextmanager
    def _blamed_on_loss(self) -> Iterator[None]:
        """Report a later failure as the non-finite loss that caused it."""
        try:
            yield
        except RunFailed:
            self._check_loss()
            raise

    def watch(self, bar: Progress) -> Report:
        """A `report` for evaluation that also heeds the signals: what was trained is saved.

        All processes answer a signal together: each must call it equally often.
        """

        def report(images: int, meter: Meter) -> None:
            bar.step(images, meter)
            if self.stop.requested():
                if self.step:
                    self.save()
                raise Preempted

        return report

    def end_epoch(self) -> None:
        """The epoch is trained and evaluated; the next begins."""
        self.epoch += 1
        self.step, self.random = 0, None
        self.meter = Meter(self.execution.device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this; all processes must call it together."""
        own = {
            "random": self.random or random_state(self.execution.device),
            "sums": self.meter.sums.tolist(),
        }
        # After an epoch its figures tell the time, and the file is the same for all who repeat it.
        within = {"seconds": self.log.seconds} if self.log and self.step else {}
        return {
            "optimizer": to_cpu(self.optimizer.state_dict()),
            "resume": {
                "step": self.step,
                "ranks": gather_from_ranks(own),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                **within,
            },
        }

    def restore(self, checkpoint: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Take up `state()`; the model has the checkpoint's weights already.

        `warn` is told why the run does not go on to the bit, if it does not.
        """
        resume, ranks = checkpoint["resume"], checkpoint["resume"]["ranks"]
        for name, value in self.model.state_dict().items():
            if not bool(value.isfinite().all()):
                raise InputError(f"the checkpoint's {name} is not finite; resume an earlier file")
        load_optimizer(self.optimizer, checkpoint["optimizer"])
        self.epoch, self.step = checkpoint["epoch"], resume["step"]
        self.seconds = resume.get("seconds")
        if self.scaler and resume["scaler"]:
            self.scaler.load_state_dict(resume["scaler"])
        if len(ranks) != self.runtime.world_size:
            if self.step:
                raise InputError(
                    f"saved in mid-epoch by {len(ranks)} processes; resume with as many"
                )
            warn(
                f"saved by {len(ranks)} processes, not {self.runtime.world_size}: random starts go "
                "on differently, and BatchNorm sees other parts of a batch"
            )
            return
        own = ranks[self.runtime.rank]
        self.meter = Meter(self.execution.device, own["sums"], self.step)
        if not restore_random_state(own["random"], self.execution.device):
            warn("saved by another kind of device: random starts go on differently")


# --- random states --------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Any]:
    """States of torch's generators on the CPU and, where the run is on one, on its GPU."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"cpu": torch.get_rng_state(), "cuda": on_gpu}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> bool:
    """Put the generators back to `random_state()`, on whatever GPU the run goes on.

    Returns whether the device is of the same kind, so that draws go on as they would have.
    """
    torch.set_rng_state(state["cpu"])
    on_gpu = state["cuda"]
    if device.type != "cuda":
        return not on_gpu
    if len(on_gpu) == 1:
        torch.cuda.set_rng_state(on_gpu[0], device)
    return len(on_gpu) == 1
