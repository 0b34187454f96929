# ruff: noqa: E402
"""What holds on a GPU, as one table: `bash benchmarks/gpu_trial.sh` runs the tests and then this.

Steps of the released recipe (`baseline.py`, float32, NCHW) beside ours, in float32, in bf16,
compiled, and as CUDA graphs; each in turn until the time is up. Weights and pixels are random.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import timing
import torch

ON_CPU = os.environ.get("GPU_TRIAL_ON") == "cpu"  # tiny sizes, to see that it works at all
if ON_CPU:
    timing.DEVICE = torch.device("cpu")

import workloads
from workloads import BF16, EPS, FP32, PGD3, PGD10, Recipe

from attack_utils import PGDConfig
from engine.distributed import configure_torch, seed_everything
from engine.steps import Execution
from files.atomic import replacing
from models import compiled

PGD20 = PGDConfig(EPS, 20, 2 / 255)
WAYS = {
    "ours, fp32": FP32,
    "bf16": BF16,
    "bf16, `--compile`": replace(BF16, compiled=True),
    "bf16, `--compile --cuda_graphs`": replace(BF16, compiled=True, cuda_graphs=not ON_CPU),
}
TRAINED = {
    "PGD-3 training, ResNet-50, 224², 64 images": Recipe("resnet50", 224, 64, 1000, PGD3),
    "standard training, ResNet-50, 224², 64 images": Recipe("resnet50", 224, 64, 1000, None),
    "PGD-10 training, ResNet-18, 32², 128 images": Recipe("resnet18", 32, 128, 10, PGD10),
    "PGD-3 training, ResNet-20s, 32², 128 images": Recipe("resnet20s", 32, 128, 10, PGD3),
}
EVALUATED = {
    "PGD-20 evaluation, ResNet-50, 224², 64 images": Recipe("resnet50", 224, 64, 1000, PGD20),
    "PGD-20 evaluation, ResNet-18, 32², 128 images": Recipe("resnet18", 32, 128, 10, PGD20),
}
WARM_UP, TURNS = 3, 7  # a CUDA graph is recorded in the second step
SMALL = {"arch": "resnet20s", "side": 16, "batch": 4, "classes": 3}  # with GPU_TRIAL_ON=cpu


class Timed(NamedTuple):
    """Seconds of a step, the median of several, and of the first, in which all is compiled."""

    step: float
    first: float


# --- the work -------------------------------------------------------------------------------------


def our_evaluation(recipe: Recipe, execution: Execution) -> Callable[[], object]:
    """Without a first step, which is timed too: it compiles."""
    assert recipe.attack is not None
    return partial(workloads.evaluation_under(recipe, execution), recipe.attack)


# --- timing ---------------------------------------------------------------------------------------


def timed(make: Callable[[], Callable[[], object]]) -> Timed | str:
    """Time a step, or say in a word or two why there is none."""
    try:
        torch.manual_seed(0)
        work = make()
        first, *_ = (timing.seconds(work) for _ in range(WARM_UP))
        return Timed(median(timing.seconds(work) for _ in range(TURNS)), first)
    except Exception as error:  # whatever fails on a GPU is what the table is for
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"
    finally:
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def tables(deadline: float) -> Iterator[list[str]]:
    """The rows of the table, a piece of work each: before any cell is filled, and after each.

    What compiles, and takes long, comes last.
    """
    works = TRAINED | EVALUATED
    if ON_CPU:
        works = {name: recipe._replace(**SMALL) for name, recipe in works.items()}
    ways = {"released recipe": None, **WAYS}
    found: dict[str, list[Timed | str]] = {name: ["no time"] * len(ways) for name in works}
    yield table(works, found)
    for column, (way, execution) in enumerate(ways.items()):
        for name, recipe in works.items():
            attacked = name in EVALUATED
            if attacked and execution and execution.cuda_graphs:
                found[name][column] = "–"  # of training alone
            elif time.monotonic() <= deadline:
                print(f"{name}: {way}", flush=True)
                found[name][column] = timed(partial(make, recipe, execution, attacked))
            yield table(works, found)


def make(recipe: Recipe, execution: Execution | None, attacked: bool) -> Callable[[], object]:
    if execution is None:
        plain = workloads.plain_evaluation if attacked else workloads.plain_training
        return plain(recipe)
    return (our_evaluation if attacked else workloads.our_training)(recipe, execution)


def table(works: Mapping[str, Recipe], found: Mapping[str, Sequence[Timed | str]]) -> list[str]:
    return [
        f"| {name} | {' | '.join(cell(one, row[0], works[name].batch) for one in row)} |"
        for name, row in found.items()
    ]


def cell(found: Timed | str, baseline: Timed | str, images: int) -> str:
    if isinstance(found, str):
        return found.replace("|", "/")
    text = f"{found.step:.4g} s, {images / found.step:.0f} images/s"
    if isinstance(baseline, Timed) and baseline is not found:
        text += f", ×{baseline.step / found.step:.2f}"
    return text + (f" (first {found.first:.0f} s)" if found.first > 5 * found.step + 2 else "")


# --- the tests, and the page ----------------------------------------------------------------------


def results_of_tests(report: Path, log: Path) -> list[str]:
    """What pytest's JUnit file says: how many tests passed, and each that did not.

    Its log says how many there are: the time may have been up before the last of them.
    """
    if not report.is_file() or not log.is_file():
        return ["| (the tests left no report) | |"]
    cases = list(ElementTree.parse(report).iter("testcase"))
    collected = re.search(r"collected (\d+) items", log.read_text())
    total = int(collected[1]) if collected else len(cases)
    lines, passed = [], 0
    for case in cases:
        bad = [part for kind in ("failure", "error", "skipped") for part in case.findall(kind)]
        passed += not bad
        for part in bad:
            message = (part.get("message") or "").partition("\n")[0].replace("|", "/")[:120]
            lines.append(f"| {case.get('name')} | {part.tag}: {message} |")
    late = [f"| {total - len(cases)} of {total} tests | no time |"] if total > len(cases) else []
    return [f"| {passed} of {total} tests | passed |", *late, *lines]


def machine() -> str:
    cuda = torch.cuda.is_available() and not ON_CPU
    name = torch.cuda.get_device_name() if cuda else "the CPU, a tiny network in every row"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    try:
        code = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        code = "unknown"
    return f"{name}; {versions}; code {code}; {time.strftime('%d %B %Y, %H:%M')}"


def page(tests: Sequence[str], found: Sequence[str]) -> str:
    return "\n".join(
        [
            "# GPU trial",
            "",
            f"{machine()}. Made by `bash benchmarks/gpu_trial.sh`.",
            "",
            "| test | |",
            "| --- | --- |",
            *tests,
            "",
            f"Seconds of a step, the median of {TURNS} after {WARM_UP}; × is over the released "
            "recipe in float32 without TF32. *First* is the first step, which compiles.",
            "",
            f"| work | released recipe | {' | '.join(WAYS)} |",
            "| --- |" + " --- |" * (len(WAYS) + 1),
            *found,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="holds tests.xml; gpu.md is written there")
    parser.add_argument("--seconds", type=float, default=300, help="start no work after so many")
    args = parser.parse_args()
    if ON_CPU:
        compiled.BACKEND = "eager"
    elif not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device")
    configure_torch(1 if ON_CPU else None, tf32=False)
    seed_everything(0)
    tests = results_of_tests(args.folder / "tests.xml", args.folder / "tests.log")
    for found in tables(time.monotonic() + args.seconds):  # each kept, as the next may be the last
        with replacing(args.folder / "gpu.md") as temporary:
            temporary.write_text(page(tests, found))
    print(f"wrote {args.folder / 'gpu.md'}")


if __name__ == "__main__":
    main()
