"""Finding the transfer runs below a folder: their results, and their accuracy by epoch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from errors import InputError
from files import names
from files.metrics import read_metrics
from files.results import RunResult, read_results
from files.study_record import files_below


def natural_order(text: object) -> list[tuple[int, int, str]]:
    """Sort key under which 'state 10' comes after 'state 9'."""
    parts = re.split(r"(\d+)", str(text))
    return [
        (0, len(digits := part.lstrip("0")), digits) if part.isdecimal() else (1, 0, part)
        for part in parts
    ]


def read_runs(runs_dir: str | Path) -> tuple[list[RunResult], list[str]]:
    """Read every `results.json` below `runs_dir`: the usable ones, and a line for each other one.

    A folder that cannot be read has a line too.

    Raises InputError when there is no such folder or nothing usable in it.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; give the folder that holds the runs")
    results = []
    paths, problems = files_below(root, names.RESULTS)
    for path in sorted(paths, key=natural_order):
        try:
            results.append(read_results(path))
        except ValueError as error:
            problems.append(f"{path} is left out: {error}")
    if not results:
        file = names.RESULTS
        found = f"none of the {len(paths)} {file} is usable" if paths else f"no {file}"
        first = f" ({problems[0]})" if problems else "; a finished transfer run writes one"
        raise InputError(f"{root}: {found}{first}")
    return results, problems


# --- curves -------------------------------------------------------------------------------------


class Point(NamedTuple):
    """One evaluated epoch: wall-clock seconds since the run began, those of evaluations included.

    sa, ra: on the validation set, in percent.
    """

    epoch: int
    seconds: float | None
    sa: float | None
    ra: float | None


def read_curve(run: RunResult) -> list[Point]:
    """Read the validation accuracy of a run by epoch from the `metrics.jsonl` beside its results.

    The curve is empty without a file that can be read.
    """
    try:
        epochs = read_metrics(run.path.with_name(names.METRICS))
    except OSError:
        return []
    points = [Point(e["epoch"], e.get("seconds"), e.get("val_sa"), e.get("val_ra")) for e in epochs]
    return [point for point in points if point.sa is not None or point.ra is not None]
