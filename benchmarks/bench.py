# ruff: noqa: E402
"""How much faster than the released recipe, measured side by side: `python benchmarks/bench.py`.

Every row runs the baseline and this project's code in turns, A B A B, each in a process of its own;
its ratio is the median of the pairwise ratios. Weights and pixels are random: they do not matter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import torch
from peers import PEERS, peer
from roofline import RECIPES, rooflines
from timing import DEVICE, Measured, machine_rate
from workloads import (
    BF16,
    PGD3,
    PGD10,
    RESNET50,
    Recipe,
    Results,
    bf16_is_emulated,
    cifar,
    eval_resnet50,
    files,
    growth,
    jpeg,
    memory,
    prune_rewind,
    train_resnet50,
    training,
)

from engine.log import provenance
from errors import run_main


@dataclass(frozen=True)
class Row:
    """A line of the table; `must` and `aim` bound the ratio, from above if lower is better."""

    name: str
    what: str
    must: float | None
    aim: float | None
    lower_is_better: bool = False


ROWS = (
    Row("train-pgd3-resnet50-fp32", "s, PGD-3 training step, 224², batch 16", 1.5, 1.8),
    Row("train-pgd3-resnet50-bf16", "s, the same, --amp bf16", 2.7, 4),
    Row("eval-pgd5-resnet50-fp32", "s, PGD-5 evaluation, 224², batch 24", 2.1, 2.6),
    Row("eval-pgd5-resnet50-bf16", "s, the same, --amp bf16", 4.2, 5.5),
    Row("train-pgd10-resnet18-bf16", "s, PGD-10 training step, 32², batch 64", 2.1, 2.8),
    Row("train-pgd3-resnet20s-bf16", "s, PGD-3 training step, 32², batch 128", 2.1, 3),
    Row("train-std-resnet50-bf16", "s, standard training step, 224², batch 32", 2.4, 3.5),
    Row("data-cifar-224", "s per 256 images to float on the device, one process", 3, 4),
    Row("data-cifar-32", "s per 2,560 images, the same", 5, 8),
    Row("data-jpeg-224", "s per 128 images, JPEGs of 500×375, one thread", 1.8, 2.2),
    Row("prune-rewind-resnet50", "s, one prune and rewind", 5, 10),
    Row("bytes-per-state-resnet50", "MB on disk per IMP state", 0.45, 0.35, True),
    Row("bytes-ticket-resnet50", "MB of a ticket file, over 3.0", 1, 1, True),
    Row("roofline-train-resnet50", "s, PGD-3 training, the least over the time taken", 0.45, 0.7),
    Row("roofline-eval-resnet50", "s, PGD-3 evaluation, the least over the time taken", 0.55, 0.8),
    Row("roofline-train-resnet18", "s, PGD-3 training, 32², batch 64", 0.45, 0.7),
    Row("roofline-eval-resnet18", "s, PGD-3 evaluation, 32², batch 64", 0.55, 0.8),
    Row("roofline-train-resnet20s", "s, PGD-3 training, 32², batch 128", 0.45, 0.7),
    Row("roofline-eval-resnet20s", "s, PGD-3 evaluation, 32², batch 128", 0.55, 0.8),
    Row("memory-train-resnet50-bf16", "MB, peak of the PGD-3 step", 0.7, 0.7, True),
    Row("memory-growth-20-rounds", "MB, peak of 80 prune-rewind rounds over 60", 1.01, 1.01, True),
    Row(
        "peer-torchattacks-loop", "s, PGD-5, ResNet-18, 32², batch 32, one fp32 network", None, None
    ),
    Row("peer-torchattacks-user", "s, their network in fp32, ours as it is fastest", None, None),
    Row("peer-foolbox-loop", "s, PGD-5, ResNet-18, 32², batch 32, one fp32 network", None, None),
    Row("peer-foolbox-user", "s, their network in fp32, ours as it is fastest", None, None),
)

# --- groups of rows that share a baseline -------------------------------------------------------

GROUPS: dict[Callable[[Results], list[Measured]], tuple[str, ...]] = {
    train_resnet50: ("train-pgd3-resnet50-fp32", "train-pgd3-resnet50-bf16"),
    eval_resnet50: ("eval-pgd5-resnet50-fp32", "eval-pgd5-resnet50-bf16"),
    lambda _: training(3, Recipe("resnet18", 32, 64, 10, PGD10), BF16): (
        "train-pgd10-resnet18-bf16",
    ),
    lambda _: training(7, Recipe("resnet20s", 32, 128, 10, PGD3), BF16): (
        "train-pgd3-resnet20s-bf16",
    ),
    lambda _: training(4, RESNET50._replace(attack=None, batch=32), BF16): (
        "train-std-resnet50-bf16",
    ),
    lambda _: cifar(224, 256): ("data-cifar-224",),
    lambda _: cifar(32, 2560): ("data-cifar-32",),
    jpeg: ("data-jpeg-224",),
    prune_rewind: ("prune-rewind-resnet50",),
    files: ("bytes-per-state-resnet50", "bytes-ticket-resnet50"),
    rooflines: tuple(
        f"roofline-{work}-{recipe.arch}" for recipe in RECIPES for work in ("train", "eval")
    ),
    memory: ("memory-train-resnet50-bf16",),
    growth: ("memory-growth-20-rounds",),
    **{
        partial(peer, library): (f"peer-{name}-loop", f"peer-{name}-user")
        for name, library in PEERS.items()
    },
}
NEEDS = {name: name.split("-")[1] for row in ROWS if (name := row.name).startswith("peer-")}

RATES = {"bf16": torch.bfloat16, "fp32": torch.float32}  # results too, in TFLOP/s


# --- the run --------------------------------------------------------------------------------------


def verdict(row: Row, ratio: float) -> str:
    if row.must is None or row.aim is None:
        return ""
    sign = -1 if row.lower_is_better else 1
    if sign * ratio < sign * row.must:
        return "short of must"
    return "short of aim" if sign * ratio < sign * row.aim else "PASS"


def measure(wanted: Sequence[str]) -> Results:
    start = time.perf_counter()
    print("the machine's rate", flush=True)
    found: Results = {name: machine_rate(kind) for name, kind in RATES.items()}
    print(f"    {told(found)}", flush=True)
    if bf16_is_emulated(found):
        print("    bf16 is emulated here: its rows are skipped, others are in fp32", flush=True)
    for group, all_names in GROUPS.items():
        names = [name for name in all_names if not is_skipped(name, found)]
        if not set(names) & set(wanted):
            continue
        print(f"{(time.perf_counter() - start) / 60:.1f} min: {', '.join(names)}", flush=True)
        package = NEEDS.get(names[0])
        if package and importlib.util.find_spec(package) is None:
            print(f"    skipped: {package} is not installed", flush=True)
        else:
            found.update(zip(names, group(found), strict=True))
    return found


def is_skipped(name: str, found: Results) -> bool:
    return name.endswith("-bf16") and bf16_is_emulated(found)


def told(found: Results) -> str:
    """The machine's rates, in words."""
    return ", ".join(f"{found[name]:.3f} TFLOP/s in {name}" for name in RATES)


def table(found: Results, wanted: Sequence[str]) -> str:
    lines = [f"{'row':27}{'baseline':>10}{'ours':>10}{'ratio':>8}  {'n, spread':17}must  aim"]
    for row in ROWS:
        if row.name in found and row.name in wanted:
            m = found[row.name]
            spread = f"{m.n}" + (f", {m.spread[0]:.2f}-{m.spread[1]:.2f}" if m.spread else "")
            bounds = [f"{'≤' if row.lower_is_better else ''}{b}" for b in (row.must, row.aim) if b]
            lines.append(
                f"{row.name:27}{m.baseline:10.4g}{m.ours:10.4g}{m.ratio:8.3g}  {spread:17}"
                f"{'  '.join(bounds) or '-':11} {verdict(row, m.ratio)}  ({row.what})"
            )
        elif row.name in wanted:
            lines.append(f"{row.name:27} skipped")
    return "\n".join(lines)


def as_json(found: Results, wanted: Sequence[str]) -> dict[str, Any]:
    about = provenance()
    machine = {**about, "threads": torch.get_num_threads(), "device": str(DEVICE)}
    machine |= {f"{name}_tflops": found[name] for name in RATES}
    machine["load_1min"] = os.getloadavg()[0]
    rows = []
    for row in ROWS:
        if row.name in found and row.name in wanted:
            m, r = asdict(found[row.name]), asdict(row)
            values = {key: m[key] for key in ("baseline", "ours", "ratio", "n")}
            bounds = {key: r[key] for key in ("must", "aim", "lower_is_better")}
            rows.append({"name": row.name, **values, **bounds})
    return {"machine": machine, "rows": rows}


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="only these rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{row.name:27} {row.what}" for row in ROWS))
        return
    start, load, wanted = time.perf_counter(), os.getloadavg()[0], args.only or names
    found = measure(wanted)
    print(f"\n{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{told(found)}, load {load:.2f} at the start, "
          f"{(time.perf_counter() - start) / 60:.1f} minutes")  # fmt: skip
    print(table(found, wanted))
    if args.json:
        args.json.write_text(json.dumps(as_json(found, wanted), indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
