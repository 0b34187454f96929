"""Finding the transfer runs below a folder: their results, and their accuracy by epoch."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from errors import InputError
from files import names
from files.results import RunResult, read_results
from files.study_record import files_below


def natural_order(text: object) -> list[tuple[int, int, str]]:
    """Sort key under which 'state 10' comes after 'state 9'."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", str(text))]


def collect(runs_dir: str | Path) -> list[RunResult]:
    """Read every usable `results.json` below `runs_dir`, and warn of each other one in a line.

    Raises InputError when nothing is usable.
    """
    results, problems = read_runs(runs_dir)
    for line in problems:
        print(f"warning: {line}", file=sys.stderr)
    return results


def read_runs(runs_dir: str | Path) -> tuple[list[RunResult], list[str]]:
    """Read every `results.json` below `runs_dir`: the usable ones, and a line for each other one.

    A folder that cannot be read has a line too.

    Raises InputError when there is no such folder or nothing usable in it.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the runs")
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
    """One evaluated epoch: seconds since the start, test accuracies in percent."""

    epoch: float
    seconds: float | None
    sa: float | None
    ra: float | None


def read_curve(run: RunResult) -> list[Point]:
    """Read the test accuracy of a run by epoch from the `metrics.jsonl` beside its results.

    Validation accuracy stands in where the run never measured the test set. The curve is empty
    without a file; lines that cannot be read (a run cut off in mid-write) are left out.
    """
    rows: dict[float, dict[str, float]] = {}
    try:
        lines = run.path.with_name(names.METRICS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            numbers = {key: float(v) for key, v in row.items() if _is_finite(v)}
            if "epoch" in numbers:  # a resumed run may repeat an epoch: the later line stands
                rows[numbers["epoch"]] = numbers
    keys = {}
    for key in ("sa", "ra"):
        tested = any(f"test_{key}" in row for row in rows.values())
        keys[key] = f"test_{key}" if tested else f"val_{key}"
    points = [
        Point(epoch, row.get("seconds"), row.get(keys["sa"]), row.get(keys["ra"]))
        for epoch, row in sorted(rows.items())
    ]
    return [point for point in points if point.sa is not None or point.ra is not None]


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e15  # NaN and infinity fail this
