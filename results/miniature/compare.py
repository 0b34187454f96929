"""Compare two tests of one network: python results/miniature/compare.py RECORDED AGAIN

Exit status 1 where the images differ, fewer than 99.9 % of the clean outcomes are equal, or RA
differs by more than 0.5 points.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from errors import InputError, run_main
from files.outcomes import CLEAN, PGD, BoolArray, Outcomes, read_outcomes


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise InputError("usage: python results/miniature/compare.py RECORDED AGAIN")
    before, after = (read_outcomes(path) for path in argv)
    if before.split != after.split:
        print("  other images than those of the record")
        return 1
    shared = {network for network, _ in before.bits} & {network for network, _ in after.bits}
    if len(shared) != 1:
        raise InputError(f"{argv[1]}: must be the test of one network of {argv[0]}")
    (network,) = shared
    clean, pgd = (_both(before, after, network, measure) for measure in (CLEAN, PGD))
    other, more = int((clean[0] != clean[1]).sum()), int(pgd[1].sum()) - int(pgd[0].sum())
    equal = [(one == again).mean() for one, again in (clean, pgd)]
    print(f"  equal outcomes: {equal[0]:.4%} clean, {equal[1]:.4%} under PGD;")
    print(f"  RA {100 * pgd[1].mean():.3f} %, {100 * more / before.images:+.4f} points")
    return int(1000 * other > before.images or 200 * abs(more) > before.images)


def _both(before: Outcomes, after: Outcomes, network: str, measure: str) -> list[BoolArray]:
    """What two tests of a network found by one measure; raise InputError unless of all images."""
    both = [of.bits[network, measure] for of in (before, after) if (network, measure) in of.bits]
    if [len(bits) for bits in both] != [before.images] * 2:
        raise InputError(f"{measure} is not there twice, of all {before.images} images")
    return both


if __name__ == "__main__":
    run_main(lambda: sys.exit(main(sys.argv[1:])))
