"""`study.json`, in which a study says what was planned, before it has any result.

The report reads it: evidence that is looked at twice, with seeds added in between, errs more often.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from files import names
from files.atomic import write_json


@dataclass(frozen=True)
class Plan:
    """What a study's file asked for at one time: the states of tickets, and the seeds."""

    states: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class StudyRecord:
    """A study's TOML file, and what it asked for: its first plan, then each that differs.

    Without a plan it is unknown what was fixed beforehand: results were there already.
    """

    config: str
    plans: tuple[Plan, ...]


def record_plan(out: Path, config: Path, states: Sequence[int], seeds: Sequence[int]) -> None:
    """Add what a study asks for to the record in its folder, unless that says so already.

    Raises RunFailed or OSError where it cannot be written.
    """
    try:
        before = read_study_record(out)
    except InputError:  # damaged: what was planned first is not known any more
        before = StudyRecord("", ())
    plan = Plan(tuple(s for s in states if s), tuple(seeds))
    plans: tuple[Plan, ...]
    if before is None:
        plans = () if any(out.rglob(names.RESULTS)) else (plan,)
    elif before.plans and before.plans[-1] != plan:
        plans = (*before.plans, plan)
    else:
        plans = before.plans
    record = StudyRecord(str(config.resolve()), plans)
    if record != before:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / names.STUDY, asdict(record))


def read_study_record(out: Path) -> StudyRecord | None:
    """Read the record in a study's folder; None without one, InputError for a damaged one."""
    path = out / names.STUDY
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        plans = tuple(Plan(_whole(p["states"]), _whole(p["seeds"])) for p in data["plans"])
        return StudyRecord(str(data["config"]), plans)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged; what was planned beforehand is unknown") from error


def _whole(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{values!r} are no whole numbers")
    return tuple(values)
