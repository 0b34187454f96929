"""The processes of a run among themselves: who is rank 0, sums, broadcasts; threads and seeds.

There is no DistributedDataParallel wrapper. Every rank runs the plain network, so attacks and
evaluation never meet a gradient hook; gradients are summed once per step, after the backward pass
of each rank's share of the training loss.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from errors import InputError

DOWNLOAD = timedelta(hours=24)  # for what rank 0 does alone while the others wait


@dataclass(frozen=True)
class Runtime:
    """Where this process stands: its device, its rank among `world_size`, and the node count."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    nodes: int = 1

    @property
    def processes_here(self) -> int:
        """How many of the run's processes share a node."""
        return self.world_size // self.nodes


def seed_everything(seed: int) -> None:
    """Seed torch's generators and ask for repeatable kernels: with a seed, runs repeat."""
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def own_random_starts(runtime: Runtime) -> None:
    """Give every process of several its own random numbers from here on: its attacks' starts.

    They are of no other process of a run with another seed either.
    """
    if runtime.world_size > 1:
        (own,) = np.random.SeedSequence([torch.initial_seed(), runtime.rank]).generate_state(1)
        torch.manual_seed(int(own))


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


# --- talking to each other ------------------------------------------------------------------------


def processes() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is rank 0, the one that prints and writes."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    # Before torchrun's processes have met. Without torchrun RANK may number the nodes.
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"


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
    """Rank 0 goes through the block before the others do: it alone downloads.

    A download may take longer than processes usually wait for each other.
    """
    patient: Any = None
    if dist.is_initialized():
        patient = dist.new_group(timeout=DOWNLOAD, backend="gloo")
    if patient and not is_main():
        dist.barrier(patient)
    yield
    if patient and is_main():
        dist.barrier(patient)


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
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def same_on_all(value: Any, what: str) -> Any:
    """The value, if every process has it; InputError, which names it by `what`, if not."""
    first, *others = gather_from_ranks(value)
    for rank, other in enumerate(others, 1):
        if other != first:
            raise InputError(
                f"process {rank} has other {what} than process 0 ({other}, not {first}): every "
                "node must find the same files under the same names"
            )
    return value


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the sum over all ranks in the place of each one's gradients.

    Those are of its share of the global batch's mean loss, so that the sum is that mean's gradient.
    """
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Deviation: the released code wraps the network in DistributedDataParallel.
    flat = torch._utils._flatten_dense_tensors(gradients)
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
