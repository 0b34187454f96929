"""How much is missing: what would decide a ticket that the evidence leaves undecided."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from report.evidence import LEVEL, ROUNDING, Difference, judge

ENOUGH_TO_START = 3  # seeds; with two, Student's quantile is 12.7, and hardly anything is decided
MOST = 1000  # further seeds that are worth thinking of


@dataclass(frozen=True)
class Missing:
    """What would decide a ticket on one measure, were its mean and spread to stay as they are.

    seeds: how many further ones for each network compared; 0 where it is decided, None where seeds
    cannot. at_least: the spread is not known yet, and `seeds` only show it. images: how many test
    images it takes at the least, where seeds cannot; None where those cannot help either. anew: why
    runs that there are have to be repeated, or "".
    """

    seeds: int | None
    at_least: bool = False
    images: int | None = None
    anew: str = ""

    def __str__(self) -> str:
        if self.anew:
            return f"runs to repeat: {self.anew}"
        if self.seeds is not None:
            some = f"{self.seeds} further seed{'' if self.seeds == 1 else 's'}"
            return f"at least {some}" if self.at_least else some
        if self.images is not None:
            return f"more images: at least {self.images:,}"
        return "no number of seeds: the difference is too near to the margin"


def missing(
    difference: Difference,
    margin: float,
    level: float = LEVEL,
    seeds_after: Callable[[int], Sequence[int]] | None = None,
) -> Missing:
    """What would decide a ticket at today's mean and spread; see docs/verdict.md.

    seeds_after: how many seeds each set of runs has after so many further ones, the ticket's before
    the dense network's; without it each gets them all.
    """
    sets = [term.seeds for term in difference.seed_terms] or [difference.seeds]
    seeds_after = seeds_after or (lambda further: [seeds + further for seeds in sets])
    if difference.kind == "unlike":
        return Missing(None, anew="the recipe or attack is not the dense network's")
    if difference.images is None:
        return Missing(None, anew="some have no outcomes per image")
    if judge(difference, margin, level) != "undecided":
        return Missing(0)
    if difference.images == 1:
        return Missing(None, images=2)
    if difference.seeds < ENOUGH_TO_START and not difference.seed_terms:
        return Missing(fewest(ENOUGH_TO_START, seeds_after), at_least=True)
    gap = abs(difference.mean + margin)

    def decides(further: int) -> bool:
        half = with_seeds(difference, seeds_after(further)).half_width(level)
        return half is not None and half <= gap - ROUNDING

    further = bisect.bisect_left(range(MOST + 1), True, key=decides)
    if further <= MOST:
        return Missing(further)
    images = _images_needed(difference, difference.images, gap, level)
    return Missing(None, images=images if images > difference.images else None)


def fewest(wanted: int, seeds_after: Callable[[int], Sequence[int]]) -> int:
    """The fewest further seeds after which no set of runs has less than those `wanted`."""
    return bisect.bisect_left(range(2 * wanted), wanted, key=lambda k: min(seeds_after(k)))


def with_seeds(difference: Difference, counts: Sequence[int]) -> Difference:
    """The same difference with so many seeds in each set of runs, at today's spread of one run."""
    least = min(counts)
    each = counts if len(difference.seed_terms) > 1 else [least]  # of pairs, one of each
    terms = tuple(
        term._replace(variance=term.variance * term.seeds / count, seeds=count)
        for term, count in zip(difference.seed_terms, each, strict=False)
    )
    residual = difference.residual_variance * difference.seeds / least
    return dataclasses.replace(
        difference, seed_terms=terms, seeds=least, residual_variance=residual
    )


def _images_needed(difference: Difference, images: int, gap: float, level: float) -> int:
    """How many images would decide it in place of those `images`, were the seeds without number."""
    if gap <= ROUNDING:
        return 0
    tail = (1 - level) / 2
    z = NormalDist().inv_cdf(1 - tail)
    by_spread = difference.image_variance * images * (z / gap) ** 2
    unseen = math.log(tail) / math.log1p(-gap / 100) if gap < 100 else 1
    return math.ceil(max(by_spread, unseen))
