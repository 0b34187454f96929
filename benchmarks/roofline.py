"""The least time that a step can take here: what it computes, what it moves, and how fast each is.

The limit of an operation is the larger of its FLOP at the machine's rate and its bytes at the
bandwidth of a copy (the roofline: Williams, Waterman & Patterson 2009); that of a step is the sum
over its operations, each as PyTorch runs it, none fused with the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median
from typing import Any

import torch
from timing import DEVICE, Make, Measured, Work, own_process, seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from workloads import (
    EVALUATED,
    PGD3,
    RESNET50,
    Recipe,
    Results,
    executions,
    our_evaluation,
    our_training,
)

from engine.distributed import keep_freed_memory

LARGEST = 29  # a copy of 2^29 bytes, far more than the caches hold
CASES = (RESNET50, Recipe("resnet18", 32, 64, 10, PGD3), Recipe("resnet20s", 32, 128, 10, PGD3))
TURNS, ENOUGH = 3, 5.0  # so often at least, and until they took so many seconds
OVERWRITING = ("copy_", "fill_", "zero_", "uniform_")  # do not read what they are done to


@dataclass(frozen=True)
class Operation:
    """One operation that PyTorch ran: `flop` in its `dtype`, `bytes` read and written."""

    name: str
    dtype: torch.dtype
    flop: float
    bytes: float


class Counter(TorchDispatchMode):
    """Notes every operation inside the block, backward passes included.

    FLOP are those of convolutions and products, 2 for a multiply-add. Bytes are those of the
    tensors that come in and go out, each once; views and new, empty memory move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        inputs, outputs = _tensors([args, kwargs]), _tensors(result)
        if not (_is_view(func, inputs, outputs) or "empty" in func.__name__):
            name = func.__name__.partition(".")[0]
            read = inputs[1:] if name in OVERWRITING else inputs
            moved = sum(map(_bytes, [*read, *outputs]))
            flop = _flop(func, args, kwargs, result)
            self.operations.append(Operation(name, (inputs or outputs)[0].dtype, flop, moved))
        return result


def _tensors(values: Any) -> list[Tensor]:
    found = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return list({id(tensor): tensor for tensor in found}.values())


def _is_view(func: Any, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> bool:
    if func._schema.is_mutable:
        return False
    own = {tensor.untyped_storage()._cdata for tensor in inputs}
    return all(tensor.untyped_storage()._cdata in own for tensor in outputs)


def _bytes(tensor: Tensor) -> int:
    """What of a tensor lies in memory: an expanded dimension does so once."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else 1
    return distinct * tensor.element_size()


def _flop(func: Any, args: tuple, kwargs: Mapping[str, Any], result: Any) -> float:
    formula = flop_registry.get(func.overloadpacket)
    return formula(*args, **kwargs, out_val=result) if formula else 0.0


def count(work: Work) -> list[Operation]:
    """The operations of `work`, which is done once."""
    with Counter() as counter:
        work()
    return counter.operations


# --- the limit ------------------------------------------------------------------------------------


def least_seconds(
    operations: Iterable[Operation],
    rate: Callable[[torch.dtype], float],
    bandwidth: Callable[[float], float],
) -> float:
    """Args: rate: FLOP/s in a dtype; bandwidth: bytes/s of a copy that moves so many bytes."""
    return sum(
        max(done.flop / rate(done.dtype), done.bytes / bandwidth(done.bytes)) for done in operations
    )


def bandwidth(moved: float) -> float:
    """Bytes/s of a copy that reads and writes about `moved` bytes: caches make small ones fast."""
    return _bandwidth(min(max(int(moved), 2**12).bit_length(), LARGEST))


@lru_cache
def _bandwidth(power: int) -> float:
    source = torch.ones(2 ** (power - 1), dtype=torch.uint8, device=DEVICE)
    target, times = torch.empty_like(source), min(200, 2 ** (LARGEST - power) or 1)

    def copies() -> None:
        for _ in range(times):
            target.copy_(source)

    return times * 2**power / min(seconds(copies) for _ in range(5))


# --- rows of the benchmark ------------------------------------------------------------------------


def _timed_and_counted(make: Make) -> tuple[list[float], list[Operation]]:
    keep_freed_memory()
    work, times = make(), list[float]()
    work()
    while len(times) < TURNS or sum(times) < ENOUGH:
        times.append(seconds(work))
    return times, count(work)


def rooflines(rows: Results) -> list[Measured]:
    """Of a PGD-3 training step and of PGD-3 evaluation, for each of CASES in turn.

    In bf16, or in float32 where that is faster. The best time is taken, as it is of the rate and
    the bandwidth: what others take of a shared machine is no property of the step.
    Counted are the operations that run here: masks applied, in evaluation BatchNorm folded.
    """
    rates = {torch.bfloat16: 1e12 * rows["bf16"], torch.float32: 1e12 * rows["fp32"]}
    fastest, found = executions(rows)[-1], []
    for recipe in CASES:
        evaluated = recipe._replace(batch=EVALUATED) if recipe is RESNET50 else recipe
        for make in (
            partial(our_training, recipe, fastest),
            partial(our_evaluation, evaluated, fastest),
        ):
            with own_process() as process:
                times, operations = process.submit(_timed_and_counted, make).result()
            least = least_seconds(
                operations, lambda kind: rates.get(kind, rates[torch.float32]), bandwidth
            )
            flop, moved = (sum(getattr(o, k) for o in operations) for k in ("flop", "bytes"))
            print(f"    {recipe.arch}: {flop / 1e12:.3g} TFLOP, {moved / 1e9:.3g} GB in "
                  f"{len(operations)} operations, {min(times):.3f} s "
                  f"(median of {len(times)}: {median(times):.3f} s)", flush=True)  # fmt: skip
            share, spread = least / min(times), (least / max(times), least / min(times))
            found.append(Measured(least, min(times), share, len(times), spread))
    return found
