# ruff: noqa: E402
"""How costs grow: `python benchmarks/growth.py [PART …]`, ten minutes in all on two cores.

step: of a training step, ResNet-18, bf16, the median of the steps after the first. Processes share
one batch and the machine's threads, and speak through gloo.
runs: of whole ticket searches in time and memory, with the number of images and of states.
jobs: of training side by side, as a study does it, in images/s of all jobs together; also with more
jobs than cores. From it comes the rule of study/machine.py.
lead: over the released recipe with the batch, standard training of a ResNet-50, in turns as in
bench.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from PIL import Image
from timing import own_process, seconds
from workloads import (
    BF16,
    PGD3,
    RESNET50,
    ROOT,
    Recipe,
    our_training,
    peak_of_process,
    training,
)

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


# --- whole runs -----------------------------------------------------------------------------------


def write_images(root: Path, count: int) -> None:
    """`count` training images of 32 pixels and 16 of validation, in two classes."""
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8).numpy()
    for split, number in (("train", count), ("val", 16)):
        for index in range(number):
            path = root / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[index]).save(path, compress_level=1)


def search(images: int, states: int) -> tuple[float, float]:
    """Seconds and peak MB of a ticket search with a ResNet-20s, an epoch for each state."""
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "data", images)
        command = [sys.executable, "main_imp_pretrain.py", f"{name}/data", "--mode", "std"]
        command += ["-a", "resnet20s", "--input_size", "32", "-b", "128", "-j", "0"]
        command += ["--epochs", str(states), "--prune_epoch", "1", "--save_dir", f"{name}/run"]
        start, peak = time.perf_counter(), 0
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak = max(peak, peak_of_process(process.pid))
                time.sleep(0.05)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return time.perf_counter() - start, peak / 1e6


def runs() -> None:
    for what, sizes in {
        "images, 2 states": [(count, count, 2) for count in (2048, 4096, 8192)],
        "states of 2,048 images": [(states, 2048, states) for states in (2, 4, 8)],
    }.items():
        found = {value: search(images, states) for value, images, states in sizes}
        tell(what, {value: taken for value, (taken, _) in found.items()})
        print(
            f"{'    peak, MB':24}{', '.join(f'{mb:.0f}' for _, mb in found.values())}", flush=True
        )


# --- jobs side by side ----------------------------------------------------------------------------

SIDE_BY_SIDE = (
    Recipe("resnet20s", 32, 128, 10, PGD3),
    Recipe("resnet18", 32, 64, 10, PGD3),
    Recipe("resnet50", 64, 16, 10, PGD3),
    Recipe("resnet50", 224, 8, 10, PGD3),
)


def prepare_job(recipe: Recipe, threads: int) -> None:
    global job
    keep_freed_memory()
    torch.set_num_threads(threads)
    job = our_training(recipe, BF16)
    job()


def steps_of_job(long: float) -> tuple[float, float]:
    """Steps per second for about so long, at least one; and the process's peak in bytes."""
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < long:
        job()
        steps += 1
    return steps / (time.perf_counter() - start), peak_of_process()


def side_by_side(recipe: Recipe, jobs: int, long: float) -> tuple[float, float]:
    """Images per second of `jobs` processes that share the cores, together; MB of the largest."""
    threads = max(torch.get_num_threads() // jobs, 1)
    with ExitStack() as stack:
        processes = [stack.enter_context(own_process()) for _ in range(jobs)]
        for made in [process.submit(prepare_job, recipe, threads) for process in processes]:
            made.result()
        found = [process.submit(steps_of_job, long) for process in processes]
        rates, peaks = zip(*(one.result() for one in found), strict=True)
    return recipe.batch * sum(rates), max(peaks) / 1e6


def jobs(long: float = 6.0) -> None:
    cores = torch.get_num_threads()
    for recipe in SIDE_BY_SIDE:
        found = {count: side_by_side(recipe, count, long) for count in (1, cores, 2 * cores)}
        alone = found[1][0]
        told = [
            f"{count}: {rate:.4g} images/s ({rate / alone:.2f}x), {mb:.0f} MB each"
            for count, (rate, mb) in found.items()
        ]
        print(f"{recipe.arch}, {recipe.side}²: {', '.join(told)}", flush=True)


# --- the parts ------------------------------------------------------------------------------------


def steps() -> None:
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


def lead() -> None:
    for batch in (16, 32, 64):
        (found,) = training(3, RESNET50._replace(attack=None, batch=batch), BF16)
        told = f"{found.baseline:.2f} / {found.ours:.2f} s = {found.ratio:.2f}"
        print(f"lead at batch {batch}: {told}", flush=True)


PARTS = {"step": steps, "runs": runs, "jobs": jobs, "lead": lead}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    args = parser.parse_args()
    for part in args.parts or PARTS:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")
        PARTS[part]()


if __name__ == "__main__":
    main()
