"""Runs in processes of their own that start in a fraction of a second, to be killed in tests.

A fork server has imported everything once. What a run does is told through a pipe, a byte for every
batch that it trains on or evaluates, so that a test can end it at a place of its choice.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.tensorboard  # noqa: F401

import errors
import main_downstream
import main_imp_pretrain
from engine import steps
from helpers.main_cases import ROOT, skip_pictures

MAINS = {"imp": main_imp_pretrain.main, "transfer": main_downstream.main}
PATIENCE = 120.0  # seconds, on a machine that does much else


class Process:
    """A main in a process of its own; `output` is what it has printed.

    `limit` is the size of a file in bytes at which writing fails, `before` is called before the
    main, and a run that has done its `batches` waits in the next one for a signal.
    """

    def __init__(
        self,
        main: str,
        argv: Sequence[str],
        *,
        limit: int | None = None,
        before: Callable[[], None] | None = None,
        batches: int | None = None,
        log: str = "output.txt",
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        context.set_forkserver_preload(["helpers.process_cases"])
        self.batches = batches
        self.pipe, theirs = context.Pipe(duplex=False)
        self.log = Path(argv[list(argv).index("--save_dir") + 1]).parent / log
        arguments = (main, list(argv), theirs, str(self.log), limit, before, batches)
        self.process = context.Process(target=_work, args=arguments)
        self.process.start()
        theirs.close()

    def wait(self, batches: int | None = None) -> int:
        """Let it train on or evaluate its `batches`; give those it did, fewer if it ended.

        With `batches` given here it does not stop after so many, but goes on.
        """
        done, deadline = 0, time.monotonic() + PATIENCE
        while done != (batches or self.batches):
            ready, _, _ = select.select([self.pipe.fileno()], [], [], deadline - time.monotonic())
            assert ready, f"no batch for {PATIENCE} seconds"
            told = os.read(self.pipe.fileno(), 1)
            if not told:
                break
            done += 1
        return done

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def signal_group(self, number: int) -> None:
        """Signal the run and all that it has started, as Slurm, torchrun and `timeout` do."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> bool:
        """kill -9; False if it had ended before."""
        self.signal(signal.SIGKILL)
        return self.end() == -signal.SIGKILL

    def end(self) -> int:
        """Wait for its exit status."""
        pipe, deadline = self.pipe.fileno(), time.monotonic() + PATIENCE
        while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            if not os.read(pipe, 4096):  # an unread pipe would stop it
                break
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, self.output
        self.pipe.close()
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.log.read_text()


def _work(
    main: str,
    argv: list[str],
    pipe: Any,
    log: str,
    limit: int | None,
    before: Callable | None,
    batches: int | None,
) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    torch.set_num_threads(1)
    os.setpgid(0, 0)  # a group of its own, so that a test can signal all of a run
    signalled, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    add, told = steps.Meter.add, itertools.count()

    def add_and_tell(meter: steps.Meter, *args: Any) -> None:
        if next(told) == batches:
            select.select([signalled], [], [], PATIENCE)
        with suppress(BrokenPipeError):
            os.write(pipe.fileno(), b".")
        add(meter, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Meter, "add", add_and_tell)
        skip_pictures(patch)
        if before:
            before()
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        errors.run_main(lambda: MAINS[main](argv))
