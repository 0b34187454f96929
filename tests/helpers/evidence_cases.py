"""Made-up networks whose true accuracies are known, to count how often an interval is right.

An image is classified correctly where a Gaussian latent is above 0. Its parts: how hard the image
is, alike for all networks (SHARED); how hard it is for one network, alike for its seeds (OWN); what
a single run makes of it (the rest); and a shift of each run, alike for all images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri, owens_t, stdtrit

SHARED, OWN = 0.75, 0.05
REST = 1 - SHARED - OWN


@dataclass(frozen=True)
class Network:
    """accuracy: percent over all images and seeds. shift: std of a run's shift of the latent."""

    accuracy: float
    shift: float

    @property
    def height(self) -> float:
        """The latent's mean."""
        return float(math.sqrt(1 + self.shift**2) * ndtri(self.accuracy / 100))

    @property
    def residual_variance(self) -> float:
        """Of one run on one image beyond the image's own mean, in points squared."""
        # P(right in one run, wrong in another) = 2 T(h, sqrt((1 - r) / (1 + r))), r = SHARED + OWN
        half = owens_t(ndtri(self.accuracy / 100), math.sqrt(REST / (2 - REST)))
        return 1e4 * 2 * float(half)

    @property
    def seed_std(self) -> float:
        """Of a run's accuracy over all images, in points."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        values = 100 * ndtr(self.height + self.shift * nodes)
        spread = np.average(values**2, weights=weights) - np.average(values, weights=weights) ** 2
        return math.sqrt(max(0.0, float(spread)))

    def std_of_a_test(self, images: int) -> float:
        """Of a run's accuracy on the same test images, over seeds: the paper's tolerance."""
        return math.sqrt(self.seed_std**2 + self.residual_variance / images)


def network(accuracy: float, images: int, ratio: float) -> Network:
    """A network whose seed variance is `ratio` times its residual one, on that many images."""
    flat = Network(accuracy, 0.0)
    wanted = math.sqrt(ratio * flat.residual_variance / images)
    density = 100 * math.exp(-(flat.height**2) / 2) / math.sqrt(2 * math.pi)
    first = replace(flat, shift=wanted / density)
    return replace(flat, shift=first.shift * wanted / first.seed_std) if ratio else flat


def draw(
    rng: np.random.Generator, networks: Sequence[Network], seeds: int, images: int
) -> list[dict[int, np.ndarray]]:
    """One sample of images and of seeds: `{seed: (images,) bool}` of each network."""
    shared = math.sqrt(SHARED) * rng.standard_normal(images, dtype=np.float32)
    drawn = []
    for one in networks:
        own = math.sqrt(OWN) * rng.standard_normal(images, dtype=np.float32) + shared
        level = own + np.float32(one.height)
        shifts = one.shift * rng.standard_normal((seeds, 1), dtype=np.float32)
        rest = rng.standard_normal((seeds, images), dtype=np.float32)
        rest *= np.float32(math.sqrt(REST))
        rest += shifts
        drawn.append(dict(enumerate(rest > -level)))
    return drawn


def draws(
    count: int, networks: Sequence[Network], seeds: int, images: int, seed: Sequence[int] = ()
) -> Iterator[list[dict[int, np.ndarray]]]:
    """`draw` again and again; other numbers in `seed`, or other images, give other samples."""
    rng = np.random.default_rng([images, *seed])
    for _ in range(count):
        yield draw(rng, networks, seeds, images)


def first(runs: dict[int, np.ndarray], seeds: int) -> dict[int, np.ndarray]:
    return {seed: runs[seed] for seed in range(seeds)}


def satterthwaite_interval(
    dense: dict[int, np.ndarray], ticket: dict[int, np.ndarray]
) -> tuple[float, float]:
    """The usual interval for crossed random effects, to compare with: report.evidence's is wider.

    V = max(A + B - E, A, B), Student's t with Satterthwaite's degrees of freedom, at least S - 1.
    """
    change = 100.0 * (np.stack([ticket[s] for s in ticket]) * 1.0 - np.stack(list(dense.values())))
    seeds, images = change.shape
    rows, columns, mean = change.mean(1, keepdims=True), change.mean(0), change.mean()
    by_images, by_seeds = columns.var(ddof=1) / images, rows.var(ddof=1) / seeds
    square = float(np.sum((change - rows - columns + mean) ** 2))
    residual = square / ((seeds - 1) * (images - 1)) / change.size
    half = satterthwaite_half_width(by_images, by_seeds, residual, images, seeds)
    return mean - half, mean + half


def satterthwaite_half_width(
    by_images: float, by_seeds: float, residual: float, images: int, seeds: int
) -> float:
    """From A, B and E."""
    both = by_images + by_seeds - residual
    variance = max(both, by_images, by_seeds)
    if variance == both:
        parts = (by_images**2 / (images - 1), by_seeds**2 / (seeds - 1))
        df = both**2 / sum((*parts, residual**2 / ((seeds - 1) * (images - 1))))
    else:
        df = images - 1 if variance == by_images else seeds - 1
    return float(-stdtrit(max(df, seeds - 1), 0.025)) * math.sqrt(variance)
