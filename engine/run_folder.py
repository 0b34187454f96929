"""What both mains do around their algorithm: a run's folder, its epochs, its interruptions.

What a batch system does to a run: SIGTERM, SIGINT or SIGUSR1 ask it to stop. It finishes its step,
saves, leaves the file PREEMPTED for the scripts that requeue it, and exits with status 75.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dataset import Loader
from engine.distributed import (
    Runtime,
    any_rank,
    barrier,
    broadcast_from_main,
    gather_from_ranks,
    is_main,
    main_first,
)
from engine.log import Progress, provenance, say, warn
from engine.steps import Execution, Meter, Metrics, Perturb, train_one_epoch
from errors import InputError, RunFailed
from files.atomic import sha256_of, write_json
from files.checkpoints import random_state, restore_random_state, to_cpu
from models import Loaded, is_fetched, load_pretrained, weights_file

ARGS_FILE = "args.json"
CONTENT = "_content"
LOOKED_AT_EVERY = 100  # steps: a look at the loss waits for the GPU
PREEMPTED_FILE = "PREEMPTED"
PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
FILES = ("init", "tickets_file", "masking_source")  # flags that name a file
# Flags that may differ when a run is resumed: they change neither its results nor its files' names.
FREE_FLAGS = frozenset(
    (
        *("resume", "dry_run", "time_it", "evaluate", "export_released", "keep", "tag", "save_dir"),
        *("workers", "print_freq", "save_every_steps", "eval_batch_size", "compile", "threads"),
        *("device", "gpu", "nproc", "world_size", "rank", "dist_url", "dist_backend"),
        # Without --skip_bad a run ends at the first bad image; where files lie is free, not what
        # is in them: see `_contents`.
        *("multiprocessing_distributed", "skip_bad", "data", *FILES),
    )
)


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved."""


class NotFinite(Exception):
    """The loss or the weights are no numbers any more; nothing of it was saved."""


class StopSignals:
    """Notes the signals that ask a run to stop, inside the block: the run sees to it when it can.

    Around all of a run, what comes before its training too: a signal then is one after the first
    step.
    """

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

    The lock dies with the process, however it dies. A folder that was made here is removed again
    if wrong input ends the run before its first checkpoint.

    Raises:
        InputError: another process works in it; it holds a run and `resume` is off, or one with
            other flags; it cannot be written.
    """
    if not is_main():
        barrier()
        yield
        return
    new = not save_dir.exists()
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock = open(save_dir / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"--save_dir {save_dir}: cannot be written ({error.strerror}); name another folder"
        ) from error
    with lock:
        try:
            # Not flock: loader processes would inherit it and outlive a killed run by seconds.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(
                f"--save_dir {save_dir}: another run is working in it; wait, or name another folder"
            ) from error
        try:
            _claim(save_dir, flags, resume)
            barrier()
            yield
        except InputError:
            if new and newest_checkpoint(save_dir) is None:
                shutil.rmtree(save_dir)
            raise


def newest_checkpoint(save_dir: Path) -> Path | None:
    """The checkpoint of a run's folder that was written last, if there is any."""
    found = list(save_dir.glob("*checkpoint.pth.tar"))
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _claim(save_dir: Path, flags: Mapping[str, Any], resume: bool) -> None:
    check_same_run(save_dir, flags, resume=resume)
    if not (save_dir / ARGS_FILE).exists():
        write_json(save_dir / ARGS_FILE, {**flags, **provenance()})
    (save_dir / PREEMPTED_FILE).unlink(missing_ok=True)
    for torn in save_dir.glob(".*.tmp"):  # of a run that was killed while it wrote
        if not torn.name.startswith(".eval.json"):
            torn.unlink(missing_ok=True)


def check_same_run(save_dir: Path, flags: Mapping[str, Any], *, resume: bool) -> None:
    """Raise InputError if the folder holds a run and `resume` is off, or one with other flags."""
    path = save_dir / ARGS_FILE
    if not path.exists():
        return
    if not resume:
        raise InputError(
            f"--save_dir {save_dir}: holds a run already; add --resume to go on, or choose another"
        )
    try:
        before = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged, not JSON; move it away to resume") from error
    if not isinstance(before, dict):
        raise InputError(f"{path}: damaged, no flags in it; move it away to resume")
    for name, value in json.loads(json.dumps(dict(flags))).items():
        if name not in FREE_FLAGS and name in before and before[name] != value:
            flag = name.replace(CONTENT, " that holds") if CONTENT in name else name
            raise InputError(
                f"--save_dir {save_dir}: holds a run with --{flag} {before[name]}, not {value}; "
                "choose another folder"
            )


def _contents(training: Training, flags: Mapping[str, Any]) -> dict[str, str]:
    """What the files hold whose places are free: recorded beside the flags, and compared."""
    found = {f"data{CONTENT}": training.loader.described()}
    for name in FILES:
        path = flags.get(name)
        if path is not None and not is_fetched(path):
            found[f"{name}{CONTENT}"] = f"sha256 {sha256_of(path)[:16]}"
    return found


@contextlib.contextmanager
def running(
    training: Training, save_dir: Path, flags: Mapping[str, Any], *, resume: bool
) -> Iterator[None]:
    """Hold the run's folder; a run that a signal stops leaves PREEMPTED and exits."""
    flags = {**flags, **_contents(training, flags)}
    with run_folder(save_dir, flags, resume=resume):
        try:
            yield
        except NotFinite as error:
            kept = newest_checkpoint(save_dir)
            last = f"the last good file is {kept}" if kept else "no checkpoint was written yet"
            raise RunFailed(f"{error}; {last}; try a lower --lr") from error
        except Preempted:
            if is_main():
                name = signal.Signals(training.stop.received or signal.SIGTERM).name
                (save_dir / PREEMPTED_FILE).write_text(f"{name}; go on with --resume\n")
                say(f"stopped by {name} after saving; go on with --resume")
            raise SystemExit(PREEMPTED_STATUS) from None


@contextlib.contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Inside, whatever a checkpoint lacks or holds too much of becomes an InputError."""
    try:
        yield
    except (InputError, RunFailed):
        raise
    except KeyError as error:
        raise InputError(f"{path}: no checkpoint to resume from, it lacks {error}") from error
    except RuntimeError as error:
        raise InputError(f"{path}: another network than the flags ask for") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: no checkpoint that this program wrote ({error})") from error


# --- training, as far as it is --------------------------------------------------------------------


def load_init(model: nn.Module, init: str, arch: str, key: str | None = None, **how: str) -> Loaded:
    """Load `--init` (a file, or weights to fetch) as `load_pretrained` does, and say what."""
    with main_first():
        found = weights_file(init, arch)
    if found.note:
        say(f"init: {found.note}")
    loaded = load_pretrained(model, found.path, key=key, **how)
    say(f"init: {found.path} ({loaded.layout})")
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
        stop: StopSignals,
        save: Callable[[], None],
        save_every: int | None = None,
        print_freq: int | None = None,
    ) -> None:
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.execution, self.runtime, self.perturb = execution, runtime, perturb
        self.save, self.save_every, self.print_freq = save, save_every, print_freq
        if loader.batch_size > loader.num_images:
            raise InputError(
                f"--batch_size {loader.batch_size}: more than the {loader.num_images} training "
                f"images; -b {loader.num_images} or less would do"
            )
        self.steps = loader.num_batches(runtime.world_size)
        self.scaler = execution.scaler()
        self.stop = stop
        self.epoch = self.step = 0
        self.meter = Meter(execution.device)
        if runtime.world_size > 1:  # every process draws random starts of its own
            torch.manual_seed(torch.initial_seed() + runtime.rank)
        on_cpu = execution.device.type == "cpu" and not torch.cuda.is_available()
        say("device: the CPU, PyTorch sees no CUDA" if on_cpu else f"device: {execution.device}")
        self.random: dict[str, Any] | None = None  # as training left it, during an evaluation

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
        self.random = random_state()
        return trained

    def _after_step(self, done: int, _meter: Meter) -> None:
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
        """What fails because the loss was no number before is told as that."""
        try:
            yield
        except RunFailed:
            self._check_loss()
            raise

    def watch(self, bar: Progress) -> Callable[[int, Meter], None]:
        """A `report` for evaluation that also heeds the signals: what was trained is saved.

        All processes answer a signal together, so only in rounds in which each has a batch.
        """
        rounds = min(gather_from_ranks(bar.steps))

        def report(images: int, meter: Meter) -> None:
            bar.step(images, meter)
            if bar.done <= rounds and self.stop.requested():
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
        """Take up `state()`, its weights being in the model already; see `taking_up`."""
        resume, ranks = checkpoint["resume"], checkpoint["resume"]["ranks"]
        for name, value in self.model.state_dict().items():
            if not bool(value.isfinite().all()):
                raise InputError(f"the checkpoint's {name} is not finite; resume an earlier file")
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
        self.meter = Meter(self.execution.device, own["sums"], self.step)
        if self.scaler and resume["scaler"]:
            self.scaler.load_state_dict(resume["scaler"])
        restore_random_state(own["random"])
