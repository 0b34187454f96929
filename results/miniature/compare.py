"""Compare the outcomes of two tests: python results/miniature/compare.py RECORDED AGAIN

Exit status 1 where the images differ, fewer than 99.9 % of the clean outcomes are equal, or RA
differs by more than 0.5 points.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from files.outcomes import CLEAN, PGD, read_outcomes


def main(recorded: str, again: str) -> int:
    before, after = read_outcomes(recorded), read_outcomes(again)
    if before.split != after.split:
        print("  other images than those of the record")
        return 1
    networks = {network for network, _ in before.bits} & {network for network, _ in after.bits}
    (network,) = networks or {"ra_best"}
    clean = before.bits[network, CLEAN] == after.bits[network, CLEAN]
    pgd = before.bits[network, PGD] == after.bits[network, PGD]
    ra = after.bits[network, PGD].mean() - before.bits[network, PGD].mean()
    print(f"  equal outcomes: {clean.mean():.4%} clean, {pgd.mean():.4%} under PGD;")
    print(f"  RA {100 * after.bits[network, PGD].mean():.3f} %, {100 * ra:+.3f} points")
    return int(clean.mean() < 0.999 or abs(ra) > 0.005)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
