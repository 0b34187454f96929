"""Loader processes: how they start, which signals are not theirs, and how the death of one is told.

A batch system that stops a run signals every process of it, and so do torchrun, `timeout` and a
terminal. A loader process that ended by such a signal would take the run with it before it has
saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from errors import RunFailed

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # what asks a run to stop
MOST_WORKERS = 16  # more only hold batches that wait


def useful_workers(in_memory: bool, processes: int = 1, threads: int | None = None) -> int:
    """How many loader processes help one of the `processes` that a run has on this machine.

    Images that lie in memory as the network takes them need none. Others get a loader process for
    each core that this process may use, of which it leaves the run's other processes their share,
    but no more than the `threads` that the process was given: other runs may have the other cores.
    """
    if in_memory:
        return 0
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return min(max(1, cores // processes), threads or MOST_WORKERS, MOST_WORKERS)


def loaded(batches: Any, plans: list[Any], processes: int, pin_memory: bool) -> Iterator[Any]:
    """Yield `batches[plan]` for every plan in turn, made by that many processes.

    Raises:
        RunFailed: one of them died; it is noticed within five seconds.
    """
    # Forked, also where PyTorch's launcher has set `spawn`: an epoch need not import PyTorch anew,
    # and what the data set keeps in memory is shared.
    linux = sys.platform == "linux"
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=plans,  # type: ignore[arg-type]
        num_workers=processes,
        # Its own generator: it would draw from the global one for its processes' seeds.
        generator=torch.Generator(),
        pin_memory=pin_memory,
        multiprocessing_context="fork" if linux else None,
        worker_init_fn=_heed_only_the_parent if linux else None,
    )
    made, workers = _started(loader) if linux else (iter(loader), [])
    try:
        yield from made
    except RuntimeError as error:
        _name_the_dead(workers, error)
        raise


def _started(loader: DataLoader) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Start the processes, with the stop signals blocked from their first moment on."""
    others = set(multiprocessing.active_children())
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        made = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            # PyTorch's handler raises wherever the program is, in the print of another error too.
            # The wait for a batch notices a dead process by itself.
            signal.signal(signal.SIGCHLD, handler)
    return made, [child for child in multiprocessing.active_children() if child not in others]


def _heed_only_the_parent(_worker: int) -> None:
    """End a loader process by its parent's SIGTERM, which ends processes that are stuck.

    An error in making a batch goes to the parent in the batch's place. What else would be printed
    is that a batch could not be handed to a parent that is gone.
    """
    sys.excepthook = lambda *_: None

    def wait() -> None:
        while True:
            told = signal.sigwaitinfo(STOP_SIGNALS)
            if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _name_the_dead(workers: Iterable[BaseProcess], error: RuntimeError) -> None:
    """Raise RunFailed if a process has ended by itself, and say how."""
    for worker in workers:
        code = worker.exitcode
        if code:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            room = " or enlarge /dev/shm" if code == -signal.SIGBUS else ""
            raise RunFailed(
                f"a loader process died ({how}); if memory ran out, lower --workers{room}"
            ) from error
