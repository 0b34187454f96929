"""How often report/evidence.py is right, on networks whose true accuracies are known.

    python tests/simulate_evidence.py [--draws 4000] [--part NAME]

Prints the tables of docs/verdict.md; all of them take about fifteen minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import chdtr

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from helpers.evidence_cases import (
    Network,
    draws,
    first,
    network,
    satterthwaite_half_width,
    satterthwaite_interval,
)

from report.evidence import (
    Compared,
    Difference,
    SeedTerm,
    contrast,
    difference_of_accuracies,
    double_win_evidence,
    judge,
    paired_difference,
    sparsest_with_evidence,
)

SEEDS = (3, 5, 10)
IMAGES = (2_000, 10_000)
RATIOS = (0, 1, 4, 16)  # of the variance of seeds to the residual one
Runs = Mapping[int, np.ndarray]


class Rates:
    """Percentages of draws, or means over them, by row and column of a table."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.sums: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}

    def add(self, row: Sequence[object], seeds: object = "", **values: float) -> None:
        """Count one draw; a cell holds a figure for each number of seeds."""
        columns = self.sums.setdefault(tuple(map(str, row)), {})
        for name, value in values.items():
            cell = columns.setdefault(name, {})
            cell[str(seeds)] = cell.get(str(seeds), 0.0) + float(value)

    def show(self, labels: str, percent: bool = True) -> None:
        columns = next(iter(self.sums.values()))
        heads = labels.split(",")
        for name, cell in columns.items():
            seeds = " / ".join(cell)
            heads.append(f"{name}, S = {seeds}" if seeds else name)
        print("|", " | ".join(heads), "|\n|" + " --- |" * len(heads))
        for row, sums in self.sums.items():
            cells = [" / ".join(self._text(x, percent) for x in c.values()) for c in sums.values()]
            print("|", " | ".join([*row, *cells]), "|")
        print(flush=True)

    def _text(self, total: float, percent: bool) -> str:
        return f"{100 * total / self.draws:.1f}" if percent else f"{total / self.draws:.2f}"


def covers(interval: tuple[float, float] | tuple[None, None], truth: float) -> bool:
    low, high = interval
    return low is None or high is None or low <= truth <= high


def accuracies(runs: Runs) -> dict[int, float]:
    return {seed: 100 * float(bits.mean()) for seed, bits in runs.items()}


def difference(dense: Runs, ticket: Runs) -> Difference:
    found = paired_difference(dense, ticket)
    assert found is not None
    return found


def worse_by_one_tolerance(accuracy: float, images: int, ratio: float) -> tuple[Network, Network]:
    """A dense network, and a ticket that is worse by just its true std over seeds on one test."""
    dense = network(accuracy, images, ratio)
    return dense, network(accuracy - dense.std_of_a_test(images), images, ratio)


# --- the parts ------------------------------------------------------------------------------------


def coverage(count: int) -> None:
    """A ticket that is worse by exactly the margin: the interval holds the truth, in percent."""
    right, said = Rates(count), Rates(count)
    for images in IMAGES:
        for accuracy in (90, 50):
            for ratio in RATIOS:
                pair = worse_by_one_tolerance(accuracy, images, ratio)
                margin = pair[0].std_of_a_test(images)
                row = (f"{images:,}", accuracy, ratio)
                for both in draws(count, pair, max(SEEDS), images, seed=(0, accuracy, ratio)):
                    for seeds in SEEDS:
                        dense, ticket = (first(runs, seeds) for runs in both)
                        found = difference(dense, ticket)
                        right.add(row, seeds, **_held(found, dense, ticket, -margin))
                        said.add(row, seeds, **_said(found, dense, margin))
    right.show("images,SA,seed variance")
    print("What is said of it, in percent:\n")
    said.show("images,SA,seed variance")


def _held(found: Difference, dense: Runs, ticket: Runs, truth: float) -> dict[str, float]:
    alone = difference_of_accuracies(accuracies(dense), accuracies(ticket))
    assert alone is not None
    return {
        "interval": covers(found.interval(), truth),
        "Satterthwaite's": covers(satterthwaite_interval(dict(dense), dict(ticket)), truth),
        "seeds only": covers(alone.interval(), truth),
    }


def _said(found: Difference, dense: Runs, margin: float) -> dict[str, float]:
    estimated = float(np.std(list(accuracies(dense).values()), ddof=1))
    return {
        "matches": judge(found, margin) == "matches",
        "worse": judge(found, margin) == "worse",
        "matches, estimated margin": judge(found, estimated) == "matches",
        "matches by the rule": found.mean >= -estimated - 1e-9,
    }


def theory(count: int) -> None:
    """Means of many images and normal seeds: coverage over all shares of images and seeds."""
    rng, images = np.random.default_rng(6), 10**6
    print("| S | formula | lowest | highest | highest where seeds vary as much as the residual |")
    print("| --- |" + " --- |" * 4)
    for seeds in (2, *SEEDS):
        rates: dict[str, dict[tuple[float, float], float]] = defaultdict(dict)
        for a in (0.0, 0.25, 0.5, 1, 2, 5, 10, 20, 50):  # variances, where the residual one is 1
            for b in (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
                found = (1 + b) * rng.chisquare(seeds - 1, count) / (seeds - 1)
                halves = {
                    "interval": [_half_width(a, x, images, seeds) for x in found],
                    "Satterthwaite's": [
                        satterthwaite_half_width(a + 1, x, 1, images, seeds) for x in found
                    ],
                }
                for name, half in halves.items():
                    rates[name][a, b] = float(np.mean(chdtr(1, np.square(half) / (a + b + 1))))
        for name, found in rates.items():
            most = max(rate for (_, b), rate in found.items() if b >= 1)
            cells = [f"{100 * x:.1f}" for x in (min(found.values()), max(found.values()), most)]
            print("|", " | ".join([str(seeds), name, *cells]), "|")
    print(flush=True)


def _half_width(image_variance: float, by_seeds: float, images: int, seeds: int) -> float:
    terms = (SeedTerm(by_seeds, seeds),)
    return Difference(0, seeds, images, "paired", image_variance, terms).half_width() or 0


def others(count: int) -> None:
    """Unequal seeds, contrasts and a single seed."""
    rates = Rates(count)
    for images in IMAGES:
        for ratio in RATIOS:
            nets = [network(a, images, ratio) for a in (90, 89.5, 88, 87)]
            for drawn in draws(count, nets, max(SEEDS), images, seed=(1, ratio)):
                a, b, c, d = drawn
                row = (f"{images:,}", ratio)
                one = difference(first(a, 1), first(b, 1))
                rates.add(row, **{"one seed": covers(one.interval(), -0.5)})
                for left, right in ((2, 10), (3, 5), (3, 10)):
                    found = difference(first(a, right), first(b, left))
                    rates.add(row, **{f"{left} against {right}": covers(found.interval(), -0.5)})
                for seeds in SEEDS:
                    sides = [Compared(*(first(x, seeds) for x in y)) for y in ((a, b), (c, d))]
                    both = contrast(*sides)
                    assert both is not None
                    rates.add(row, seeds, contrast=covers(both.interval(), 0.5))
    rates.show("images,seed variance")


def small(count: int) -> None:
    """Test sets on which few images differ."""
    rates = Rates(count)
    for images in (177, 500):
        for accuracy in (99, 95, 70):
            for ratio in (0, 4):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                for both in draws(count, pair, max(SEEDS), images, seed=(2, accuracy, ratio)):
                    row = (images, accuracy, ratio)
                    one = difference(first(both[0], 1), first(both[1], 1))
                    rates.add(row, 1, held=covers(one.interval(), 0))
                    for seeds in (2, *SEEDS):
                        found = difference(*(first(runs, seeds) for runs in both))
                        rates.add(row, seeds, held=covers(found.interval(), 0))
    rates.show("images,SA,seed variance")


def chain(count: int) -> None:
    """Three states equal to the dense network, then two that are worse by the margin."""
    rates, images = Rates(count), 2_000
    for ratio in RATIOS:
        dense = network(90, images, ratio)
        margin = 6 * dense.std_of_a_test(images)
        nets = [dense, dense, dense, dense, *[network(90 - margin, images, ratio)] * 2]
        for drawn in draws(count, nets, max(SEEDS), images, seed=(3, ratio)):
            for seeds in SEEDS:
                runs = [first(x, seeds) for x in drawn]
                found = [difference(runs[0], ticket) for ticket in runs[1:]]
                # The other two measures are taken to be matched: the hardest case for the chain.
                wins = [double_win_evidence({"sa": one}, {"sa": margin}) for one in found]
                last = sparsest_with_evidence(list(enumerate(wins, start=1))) or 0
                shares = {"too sparse": last > 3, "just right": last == 3}
                rates.add((ratio,), seeds, **shares)
    rates.show("seed variance")


def power(count: int) -> None:
    """How often a ticket that is truly as good as the dense network is said to match."""
    rates, widths = Rates(count), Rates(count)
    for images in IMAGES:
        for accuracy in (90, 50):
            for ratio in (1, 4, 16):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                std = f"{pair[0].seed_std:.2f}"
                for both in draws(count, pair, max(SEEDS), images, seed=(4, accuracy, ratio)):
                    for seeds in SEEDS:
                        found = difference(*(first(runs, seeds) for runs in both))
                        row = (f"{images:,}", accuracy, std)
                        said = {f"margin {m}": judge(found, m) == "matches" for m in (0.5, 1, 2, 3)}
                        rates.add(row, seeds, **said)
                        widths.add(row, seeds, **{"half-width": found.half_width() or 0})
    rates.show("images,SA,std of seeds")
    widths.show("images,SA,std of seeds", percent=False)


def sequential(count: int) -> None:
    """Seeds added only where the evidence is undecided: 3, then 5, then 10."""
    rates = Rates(count)
    for images in IMAGES:
        for ratio in RATIOS:
            pair = worse_by_one_tolerance(90, images, ratio)
            margin = pair[0].std_of_a_test(images)
            for both in draws(count, pair, max(SEEDS), images, seed=(5, ratio)):
                said = "undecided"
                for seeds in SEEDS:
                    if said == "undecided":
                        said = judge(difference(*(first(x, seeds) for x in both)), margin)
                rates.add((f"{images:,}", ratio), matches=said == "matches", worse=said == "worse")
    rates.show("images,seed variance")


PARTS = {
    part.__name__: part for part in (theory, coverage, others, small, chain, power, sequential)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--part", choices=PARTS, action="append")
    args = parser.parse_args()
    error = 200 * math.sqrt(0.025 * 0.975 / args.draws)
    print(f"{args.draws} draws; two Monte Carlo standard errors at 2.5 %: {error:.2f} points\n")
    for name in args.part or PARTS:
        print(f"### {name}: {(PARTS[name].__doc__ or '').strip()}\n")
        PARTS[name](args.draws)


if __name__ == "__main__":
    main()
