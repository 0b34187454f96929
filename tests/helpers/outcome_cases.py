"""Hand-made outcomes beside the hand-made runs of `report_cases`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from files import names
from files.outcomes import BoolArray, Outcomes, save_outcomes
from helpers.report_cases import result

SPLIT = "5" * 64


def right(images: int, correct: int, shift: int = 0) -> BoolArray:
    """Bits of which the first `correct` are set, moved round by `shift` images."""
    return np.roll(np.arange(images) < correct, shift)


def write_tested(
    folder: Path, clean: BoolArray, robust: BoolArray | None = None, split: str = SPLIT,
    attack: str = "PGD-20, eps 8/255", **changes: Any,
) -> Path:  # fmt: skip
    """Write a run's `results.json` and its outcomes: an AT run where `robust` is given."""
    accuracy = {"sa": 100 * clean.mean().item(), "ra": None}
    bits: dict[tuple[str, str], BoolArray] = {("sa_best", "clean"): clean}
    attacks: Mapping[str, str] = {}
    if robust is not None:
        accuracy["ra"] = 100 * robust.mean().item()
        bits = {("ra_best", "clean"): clean, ("ra_best", "pgd"): robust}
        attacks = {"pgd": attack}
    mode = "std" if robust is None else "adv"
    data = result(
        **{"mode": mode, "test_split": split, "init_sha256": "1" * 64, **changes},
        **({"sa_best": accuracy} if robust is None else {"ra_best": accuracy}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names.RESULTS).write_text(json.dumps(data))
    run = {key: data[key] for key in ("mode", "ticket_sha256", "init_sha256") if data[key]}
    tested = Outcomes(split, len(clean), data["seed"], attacks, bits, run)
    save_outcomes(folder / names.OUTCOMES, tested)
    return folder / names.RESULTS
