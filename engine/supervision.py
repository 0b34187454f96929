"""A run from its beginning to its end: its checkpoint taken up, its folder held, its stop told.

A run that a signal stops leaves the file PREEMPTED for the scripts that requeue it, and exits with
status 75.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from engine.distributed import is_main, on_main, same_on_all
from engine.log import Warnings, say, warn
from engine.run_folder import OF_IMAGES, WARNINGS, RunFolder, holding
from engine.training import NotFinite, Preempted, StopSignals, Training
from errors import (
    InputError,
    RunFailed,
    is_of_another_process,
    is_out_of_memory,
    memory_advice,
)
from files import names
from files.atomic import copy_into, sha256_of
from files.fingerprints import weights_sha256
from files.metrics import read_metrics
from files.run_args import GLOBAL_BATCH, NODES, PROCESSES


class Run(Protocol):
    """What a main's algorithm looks like from outside."""

    training: Training
    warnings: Warnings
    init_sha256: str | None  # of the weights of --init

    def contents(self) -> dict[str, str]:
        """Fingerprints of the input files, by flag."""

    def resume(self, path: Path) -> None:
        """Take up a checkpoint."""

    def belongings(self) -> Collection[str]:
        """The files beside that checkpoint with which the run goes on."""

    def run(self) -> None:
        """Do what is left, and write the results."""


def supervise(make: Callable[[StopSignals], Run], folder: RunFolder, images: int) -> None:
    """Make a run, take up its checkpoint if there is one, hold its folder, and let it run.

    Args:
        images: per pass; for the advice when memory runs out.
    """
    checkpoint = folder.checkpoint()
    folder.check()
    if checkpoint:
        folder.check_origin(checkpoint)
    if folder.is_finished():
        return
    with StopSignals() as stop:
        run = make(stop)
        if checkpoint:
            replace(folder, contents=run.contents()).check_origin(checkpoint)
            if not (checkpoint.parent / names.ARGS).exists():
                run.warnings.add(
                    f"{checkpoint}: no {names.ARGS} beside it: whether its run had the same flags "
                    "is not known"
                )
            with memory_advice(images), _taking_up(checkpoint):
                run.resume(checkpoint)  # before the folder is claimed: it may be refused
            _check_same_run(run, checkpoint.parent, folder.path)
        _check_together(run)
        folder = replace(folder, contents=run.contents(), facts=_facts(run))
        with holding(folder), _ending(folder, run.training), memory_advice(images):
            run.warnings.recall(folder.warnings())
            folder.record(run.warnings.lines)
            if checkpoint:
                on_main(lambda: _bring(run.belongings(), checkpoint.parent, folder.path))
            run.run()
            folder.record(run.warnings.lines)  # some are of what was met on the way


def _check_same_run(run: Run, source: Path, folder: Path) -> None:
    """Raise InputError where a run's folder holds what another than its checkpoint's run wrote.

    Equal flags do not make equal runs: the number of processes is free. What it wrote later, when
    it was begun by the same command before, is its own.
    """
    for name in run.belongings():
        theirs, own = source / name, folder / name
        if not (theirs.is_file() and own.is_file()) or theirs.samefile(own):
            continue
        if name == names.METRICS:
            done = [read_metrics(path)[: run.training.epoch] for path in (theirs, own)]
            differ = done[0] != done[1]
        else:
            lasting = name == names.INIT or name.endswith(names.TICKET_SUFFIX)
            differ = lasting and sha256_of(theirs) != sha256_of(own)
        if differ:
            raise InputError(
                f"--save_dir {folder}: holds {name} of another run than --resume's, whose is "
                f"{theirs}; choose another folder"
            )


def _check_together(run: Run) -> None:
    """Raise InputError where a process has other inputs, weights or progress than rank 0.

    Each reads its files itself, and on another node a path may lead to another file.
    """
    training = run.training
    if training.runtime.world_size > 1:
        for flag, content in sorted(run.contents().items()):
            same_on_all(content, f"contents of --{'data' if flag in OF_IMAGES else flag}")
        same_on_all(training.loader.batch_size, "images in a step")
        same_on_all((training.epoch, training.step), "(epochs, steps) done")
        same_on_all(weights_sha256(training.model.state_dict()), "weights")


def _bring(files: Collection[str], source: Path, folder: Path) -> None:
    """Copy what a run goes on with, if its checkpoint lies in another folder than its own."""
    found = {name: source / name for name in files if not (folder / name).exists()}
    copy_into(folder, {name: path for name, path in found.items() if path.is_file()})


def _facts(run: Run) -> dict[str, Any]:
    """What `args.json` says beside the flags, which under torchrun do not tell the processes."""
    runtime, loader = run.training.runtime, run.training.loader
    return {
        "class_names": loader.classes,
        "init_sha256": run.init_sha256,
        NODES: runtime.nodes,  # as the flag means it
        PROCESSES: runtime.world_size,
        GLOBAL_BATCH: loader.batch_size,
        WARNINGS: run.warnings.lines,
    }


@contextlib.contextmanager
def _ending(folder: RunFolder, training: Training) -> Iterator[None]:
    """A run that a signal stops leaves PREEMPTED and exits; a diverged one says what is left."""
    try:
        yield
    except NotFinite as error:
        kept = folder.last_checkpoint()
        last = f"the last good file is {kept}" if kept else "no checkpoint was written yet"
        raise RunFailed(f"{error}; {last}; try a lower --lr") from error
    except Preempted:
        if is_main():
            name = signal.Signals(training.stop.received or signal.SIGTERM).name
            try:
                (folder.path / names.PREEMPTED).write_text(f"{name}; go on with --resume\n")
            except OSError as error:  # it has saved all the same
                warn(f"{folder.path}: no {names.PREEMPTED} could be left ({error.strerror})")
            say(f"stopped by {name} after saving; go on with --resume")
        raise SystemExit(names.PREEMPTED_STATUS) from None


@contextlib.contextmanager
def _taking_up(path: Path) -> Iterator[None]:
    """Inside, whatever a checkpoint lacks or holds too much of becomes an InputError."""
    try:
        yield
    except (InputError, RunFailed):
        raise
    except KeyError as error:
        raise InputError(f"{path}: no checkpoint to resume from, it lacks {error}") from error
    except RuntimeError as error:
        if is_out_of_memory(error) or is_of_another_process(error):
            raise
        raise InputError(f"{path}: another network than the flags ask for") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: no checkpoint that this program wrote ({error})") from error
