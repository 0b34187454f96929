"""What a group's study planned, and fixed, before there were results."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from errors import InputError
from files import names
from files.results import IMP, MODES, TICKETS, Group
from files.study_record import Plan, StudyRecord, latest_of
from report.groups import FOLDER
from report.judged import GroupVerdict


def with_plan(groups: Sequence[GroupVerdict], records: Sequence[StudyRecord]) -> list[GroupVerdict]:
    """Tell each group which states were planned, and whether its seeds were, by its own study.

    Where that is not recorded, a state that any group of the same data has counts as planned.
    """
    known: dict[tuple[str, float], dict[str, set[int]]] = {}  # states by kind of ticket
    for group in groups:
        of_place = known.setdefault(group.group.place, {kind: set() for kind in TICKETS})
        for row in group.rows:
            of_place[row.ticket] |= {row.state} if row.state is not None else set()
    return [_with_plan(group, records, known[group.group.place]) for group in groups]


def _with_plan(
    group: GroupVerdict, records: Sequence[StudyRecord], known: Mapping[str, Iterable[int]]
) -> GroupVerdict:
    study = next((record for record in records if _is_of(group, record)), None)
    latest = study.latest(group.group) if study else ()
    awaited = {kind: _states(latest, kind) if study else frozenset(known[kind]) for kind in TICKETS}
    if any(plan.tickets is None for plan in latest):  # an earlier version's: baselines are unknown
        awaited = {IMP: awaited[IMP]}
    plans = study.beforehand(group.group) if study else ()
    if not plans:
        planned, seeds = frozenset(known[IMP]), None
    else:
        planned = _states(plans, IMP)
        seeds = frozenset(seed for plan in plans for seed in plan.seeds)
    return dataclasses.replace(group, planned=planned, seeds=seeds, study=study, awaited=awaited)


def _states(plans: Iterable[Plan], kind: str) -> frozenset[int]:
    """The states of a kind of ticket that plans name; 0 is the dense network, no ticket."""
    return frozenset(state for plan in plans if plan.has(kind) for state in plan.states)


def never_run(groups: Iterable[GroupVerdict], records: Iterable[StudyRecord]) -> list[str]:
    """Name the groups that studies plan and of which there is no run, a line each.

    Runs count wherever they lie, but for those of class folders: another study's are of other data.
    """
    groups = list(groups)
    lines = []
    for record in records:
        there = {
            _key(group.group.pretraining, group.group.dataset, group.group.data_number)
            for group in groups
            if group.group.dataset != FOLDER or _is_of(group, record)
        }
        lines += [
            f"{Group(*key)}: planned in {record.folder}, and no run of it counts: nothing has run, "
            "or it repeats another folder's"
            for plan in latest_of(record.plans)
            for key in itertools.product(plan.pretrainings, plan.datasets, plan.data_numbers)
            if _key(*key) not in there and any(plan.runs(key[1], mode) for mode in MODES)
        ]
    return list(dict.fromkeys(lines))


def _key(pretraining: str, dataset: str, share: float) -> tuple[str, str, str]:
    return pretraining, dataset, f"{share:g}"


def fixed_margins(
    groups: Sequence[GroupVerdict], records: Sequence[StudyRecord]
) -> list[float | None]:
    """The margin of the evidence that each group's study has fixed, in points; None without any.

    Raises InputError where a group has runs in the folders of studies that fix different ones.
    """
    margins: list[float | None] = []
    for group in groups:
        fixed = {
            record.folder: margin
            for record in records
            if _is_of(group, record) and (margin := record.margin(group.group)) is not None
        }
        if len(set(fixed.values())) > 1:
            several = "; ".join(f"{folder}: {margin:g}" for folder, margin in fixed.items())
            raise InputError(
                f"{group.group}: its studies fix different margins ({several}): give "
                "--evidence_margin"
            )
        margins.append(next(iter(fixed.values()), None))
    return margins


def overridden_margins(groups: Sequence[GroupVerdict], given: float) -> list[str]:
    """Say which margins that studies have fixed give way to one that is given, a line for each."""
    having: dict[tuple[Path, float], list[GroupVerdict]] = {}
    for group in groups:
        fixed = group.study.margin(group.group) if group.study else None
        if group.study and fixed is not None and fixed != given:
            having.setdefault((group.study.folder, fixed), []).append(group)
    return [
        f"{folder / names.STUDY}: {_first(several)}: evidence_margin was fixed to {fixed:g} before "
        f"there were results; the {given:g} of --evidence_margin counts"
        for (folder, fixed), several in having.items()
    ]


def changed_margins(groups: Sequence[GroupVerdict]) -> list[str]:
    """Say which studies changed their margin after a look, a line for each way."""
    having: dict[tuple[Path, str], list[GroupVerdict]] = {}
    for group in groups:
        change = group.study.changed_margin(group.group) if group.study else None
        if group.study and change:
            having.setdefault((group.study.folder, change), []).append(group)
    return [
        f"{folder / names.STUDY}: {_first(several)}: {change}"
        for (folder, change), several in having.items()
    ]


def _first(groups: Sequence[GroupVerdict]) -> str:
    """The first of several groups, and how many there are beside it."""
    first, *others = groups
    return f"{first.group}{f' and {len(others)} more' if others else ''}"


def _is_of(group: GroupVerdict, record: StudyRecord) -> bool:
    """Whether a study planned the group and runs of it lie in the study's folder."""
    inside = any(record.folder in run.path.parents for row in group.all_rows for run in row.runs)
    return inside and bool(record.of(group.group))
