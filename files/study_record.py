"""`study.json`, in which a study says what was planned, before it has any result.

The report reads it: evidence that is looked at twice, with seeds added in between, errs more often.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from files import names
from files.atomic import write_json
from files.results import Group, read_results


@dataclass(frozen=True)
class Plan:
    """What a study's file asked for at one time: the states of tickets and the seeds, and where.

    config: the TOML file. evidence_margin: in points, if it fixes one. late: results of the plan's
    own groups were there already, so that it is unknown what was fixed beforehand.
    """

    config: str
    states: tuple[int, ...]
    seeds: tuple[int, ...]
    pretrainings: tuple[str, ...]
    datasets: tuple[str, ...]
    data_numbers: tuple[float, ...]
    evidence_margin: float | None = None
    late: bool = False

    def covers(self, group: Group) -> bool:
        """Whether it plans transfers of this pre-training to this share of this data set."""
        shares = {f"{share:g}" for share in self.data_numbers}  # as the transfers are told them
        return (
            group.pretraining in self.pretrainings
            and group.dataset in self.datasets
            and f"{group.data_number:g}" in shares
        )


@dataclass(frozen=True)
class StudyRecord:
    """What the studies of one folder asked for: the first plan, then each that differs."""

    folder: Path
    plans: tuple[Plan, ...]

    def of(self, group: Group) -> tuple[Plan, ...]:
        """The plans that a group is part of, the first of which was there beforehand."""
        return tuple(plan for plan in self.plans if plan.covers(group))


def record_plan(out: Path, plan: Plan) -> None:
    """Add what a study asks for to the record in its folder, unless that says so already.

    Raises RunFailed or OSError where it cannot be written.
    """
    try:
        before = read_study_record(out)
    except InputError:  # damaged: what was planned first is not known any more
        before = None
    plans = before.plans if before else ()
    latest = {known.config: dataclasses.replace(known, late=False) for known in plans}
    if latest.get(plan.config) == plan:
        return
    plan = dataclasses.replace(plan, late=_has_begun(out, plan, plans))
    out.mkdir(parents=True, exist_ok=True)
    data = [dataclasses.asdict(known) for known in (*plans, plan)]
    write_json(out / names.STUDY, {"plans": data})


def _has_begun(out: Path, plan: Plan, known: Sequence[Plan]) -> bool:
    """Whether there are results of groups that are in this plan first."""
    for path in out.rglob(names.RESULTS):
        try:
            group = read_results(path).group
        except ValueError:  # of no known group
            return True
        if plan.covers(group) and not any(other.covers(group) for other in known):
            return True
    return False


def read_study_record(out: Path) -> StudyRecord | None:
    """Read the record in a study's folder; None without one, InputError for a damaged one."""
    path = out / names.STUDY
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return StudyRecord(out, tuple(map(_plan, data["plans"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged; what was planned beforehand is unknown") from error


def read_study_records(root: Path) -> tuple[list[StudyRecord], list[str]]:
    """Read the records of all studies below a folder: those, and a line for each damaged one."""
    records, problems = [], []
    for path in sorted(root.rglob(names.STUDY)):
        try:
            record = read_study_record(path.parent)
        except InputError as error:
            problems.append(str(error))
        else:
            records += [record] if record else []
    return records, problems


def planned_margin(records: Sequence[StudyRecord]) -> float | None:
    """The margin of the evidence that studies have fixed, in points; None where none has.

    Raises InputError where they have fixed different ones.
    """
    plans = [plan for record in records for plan in record.plans]
    margins = {plan.evidence_margin for plan in plans if plan.evidence_margin is not None}
    if len(margins) > 1:
        several = ", ".join(f"{margin:g}" for margin in sorted(margins))
        raise InputError(f"the studies fix different margins ({several}): give --evidence_margin")
    return margins.pop() if margins else None


def _plan(data: Any) -> Plan:
    kinds: dict[str, Any] = {
        "states": int, "seeds": int, "pretrainings": str, "datasets": str,
        "data_numbers": (int, float),
    }  # fmt: skip
    lists = {key: tuple(_several(data[key], kind)) for key, kind in kinds.items()}
    if not isinstance(data["config"], str) or not isinstance(data["late"], bool):
        raise ValueError(f"{data!r} is no plan")
    margin = data.get("evidence_margin")
    if margin is not None:
        (margin,) = _several([margin], (int, float))
    return Plan(config=data["config"], late=data["late"], evidence_margin=margin, **lists)


def _several(values: Any, kind: Any) -> list[Any]:
    good = isinstance(values, list) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )
    if not good:
        raise ValueError(f"{values!r} is no list of what a plan names")
    found: list[Any] = values
    return found
