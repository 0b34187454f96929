"""How the processes of a run start: one, those of torchrun, or the released code's spawn flags."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from engine.distributed import Runtime, gather_from_ranks
from engine.log import say
from errors import InputError, RunFailed, exit_with, failures_named, first_line
from input_pipeline.workers import STOP_SIGNALS

PATIENCE = 10.0  # seconds of waiting for other nodes until a line says so
GRACE = 10.0  # seconds for the other processes to end when one has
FIRST_WORD = 1.0  # seconds other ranks wait so that rank 0 reports first


@dataclass(frozen=True)
class Launch:
    """How a run is started; the names are the released code's flags.

    `world_size` and `rank` count nodes when `spawn` is set (`--multiprocessing_distributed`).
    `begun_with` is the number of processes per node that a run which is resumed began with.
    """

    device: str = "auto"
    gpu: int | None = None
    spawn: bool = False
    world_size: int = 1
    rank: int = 0
    dist_url: str | None = None
    dist_backend: str | None = None
    nproc: int | None = None
    begun_with: int | None = None
    timeout: int = 600  # seconds without a word from another process


def launch(work: Callable[[Runtime, Any], Any], argument: Any, how: Launch) -> None:
    """Call `work(runtime, argument)` in every process of the run, and wait for all of them."""
    if _under_torchrun():
        local = int(os.environ["LOCAL_RANK"])
        runtime = _join_torchrun(how, local)
        with _one_of_several(local):
            _check_equal_nodes()
            work(runtime, argument)
        return
    if how.spawn:
        gpus = torch.cuda.device_count() if takes_cuda(how.device) else 0
        count = processes_per_node(how, gpus)
        if count != processes_per_node(dataclasses.replace(how, begun_with=None), gpus):
            say(f"processes: {count} on this node, as the run began with (--nproc N: others)")
        if count * how.world_size > 1:
            _spawn(count, work, argument, how)
            return
    work(Runtime(_device(how, how.gpu)), argument)


def processes_per_node(how: Launch, gpus: int) -> int:
    """How many processes the spawn flags start on this node, which has so many `gpus`.

    As many as asked for; else as the run began with, or one for each GPU. `--gpu` asks for one.
    """
    if how.nproc or how.gpu is not None:
        return how.nproc or 1
    return min(how.begun_with or gpus or 1, gpus or how.begun_with or 1)


def _spawn(count: int, work: Callable, argument: Any, how: Launch) -> None:
    if takes_cuda(how.device) and how.gpu is None and count > torch.cuda.device_count():
        raise InputError(f"--nproc {count}: there are {torch.cuda.device_count()} GPUs")
    if how.dist_url is None:
        if how.world_size > 1:
            raise InputError(
                "--dist_url is missing: tcp://HOST:PORT, where HOST is the node of --rank 0, or env://"
            )
        how = dataclasses.replace(how, dist_url=_free_meeting_point())
    _check_meeting_point(how)
    context = mp.spawn(_spawned, args=(count, work, argument, how), nprocs=count, join=False)
    assert context is not None  # it is None only where it was joined
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(number)
        # Never as SIGINT: after Ctrl-C in a terminal that would be the processes' second one.
        for process in context.processes:
            process.terminate()

    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        _wait_for(context, received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(context: mp.ProcessContext, received: Sequence[int]) -> None:
    """Wait for all processes; when one fails, stop the others within seconds.

    Args:
        received: the stop signals that were passed on to the processes.
    """
    failed = None
    while failed is None:
        for sentinel in wait(list(context.sentinels)):
            process = context.processes[context.sentinels[sentinel]]
            process.join()  # it has closed its end; it may not have ended yet
            failed = failed or (process if process.exitcode else None)
        if failed is None and context.join():
            return
    deadline = time.monotonic() + GRACE
    for process in context.processes:
        while process.is_alive() and time.monotonic() < deadline:
            process.terminate()  # more than once: while it works, a process only notes a signal
            process.join(0.1)
        process.kill()  # stuck where Python's signal handlers do not run
    if failed.exitcode < 0 and received:  # it did not heed signals yet: it was importing
        print(f"stopped by {signal.Signals(received[0]).name} before the run began", flush=True)
        sys.exit(128 + received[0])
    if failed.exitcode < 0:
        raise RunFailed(
            f"process {context.processes.index(failed)} of {len(context.processes)} was ended by "
            f"{signal.Signals(-failed.exitcode).name}, so the others were; go on with --resume"
        )
    if failed.exitcode == 1:
        with contextlib.suppress(mp.ProcessExitedException):
            context.join()  # raises what the process raised, if that was no error with a line
    sys.exit(failed.exitcode)  # it has printed why


def _free_meeting_point() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _check_meeting_point(how: Launch) -> None:
    """Refuse a --dist_url that is none, and a port that another program holds."""
    place = urlsplit(how.dist_url or "")
    try:
        port = place.port
    except ValueError:
        port = None
    if place.scheme != "tcp" or not place.hostname or not port:
        raise InputError(f"--dist_url {how.dist_url}: not like tcp://127.0.0.1:23456")
    if how.rank > 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(
                f"--dist_url {how.dist_url}: port {port} is in use ({error.strerror}); name another"
            ) from error


def _under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def _spawned(local: int, count: int, work: Callable, argument: Any, how: Launch) -> None:
    device = _device(how, local if how.gpu is None else how.gpu)
    rank, world = how.rank * count + local, how.world_size * count
    with _one_of_several(local):
        with _telling_of_a_wait(local, f"{world} at {how.dist_url}", how.timeout):
            _init_group(how, device, init_method=how.dist_url, rank=rank, world_size=world)
        work(Runtime(device, rank, world, how.world_size), argument)


@contextlib.contextmanager
def _one_of_several(local: int) -> Iterator[None]:
    """Leave the group after the block, together with all others; after a failure alone, at once.

    There cleanup would block, on ranks that are gone or wait for this one.
    """
    try:
        with failures_named():
            yield
    except (InputError, RunFailed) as error:
        # Processes tend to fail alike. The first to end has the others ended: one tells.
        time.sleep(0 if local == 0 else FIRST_WORD)
        _leave(error)
    except SystemExit:  # all were asked to stop
        _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _leave(error: InputError | RunFailed) -> None:
    try:
        exit_with(error)
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(int(stop.code or 0))


def _join_torchrun(how: Launch, local: int) -> Runtime:
    device = _device(how, local)
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    with _telling_of_a_wait(local, f"{os.environ['WORLD_SIZE']} at {place}", how.timeout):
        _init_group(how, device, init_method="env://")
    world = dist.get_world_size()
    return Runtime(device, dist.get_rank(), world, world // int(os.environ["LOCAL_WORLD_SIZE"]))


def _check_equal_nodes() -> None:
    """Refuse nodes with different numbers of processes: a batch is counted by nodes."""
    here = gather_from_ranks(os.environ["LOCAL_WORLD_SIZE"])
    if len({*here}) > 1:
        raise InputError(
            f"torchrun: nodes of {' and '.join(sorted({*here}, key=int))} processes; start as many "
            "on each, by the same --nproc_per_node"
        )


def _init_group(how: Launch, device: torch.device, **where: Any) -> None:
    backend = how.dist_backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend == "nccl" and device.type != "cuda":
        raise InputError("--dist_backend nccl needs CUDA; use gloo on the CPU")
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=how.timeout), **where)
    except (dist.DistError, ValueError, OSError) as error:
        raise InputError(
            f"cannot join the process group at {where['init_method']}: {first_line(error)}"
        ) from error


@contextlib.contextmanager
def _telling_of_a_wait(local: int, whom: str, timeout: int) -> Iterator[None]:
    """Print a line, once per node, if the block takes long: another node may be absent."""
    line = f"waiting for all processes of the run, {whom}, for at most {timeout} s (--dist_timeout)"
    timer = threading.Timer(PATIENCE, print, [line], {"flush": True})
    timer.daemon = True
    if local == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def takes_cuda(device: str) -> bool:
    """Whether a run with this --device is one on CUDA."""
    return device != "cpu" and torch.cuda.is_available()


def _device(how: Launch, index: int | None) -> torch.device:
    asked = how.device == "cuda" or how.gpu is not None
    if asked and not torch.cuda.is_available():
        raise InputError(
            "CUDA was asked for, but PyTorch sees no CUDA device; leave out --device/--gpu"
        )
    if not takes_cuda(how.device):
        return torch.device("cpu")
    index = index or 0
    if index >= torch.cuda.device_count():
        raise InputError(f"GPU {index} does not exist; there are {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
