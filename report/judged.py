"""What a report has judged: the tickets of each group, by the paper's rule and by the evidence."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from files.results import DENSE, IMP, MODES, Group, RunResult
from files.study_record import StudyRecord
from report.evidence import Difference, Evidence, sparsest_with_evidence

Look = Literal["fixed", "interim", "sequential"]  # at results, by what was planned beforehand
WORST_FIRST: tuple[Look | None, ...] = ("sequential", "interim", None, "fixed")  # None: unknown


class Measure(NamedTuple):
    """An accuracy by which a ticket and the dense network are compared.

    network: its name in results and outcomes. attacked: whether it is RA.
    """

    name: str
    title: str
    mode: str
    network: str
    attacked: bool

    def value(self, run: RunResult) -> float | None:
        accuracy = getattr(run, self.network)
        found: float | None = accuracy.ra if self.attacked else accuracy.sa
        return found

    def by_seed(self, runs: Iterable[RunResult]) -> dict[int, float]:
        """Those of the runs of its regime that measured it, by seed."""
        found = {run.seed: self.value(run) for run in runs if run.mode == self.mode}
        return {seed: value for seed, value in found.items() if value is not None}

    def values(self, runs: Iterable[RunResult]) -> list[float]:
        """The same without the seeds."""
        return [*self.by_seed(runs).values()]


# Both AT figures are those of one network, the one with the best validation RA.
MEASURES = (
    Measure("st_sa", "SA under ST", "std", "sa_best", False),
    Measure("at_sa", "SA under AT", "adv", "ra_best", False),
    Measure("at_ra", "RA under AT", "adv", "ra_best", True),
)
BESIDE = (
    Measure("at_sa_of_best_sa", "SA under AT, best-SA network", "adv", "sa_best", False),
    Measure("at_ra_of_best_sa", "RA under AT, best-SA network", "adv", "sa_best", True),
)


def compared_seeds(one: Collection[int], other: Collection[int]) -> tuple[set[int], set[int]]:
    """The seeds of two networks over which they are compared.

    Where one has all seeds of the other, these are those that both have: what a seed does to both,
    the rest would put into their difference. Else each has all of its own.
    """
    seeds, others = set(one), set(other)
    if seeds <= others or others <= seeds:
        return seeds & others, seeds & others
    return seeds, others


class Stat(NamedTuple):
    """Mean and sample standard deviation (n - 1) over seeds; `std` is None for one seed."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class TicketRow:
    """All runs of one ticket of one group, over regimes and seeds.

    By measure: `stats`; `wins`, whether it matches by the rule (None: open); `chance`, half the
    width in points of the mean accuracy's 95 % interval for other test images; `differences` to the
    dense network, and what they allow to be said, `evidence`. which: what tells the ticket from
    another of the same state; "" where that is not needed.
    """

    group: Group
    ticket: str
    state: int | None
    density: float
    runs: tuple[RunResult, ...]
    stats: dict[str, Stat | None]
    wins: dict[str, bool | None] = field(default_factory=dict)
    chance: Mapping[str, float | None] = field(default_factory=dict)
    differences: Mapping[str, Difference | None] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    double_win_evidence: bool | None = None
    which: str = ""

    @property
    def double_win(self) -> bool | None:
        """Whether it matches on all measures by the rule; one loss settles it, else None: open."""
        won = [self.wins.get(measure.name) for measure in MEASURES]
        if False in won:
            return False
        return None if None in won else True

    @property
    def unlike(self) -> tuple[Measure, ...]:
        """The measures on which it was trained or tested unlike the dense network."""
        kinds = {name: found.kind for name, found in self.differences.items() if found}
        return tuple(measure for measure in MEASURES if kinds.get(measure.name) == "unlike")

    @property
    def hashes(self) -> tuple[str, ...]:
        """Those of the ticket files of its runs, as far as they are known."""
        return tuple(sorted({run.ticket_sha256 for run in self.runs if run.ticket_sha256}))

    @property
    def sparsity(self) -> float:
        """The percentage of the convolution weights that are pruned."""
        return 100 * (1 - self.density)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its runs went on past, each line once."""
        return tuple(dict.fromkeys(line for run in self.runs for line in run.warnings))

    @property
    def title(self) -> str:
        """What it is, which another row may be too."""
        if self.ticket == DENSE:
            return DENSE
        where = f"density {self.density:.4g}" if self.state is None else f"state {self.state}"
        return f"{self.ticket} {where}"

    @property
    def name(self) -> str:
        """What no other row of the group is called."""
        return f"{self.title} ({self.which})" if self.which else self.title


@dataclass(frozen=True)
class GroupVerdict:
    """The judged tickets of one group, sparsest last.

    tolerance, margins: what a ticket may lack on each measure, in points, by the rule and for the
    evidence. evidence_margin: that of the evidence where it is fixed; None where it is the rule's
    tolerance. margin_given: whether it was given to the report, not fixed by a study. planned: the
    states that were to be transferred. seeds: those that were, None where that is unknown. study:
    whose plans the group is part of. awaited: the states of each kind of ticket that its study
    plans, or without one, that any group of the same data has.
    """

    group: Group
    dense: TicketRow | None
    rows: tuple[TicketRow, ...]
    tolerance: dict[str, float | None]
    missing: tuple[str, ...]
    error: str | None = None
    margins: Mapping[str, float | None] = field(default_factory=dict)
    evidence_margin: float | None = None
    margin_given: bool = False
    planned: frozenset[int] = frozenset()
    seeds: frozenset[int] | None = None
    study: StudyRecord | None = None
    awaited: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def all_rows(self) -> tuple[TicketRow, ...]:
        """The dense network, where there is one, and the tickets."""
        return self.rows if self.dense is None else (self.dense, *self.rows)

    @property
    def modes(self) -> tuple[str, ...]:
        """The regimes that were to be run: those that its study does not leave out."""
        study, group = self.study, self.group
        plans = (*study.beforehand(group), *study.latest(group)) if study else ()
        planned = [m for m in MODES if any(plan.runs(self.group.dataset, m) for plan in plans)]
        return tuple(planned or MODES)

    def look_at(self, *rows: TicketRow) -> Look | None:
        """Whether the seeds of these rows and of the dense network were fixed beforehand.

        None where that is unknown. "interim": some that were planned have yet to run, or lack a
        measure.
        """
        if self.seeds is None:
            return None
        if {run.seed for row in self.all_rows for run in row.runs} - self.seeds:
            return "sequential"
        compared = (self.dense, *rows) if self.dense else rows
        have = [
            {run.seed for run in row.runs if run.mode == m.mode and m.value(run) is not None}
            for row in compared
            for m in MEASURES
            if m.mode in self.modes
        ]
        return "fixed" if all(self.seeds <= seeds for seeds in have) else "interim"

    @property
    def look(self) -> Look | None:
        """The same of all of IMP's tickets."""
        return self.look_at(*self.found)

    @property
    def interim(self) -> tuple[TicketRow, ...]:
        """The tickets of IMP of which not all of the seeds that were planned are there."""
        return tuple(row for row in self.found if self.look_at(row) == "interim")

    @property
    def found(self) -> tuple[TicketRow, ...]:
        """The tickets found by IMP, the densest first; the others are baselines."""
        return tuple(sorted((r for r in self.rows if r.ticket == IMP), key=lambda r: -r.density))

    @property
    def sparsest(self) -> TicketRow | None:
        """The sparsest double-win ticket found by IMP; a baseline does not count."""
        return next((row for row in reversed(self.found) if row.double_win), None)

    @property
    def planned_seeds(self) -> list[int]:
        """Those that were planned beforehand, then those that its study plans by now."""
        latest = self.study.latest(self.group) if self.study else ()
        return [*sorted(self.seeds or ()), *sorted(seed for plan in latest for seed in plan.seeds)]

    @property
    def not_run(self) -> list[int]:
        """The states that were planned and have no ticket of IMP, the densest first."""
        return sorted(self.planned - {row.state for row in self.found})

    @property
    def chain(self) -> tuple[TicketRow, ...]:
        """The tickets of IMP that were planned, from the densest to the first that has not run."""
        end = min(self.not_run, default=math.inf)
        rows = (row for row in self.found if row not in self.unplanned)
        return tuple(takewhile(lambda row: row.state is None or row.state < end, rows))

    @property
    def sparsest_evidence(self) -> TicketRow | None:
        """The last of IMP's unbroken chain of double wins with evidence, from the densest on.

        A planned state that has not run breaks the chain as one does that is undecided; one that
        was not planned is no part of it.
        """
        return sparsest_with_evidence([(row, row.double_win_evidence) for row in self.chain])

    @property
    def unplanned(self) -> tuple[TicketRow, ...]:
        """IMP's tickets whose states the study did not plan beforehand, or are not known."""
        if self.seeds is None:
            return ()
        return tuple(row for row in self.found if row.state not in self.planned)

    @property
    def by_chance(self) -> bool:
        """Whether the rule's sparsest ticket lies beyond the chain that the evidence bears out."""
        rule, evidence = self.sparsest, self.sparsest_evidence
        return rule is not None and (evidence is None or rule.density < evidence.density)

    @property
    def undecided(self) -> tuple[TicketRow, ...]:
        """The tickets found by IMP that the evidence leaves undecided."""
        return tuple(row for row in self.found if row.double_win_evidence is None)


@dataclass(frozen=True)
class Contrast:
    """How much better the ticket of `a` does against its dense network than that of `b` does.

    look: the worse of the two tickets', as the evidence of both is in it.
    """

    a: Group
    b: Group
    state: int
    measure: str
    difference: Difference
    look: Look | None

    @property
    def apart(self) -> bool | None:
        """Whether 0 lies outside the 95 % interval; None where seeds or images are not known of."""
        low, high = self.difference.interval()
        if low is None or high is None or not self.difference.conclusive:
            return None
        return low > 0 or high < 0


@dataclass(frozen=True)
class Setting:
    """How the runs of one data set and share of it, `place`, were made and tested.

    told: what is known, by name; several values where runs differ, none where nothing is recorded.
    """

    place: tuple[str, float]
    told: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Verdict:
    """The verdict of every group, and the warnings about the input.

    margin: of the rule, for one dense seed, in points. settings: of each data set and share of it.
    never_run: the groups that a study planned and of which there is no run, a line each.
    """

    margin: float
    groups: tuple[GroupVerdict, ...]
    warnings: tuple[str, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    settings: tuple[Setting, ...] = ()
    never_run: tuple[str, ...] = ()

    def setting(self, place: tuple[str, float]) -> Setting | None:
        """That of a data set and share of it; None where nothing is known."""
        return next((setting for setting in self.settings if setting.place == place), None)

    @property
    def evidence_margins(self) -> tuple[float | None, ...]:
        """The margins of the evidence that groups have, each once; None: the rule's tolerance."""
        return tuple(dict.fromkeys(group.evidence_margin for group in self.groups))

    @property
    def evidence_margin(self) -> float | None:
        """That of all groups; None where it is not fixed for all of them alike."""
        return self.evidence_margins[0] if len(self.evidence_margins) == 1 else None

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(group.error for group in self.groups if group.error)

    @property
    def missing(self) -> tuple[str, ...]:
        return (*self.never_run, *(line for group in self.groups for line in group.missing))
