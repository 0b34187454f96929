"""The double-win verdict, which compares every ticket with the dense network of its group."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from errors import InputError
from files.results import DENSE, REGIMES, TICKETS, Group, RunResult
from report.groups import group_runs
from report.runs import natural_order

DEFAULT_MARGIN = 0.5  # points; only used where the dense network has a single seed


class Measure(NamedTuple):
    """An accuracy by which a ticket and the dense network are compared."""

    name: str
    title: str
    mode: str
    value: Callable[[RunResult], float | None]


# Both AT figures are those of one network, the one with the best validation RA.
MEASURES = (
    Measure("st_sa", "SA under ST", "std", lambda run: run.sa_best.sa),
    Measure("at_sa", "SA under AT", "adv", lambda run: run.ra_best.sa),
    Measure("at_ra", "RA under AT", "adv", lambda run: run.ra_best.ra),
)
BESIDE = (
    Measure("at_sa_of_best_sa", "SA under AT, best-SA network", "adv", lambda run: run.sa_best.sa),
    Measure("at_ra_of_best_sa", "RA under AT, best-SA network", "adv", lambda run: run.sa_best.ra),
)


class Stat(NamedTuple):
    """Mean and sample standard deviation (n - 1) over seeds; `std` is None for one seed."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class TicketRow:
    """All runs of one ticket of one group, over regimes and seeds."""

    group: Group
    ticket: str
    state: int | None
    density: float
    runs: tuple[RunResult, ...]
    stats: dict[str, Stat | None]
    wins: dict[str, bool | None] = field(default_factory=dict)
    double_win: bool | None = None

    @property
    def sparsity(self) -> float:
        """The percentage of the convolution weights that are pruned."""
        return 100 * (1 - self.density)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its runs went on past, each line once."""
        return tuple(dict.fromkeys(line for run in self.runs for line in run.warnings))

    @property
    def name(self) -> str:
        if self.ticket == DENSE:
            return DENSE
        where = f"density {self.density:.4g}" if self.state is None else f"state {self.state}"
        return f"{self.ticket} {where}"


@dataclass(frozen=True)
class GroupVerdict:
    """The judged tickets of one group, sparsest last; `tolerance` is in points per measure."""

    group: Group
    dense: TicketRow | None
    rows: tuple[TicketRow, ...]
    tolerance: dict[str, float | None]
    missing: tuple[str, ...]
    error: str | None = None

    @property
    def all_rows(self) -> tuple[TicketRow, ...]:
        """The dense network, where there is one, and the tickets."""
        return self.rows if self.dense is None else (self.dense, *self.rows)

    @property
    def sparsest(self) -> TicketRow | None:
        """The sparsest double-win ticket found by IMP; a baseline does not count."""
        winners = [row for row in self.rows if row.ticket == "imp" and row.double_win]
        return min(winners, key=lambda row: row.density, default=None)


@dataclass(frozen=True)
class Verdict:
    """The verdict of every group, and the warnings about the input."""

    margin: float
    groups: tuple[GroupVerdict, ...]
    warnings: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(group.error for group in self.groups if group.error)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(line for group in self.groups for line in group.missing)

    def to_json(self) -> dict[str, Any]:
        """Build the contents of `verdict.json`; density and sparsity are fractions."""
        rows = [
            {
                **row.group.columns(),
                "state": row.state,
                "density": row.density,
                "ticket": row.ticket,
                "wins": row.wins,
                "double_win": row.double_win,
                **row.group.hashes(),
                "warnings": list(row.warnings),
            }
            for group in self.groups
            for row in group.rows
        ]
        sparsest = [
            {
                **row.group.columns(),
                "state": row.state,
                "sparsity": round(1 - row.density, 6),
                **row.group.hashes(),
            }
            for row in (group.sparsest for group in self.groups)
            if row is not None
        ]
        return {
            "rows": rows,
            "sparsest": sparsest,
            "margin": self.margin,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            "missing": list(self.missing),
        }


def judge(results: Iterable[RunResult], margin: float = DEFAULT_MARGIN) -> Verdict:
    """Judge every ticket against the dense network of its group.

    A ticket matches on a measure when its mean over seeds is at least the dense mean minus the
    dense network's sample standard deviation over seeds, or minus `margin` points where the dense
    network has one seed. Equal is a match. A double win matches on all three; one loss settles it,
    otherwise a missing run leaves it open (None). A group without any dense run gets an `error`.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(f"margin is {margin!r}: it must be a number of points from 0")
    grouped, notes = group_runs(results)
    kept, warnings = _one_per_seed(grouped)
    warnings = notes + warnings
    groups: dict[Group, list[RunResult]] = {}
    for run in kept:
        groups.setdefault(run.group, []).append(run)
    for group, runs in groups.items():
        archs = sorted({run.arch for run in runs})
        if len(archs) > 1:
            warnings.append(f"{group}: mixes the architectures {', '.join(archs)}")
    order = sorted(groups, key=lambda g: (g.data, -g.data_number, natural_order(g.name)))
    judged = tuple(_judge_group(group, groups[group], margin) for group in order)
    return Verdict(margin, judged, tuple(warnings))


def _identity(run: RunResult) -> tuple[str, int | None, str]:
    """What makes two runs of a group runs of the same ticket; counts may round its density."""
    return run.ticket, run.state, f"{run.density:.3g}"


def _one_per_seed(results: Iterable[RunResult]) -> tuple[list[RunResult], list[str]]:
    """Leave copies out, so that a copied folder is no further seed; the first by path stays."""
    seen: dict[tuple[object, ...], RunResult] = {}
    warnings = []
    for run in sorted(results, key=lambda run: natural_order(run.path)):
        key = (run.group, *_identity(run), run.mode, run.seed)
        if key in seen:
            warnings.append(f"{run.path} repeats the run of {seen[key].path} and is left out")
            continue
        seen[key] = run
    return list(seen.values()), warnings + _of_runs(seen.values())


def _of_runs(runs: Iterable[RunResult]) -> list[str]:
    """Collect what runs went on past, a line that several of them have once."""
    having: dict[str, list[RunResult]] = {}
    for run in runs:
        for line in run.warnings:
            having.setdefault(line, []).append(run)
    return [
        f"{first.path}{f' and {len(others)} more' if others else ''}: {line}"
        for line, (first, *others) in having.items()
    ]


def _stat(measure: Measure, runs: Iterable[RunResult]) -> Stat | None:
    values = [
        v for run in runs if run.mode == measure.mode and (v := measure.value(run)) is not None
    ]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Stat(statistics.fmean(values), spread, len(values))


def _judge_group(group: Group, runs: list[RunResult], margin: float) -> GroupVerdict:
    tickets: dict[tuple[object, ...], list[RunResult]] = {}
    for run in runs:
        tickets.setdefault(_identity(run), []).append(run)
    rows = []
    for same in tickets.values():
        stats = {m.name: _stat(m, same) for m in (*MEASURES, *BESIDE)}
        first = same[0]
        rows.append(TicketRow(group, first.ticket, first.state, first.density, tuple(same), stats))
    dense = next((row for row in rows if row.ticket == DENSE), None)
    tolerance: dict[str, float | None] = {}
    for measure in MEASURES:
        line = dense.stats[measure.name] if dense else None
        tolerance[measure.name] = None if line is None else margin if line.std is None else line.std
    order = (DENSE, *TICKETS)
    rest = sorted(
        (_with_wins(row, dense, tolerance) for row in rows if row is not dense),
        key=lambda row: (order.index(row.ticket), -row.density),
    )
    error = None
    if dense is None:
        error = (
            f"{group}: no dense run, so nothing to match; transfer the dense network too "
            "(state 0: the same command without a ticket)"
        )
    return GroupVerdict(group, dense, tuple(rest), tolerance, _missing(group, rows), error)


def _with_wins(
    row: TicketRow, dense: TicketRow | None, tolerance: dict[str, float | None]
) -> TicketRow:
    wins: dict[str, bool | None] = {}
    for measure in MEASURES:
        own, allowed = row.stats[measure.name], tolerance[measure.name]
        line = dense.stats[measure.name] if dense else None
        if own is None or line is None or allowed is None:
            wins[measure.name] = None
        else:  # 1e-9: a tie must stay a tie whatever the rounding of the two means
            wins[measure.name] = own.mean >= line.mean - allowed - 1e-9
    settled = [won for won in wins.values() if won is not None]
    double = False if not all(settled) else True if len(settled) == len(MEASURES) else None
    return dataclasses.replace(row, wins=wins, double_win=double)


def _missing(group: Group, rows: list[TicketRow]) -> tuple[str, ...]:
    """Name the runs that the group's own grid of tickets, regimes and seeds lacks.

    A run that did not measure what is judged is named as well.
    """
    seeds = sorted({run.seed for row in rows for run in row.runs})
    lines = []
    for row in rows:
        there = {(run.mode, run.seed) for run in row.runs}
        for mode, regime in REGIMES.items():
            gone = [str(seed) for seed in seeds if (mode, seed) not in there]
            if gone:
                lines.append(f"{group}: {row.name}, {regime}, seed {', '.join(gone)}")
        for run in row.runs:
            absent = [m.title for m in MEASURES if m.mode == run.mode and m.value(run) is None]
            if absent:
                lines.append(f"{group}: {row.name}, {' and '.join(absent)} of seed {run.seed}")
    return tuple(lines)


# --- in words -----------------------------------------------------------------------------------


def rule(group: GroupVerdict, margin: float) -> str:
    """Say in words what a ticket may lack on each measure."""
    parts = []
    for measure in MEASURES:
        allowed = group.tolerance[measure.name]
        stat = group.dense.stats[measure.name] if group.dense else None
        if allowed is None or stat is None:
            parts.append(f"nothing known ({measure.title}: no dense run)")
        elif stat.std is None:
            parts.append(f"{margin:g} ({measure.title}: one dense seed, --margin)")
        else:
            parts.append(f"{allowed:.2f} ({measure.title}: std of {stat.n} dense seeds)")
    return ", ".join(parts)


def conclusion(group: GroupVerdict) -> str:
    """Say the group's verdict in one sentence."""
    best = group.sparsest
    if group.error:
        return "Not judged: there is no dense run to match."
    if best is not None:
        return f"Sparsest double-win ticket: {best.name}, sparsity {best.sparsity:.2f} %."
    if any(row.double_win is None and row.ticket == "imp" for row in group.rows):
        return "No double-win ticket so far; missing runs leave some tickets open."
    return "No double-win ticket."
