"""How sure a verdict is: a ticket's difference to the dense network, and its interval.

Differences are in percentage points, ticket minus dense. Test images and seeds are crossed random
effects: another sample of either would have given other figures. docs/verdict.md derives the
formulas, names their sources, and shows by simulation how often the intervals are right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

BoolArray = NDArray[np.bool_]
Kind = Literal["paired", "unpaired", "images only", "seeds only", "unlike", "none"]
Evidence = Literal["matches", "worse", "undecided"]
T = TypeVar("T")

LEVEL = 0.95  # of the two-sided intervals
ROUNDING = 1e-9  # points: a tie must stay a tie whatever the rounding of the means


class SeedTerm(NamedTuple):
    """How the mean of one set of runs varies with its seeds: points squared, number of seeds."""

    variance: float
    seeds: int


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies in points, and what is known of its spread.

    kind: "paired" (seeds and images), "unpaired" (the sides' seeds differ; images paired), "images
    only" (one seed on a side: how other seeds would do is unknown), "seeds only" (no outcomes per
    image: how other images would do is unknown), "unlike" (the two sides were trained or tested
    differently, so the difference is not the ticket's alone), or "none". seeds: the fewest of any
    set of runs in it. image_variance, residual_variance: the parts of the mean's variance over
    images that more seeds would not reduce, and that they would. most: how far from 0 the mean can
    be.
    """

    mean: float
    seeds: int
    images: int | None
    kind: Kind
    image_variance: float = 0.0
    seed_terms: tuple[SeedTerm, ...] = ()
    residual_variance: float = 0.0
    most: float = 100.0

    @property
    def conclusive(self) -> bool:
        """Whether the interval is about other seeds and other images, so that it may decide."""
        return self.kind in ("paired", "unpaired")

    @property
    def low(self) -> float | None:
        return self.interval()[0]

    @property
    def high(self) -> float | None:
        return self.interval()[1]

    def interval(self, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
        """The two-sided interval in points; (None, None) where nothing is known of the spread."""
        half = self.half_width(level)
        if half is None:
            return None, None
        return max(-self.most, self.mean - half), min(self.most, self.mean + half)

    def half_width(self, level: float = LEVEL) -> float | None:
        """Half the interval's width in points, of Cochran and Cox's form; None if unknown."""
        if self.kind in ("unlike", "none"):
            return None
        tail = (1 - level) / 2
        seeds = sum(term.variance for term in self.seed_terms)
        of_seeds = _quantile(tail, _welch(self.seed_terms))
        if self.images is None:
            return math.sqrt(seeds) * of_seeds
        of_images = _quantile(tail, self.images - 1)
        weighted = seeds * of_seeds + self.image_variance * of_images
        variance = self.image_variance + seeds
        half = weighted / math.sqrt(variance) if variance > 0 else 0.0
        # Never narrower than for these very runs, nor than if no image at all had differed.
        alone = of_images * math.sqrt(self.image_variance + self.residual_variance)
        return max(half, alone, 100 * (1 - tail ** (1 / self.images)))


def _quantile(tail: float, df: float) -> float:
    """The value that Student's t exceeds with probability `tail`."""
    return -float(stdtrit(df, tail))


def _welch(terms: Sequence[SeedTerm]) -> float:
    """Welch's degrees of freedom of a sum of variances, never below those of its smallest part.

    Where a part has just one, which Welch's approximation does not bear, there is one in all.
    """
    total = sum(term.variance for term in terms)
    fewest = min((term.seeds - 1 for term in terms), default=1)
    if total <= 0 or fewest == 1:
        return fewest
    shares = sum((term.variance / total) ** 2 / (term.seeds - 1) for term in terms)
    return 1 / shares


# --- from outcomes per image ----------------------------------------------------------------------


@dataclass(frozen=True)
class Compared(Generic[T]):
    """A dense network and a ticket from it, each `{seed: outcomes or accuracy}`."""

    dense: Mapping[int, T]
    ticket: Mapping[int, T]

    @property
    def arms(self) -> tuple[Mapping[int, T], Mapping[int, T]]:
        return self.dense, self.ticket

    @property
    def paired(self) -> bool:
        """Whether each run of the one has its partner of the same seed in the other."""
        return self.dense.keys() == self.ticket.keys()


def paired_difference(
    dense: Mapping[int, BoolArray], ticket: Mapping[int, BoolArray]
) -> Difference | None:
    """The ticket's difference to the dense network, from `{seed: (N,) correct or not}` of each.

    The images are paired; the runs too where both have the same seeds. None where either has no
    run. Raises ValueError for outcomes of different lengths, which are not of the same images.
    """
    if not dense or not ticket:
        return None
    return _crossed(_arms(Compared(dense, ticket)), _kind([Compared(dense, ticket)]))


def contrast(a: Compared[BoolArray], b: Compared[BoolArray]) -> Difference | None:
    """(ticket - dense) of one pre-training minus (ticket - dense) of another, on the same images.

    Their runs are different runs, even where the seeds' numbers agree. None where one is missing.
    """
    if not all((*a.arms, *b.arms)):
        return None
    return _contrast(_crossed([*_arms(a), *(-arm for arm in _arms(b))], _kind([a, b])))


def _contrast(found: Difference) -> Difference:
    """A difference of two differences, which may be twice as large as each."""
    return dataclasses.replace(found, most=2 * found.most)


def chance_of_images(runs: Mapping[int, BoolArray]) -> float | None:
    """Half the 95 % interval's width, in points, of these very runs' mean accuracy on other images.

    None without a run, or with one image.
    """
    if not runs:
        return None
    means = _matrix(runs).mean(axis=0, keepdims=True)
    return _crossed([means], "images only").half_width()


def _arms(compared: Compared[BoolArray]) -> list[NDArray[np.float64]]:
    """Independent sets of runs, each (seeds, images) in points, whose means add up to the mean."""
    dense, ticket = (_matrix(runs) for runs in compared.arms)
    _check_images(dense, ticket)
    return [ticket - dense] if compared.paired else [ticket, -dense]


def _matrix(runs: Mapping[int, BoolArray]) -> NDArray[np.float64]:
    rows = [np.asarray(runs[seed], bool) for seed in sorted(runs)]
    if any(row.shape != rows[0].shape or row.ndim != 1 for row in rows):
        raise ValueError(f"outcomes of different images: {[row.shape for row in rows]}")
    return 100.0 * np.stack(rows)


def _check_images(*arms: NDArray[np.float64]) -> None:
    counts = sorted({arm.shape[1] for arm in arms})
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"outcomes of different images: {' and '.join(map(str, counts))} of them")


def _kind(sides: Sequence[Compared[T]]) -> Kind:
    return "paired" if all(side.paired for side in sides) else "unpaired"


def _crossed(arms: Sequence[NDArray[np.float64]], kind: Kind) -> Difference:
    """The mean of the arms' sum and the terms of its variance: A - E of images, B of seeds."""
    _check_images(*arms)
    count, seeds = arms[0].shape[1], min(len(arm) for arm in arms)
    image_means = sum(arm.mean(axis=0) for arm in arms)
    mean = sum(float(arm.mean()) for arm in arms)  # of whole numbers: exact
    if count == 1:  # no spread to be seen
        return Difference(mean, seeds, count, "none")
    by_images = float(np.var(image_means, ddof=1)) / count  # A
    if seeds == 1:
        return Difference(mean, seeds, count, "images only", by_images)
    by_seeds = tuple(
        SeedTerm(float(np.var(arm.mean(axis=1), ddof=1)) / len(arm), len(arm)) for arm in arms
    )  # B, by arm
    residual = sum(_residual_mean_square(arm) / arm.size for arm in arms)  # E
    lasting = max(0.0, by_images - residual)
    return Difference(mean, seeds, count, kind, lasting, by_seeds, by_images - lasting)


def _residual_mean_square(arm: NDArray[np.float64]) -> float:
    """What neither the image nor the seed explains, per degree of freedom."""
    seeds, images = arm.shape
    residual = arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean()
    return float(np.sum(residual**2)) / ((seeds - 1) * (images - 1))


# --- from accuracies ------------------------------------------------------------------------------


def difference_of_accuracies(
    dense: Mapping[int, float], ticket: Mapping[int, float]
) -> Difference | None:
    """The ticket's difference from `{seed: percent}` of each: an interval from seeds alone.

    Paired where both have the same seeds. Without an interval (kind "none") where a side has one
    seed or nothing varies; None where either has no run.
    """
    if not dense or not ticket:
        return None
    return _from_seeds(_accuracy_arms(Compared(dense, ticket)))


def contrast_of_accuracies(a: Compared[float], b: Compared[float]) -> Difference | None:
    """`contrast` from `{seed: percent}`: an interval from seeds alone."""
    if not all((*a.arms, *b.arms)):
        return None
    return _contrast(_from_seeds([*_accuracy_arms(a), *(-arm for arm in _accuracy_arms(b))]))


def _accuracy_arms(compared: Compared[float]) -> list[NDArray[np.float64]]:
    dense, ticket = (np.array([runs[seed] for seed in sorted(runs)]) for runs in compared.arms)
    return [ticket - dense] if compared.paired else [ticket, -dense]


def _from_seeds(arms: Sequence[NDArray[np.float64]]) -> Difference:
    mean, seeds = float(sum(arm.mean() for arm in arms)), min(len(arm) for arm in arms)
    if seeds == 1 or all(np.ptp(arm) < ROUNDING for arm in arms):
        return Difference(mean, seeds, None, "none")
    terms = tuple(SeedTerm(float(np.var(arm, ddof=1)) / len(arm), len(arm)) for arm in arms)
    return Difference(mean, seeds, None, "seeds only", 0.0, terms)


# --- what may be said -----------------------------------------------------------------------------


def judge(difference: Difference | None, margin: float | None, level: float = LEVEL) -> Evidence:
    """Whether a ticket matches, lacking at most `margin` points, or is worse by more than that.

    Undecided where seeds or images are not known of, and where nothing was measured.
    """
    if difference is None or margin is None or not difference.conclusive:
        return "undecided"
    low, high = difference.interval(level)
    assert low is not None
    assert high is not None
    if low >= -margin - ROUNDING:
        return "matches"
    return "worse" if high < -margin - ROUNDING else "undecided"


def double_win_evidence(
    differences: Mapping[str, Difference | None], margins: Mapping[str, float | None]
) -> bool | None:
    """Whether a ticket is a double win on all of the measures that `margins` names.

    True where it matches on each (an intersection-union test needs no correction); False where it
    is worse on one by Bonferroni's correction for their number; None otherwise.
    """
    measures = [(differences.get(name), margin) for name, margin in margins.items()]
    if measures and all(judge(*measure) == "matches" for measure in measures):
        return True
    if any(judge(*measure, corrected(len(measures))) == "worse" for measure in measures):
        return False
    return None


def corrected(measures: int) -> float:
    """The level at which a ticket is worse on one of so many measures (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, measures)


def sparsest_with_evidence(chain: Sequence[tuple[T, bool | None]]) -> T | None:
    """The last ticket of the unbroken chain of double wins.

    `chain` holds the tickets that were planned beforehand, the densest first, each with its
    `double_win_evidence`; a fixed-sequence test. One that is open, or has not run, breaks it.
    """
    found = None
    for ticket, evidence in chain:
        if evidence is not True:
            break
        found = ticket
    return found
