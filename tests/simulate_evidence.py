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

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from helpers.evidence_cases import Network, draws, first, network, satterthwaite_interval

from report.evidence import (
    Compared,
    Difference,
    contrast,
    difference_of_accuracies,
    double_win_evidence,
    judge,
    paired_difference,
    sparsest_with_evidence,
)

SEEDS = (3, 5, 10)
IMAGES = (2_000, 10_000)
Runs = Mapping[int, np.ndarray]


class Rates:
    """Percentages of draws (or means over them), by row and column of a table."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, row: Sequence[object], **values: float) -> None:
        for column, value in values.items():
            self.sums[tuple(map(str, row))][column] += float(value)

    def show(self, labels: str, percent: bool = True) -> None:
        columns = list(dict.fromkeys(c for row in self.sums.values() for c in row))
        heads = [*labels.split(","), *(c.replace("_", " ") for c in columns)]
        print("|", " | ".join(heads), "|\n|" + " --- |" * len(heads))
        for row, sums in self.sums.items():
            means = [sums[column] / self.draws for column in columns]
            cells = [f"{100 * mean:.1f}" if percent else f"{mean:.2f}" for mean in means]
            print("|", " | ".join([*row, *cells]), "|")
        print(flush=True)


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
    """Intervals of a ticket that is worse by exactly the margin, and what is said of it."""
    rates = Rates(count)
    for images in IMAGES:
        for accuracy in (90, 50):
            for ratio in (0, 1, 4, 16):
                pair = worse_by_one_tolerance(accuracy, images, ratio)
                margin = pair[0].std_of_a_test(images)
                for both in draws(count, pair, max(SEEDS), images):
                    for seeds in SEEDS:
                        dense, ticket = (first(runs, seeds) for runs in both)
                        row = (f"{images:,}", accuracy, ratio, seeds)
                        rates.add(row, **_at_the_margin(dense, ticket, margin))
    rates.show("images,accuracy,seed variance,S")


def _at_the_margin(dense: Runs, ticket: Runs, margin: float) -> dict[str, float]:
    found = difference(dense, ticket)
    lines = accuracies(dense)
    estimated = float(np.std(list(lines.values()), ddof=1))
    alone = difference_of_accuracies(lines, accuracies(ticket))
    assert alone is not None
    return {
        "coverage": covers(found.interval(), -margin),
        "Satterthwaite's": covers(satterthwaite_interval(dict(dense), dict(ticket)), -margin),
        "seeds only": covers(alone.interval(), -margin),
        "matches": judge(found, margin) == "matches",
        "worse": judge(found, margin) == "worse",
        "matches,_estimated_tolerance": judge(found, estimated) == "matches",
        "by_the_rule": found.mean >= -estimated - 1e-9,
    }


def others(count: int) -> None:
    """Unequal seeds, contrasts and a single seed."""
    rates = Rates(count)
    for images in IMAGES:
        for ratio in (0, 1, 4, 16):
            nets = [network(a, images, ratio) for a in (90, 89.5, 88, 87)]
            for drawn in draws(count, nets, max(SEEDS), images, seed=1):
                a, b, c, d = drawn
                row = (f"{images:,}", ratio)
                one = difference(first(a, 1), first(b, 1))
                rates.add(row, one_seed=covers(one.interval(), -0.5))
                for left, right in ((3, 5), (2, 10), (5, 10)):
                    found = difference(first(a, right), first(b, left))
                    rates.add(row, **{f"{left}_against_{right}": covers(found.interval(), -0.5)})
                for seeds in SEEDS:
                    sides = [Compared(*(first(x, seeds) for x in y)) for y in ((a, b), (c, d))]
                    both = contrast(*sides)
                    assert both is not None
                    rates.add(row, **{f"contrast,_S={seeds}": covers(both.interval(), 0.5)})
    rates.show("images,seed variance")


def small(count: int) -> None:
    """Test sets on which few images differ."""
    rates = Rates(count)
    for images in (177, 500):
        for accuracy in (99, 95, 70):
            for ratio in (0, 4):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                for both in draws(count, pair, max(SEEDS), images, seed=2):
                    row = (images, accuracy, ratio)
                    one = difference(first(both[0], 1), first(both[1], 1))
                    rates.add(row, **{"S=1": covers(one.interval(), 0)})
                    for seeds in (2, *SEEDS):
                        found = difference(*(first(runs, seeds) for runs in both))
                        rates.add(row, **{f"S={seeds}": covers(found.interval(), 0)})
    rates.show("images,accuracy,seed variance")


def chain(count: int) -> None:
    """Three states equal to the dense network, then two that are worse by the margin."""
    rates, images = Rates(count), 2_000
    for ratio in (0, 1, 4, 16):
        dense = network(90, images, ratio)
        margin = 6 * dense.std_of_a_test(images)
        nets = [dense, dense, dense, dense, *[network(90 - margin, images, ratio)] * 2]
        for drawn in draws(count, nets, max(SEEDS), images, seed=3):
            for seeds in SEEDS:
                runs = [first(x, seeds) for x in drawn]
                found = [difference(runs[0], ticket) for ticket in runs[1:]]
                # The other two measures are taken to be matched: the hardest case for the chain.
                wins = [double_win_evidence({"sa": one}, {"sa": margin}) for one in found]
                last = sparsest_with_evidence(list(enumerate(wins, start=1))) or 0
                rates.add((ratio, seeds), too_sparse=last > 3, just_right=last == 3)
    rates.show("seed variance,S")


def power(count: int) -> None:
    """How often a ticket that is truly as good as the dense network is said to match."""
    rates, widths = Rates(count), Rates(count)
    for images in IMAGES:
        for accuracy in (90, 50):
            for ratio in (1, 4, 16):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                std = f"{pair[0].seed_std:.2f}"
                for both in draws(count, pair, max(SEEDS), images, seed=4):
                    for seeds in SEEDS:
                        found = difference(*(first(runs, seeds) for runs in both))
                        row = (f"{images:,}", accuracy, ratio, std, seeds)
                        said = {f"margin_{m}": judge(found, m) == "matches" for m in (0.5, 1, 2, 3)}
                        rates.add(row, **said)
                        widths.add(row, half_width=found.half_width() or 0)
    rates.show("images,accuracy,seed variance,seed std,S")
    widths.show("images,accuracy,seed variance,seed std,S", percent=False)


def sequential(count: int) -> None:
    """Seeds added only where the evidence is undecided: 3, then 5, then 10."""
    rates = Rates(count)
    for images in IMAGES:
        for ratio in (0, 1, 4, 16):
            pair = worse_by_one_tolerance(90, images, ratio)
            margin = pair[0].std_of_a_test(images)
            for both in draws(count, pair, max(SEEDS), images, seed=5):
                said = "undecided"
                for seeds in SEEDS:
                    if said == "undecided":
                        said = judge(difference(*(first(x, seeds) for x in both)), margin)
                rates.add((f"{images:,}", ratio), matches=said == "matches", worse=said == "worse")
    rates.show("images,seed variance")


PARTS = {part.__name__: part for part in (coverage, others, small, chain, power, sequential)}


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
