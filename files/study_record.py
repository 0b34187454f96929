"""`study.json`, in which a study says what was planned, before it has any result.

The report reads it: evidence that is looked at twice, with seeds added in between, errs more often.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import fnmatch
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from files import names
from files.atomic import write_json
from files.results import Group, read_results


def files_below(folder: Path, pattern: str) -> tuple[list[Path], list[str]]:
    """Find what has such a name below a folder, and a line for each folder that cannot be read.

    Links are followed. A folder that is reached by several paths counts once, by its own if it can.
    """
    found, unread, seen, starts = list[Path](), list[str](), set[str](), [folder]

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            unread.append(f"{error.filename} is left out, as it cannot be read: {error.strerror}")

    for start in starts:  # which grow by the links that are met
        for place, folders, files in os.walk(start, onerror=note):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            here = [Path(place, name) for name in folders]
            starts += [path for path in here if path.is_symlink()]
            found += [Path(place, name) for name in fnmatch.filter([*folders, *files], pattern)]
    return sorted(found), unread


@dataclass(frozen=True)
class Plan:
    """What a study's file asked for at one time: the states of tickets and the seeds, and where.

    config: the TOML file, by its latest name. evidence_margin: in points, if it fixes one. regimes:
    (data set, mode) of what is run. tickets: their kinds. Either is None where an earlier version
    did not record it.
    late: results of groups that are in this plan first were there already, so that it is unknown
    what was fixed beforehand. begun: results of any of its groups were.
    """

    config: str
    states: tuple[int, ...]
    seeds: tuple[int, ...]
    pretrainings: tuple[str, ...]
    datasets: tuple[str, ...]
    data_numbers: tuple[float, ...]
    evidence_margin: float | None = None
    regimes: tuple[tuple[str, str], ...] | None = None
    tickets: tuple[str, ...] | None = None
    late: bool = False
    begun: bool = False

    def covers(self, group: Group) -> bool:
        """Whether it plans transfers of this pre-training to this share of this data set."""
        shares = {f"{share:g}" for share in self.data_numbers}  # as the transfers are told them
        return (
            group.pretraining in self.pretrainings
            and group.dataset in self.datasets
            and f"{group.data_number:g}" in shares
        )

    def overlaps(self, other: Plan) -> bool:
        """Whether both plan transfers of some pre-training to some share of some data set."""
        groups = itertools.product(self.pretrainings, self.datasets, self.data_numbers)
        return any(other.covers(Group(*group)) for group in groups)

    def runs(self, dataset: str, mode: str) -> bool:
        """Whether it plans transfers to this data set under this regime, as far as is known."""
        return self.regimes is None or (dataset, mode) in self.regimes

    def has(self, ticket: str) -> bool:
        """Whether it plans transfers of this kind of ticket, as far as is known."""
        return self.tickets is None or ticket in self.tickets


@dataclass(frozen=True)
class StudyRecord:
    """What the studies of one folder asked for: the first plan, then each that differs."""

    folder: Path
    plans: tuple[Plan, ...]

    def of(self, group: Group) -> tuple[Plan, ...]:
        """The plans that a group is part of, in the order of their times."""
        return tuple(plan for plan in self.plans if plan.covers(group))

    def beforehand(self, group: Group) -> tuple[Plan, ...]:
        """What was fixed for a group before its first results: the last plan of each file by then.

        None, where the first was recorded when there were results already.
        """
        first, *later = self.of(group)
        by_then = [plan for plan in later if not plan.begun]
        by_then = by_then if first.late else [first, *by_then]
        return latest_of(by_then)

    def latest(self, group: Group) -> tuple[Plan, ...]:
        """What is planned for a group by now: the last plan of each file that has it."""
        return latest_of(self.of(group))

    def margin(self, group: Group) -> float | None:
        """The margin of the evidence, in points, that was fixed beforehand; None without any."""
        return _margin(self.beforehand(group))

    def changed_margin(self, group: Group) -> str | None:
        """Say how the study's file came to another margin than that; None where it did not."""
        fixed, latest = self.margin(group), _margin(self.latest(group))
        if latest == fixed:
            return None
        if fixed is None:
            return (
                f"evidence_margin was set to {latest:g} when the study had results, so it does not "
                "count as fixed beforehand; the rule's tolerance counts"
            )
        how = "taken out" if latest is None else f"changed to {latest:g}"
        return f"evidence_margin was {how} after the first results; {fixed:g} counts"


def latest_of(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The last plan of each file."""
    files = [plan.config for plan in plans]
    return tuple(plan for i, plan in enumerate(plans) if plan.config not in files[i + 1 :])


def _margin(plans: Sequence[Plan]) -> float | None:
    """The last margin that a file fixes; None where none does."""
    fixed = [plan.evidence_margin for plan in plans if plan.evidence_margin is not None]
    return fixed[-1] if fixed else None


def record_plan(out: Path, plan: Plan) -> None:
    """Add what a study asks for to the record in its folder, unless that says so already.

    Raises RunFailed or OSError where it cannot be written.
    """
    recorded, plans = _with_plan(out, plan)
    if plans == recorded:
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / names.LOCK, "ab") as lock:
        with contextlib.suppress(OSError):  # no locks here, which is told when runs are started
            fcntl.flock(lock, fcntl.LOCK_EX)
        _, plans = _with_plan(out, plan)  # another study may have recorded its own since
        data = [dataclasses.asdict(known) for known in plans]
        write_json(out / names.STUDY, {"plans": data})


def _with_plan(out: Path, plan: Plan) -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:
    """The plans that are recorded, and those that are to be."""
    try:
        before = read_study_record(out)
    except InputError:  # damaged: what was planned first is not known any more
        before = None
    recorded = before.plans if before else ()
    plans = _under_its_name(recorded, plan)
    latest = {known.config: known for known in plans}
    if plan.config not in latest or not _same(latest[plan.config], plan):
        begun = _groups_with_results(out, plan)
        new = [g for g in begun if g is None or not any(known.covers(g) for known in plans)]
        plans += (dataclasses.replace(plan, late=bool(new), begun=bool(begun)),)
    return recorded, plans


def _under_its_name(plans: tuple[Plan, ...], plan: Plan) -> tuple[Plan, ...]:
    """The plans of before; those of the file that was renamed to `plan`'s go by its name.

    That is a file which is gone and planned some of the same groups: of several the one that had
    the same name in another folder, else none.
    """
    if any(known.config == plan.config for known in plans):
        return plans
    gone = {known.config for known in plans if known.overlaps(plan) and _is_gone(known.config)}
    moved = {config for config in gone if os.path.basename(config) == os.path.basename(plan.config)}
    if len(before := moved or gone) != 1:
        return plans
    return tuple(
        dataclasses.replace(known, config=plan.config) if known.config in before else known
        for known in plans
    )


def _is_gone(path: str) -> bool:
    """Whether there is no such file; one in a folder that others may not look into may be there."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _same(known: Plan, plan: Plan) -> bool:
    """Whether two plans ask for the same, whatever results there were, as far as is known."""
    known = dataclasses.replace(known, late=plan.late, begun=plan.begun)
    return dataclasses.replace(known, tickets=known.tickets or plan.tickets) == plan


def _groups_with_results(out: Path, plan: Plan) -> set[Group | None]:
    """The groups of a plan that have results; None for results of no known group."""
    paths, unread = files_below(out, names.RESULTS)
    found: set[Group | None] = {None} if unread else set()
    for path in paths:
        try:
            group = read_results(path).group
        except ValueError:
            found.add(None)
        else:
            found |= {group} if plan.covers(group) else set()
    return found


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
    """Read the records of all studies below a folder: those, and a line for each damaged one.

    There is a line too where a folder above has the only record: it is not read.
    """
    records, problems = [], []
    for path in files_below(root, names.STUDY)[0]:
        try:
            record = read_study_record(path.parent)
        except InputError as error:
            problems.append(str(error))
        else:
            records += [record] if record else []
    above = next((folder for folder in root.absolute().parents if _has_record(folder)), None)
    if above and not records and not problems:
        problems.append(
            f"{above / names.STUDY}: what was planned beforehand does not count, as {root} is a "
            f"part of that study; give {above}"
        )
    return records, problems


def _has_record(folder: Path) -> bool:
    return (folder / names.STUDY).is_file()


def _plan(data: Any) -> Plan:
    kinds: dict[str, Any] = {
        "states": int, "seeds": int, "pretrainings": str, "datasets": str,
        "data_numbers": (int, float),
    }  # fmt: skip
    lists = {key: tuple(_several(data[key], kind)) for key, kind in kinds.items()}
    late, begun = data["late"], data.get("begun", True)  # the latter is not in earlier versions
    if not isinstance(data["config"], str) or not {type(late), type(begun)} == {bool}:
        raise ValueError(f"{data!r} is no plan")
    margin = data.get("evidence_margin")
    if margin is not None:
        (margin,) = _several([margin], (int, float))
        if not 0 <= margin <= sys.float_info.max:  # NaN fails this
            raise ValueError(f"{margin!r} is no margin in points")
    regimes = data.get("regimes")
    if regimes is not None:
        regimes = tuple((dataset, mode) for dataset, mode in map(_texts, regimes))
    tickets = data.get("tickets")
    if tickets is not None:
        tickets = tuple(_texts(tickets))
    return Plan(data["config"], **lists, evidence_margin=margin, regimes=regimes, tickets=tickets,
                late=late, begun=begun)  # fmt: skip


def _texts(values: Any) -> list[str]:
    return _several(values, str)


def _several(values: Any, kind: Any) -> list[Any]:
    good = isinstance(values, list) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )
    if not good:
        raise ValueError(f"{values!r} is no list of what a plan names")
    found: list[Any] = values
    return found
