"""What would decide the tickets that are undecided."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from files.results import MODES, REGIMES
from files.study_record import Plan
from report.evidence import LEVEL, ROUNDING, corrected
from report.judged import MEASURES, GroupVerdict, Measure, TicketRow, Verdict
from report.power import ENOUGH_TO_START, Missing, fewest, missing
from report.words import RISK

COST = {"std": 1, "adv": 5}  # of a run; AT takes about five times as long


@dataclass(frozen=True)
class Wanted:
    """What would decide a ticket: further seeds of each regime, or else why those cannot."""

    group: GroupVerdict
    row: TicketRow
    seeds: Mapping[str, int]
    at_least: bool = False
    cannot: tuple[str, ...] = ()

    @property
    def cost(self) -> tuple[int, int]:
        """To sort by: runs of ST, or as many as take as long."""
        return len(self.cannot), sum(COST[mode] * self.runs_of(mode) for mode in MODES)

    @property
    def runs(self) -> int:
        """How many runs that is, of the ticket and the dense network, without those there are."""
        return sum(self.runs_of(mode) for mode in MODES)

    def runs_of(self, mode: str) -> int:
        sides = _sides(self.group, self.row, mode)
        return sum(len(set(self.numbers(mode)) - side) for side in sides)

    def numbers(self, mode: str) -> list[int]:
        return _numbers(self.group, self.row, mode, self.seeds[mode])


def _sides(group: GroupVerdict, row: TicketRow, mode: str) -> tuple[set[int], set[int]]:
    """The seeds of the ticket and of the dense network under a regime."""
    return _seeds([row], [mode]), _seeds([group.dense], [mode])


def _numbers(group: GroupVerdict, row: TicketRow, mode: str, count: int) -> list[int]:
    """Seeds to run next: the group's that one side lacks, planned ones, then new ones."""
    ticket, dense = _sides(group, row, mode)
    known = [*sorted(_seeds(group.all_rows)), *group.planned_seeds]
    fresh = range(max(known) + 1, max(known) + 1 + count)
    order = [seed for seed in dict.fromkeys([*known, *fresh]) if seed not in ticket & dense]
    return order[:count]


def wanted(verdict: Verdict) -> list[Wanted]:
    """What every undecided ticket of IMP lacks, the cheapest first."""
    lacking = [
        _wanted(group, row)
        for group in verdict.groups
        if group.dense is not None
        for row in group.undecided
    ]
    return sorted(lacking, key=lambda lack: lack.cost)


def _wanted(group: GroupVerdict, row: TicketRow) -> Wanted:
    losing = [measure for measure in MEASURES if _losing(group, row, measure)]
    if not losing:
        return _decided_by(group, row, {m: _missing(group, row, m) for m in MEASURES})
    level = corrected(len(MEASURES))  # and one of these is enough
    each = [_decided_by(group, row, {m: _missing(group, row, m, level)}) for m in losing]
    return min(each, key=lambda lack: lack.cost)


def _decided_by(group: GroupVerdict, row: TicketRow, lacking: Mapping[Measure, Missing]) -> Wanted:
    """What all of these measures need together."""
    seeds = {
        mode: max((lack.seeds or 0 for m, lack in lacking.items() if m.mode == mode), default=0)
        for mode in MODES
    }
    cannot = tuple(f"{m.title}: {lack}" for m, lack in lacking.items() if lack.seeds is None)
    return Wanted(group, row, seeds, any(lack.at_least for lack in lacking.values()), cannot)


def _losing(group: GroupVerdict, row: TicketRow, measure: Measure) -> bool:
    """Whether a ticket would be found worse on a measure, were its mean to stay as it is."""
    found, margin = row.differences[measure.name], group.margins[measure.name]
    return found is not None and margin is not None and found.mean < -margin - ROUNDING


def _missing(
    group: GroupVerdict, row: TicketRow, measure: Measure, level: float = LEVEL
) -> Missing:
    found, margin = row.differences[measure.name], group.margins[measure.name]

    def seeds_after(further: int) -> list[int]:
        numbers = _numbers(group, row, measure.mode, further)
        return [len(side.union(numbers)) for side in _sides(group, row, measure.mode)]

    if found is None or margin is None:  # not measured at all
        if all(_sides(group, row, measure.mode)):  # though there are runs of both
            return Missing(None, anew="some did not measure it")
        enough = max(ENOUGH_TO_START, len(_seeds(group.all_rows)))
        return Missing(fewest(enough, seeds_after), at_least=True)
    return missing(found, margin, level, seeds_after)


# --- in words -------------------------------------------------------------------------------------

ADDED = (
    "Seeds that are added after a look and were not planned beforehand make the evidence "
    f"sequential: {RISK}"
)


def plan_text(verdict: Verdict) -> str:
    """List what would decide each undecided ticket, the cheapest first, with what to run."""
    lacking = wanted(verdict)
    lines = [unjudged(group) for group in verdict.groups if group.error]
    lines += [
        f"{group.group}: state {state} {_not_run(group)}"
        for group in verdict.groups
        for state in group.not_run
    ]
    if not lacking:
        return "\n".join([*lines, none_undecided(verdict)])
    lines += [f"{len(lacking)} undecided, the cheapest first, at today's means and spread:"]
    for number, lack in enumerate(lacking, start=1):
        lines.append(f"{number}. {lack.group.group}: {lack.row.name}: {amount(lack)}")
        if not lack.cannot:
            lines += [f"   {line}" for line in _commands(lack) or _in_words(lack)]
    return "\n".join([*lines, f"{ADDED}; docs/verdict.md says by how much."])


def _not_run(group: GroupVerdict) -> str:
    """Say why a state that has not run is waited for; without a plan it is another's."""
    if group.seeds is not None:
        return "was planned and has not run; it breaks the chain"
    return (
        "has run for another pre-training of this data and not here; it counts as planned and "
        "breaks the chain"
    )


def unjudged(group: GroupVerdict) -> str:
    """Say of a group without a dense run what is to be done first."""
    count = len(group.rows)
    return (
        f"{group.group}: {count} ticket{'' if count == 1 else 's'} not judged; transfer the dense "
        "network first (state 0: the same command without a ticket)"
    )


def none_undecided(verdict: Verdict) -> str:
    """Say that no ticket is undecided, of those that could be judged."""
    return f"No {'other ' if verdict.errors else ''}ticket is undecided."


def amount(lack: Wanted) -> str:
    """Say in words what would decide a ticket."""
    if lack.cannot:
        return "; ".join(lack.cannot)
    parts = [f"{lack.seeds[mode]} of {REGIMES[mode]}" for mode in MODES if lack.seeds[mode]]
    few = "at least " if lack.at_least else ""
    return f"further seeds, ticket and dense: {few}{' and '.join(parts)} ({lack.runs} runs)"


def _in_words(lack: Wanted) -> list[str]:
    return [
        f"transfer {lack.row.name} and the dense network under {REGIMES[mode]} with --seed "
        + ", ".join(map(str, lack.numbers(mode)))
        for mode in MODES
        if lack.seeds[mode]
    ]


def _commands(lack: Wanted) -> list[str]:
    """The study's commands for it; seeds and a state that it does not name go into its file first.

    There are none where the study or its file is not known, or the ticket's state.
    """
    study, state = lack.group.study, lack.row.state
    plan = study.of(lack.group.group)[-1] if study else None
    if study is None or plan is None or state is None or not Path(plan.config).is_file():
        return []
    group = lack.group.group
    wanted_of = {mode: lack.numbers(mode) for mode in MODES if lack.seeds[mode]}
    numbers = {mode: seeds for mode, seeds in wanted_of.items() if plan.runs(group.dataset, mode)}
    lines = [
        f"# {plan.config} leaves out {REGIMES[mode]}; without it the ticket stays undecided"
        for mode in wanted_of
        if mode not in numbers
    ]
    if numbers:
        seeds_to_run = {seed for seeds in numbers.values() for seed in seeds}
        lines += _to_add(plan, seeds_to_run, _seeds(lack.group.all_rows), state)
    root = Path(__file__).resolve().parent.parent
    script = os.path.relpath(root / "script" / "study.sh")
    where = f"{re.escape(group.pretraining)}/{re.escape(group.dataset)}"
    for mode, seeds in numbers.items():
        only = (
            f"^transfer/{where}/{mode}/{re.escape(f'f{group.data_number:g}')}/"
            f"state(0|{state})/seed({'|'.join(map(str, seeds))})$"
        )
        config = ["bash", script, plan.config, "--out", str(study.folder), "--only", only]
        lines.append(shlex.join(config))
    return lines


def _to_add(plan: Plan, seeds: set[int], there: set[int], state: int) -> list[str]:
    """What a study's file must name first, for its commands to run these seeds of this state.

    there: the seeds that have run, which it names with them.
    """
    lines = []
    if not seeds <= set(plan.seeds):
        lines.append(f"seeds = {sorted({*plan.seeds, *seeds, *there})}")
    if state not in plan.states:
        lines.append(f"states = {sorted({0, *plan.states, state})}")
    return [f"# in {plan.config}: [transfer] {line}" for line in lines]


def _seeds(rows: Iterable[TicketRow | None], modes: Sequence[str] = MODES) -> set[int]:
    return {run.seed for row in rows if row for run in row.runs if run.mode in modes}
