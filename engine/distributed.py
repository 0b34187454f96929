"""Processes and devices: one process, torchrun, or the released code's spawn flags; seeds; sums.

There is no DistributedDataParallel wrapper. Every rank runs the plain network, so attacks and
evaluation never meet a gradient hook; gradients are averaged once per step, after the backward
pass of the training loss.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from errors import InputError, RunFailed, exit_with, failures_named

TIMEOUT = timedelta(minutes=30)
GRACE = 10.0  # seconds for the other processes to end when one has
FIRST_WORD = 1.0  # seconds other ranks wait so that rank 0 reports first


@dataclass(frozen=True)
class Launch:
    """How a run is started; the names are the released code's flags.

    `world_size` and `rank` count nodes when `spawn` is set (`--multiprocessing_distributed`).
    """

    device: str = "auto"
    gpu: int | None = None
    spawn: bool = False
    world_size: int = 1
    rank: int = 0
    dist_url: str = "tcp://127.0.0.1:23456"
    dist_backend: str | None = None
    nproc: int | None = None


@dataclass(frozen=True)
class Runtime:
    """Where this process stands: its device, its rank among `world_size`, and the node count."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    nodes: int = 1


# --- starting -----------------------------------------------------------------------------------


def launch(work: Callable[[Runtime, Any], Any], argument: Any, how: Launch) -> None:
    """Call `work(runtime, argument)` in every process of the run, and wait for all of them."""
    if how.spawn and not _under_torchrun():
        count = how.nproc or (torch.cuda.device_count() if _wants_cuda(how) else 1)
        if count * how.world_size > 1:
            return _spawn(count, work, argument, how)
    runtime = _join_torchrun(how) if _under_torchrun() else Runtime(_device(how, how.gpu))
    try:
        work(runtime, argument)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return None


def _spawn(count: int, work: Callable, argument: Any, how: Launch) -> None:
    if _wants_cuda(how) and count > torch.cuda.device_count():
        raise InputError(f"--nproc {count}: there are {torch.cuda.device_count()} GPUs")
    _check_meeting_point(how)
    context = mp.spawn(_spawned, args=(count, work, argument, how), nprocs=count, join=False)
    assert context is not None  # it is None only where it was joined

    def pass_on(*_: object) -> None:
        # Never as SIGINT: after Ctrl-C in a terminal that would be the processes' second one.
        for process in context.processes:
            process.terminate()

    stop = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in stop}
    try:
        _wait_for(context)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(context: mp.ProcessContext) -> None:
    """Wait for all processes; when one fails, stop the others within seconds."""
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
    if failed.exitcode < 0:
        raise RunFailed(
            f"process {context.processes.index(failed)} of {len(context.processes)} was ended by "
            f"{signal.Signals(-failed.exitcode).name}, so the others were; go on with --resume"
        )
    if failed.exitcode == 1:
        with contextlib.suppress(mp.ProcessExitedException):
            context.join()  # raises what the process raised, if that was no error with a line
    sys.exit(failed.exitcode)  # it has printed why


def _check_meeting_point(how: Launch) -> None:
    """Refuse a --dist_url that is none, and a port that another program holds."""
    place = urlsplit(how.dist_url)
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
    device = _device(how, local)
    rank, world = how.rank * count + local, how.world_size * count
    try:
        with failures_named():
            _init_group(how, device, init_method=how.dist_url, rank=rank, world_size=world)
            work(Runtime(device, rank, world, how.world_size), argument)
    except (InputError, RunFailed) as error:
        # Processes tend to fail alike. The first to end has the others ended: one tells.
        time.sleep(0 if local == 0 else FIRST_WORD)
        _leave(error)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _leave(error: InputError | RunFailed) -> None:
    """Exit at once: cleanup would block on ranks that are gone."""
    try:
        exit_with(error)
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(int(stop.code or 0))


def _join_torchrun(how: Launch) -> Runtime:
    device = _device(how, int(os.environ["LOCAL_RANK"]))
    _init_group(how, device, init_method="env://")
    world = dist.get_world_size()
    return Runtime(device, dist.get_rank(), world, world // int(os.environ["LOCAL_WORLD_SIZE"]))


def _init_group(how: Launch, device: torch.device, **where: Any) -> None:
    backend = how.dist_backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend == "nccl" and device.type != "cuda":
        raise InputError("--dist_backend nccl needs CUDA; use gloo on the CPU")
    try:
        dist.init_process_group(backend, timeout=TIMEOUT, **where)
    except (dist.DistError, ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"cannot join the process group at {where['init_method']}: {first}"
        ) from error


def _wants_cuda(how: Launch) -> bool:
    return how.device != "cpu" and torch.cuda.is_available()


def _device(how: Launch, index: int | None) -> torch.device:
    asked = how.device == "cuda" or how.gpu is not None
    if asked and not torch.cuda.is_available():
        raise InputError(
            "CUDA was asked for, but PyTorch sees no CUDA device; leave out --device/--gpu"
        )
    if not _wants_cuda(how):
        return torch.device("cpu")
    index = index or 0
    if index >= torch.cuda.device_count():
        raise InputError(f"GPU {index} does not exist; there are {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def seed_everything(seed: int) -> None:
    """Seed torch's generators and ask for repeatable kernels: with a seed, runs repeat."""
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def own_random_starts(runtime: Runtime) -> None:
    """Give every process of several its own random numbers from here on: its attacks' starts."""
    if runtime.world_size > 1:
        torch.manual_seed(torch.initial_seed() + runtime.rank)


def configure_torch(threads: int | None, tf32: bool) -> None:
    """Set threads, and TF32 only where it is asked for: it changes more than rounding."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def keep_freed_memory() -> None:
    """Let glibc keep what a pass frees for the next one, on Linux; elsewhere nothing changes.

    By default it gives every large tensor back to the system, which then has to map and clear its
    pages anew: about a tenth of a training step on the CPU. The peak stays what it is.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of their own for large blocks
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def synchronised(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics over all processes (CUDA only, as PyTorch has it)."""
    if not torch.cuda.is_available():
        raise InputError("--sync_bn needs CUDA: PyTorch's SyncBatchNorm runs on no other device")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


# --- talking to each other ------------------------------------------------------------------------


def is_main() -> bool:
    """Whether this process is rank 0, the one that prints and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_main(write: Callable[[], object]) -> None:
    """Let rank 0 alone write, and every other process wait until it has."""
    if is_main():
        write()
    barrier()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 goes through the block before the others do: it alone downloads."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def any_rank(value: bool) -> bool:
    """Whether `value` holds on any process."""
    if not dist.is_initialized():
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(sum_over_ranks(torch.tensor([float(value)], device=device)) > 0)


def gather_from_ranks(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks, on each of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def average_gradients(parameters: Iterable[nn.Parameter], share: float) -> None:
    """Make every rank's gradient the mean over the global batch.

    Args:
        share: this rank's images over the images of the global batch; its gradients are means
            over its own images.
    """
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients).mul_(share)
    dist.all_reduce(flat)
    parts = torch._utils._unflatten_dense_tensors(flat, gradients)
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part)


def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with rank 0's, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            whole = tensor.data.contiguous()
            dist.broadcast(whole.view(torch.uint8) if whole.dtype == torch.bool else whole, src=0)
            tensor.data.copy_(whole)
