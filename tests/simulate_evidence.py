"""How often report/evidence.py is right, on networks whose true accuracies are known.

    python tests/simulate_evidence.py [--draws 4000] [--part NAME] [--images 10000] [--ratios 16]

Prints the tables of docs/verdict.md; all of them take about fifteen minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

Runs = Mapping[int, np.ndarray]
OF_TWO_PRETRAININGS = (90, 89.5, 88, 87)  # percent: dense network and ticket of each


@dataclass(frozen=True)
class Cells:
    """What to simulate: draws a cell, and the cells.

    ratios: of the variance of seeds to the residual one. sample: other numbers give other draws.
    """

    draws: int = 4000
    images: Sequence[int] = (2_000, 10_000)
    ratios: Sequence[int] = (0, 1, 4, 16)
    seeds: Sequence[int] = (3, 5, 10)
    sample: int = 0

    def drawn(
        self, networks: Sequence[Network], images: int, *place: int, seeds: int | None = None
    ) -> Iterator[list[dict[int, np.ndarray]]]:
        """Draw one cell, whose place among all cells is `place`."""
        key = (*place, self.sample) if self.sample else place
        return draws(self.draws, networks, seeds or max(self.seeds), images, seed=key)


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


def coverage(cells: Cells) -> None:
    """A ticket that is worse by exactly the margin: the interval holds the truth, in percent."""
    right, said = Rates(cells.draws), Rates(cells.draws)
    for images in cells.images:
        for accuracy in (90, 50):
            for ratio in cells.ratios:
                pair = worse_by_one_tolerance(accuracy, images, ratio)
                margin = pair[0].std_of_a_test(images)
                row = (f"{images:,}", accuracy, ratio)
                for both in cells.drawn(pair, images, 0, accuracy, ratio):
                    for seeds in cells.seeds:
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


def theory(cells: Cells) -> None:
    """Means of many images and normal seeds: coverage over all shares of images and seeds."""
    rng, images = np.random.default_rng(6), 10**6
    print("| S | formula | lowest | highest | highest where seeds vary as much as the residual |")
    print("| --- |" + " --- |" * 4)
    for seeds in (2, *cells.seeds):
        rates: dict[str, dict[tuple[float, float], float]] = defaultdict(dict)
        for a in (0.0, 0.25, 0.5, 1, 2, 5, 10, 20, 50):  # variances, where the residual one is 1
            for b in (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
                found = (1 + b) * rng.chisquare(seeds - 1, cells.draws) / (seeds - 1)
                halves = {
                    "interval": [_half_width(a, [x], images, [seeds], 1) for x in found],
                    "Satterthwaite's": [
                        satterthwaite_half_width(a + 1, x, 1, images, seeds) for x in found
                    ],
                }
                for name, half in halves.items():
                    rates[name][a, b] = float(np.mean(chdtr(1, np.square(half) / (a + b + 1))))
        for name, found in rates.items():
            most = max(rate for (_, b), rate in found.items() if b >= 1)
            figures = [f"{100 * x:.1f}" for x in (min(found.values()), max(found.values()), most)]
            print("|", " | ".join([str(seeds), name, *figures]), "|")
    print(flush=True)


def _half_width(
    image_variance: float,
    by_seeds: Sequence[float],
    images: int,
    seeds: Sequence[int],
    residual: float = 0,
) -> float:
    terms = tuple(map(SeedTerm, by_seeds, seeds))
    found = Difference(0, min(seeds), images, "paired", image_variance, terms, residual)
    return found.half_width() or 0


def theory_of_two(cells: Cells) -> None:
    """Two sets of runs, as in contrasts: coverage over all shares of images and of either set."""
    rng, images = np.random.default_rng(7), 10**6
    print("| seeds | lowest | highest |\n| --- | --- | --- |")
    for pair in ((3, 3), (5, 5), (10, 10), (3, 5), (3, 10), (2, 10)):
        chance = [rng.chisquare(s - 1, cells.draws) / (s - 1) for s in pair]
        rates = []
        for a in (0.0, 0.25, 0.5, 1, 2, 4, 8):  # of images, where both sets together have 1
            for share in (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0):
                found = zip(share * chance[0], (1 - share) * chance[1], strict=True)
                half = [_half_width(a, terms, images, pair) for terms in found]
                rates.append(100 * float(np.mean(chdtr(1, np.square(half) / (a + 1)))))
        print(f"| {pair[0]} and {pair[1]} | {min(rates):.1f} | {max(rates):.1f} |")
    print(flush=True)


def unequal(cells: Cells) -> None:
    """Unequal seeds, and a single seed."""
    rates = Rates(cells.draws)
    for images in cells.images:
        for ratio in cells.ratios:
            nets = [network(a, images, ratio) for a in OF_TWO_PRETRAININGS]
            for a, b, *_ in cells.drawn(nets, images, 1, ratio, seeds=10):
                row = (f"{images:,}", ratio)
                one = difference(first(a, 1), first(b, 1))
                rates.add(row, **{"one seed": covers(one.interval(), -0.5)})
                for left, right in ((2, 10), (3, 5), (3, 10)):
                    found = difference(first(a, right), first(b, left))
                    rates.add(row, **{f"{left} against {right}": covers(found.interval(), -0.5)})
    rates.show("images,seed variance")


def contrasts(cells: Cells) -> None:
    """Two pre-trainings, whose tickets are worse than their dense networks by 0.5 and 1 point."""
    rates = Rates(cells.draws)
    for images in cells.images:
        for ratio in cells.ratios:
            nets = [network(a, images, ratio) for a in OF_TWO_PRETRAININGS]
            for a, b, c, d in cells.drawn(nets, images, 1, ratio):
                for seeds in cells.seeds:
                    sides = [Compared(*(first(x, seeds) for x in y)) for y in ((a, b), (c, d))]
                    found = contrast(*sides)
                    assert found is not None
                    row = (f"{images:,}", ratio)
                    rates.add(row, seeds, interval=covers(found.interval(), 0.5))
    rates.show("images,seed variance")


def small(cells: Cells) -> None:
    """Test sets on which few images differ."""
    rates = Rates(cells.draws)
    for images in (177, 500):
        for accuracy in (99, 95, 70):
            for ratio in (0, 4):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                for both in cells.drawn(pair, images, 2, accuracy, ratio):
                    row = (images, accuracy, ratio)
                    one = difference(first(both[0], 1), first(both[1], 1))
                    rates.add(row, 1, held=covers(one.interval(), 0))
                    for seeds in (2, *cells.seeds):
                        found = difference(*(first(runs, seeds) for runs in both))
                        rates.add(row, seeds, held=covers(found.interval(), 0))
    rates.show("images,SA,seed variance")


def chain(cells: Cells) -> None:
    """Three states equal to the dense network, then two that are worse by the margin."""
    rates, images = Rates(cells.draws), 2_000
    for ratio in cells.ratios:
        dense = network(90, images, ratio)
        margin = 6 * dense.std_of_a_test(images)
        nets = [dense, dense, dense, dense, *[network(90 - margin, images, ratio)] * 2]
        for drawn in cells.drawn(nets, images, 3, ratio):
            for seeds in cells.seeds:
                runs = [first(x, seeds) for x in drawn]
                found = [difference(runs[0], ticket) for ticket in runs[1:]]
                # The other two measures are taken to be matched: the hardest case for the chain.
                wins = [double_win_evidence({"sa": one}, {"sa": margin}) for one in found]
                last = sparsest_with_evidence(list(enumerate(wins, start=1))) or 0
                shares = {"too sparse": last > 3, "just right": last == 3}
                rates.add((ratio,), seeds, **shares)
    rates.show("seed variance")


def power(cells: Cells) -> None:
    """How often a ticket that is truly as good as the dense network is said to match."""
    rates, widths = Rates(cells.draws), Rates(cells.draws)
    margins: dict[tuple[int, tuple[object, ...]], list[float]] = defaultdict(list)  # just enough
    for images in cells.images:
        for accuracy in (90, 50):
            for ratio in filter(None, cells.ratios):
                pair = [network(accuracy, images, ratio) for _ in range(2)]
                std = f"{pair[0].seed_std:.2f}"
                for both in cells.drawn(pair, images, 4, accuracy, ratio):
                    for seeds in cells.seeds:
                        found = difference(*(first(runs, seeds) for runs in both))
                        row = (f"{images:,}", accuracy, std)
                        said = {f"margin {m}": judge(found, m) == "matches" for m in (0.5, 1, 2, 3)}
                        rates.add(row, seeds, **said)
                        widths.add(row, seeds, **{"half-width": found.half_width() or 0})
                        needed = (found.half_width() or 0) - found.mean
                        margins[seeds, row].append(needed / pair[0].seed_std)
    rates.show("images,SA,std of seeds")
    widths.show("images,SA,std of seeds", percent=False)
    for seeds in cells.seeds:
        found = [np.quantile(x, 0.8) for (count, _), x in margins.items() if count == seeds]
        print(f"S = {seeds}: 80 % need {min(found):.1f} to {max(found):.1f} standard deviations")


def sequential(cells: Cells) -> None:
    """Seeds added only where the evidence is undecided: 3, then 5, then 10."""
    rates = Rates(cells.draws)
    for images in cells.images:
        for ratio in cells.ratios:
            pair = worse_by_one_tolerance(90, images, ratio)
            margin = pair[0].std_of_a_test(images)
            for both in cells.drawn(pair, images, 5, ratio):
                said = "undecided"
                for seeds in cells.seeds:
                    if said == "undecided":
                        said = judge(difference(*(first(x, seeds) for x in both)), margin)
                rates.add((f"{images:,}", ratio), matches=said == "matches", worse=said == "worse")
    rates.show("images,seed variance")


def failures(cells: Cells) -> None:
    """A ticket that is worse by just the margin, 1 point, as one of its runs in ten loses 10."""
    rates, images = Rates(cells.draws), 2_000
    rng = np.random.default_rng([8, cells.sample])
    for ratio in cells.ratios:
        good, failed = network(90, images, ratio), network(80, images, ratio)
        for dense, well, badly in cells.drawn([good, good, failed], images, 6, ratio):
            fails = rng.random(len(well)) < 0.1
            ticket = {seed: badly[seed] if fails[seed] else well[seed] for seed in well}
            for seeds in cells.seeds:
                found = difference(first(dense, seeds), first(ticket, seeds))
                rates.add((ratio,), seeds, held=covers(found.interval(), -1))
                rates.add((ratio,), seeds, matches=judge(found, 1) == "matches")
    rates.show("seed variance")


PARTS = {
    part.__name__: part
    for part in (
        theory,
        theory_of_two,
        coverage,
        unequal,
        contrasts,
        small,
        chain,
        power,
        sequential,
        failures,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=Cells.draws)
    parser.add_argument("--images", type=int, nargs="+", default=Cells.images)
    parser.add_argument("--ratios", type=int, nargs="+", default=Cells.ratios)
    parser.add_argument("--seeds", type=int, nargs="+", default=Cells.seeds)
    parser.add_argument("--sample", type=int, default=Cells.sample, help="others: other draws")
    parser.add_argument("--part", choices=PARTS, action="append", default=[])
    args = parser.parse_args()
    cells = Cells(args.draws, args.images, args.ratios, args.seeds, args.sample)
    error = 200 * math.sqrt(0.025 * 0.975 / cells.draws)
    print(f"{cells.draws} draws; two Monte Carlo standard errors at 2.5 %: {error:.2f} points\n")
    for name in args.part or PARTS:
        print(f"### {name}: {(PARTS[name].__doc__ or '').strip()}\n")
        PARTS[name](cells)


if __name__ == "__main__":
    main()
