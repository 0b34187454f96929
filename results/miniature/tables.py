"""The tables of README.md, filled in from the report beside it: no figure of theirs is typed."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
SIDES = {"std": "standard", "adv": "adversarial"}
# Pruned weights of the sparsest double wins, in percent (Chen et al., ICML 2022).
PAPER = {
    "std": ("89.26 %", "73.79 %"),
    "fast adversarial": ("89.26 %", "79.03 %"),
    "adv": ("91.41 %", "83.22 %"),
}
KINDS = ("dense", "imp")
TICKETS = {"imp": "IMP", "omp": "OMP", "random": "random mask"}
BASELINES = ("omp", "random")
MEASURES = {"st_sa": ("std", "sa_best_sa"), "at_sa": ("adv", "ra_best_sa"),
            "at_ra": ("adv", "ra_best_ra")}  # a run's mode, and its column  # fmt: skip
BY_THE_RULE = {True: "double win", False: "none", None: "open"}
BY_EVIDENCE = {True: "double win", False: "none", None: "undecided"}


def write_tables() -> None:
    """Fill the tables of the README in."""
    README.write_text(filled(README.read_text()))


def filled(text: str) -> str:
    """The README's text with the tables of the report, each below a comment with its name."""
    tables = {
        "sparsest": _of_the_sparsest(),
        "all seeds": _of_all_seeds(),
        "seed 1": _of_seed_1(),
        "baselines": _of_baselines(),
    }
    for name, rows in tables.items():
        mark = f"<!-- {name} -->\n"
        if mark not in text:
            raise SystemExit(f"error: {README}: no line {mark.strip()}, below which its table goes")
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        text = re.sub(rf"{mark}(\|.*\n)*", (mark + table).replace("\\", r"\\"), text)
    return text


def _of_the_sparsest() -> Iterator[tuple[str, ...]]:
    """How sparse a double win each pre-training has, beside the paper's CIFAR-10 and CIFAR-100."""
    yield "pre-training", "by the rule", "with evidence", "paper, CIFAR-10", "paper, CIFAR-100"
    yield ("---",) * 5
    verdict = json.loads((HERE / "report" / "verdict.json").read_text())
    for side, paper in PAPER.items():
        yield SIDES.get(side, side), *(
            _sparsest(verdict[key], side) for key in ("sparsest", "sparsest_evidence")
        ), *paper  # fmt: skip


def _sparsest(found: list[dict[str, Any]], side: str) -> str:
    if side not in SIDES:
        return "not run"
    (own,) = [ticket for ticket in found if ticket["pretraining"] == side]
    return "none" if own["state"] is None else _pruned(own["state"], 1 - own["sparsity"])


def _of_seed_1() -> Iterator[tuple[str, ...]]:
    """What the runs of seed 1 found: a row for each network, in percent."""
    yield "", "SA under ST", "SA under AT", "RA under AT"
    yield ("---",) * 4
    runs = _runs_of_seed_1()
    for side, state, kind in sorted(runs, key=lambda key: (list(SIDES).index(key[0]), key[1])):
        if kind in KINDS:
            of_mode = runs[side, state, kind]
            yield _named(side, state, float(of_mode["std"]["density"])), *_accuracies(of_mode)


def _of_baselines() -> Iterator[tuple[str, ...]]:
    """Seed 1 of IMP's tickets and of the baselines of the same state, in percent."""
    yield "", "ticket", "SA under ST", "SA under AT", "RA under AT"
    yield ("---",) * 5
    runs = _runs_of_seed_1()
    states = sorted({state for _, state, kind in runs if kind in BASELINES})
    for side, state, kind in product(SIDES, states, ("imp", *BASELINES)):
        if of_mode := runs.get((side, state, kind)):
            named = _named(side, state, float(of_mode["std"]["density"]))
            yield named, TICKETS[kind], *_accuracies(of_mode)


def _runs_of_seed_1() -> dict[tuple[str, int, str], dict[str, dict[str, str]]]:
    """Rows of results.csv by side, state and kind of ticket, then by mode, where both are done."""
    runs: dict[tuple[str, int, str], dict[str, dict[str, str]]] = defaultdict(dict)
    with (HERE / "report" / "results.csv").open(newline="") as stream:
        for run in csv.DictReader(stream):
            if run["seed"] == "1":
                key = run["pretraining"], int(run["state"]), run["ticket"]
                runs[key][run["mode"]] = run
    return {key: of_mode for key, of_mode in runs.items() if len(of_mode) == len(SIDES)}


def _accuracies(of_mode: dict[str, dict[str, str]]) -> Iterator[str]:
    return (f"{float(of_mode[mode][column]):.2f}" for mode, column in MEASURES.values())


def _of_all_seeds() -> Iterator[tuple[str, ...]]:
    """Tickets minus dense networks, and their contrasts, of three seeds: points with intervals."""
    verdict = json.loads((HERE / "report" / "verdict.json").read_text())
    yield "", "SA under ST", "SA under AT", "RA under AT", "by the rule", "evidence"
    yield ("---",) * 6
    for side in reversed(SIDES):
        for row in verdict["rows"]:
            found = row["difference"]
            if (row["pretraining"], row["ticket"]) == (side, "imp") and _has_all_seeds(found):
                rule, evidence = row["double_win"], row["double_win_evidence"]
                verdicts = BY_THE_RULE[rule], BY_EVIDENCE[evidence]
                intervals = (_interval(found[measure]) for measure in MEASURES)
                yield _named(side, row["state"], row["density"]), *intervals, *verdicts
    for state in sorted({contrast["state"] for contrast in verdict["contrasts"]}):
        of = {c["measure"]: c for c in verdict["contrasts"] if c["state"] == state}
        if _has_all_seeds(of):
            yield f"contrast of state {state}", *(_interval(of[m]) for m in MEASURES), "", ""


def _has_all_seeds(found: dict[str, Any]) -> bool:
    return all(
        (of := found.get(measure)) and of["kind"] == "paired" and of["seeds"] >= 3
        for measure in MEASURES
    )


def _named(side: str, state: int, density: float) -> str:
    return f"{SIDES[side]}, {_pruned(state, density) if state else 'dense'}"


def _pruned(state: int, density: float) -> str:
    return f"state {state} ({100 * (1 - density):.1f} %)"


def _interval(found: dict[str, Any]) -> str:
    mean, low, high = (f"{found[key]:.2f}".replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
