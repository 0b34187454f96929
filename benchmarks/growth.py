# ruff: noqa: E402
"""How the cost of a training step grows: `python benchmarks/growth.py`, some minutes on two cores.

ResNet-18, bf16; every figure is the median of the steps after the first. Processes share one batch
and the machine's threads, and speak through gloo. Last comes how the lead over the released recipe
grows with the batch: standard training of a ResNet-50, in turns as in `bench.py`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from timing import own_process, seconds
from workloads import BF16, PGD3, RESNET50, Recipe, our_training, training

from engine.distributed import keep_freed_memory

STEPS = 5
USUAL = Recipe("resnet18", 96, 32, 100, PGD3)


def step_seconds(recipe: Recipe, threads: int) -> float:
    keep_freed_memory()
    torch.set_num_threads(threads)
    work = our_training(recipe, BF16)
    work()
    return median(seconds(work) for _ in range(STEPS))


def rank_seconds(rank: int, world: int, store: str, recipe: Recipe, threads: int) -> float:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    return step_seconds(recipe, threads)


def shared_seconds(world: int, threads: int) -> float:
    """Of the slowest of `world` processes."""
    share = USUAL._replace(batch=USUAL.batch // world)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = str(Path(folder) / "store")
        processes = [stack.enter_context(own_process()) for _ in range(world)]
        ranks = [
            process.submit(rank_seconds, rank, world, store, share, threads // world)
            for rank, process in enumerate(processes)
        ]
        return max(rank.result() for rank in ranks)


def tell(what: str, times: Mapping[object, float]) -> None:
    usual = next(iter(times.values()))
    told = [f"{value}: {time:.3f} s ({time / usual:.2f}x)" for value, time in times.items()]
    print(f"{what:24}" + ", ".join(told), flush=True)


def main() -> None:
    threads = torch.get_num_threads()
    print(f"{USUAL}, {threads} threads", flush=True)
    kinds = {
        "attack steps": [
            (steps, USUAL._replace(attack=replace(PGD3, steps=steps) if steps else None))
            for steps in (0, 1, 3, 10)
        ],
        "batch": [(count, USUAL._replace(batch=count)) for count in (16, 32, 64)],
        "resolution": [(side, USUAL._replace(side=side)) for side in (96, 160, 224)],
        "state of IMP": [
            (state, USUAL._replace(pruned=1 - 0.8**state)) for state in (1, 5, 10, 20)
        ],
    }
    for what, recipes in kinds.items():
        tell(what, {value: step_seconds(recipe, threads) for value, recipe in recipes})
    tell(
        "processes", {world: shared_seconds(world, threads) for world in (1, 2) if world <= threads}
    )
    for batch in (16, 32, 64):
        (lead,) = training(3, RESNET50._replace(attack=None, batch=batch), BF16)
        told = f"{lead.baseline:.2f} / {lead.ours:.2f} s = {lead.ratio:.2f}"
        print(f"lead at batch {batch}: {told}", flush=True)


if __name__ == "__main__":
    main()
