"""What both mains do around their algorithm: a run's folder, its epochs, its interruptions.

What a batch system does to a run: SIGTERM, SIGINT or SIGUSR1 ask it to stop. It finishes its step,
saves, leaves the file PREEMPTED for the scripts that requeue it, and exits with status 75.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from checkpoint_utils import random_state, restore_random_state, to_cpu
from dataset import Loader
from dist_utils import (
    Runtime,
    any_rank,
    barrier,
    broadcast_from_main,
    gather_from_ranks,
    is_main,
)
from errors import InputError, RunFailed
from log_utils import Progress, provenance, say, warn
from models import Loaded, load_pretrained, torchvision_file
from train_utils import Execution, Meter, Metrics, Perturb, train_one_epoch

ARGS_FILE = "args.json"
PREEMPTED_FILE = "PREEMPTED"
PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Flags that may differ when a run is resumed: they change neither its results nor its files' names.
FREE_FLAGS = frozenset(
    (
        *("resume", "dry_run", "time_it", "evaluate", "export_released", "keep", "tag", "save_dir"),
        *("workers", "print_freq", "save_every_steps", "eval_batch_size", "compile", "threads"),
        *("device", "gpu", "nproc", "world_size", "rank", "dist_url", "dist_backend"),
        *("multiprocessing_distributed", "data", "init", "tickets_file"),
    )
)


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved."""


class StopSignals:
    """Notes the signals that ask a run to stop; use as a context manager around the run."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> StopSignals:
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
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


@contextlib.contextmanager
def run_folder(save_dir: Path, flags: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
    """Hold a run's folder: make it, lock it, write or compare `args.json`.

    The lock dies with the process, however it dies.

    Raises:
        InputError: another process works in it; it holds a run and `resume` is off, or one with
            other flags; it cannot be written.
    """
    if not is_main():
        barrier()
        yield
        return
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock = open(save_dir / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--save_dir {save_dir}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"--save_dir {save_dir}: another run is working in it") from error
        _claim(save_dir, flags, resume)
        (save_dir / PREEMPTED_FILE).unlink(missing_ok=True)
        barrier()
        yield


def _claim(save_dir: Path, flags: Mapping[str, Any], resume: bool) -> None:
    path = save_dir / ARGS_FILE
    if not path.exists():
        text = json.dumps({**flags, **provenance()}, indent=2, default=str)
        path.write_text(text + "\n")
        return
    if not resume:
        raise InputError(
            f"--save_dir {save_dir}: holds a run already; add --resume to go on, or choose another"
        )
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON; move it away to resume") from error
    for name, value in json.loads(json.dumps(dict(flags), default=str)).items():
        if name not in FREE_FLAGS and name in before and before[name] != value:
            raise InputError(
                f"--save_dir {save_dir}: holds a run with --{name} {before[name]}, not {value}; "
                "choose another folder"
            )


@contextlib.contextmanager
def running(
    training: Training, save_dir: Path, flags: Mapping[str, Any], *, resume: bool
) -> Iterator[None]:
    """Hold the run's folder and heed signals; a run that one stops leaves PREEMPTED and exits."""
    with run_folder(save_dir, flags, resume=resume), training.stop:
        try:
            yield
        except Preempted:
            if is_main():
                name = signal.Signals(training.stop.received or signal.SIGTERM).name
                (save_dir / PREEMPTED_FILE).write_text(f"{name}; go on with --resume\n")
                say(f"stopped by {name} after saving; go on with --resume")
            raise SystemExit(PREEMPTED_STATUS) from None


# --- training, as far as it is --------------------------------------------------------------------


def load_init(model: nn.Module, init: str, arch: str, **how: str) -> Loaded:
    """Load `--init` (a path, or `torchvision`) as `models.load_pretrained` does, and say what."""
    path = torchvision_file(arch) if init == "torchvision" else Path(init)
    loaded = load_pretrained(model, path, **how)
    say(f"init: {path} ({loaded.layout})")
    for note in loaded.notes:
        say(f"init: {note}")
    return loaded


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
        save: Callable[[], None],
        save_every: int | None = None,
        print_freq: int | None = None,
    ) -> None:
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.execution, self.runtime, self.perturb = execution, runtime, perturb
        self.save, self.save_every, self.print_freq = save, save_every, print_freq
        self.steps = loader.num_batches(runtime.world_size)
        self.scaler = execution.scaler()
        self.stop = StopSignals()
        self.epoch = self.step = 0
        self.meter = Meter(execution.device)
        if runtime.world_size > 1:  # every process draws random starts of its own
            torch.manual_seed(torch.initial_seed() + runtime.rank)
        self.random: dict[str, Any] | None = None  # as training left it, during an evaluation

    def one_epoch(self, learning_rate: Callable[[int], float], label: str) -> Metrics:
        """Train the next epoch, or what is left of it."""
        rank, world = self.runtime.rank, self.runtime.world_size
        with Progress(self.steps, label, self.print_freq, done=self.step) as bar:
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
        self.random = random_state()
        return trained

    def _after_step(self, done: int, _meter: Meter) -> None:
        self.step = done
        stopping = self.stop.requested()
        if stopping or (self.save_every and done % self.save_every == 0):
            self._check_finite()
            self.save()
        if stopping:
            raise Preempted

    def _check_finite(self) -> None:
        if not self.meter.is_finite():
            raise RunFailed(
                f"the loss is not finite in epoch {self.epoch + 1}, by step {self.step}; the last "
                "checkpoint in --save_dir is from before"
            )

    def watch(self, bar: Progress) -> Callable[[int, Meter], None]:
        """A `report` for evaluation that also heeds the signals: what was trained is saved."""

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
        own = {"random": self.random or random_state(), "sums": self.meter.sums.tolist()}
        return {
            "optimizer": to_cpu(self.optimizer.state_dict()),
            "resume": {
                "step": self.step,
                "ranks": gather_from_ranks(own),
                "scaler": self.scaler.state_dict() if self.scaler else None,
            },
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up `state()`; a KeyError names what the checkpoint lacks."""
        resume, ranks = checkpoint["resume"], checkpoint["resume"]["ranks"]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.step = checkpoint["epoch"], resume["step"]
        if len(ranks) != self.runtime.world_size:
            if self.step:
                raise InputError(
                    f"saved in mid-epoch by {len(ranks)} processes; resume with as many"
                )
            warn(f"saved by {len(ranks)} processes: random starts go on differently")
            return
        own = ranks[self.runtime.rank]
        self.meter = Meter(self.execution.device, own["sums"])
        if self.scaler and resume["scaler"]:
            self.scaler.load_state_dict(resume["scaler"])
        restore_random_state(own["random"])
