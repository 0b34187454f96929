"""Taking turns: how one piece of work is timed against others, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.distributed import keep_freed_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Work = Callable[[], Any]
Make = Callable[[], Work]  # makes the work ready; must be picklable


@dataclass(frozen=True)
class Measured:
    baseline: float
    ours: float
    ratio: float
    n: int = 1
    spread: tuple[float, float] | None = None


def seconds(work: Work) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def own_process(initializer: Callable | None = None, *args: Any) -> ProcessPoolExecutor:
    """A process that does what is submitted to it, one thing after the other."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, initializer, args)


_work: Work  # of the process that takes turns


def prepare(make: Make, ours: bool) -> None:
    global _work
    if ours:
        keep_freed_memory()  # as the mains do; the released recipe has glibc's own ways
    torch.manual_seed(0)
    _work = make()


def take_turn() -> float:
    return seconds(_work)


def take_turns(enough: float) -> list[float]:
    """Seconds of as many turns as it takes to fill `enough` of them, one at least."""
    times = [take_turn()]
    while sum(times) < enough:
        times.append(take_turn())
    return times


def interleaved(plain: Make, *ours: Make, n: int, warm: bool = False) -> list[Measured]:
    """Run all in turns n times, after once unmeasured: a result for each of `ours`.

    Args:
        warm: what is made has run already, so that all turns count.
    """
    times: list[list[float]] = []
    with contextlib.ExitStack() as stack:
        sides = [
            stack.enter_context(own_process(prepare, make, side > 0))
            for side, make in enumerate((plain, *ours))
        ]
        for turn in range(1 if warm else 0, n + 1):
            row = [side.submit(take_turn).result() for side in sides]
            print(f"    {turn}/{n}: " + "  ".join(f"{t:.3f} s" for t in row), flush=True)
            times += [row] if turn else []
    first, *others = (list(column) for column in zip(*times, strict=True))
    results = []
    for other in others:
        ratios = [a / b for a, b in zip(first, other, strict=True)]
        spread = (min(ratios), max(ratios))
        results.append(Measured(median(first), median(other), median(ratios), n, spread))
    return results


def machine_rate(dtype: torch.dtype) -> float:
    """TFLOP/s: the best of 3 to 10 of a 4096³ product and of a 3×3, 256-channel convolution."""

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, dtype=dtype, device=DEVICE)
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    def best(work: Work) -> float:
        times = [seconds(work) for _ in range(3)]
        while len(times) < 10 and sum(times) < 3:
            times.append(seconds(work))
        return min(times)

    a, x, w = random(4096, 4096), random(16, 256, 56, 56), random(256, 256, 3, 3)
    product, convolution = best(lambda: torch.mm(a, a)), best(lambda: F.conv2d(x, w, padding=1))
    flops = 2 * x[:, 0].numel() * w.numel()
    return max(2 * 4096**3 / product, flops / convolution) / 1e12
