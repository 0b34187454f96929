"""The least time that a step can take here: what it computes, what it moves, and how fast each is.

The limit of an operation is the larger of its FLOP at the machine's rate and its bytes at the
bandwidth of a copy (the roofline: Williams, Waterman & Patterson 2009); that of a step is the sum
over its operations, each as PyTorch runs it, none fused with the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from timing import (
    DEVICE,
    Make,
    Measured,
    Work,
    machine_rate,
    own_process,
    prepare,
    seconds,
    take_turn,
    take_turns,
)
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
    bf16_is_emulated,
    executions,
    our_evaluation,
    our_training,
)

from engine.steps import Execution

SMALLEST, LARGEST = 12, 29  # copies of 2^n bytes; the largest are far more than the caches hold
RECIPES = (RESNET50, Recipe("resnet18", 32, 64, 10, PGD3), Recipe("resnet20s", 32, 128, 10, PGD3))
TURNS, ENOUGH = 3, 1.5  # in each turn once, and again until it took so many seconds
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


def copy_bandwidths() -> dict[int, float]:
    """Bytes/s of a copy that reads and writes 2^n bytes, by n: caches make small ones fast."""
    return {power: _bandwidth(power) for power in range(SMALLEST, LARGEST + 1)}


def _bandwidth(power: int) -> float:
    source = torch.ones(2 ** (power - 1), dtype=torch.uint8, device=DEVICE)
    target, times = torch.empty_like(source), min(200, 2 ** (LARGEST - power) or 1)

    def copies() -> None:
        for _ in range(times):
            target.copy_(source)

    return times * 2**power / min(seconds(copies) for _ in range(3))


def power(moved: float) -> int:
    """Which of `copy_bandwidths` tells how fast so many bytes move."""
    return min(max(int(moved), 2**SMALLEST).bit_length(), LARGEST)


# --- rows of the benchmark ------------------------------------------------------------------------


def cases(execution: Execution) -> list[tuple[str, Make]]:
    """PGD-3 training and PGD-3 evaluation of each of RECIPES, and their names."""
    made = []
    for recipe in RECIPES:
        evaluated = recipe._replace(batch=EVALUATED) if recipe is RESNET50 else recipe
        made += [
            (f"{recipe.arch}, training", partial(our_training, recipe, execution)),
            (f"{recipe.arch}, evaluation", partial(our_evaluation, evaluated, execution)),
        ]
    return made


def rooflines(rows: Results) -> list[Measured]:
    """Of a PGD-3 training step and of PGD-3 evaluation, for each of RECIPES in turn.

    In bf16, or in float32 where that is faster. Each turn times the machine's rates, its bandwidths
    and every case, and the best of all turns is taken: what others take of a shared machine
    is no property of the step. The best rates are left in `rows`.
    Counted are the operations that run here: masks applied, in evaluation BatchNorm folded.
    """
    rates = {torch.float32: "fp32"}
    if not bf16_is_emulated(rows):
        rates[torch.bfloat16] = "bf16"
    made, bandwidths = cases(executions(rows)[-1]), dict.fromkeys(range(SMALLEST, LARGEST + 1), 0.0)
    times: list[list[float]] = [[] for _ in made]
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(own_process(prepare, make, True)) for _, make in made]
        for side in sides:
            side.submit(take_turn).result()  # not measured, as the first step makes the momentum
        counted = [side.submit(count_prepared).result() for side in sides]
        for _ in range(TURNS):
            rows |= {name: max(rows[name], machine_rate(kind)) for kind, name in rates.items()}
            bandwidths = {n: max(bandwidths[n], now) for n, now in copy_bandwidths().items()}
            for taken, side in zip(times, sides, strict=True):
                taken += side.submit(take_turns, ENOUGH).result()
    found = []
    for (name, _), taken, operations in zip(made, times, counted, strict=True):
        least = least_seconds(
            operations,
            lambda kind: 1e12 * rows[rates.get(kind, "fp32")],
            lambda moved: bandwidths[power(moved)],
        )
        flop, moved = (sum(getattr(o, k) for o in operations) for k in ("flop", "bytes"))
        print(f"    {name}: {flop / 1e12:.3g} TFLOP, {moved / 1e9:.3g} GB in "
              f"{len(operations)} operations, {min(taken):.3f} s "
              f"(median of {len(taken)}: {median(taken):.3f} s)", flush=True)  # fmt: skip
        share, spread = least / min(taken), (least / max(taken), least / min(taken))
        found.append(Measured(least, min(taken), share, len(taken), spread))
    return found


def count_prepared() -> list[Operation]:
    return count(take_turn)
