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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import torch
from timing import DEVICE, machine_rate
from workloads import GROUPS, Results, peer, shares

from engine.log import provenance


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
    Row("train-pgd3-resnet50-bf16", "s, the same, --amp bf16", 3.1, 4),
    Row("eval-pgd20-resnet50-fp32", "s, PGD-20 evaluation, 224², batch 24", 2.1, 2.6),
    Row("eval-pgd20-resnet50-bf16", "s, the same, --amp bf16", 4.2, 5.5),
    Row("train-pgd10-resnet18-bf16", "s, PGD-10 training step, 32², batch 64", 2.2, 2.8),
    Row("train-pgd3-resnet20s-bf16", "s, PGD-3 training step, 32², batch 128", 2.1, 3),
    Row("train-std-resnet50-bf16", "s, standard training step, 224², batch 32", 2.4, 3.5),
    Row("data-cifar-224", "s per 256 images to float on the device, one process", 2.2, 4),
    Row("data-cifar-32", "s per 2,560 images, the same", 5, 8),
    Row("data-jpeg-224", "s per 128 images, JPEGs of 500×375, one thread", 1.6, 2.2),
    Row("prune-rewind-resnet50", "s, one prune and rewind", 5, 20),
    Row("bytes-per-state-resnet50", "MB on disk per IMP state", 0.5, 0.35, True),
    Row("bytes-ticket-resnet50", "MB of a ticket file, over 3.0", 1, 1, True),
    Row("share-train-resnet50-bf16", "TFLOP/s, PGD-3 training over the machine's", 0.48, 0.65),
    Row("share-eval-resnet50-bf16", "TFLOP/s, PGD-20 evaluation over the machine's", 0.62, 0.8),
    Row("memory-train-resnet50-bf16", "MB, peak of the PGD-3 step", 0.7, 0.7, True),
    Row("memory-growth-20-rounds", "MB, peak of 40 prune-rewind rounds over 20", 1.01, 1.01, True),
    Row("peer-torchattacks-pgd10", "s, PGD-10 attack, ResNet-18, 32², batch 64, fp32", None, None),
)


# --- the run --------------------------------------------------------------------------------------


def verdict(row: Row, ratio: float) -> str:
    if row.must is None or row.aim is None:
        return ""
    sign = -1 if row.lower_is_better else 1
    if sign * ratio < sign * row.must:
        return "short of must"
    return "short of aim" if sign * ratio < sign * row.aim else "PASS"


def measure(wanted: Sequence[str]) -> tuple[dict[str, float], Results]:
    print("the machine's rate", flush=True)
    rates = {"bf16": machine_rate(torch.bfloat16), "fp32": machine_rate(torch.float32)}
    print(f"    {told(rates)}", flush=True)
    found: Results = {"rate": rates["bf16"]}
    if any(name.startswith("share-") for name in wanted):  # made from two other rows
        wanted = [*wanted, "train-pgd3-resnet50-bf16", "eval-pgd20-resnet50-bf16"]
    for group, names in GROUPS.items():
        if not set(names) & set(wanted):
            continue
        print(", ".join(names), flush=True)
        if group is shares:  # read again: where others work too, the first may be far too low
            found["rate"] = max(found["rate"], machine_rate(torch.bfloat16))
        if group is peer and importlib.util.find_spec("torchattacks") is None:
            print("    skipped: torchattacks is not installed", flush=True)
        else:
            found.update(zip(names, group(found), strict=True))
    return {**rates, "bf16": found["rate"]}, found


def told(rates: dict[str, float]) -> str:
    return ", ".join(f"{rate:.3f} TFLOP/s in {kind}" for kind, rate in rates.items())


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


def as_json(rates: dict[str, float], found: Results, wanted: Sequence[str]) -> dict[str, Any]:
    about = provenance()
    machine = {**about, "threads": torch.get_num_threads(), "device": str(DEVICE)}
    machine |= {f"{kind}_tflops": rate for kind, rate in rates.items()}
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
    rates, found = measure(wanted)
    print(f"\n{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{told(rates)}, load {load:.2f} at the start, "
          f"{(time.perf_counter() - start) / 60:.1f} minutes")  # fmt: skip
    print(table(found, wanted))
    if args.json:
        args.json.write_text(json.dumps(as_json(rates, found, wanted), indent=2) + "\n")


if __name__ == "__main__":
    main()
