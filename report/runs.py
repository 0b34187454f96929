"""Reading what transfer runs wrote: `results.json` and `metrics.jsonl` below a folder."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from errors import InputError

TICKETS = ("imp", "omp", "random", "reinit")
REGIMES = {"std": "ST", "adv": "AT"}


class Accuracy(NamedTuple):
    """Percent on the test set; None where it was not measured."""

    sa: float | None
    ra: float | None


class Group(NamedTuple):
    """What one verdict is about."""

    pretraining: str
    dataset: str
    data_number: float

    def __str__(self) -> str:
        return f"{self.pretraining}, {self.dataset}, {100 * self.data_number:g} % of the data"


@dataclass(frozen=True)
class RunResult:
    """One `results.json`; `ticket` is 'dense' at density 1, whatever the file says."""

    path: Path
    group: Group
    ticket: str
    state: int | None
    density: float
    mode: str
    seed: int
    arch: str
    ticket_sha256: str | None
    sa_best: Accuracy
    ra_best: Accuracy
    last: Accuracy
    command: str | None = None
    warnings: tuple[str, ...] = ()


def natural(text: object) -> list[tuple[int, int, str]]:
    """Sort key under which 'state 10' comes after 'state 9'."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", str(text))]


def read_runs(runs_dir: str | Path) -> tuple[list[RunResult], list[str]]:
    """Read every `results.json` below `runs_dir`: the usable ones, and a line for each other one.

    Raises InputError when there is no such folder or nothing usable in it.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the runs")
    results, problems = [], []
    paths = sorted(root.rglob("results.json"), key=natural)
    for path in paths:
        try:
            results.append(parse_result(json.loads(path.read_text(encoding="utf-8")), path))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path} is left out: {' '.join(str(error).split())}")
    if not results:
        found = f"none of the {len(paths)} results.json is usable" if paths else "no results.json"
        first = f" ({problems[0]})" if problems else "; a finished transfer run writes one"
        raise InputError(f"{root}: {found}{first}")
    return results, problems


def parse_result(data: Any, path: Path) -> RunResult:
    """One run from the contents of its `results.json`; raises ValueError where they are wrong."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object of results, found {type(data).__name__}")
    keys = "pretraining ticket state density ticket_sha256 dataset mode data_number seed arch"
    absent = [key for key in [*keys.split(), "sa_best", "ra_best", "last"] if key not in data]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")
    density = _number(data, "density", 1.0)
    fraction = _number(data, "data_number", 1.0)
    if density <= 0 or fraction <= 0:
        raise ValueError("density and data_number must be above 0")
    dense = density > 1 - 1e-9
    if not dense and data["ticket"] not in TICKETS:
        raise ValueError(f"ticket is {data['ticket']!r}, not one of {', '.join(TICKETS)}")
    if data["mode"] not in ("adv", "std"):
        raise ValueError(f"mode is {data['mode']!r}, not adv or std")
    sa_best = _accuracy(data, "sa_best")
    if sa_best.sa is None:
        raise ValueError("sa_best.sa is null")
    return RunResult(
        path=path,
        group=Group(_text(data, "pretraining"), _text(data, "dataset"), fraction),
        ticket="dense" if dense else data["ticket"],
        state=0 if dense else _whole(data, "state", optional=True),
        density=1.0 if dense else density,
        mode=data["mode"],
        seed=_whole(data, "seed") or 0,
        arch=_text(data, "arch"),
        ticket_sha256=None if data["ticket_sha256"] is None else _text(data, "ticket_sha256"),
        sa_best=sa_best,
        ra_best=_accuracy(data, "ra_best"),
        last=_accuracy(data, "last"),
        command=_command(data.get("command")),
        warnings=_masking_warnings(data.get("masking_checks")),
    )


def _masking_warnings(checks: Any) -> tuple[str, ...]:
    """A line for every gradient-masking check of `--check_masking` that failed."""
    return tuple(
        f"gradients may be masked: {check.get('name')} failed ({check.get('detail')})"
        for check in (checks if isinstance(checks, list) else ())
        if isinstance(check, dict) and check.get("passed") is False
    )


def _number(data: dict[str, Any], key: str, most: float) -> float:
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{key} is {value!r}, not a number from 0 to {most:g}")
    return float(value)


def _accuracy(data: dict[str, Any], key: str) -> Accuracy:
    pair = data[key]
    if pair is None:
        return Accuracy(None, None)
    if not isinstance(pair, dict) or not {"sa", "ra"} <= pair.keys():
        raise ValueError(f"{key} is {pair!r}, not {{sa, ra}}")
    values = {f"{key}.{name}": pair[name] for name in ("sa", "ra")}
    return Accuracy(*(None if values[k] is None else _number(values, k, 100.0) for k in values))


def _whole(data: dict[str, Any], key: str, optional: bool = False) -> int | None:
    value = data[key]
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is {value!r}, not a whole number from 0")
    return value


def _text(data: dict[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{key} is {value!r}, not a printable name")
    return value


def _command(value: Any) -> str | None:
    """What to type to repeat a run; None where the run did not record it."""
    if isinstance(value, list) and value:
        return shlex.join(map(str, value))
    return value if isinstance(value, str) and value.strip() else None


# --- curves -------------------------------------------------------------------------------------


class Point(NamedTuple):
    """One evaluated epoch: seconds since the start, test accuracies in percent."""

    epoch: float
    seconds: float | None
    sa: float | None
    ra: float | None


def read_curve(run: RunResult) -> list[Point]:
    """The test accuracy of a run by epoch, from the `metrics.jsonl` beside its results.

    Validation accuracy stands in where the run never measured the test set. Empty without a file;
    lines that cannot be read (a run cut off in mid-write) are left out.
    """
    rows: dict[float, dict[str, float]] = {}
    try:
        lines = (run.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            numbers = {key: float(v) for key, v in row.items() if _is_number(v)}
            if "epoch" in numbers:  # a resumed run may repeat an epoch: the later line stands
                rows[numbers["epoch"]] = numbers
    names = {}
    for key in ("sa", "ra"):
        tested = any(f"test_{key}" in row for row in rows.values())
        names[key] = f"test_{key}" if tested else f"val_{key}"
    points = [
        Point(epoch, row.get("seconds"), row.get(names["sa"]), row.get(names["ra"]))
        for epoch, row in sorted(rows.items())
    ]
    return [point for point in points if point.sa is not None or point.ra is not None]


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e15  # neither NaN nor infinite
