"""The double-win verdict, which compares every ticket with the dense network of its group."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from errors import InputError
from files.results import DENSE, NETWORKS, REGIMES, TICKETS, Accuracy, Group, RunResult
from files.study_record import StudyRecord
from report.evidence import ROUNDING
from report.groups import SHOWN, group_runs
from report.judged import (
    BESIDE,
    MEASURES,
    GroupVerdict,
    Measure,
    Stat,
    TicketRow,
    Verdict,
    compared_seeds,
)
from report.planned import (
    changed_margins,
    fixed_margins,
    never_run,
    overridden_margins,
    with_plan,
)
from report.recipes import Recipes, doubtful_records, mixed_recipes, runs_apart
from report.remarks import above_clean, of_runs, of_tickets, scattered, uneven, unplanned
from report.runs import natural_order
from report.setting import settings
from report.weighing import AllTested, comparable, contrasts, weigh, without_outcomes

DEFAULT_MARGIN = 0.5  # points; only used where the dense network has a single seed


def judge(
    results: Iterable[RunResult],
    margin: float = DEFAULT_MARGIN,
    tested: AllTested | None = None,
    evidence_margin: float | None = None,
    records: Sequence[StudyRecord] = (),
    recipes: Recipes | None = None,
) -> Verdict:
    """Judge every ticket against the dense network of its group, by the rule and by the evidence.

    A ticket matches on a measure when its mean over seeds is at least the dense mean minus the
    dense network's sample standard deviation over seeds, or minus `margin` points where the dense
    network has one seed. Where one has all seeds of the other, both means are over the seeds that
    both have. Equal is a match. A double win matches on all three; one loss settles it,
    otherwise a missing run leaves it open (None), and so does a measure on which the ticket was
    trained or tested unlike the dense network. A group without any dense run gets an `error`.

    The evidence is that of docs/verdict.md, from the outcomes `tested`, for `evidence_margin`
    points, else for the margin that the group's study has fixed, else for the rule's tolerance;
    `records` say what studies planned beforehand, `recipes` how runs were made. Raises InputError
    where studies of one group have fixed different margins.
    """
    for name, points in (("margin", margin), ("evidence_margin", evidence_margin)):
        if points is not None and not (math.isfinite(points) and points >= 0):
            raise InputError(f"{name} is {points!r}: it must be a number of points from 0")
    tested, recipes = tested or {}, recipes or {}
    grouped, notes = group_runs(results, recipes)
    kept, warnings = _one_per_seed(grouped, recipes)
    warnings = notes + warnings
    groups: dict[Group, list[RunResult]] = {}
    for run in kept:
        groups.setdefault(run.group, []).append(run)
    order = sorted(groups, key=lambda g: (g.data, -g.data_number, natural_order(g.name)))
    planned = [
        dataclasses.replace(group, missing=_missing(group))
        for group in with_plan([_judge_group(g, groups[g], margin) for g in order], records)
    ]
    planned, fixed, notes = _with_margins(planned, records, evidence_margin)
    warnings += notes
    warnings += of_tickets(planned) + unplanned(planned) + uneven(planned) + scattered(planned)
    judged = [weigh(group, tested, recipes, own) for group, own in zip(planned, fixed, strict=True)]
    warnings += doubtful_records(judged, recipes) + mixed_recipes(judged, recipes)
    beside, apart = comparable(judged, recipes)
    warnings += apart + without_outcomes(judged, beside, tested)
    return Verdict(
        margin,
        tuple(judged),
        tuple(warnings),
        contrasts(beside, tested),
        settings(kept, recipes, tested),
        tuple(never_run(judged, records)),
    )


def _with_margins(
    groups: list[GroupVerdict], records: Sequence[StudyRecord], given: float | None
) -> tuple[list[GroupVerdict], Sequence[float | None], list[str]]:
    """Choose each group's margin of the evidence: the groups, the margins, and what is said."""
    if given is None:
        return groups, fixed_margins(groups, records), changed_margins(groups)
    groups = [dataclasses.replace(group, margin_given=True) for group in groups]
    return groups, [given] * len(groups), overridden_margins(groups, given)


Identity = tuple[str, int | None, str]


def _identity(run: RunResult) -> Identity:
    """What makes two runs of a group runs of the same ticket; counts may round its density."""
    return run.ticket, run.state, f"{run.density:.3g}"


def _may_be_one_ticket(run: RunResult, other: RunResult) -> bool:
    """Whether two runs of one identity may be of one ticket file: an unknown one may be any."""
    hashes = {run.ticket_sha256, other.ticket_sha256}
    return run.ticket == DENSE or None in hashes or len(hashes) == 1


def _one_per_seed(
    results: Iterable[RunResult], recipes: Recipes
) -> tuple[list[RunResult], list[str]]:
    """Leave copies out, so that a copied folder is no further seed; the first by path stays."""
    seen: dict[tuple[object, ...], list[RunResult]] = {}
    warnings = []
    for run in sorted(results, key=lambda run: natural_order(run.path)):
        same = seen.setdefault((run.group, *_identity(run), run.mode, run.seed), [])
        first = next((other for other in same if _may_be_one_ticket(run, other)), None)
        if first is not None:
            warnings.append(f"{run.path} {_repeats(run, first, recipes)}")
            continue
        same.append(run)
    kept = [run for same in seen.values() for run in same]
    return kept, warnings + of_runs(kept) + above_clean(kept)


def _repeats(run: RunResult, first: RunResult, recipes: Recipes) -> str:
    """Say of a run that is left out whether it is a copy, or was made otherwise, or found other."""
    apart = runs_apart((first, run), run.mode, recipes)
    found = [
        f"{name} {_shown(own)}, there {_shown(its)}"
        for name in NETWORKS
        if (own := getattr(run, name)) != (its := getattr(first, name))
    ]
    if not found and not apart:
        return f"repeats the run of {first.path} and is left out"
    how = [f"by another recipe ({'; '.join(apart)})"] if apart else []
    how += [f"by other accuracies ({'; '.join(found)})"] if found else []
    return (
        f"is another run of the ticket and seed of {first.path}, {', '.join(how)}, and is left "
        "out; keep one of the two below RUNS"
    )


def _shown(accuracy: Accuracy) -> str:
    return " / ".join("-" if value is None else f"{value:.2f} %" for value in accuracy)


def _told_apart(same: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of each row that runs of one identity make, by what tells it from the others.

    That is one row, whatever files its tickets came from, unless two of these have runs of the same
    regime and seed: then it is a row for each file.
    """
    if len({(run.mode, run.seed) for run in same}) == len(same):
        return {"": list(same)}
    rows: dict[str, list[RunResult]] = {}
    for run in same:
        sha256 = run.ticket_sha256
        rows.setdefault(f"ticket {sha256[:SHOWN] if sha256 else 'unknown'}", []).append(run)
    return rows


def _stat(measure: Measure, runs: Iterable[RunResult]) -> Stat | None:
    values = measure.values(runs)
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Stat(statistics.fmean(values), spread, len(values))


def _judge_group(group: Group, runs: list[RunResult], margin: float) -> GroupVerdict:
    tickets: dict[Identity, list[RunResult]] = {}
    for run in runs:
        tickets.setdefault(_identity(run), []).append(run)
    of_state = Counter((kind, state) for kind, state, _ in tickets)
    rows = []
    for identity, found in tickets.items():
        first = found[0]
        several = first.state is not None and of_state[identity[:2]] > 1
        density = f"density {first.density:.4g}" if several else ""
        for file, same in _told_apart(found).items():
            stats = {m.name: _stat(m, same) for m in (*MEASURES, *BESIDE)}
            which = ", ".join(filter(None, (density, file)))
            of = (group, first.ticket, first.state, first.density)
            rows.append(TicketRow(*of, tuple(same), stats, which=which))
    dense = next((row for row in rows if row.ticket == DENSE), None)
    tolerance: dict[str, float | None] = {}
    for measure in MEASURES:
        line = dense.stats[measure.name] if dense else None
        of_one_seed = None if line is None else margin
        tolerance[measure.name] = line.std if line and line.std is not None else of_one_seed
    order = (DENSE, *TICKETS)
    rest = sorted(
        (_with_wins(row, dense, tolerance) for row in rows if row is not dense),
        key=lambda row: (order.index(row.ticket), -row.density, row.which),
    )
    error = None
    if dense is None:
        error = (
            f"{group}: no dense run, so nothing to match; transfer the dense network too "
            "(state 0: the same command without a ticket)"
        )
    return GroupVerdict(group, dense, tuple(rest), tolerance, (), error)


def _with_wins(
    row: TicketRow, dense: TicketRow | None, tolerance: dict[str, float | None]
) -> TicketRow:
    wins: dict[str, bool | None] = {}
    for measure in MEASURES:
        own, line = measure.by_seed(row.runs), measure.by_seed(dense.runs if dense else ())
        allowed = tolerance[measure.name]
        seeds, others = compared_seeds(own, line)
        if allowed is None or not (seeds and others):
            wins[measure.name] = None  # a run is missing, or its seed
        else:
            mean = statistics.fmean(own[seed] for seed in seeds)
            least = statistics.fmean(line[seed] for seed in others) - allowed
            wins[measure.name] = mean >= least - ROUNDING
    return dataclasses.replace(row, wins=wins)


def _missing(group: GroupVerdict) -> tuple[str, ...]:
    """Name the runs that the group's grid of tickets, regimes and seeds lacks.

    The grid is the group's own, and what its study plans. A regime that its study leaves out is not
    missed. A run that did not measure what is judged is named as well.
    """
    plans = group.study.latest(group.group) if group.study else ()
    planned = {seed for plan in plans for seed in plan.seeds}
    seeds = sorted(planned | {run.seed for row in group.all_rows for run in row.runs})
    lines = _not_run_at_all(group) if plans else []
    for row in group.all_rows:
        there = {(run.mode, run.seed) for run in row.runs}
        for mode in group.modes:
            gone = [str(seed) for seed in seeds if (mode, seed) not in there]
            if gone:
                lines.append(f"{group.group}: {row.name}, {REGIMES[mode]}, seed {', '.join(gone)}")
        for run in row.runs:
            absent = [m.title for m in MEASURES if m.mode == run.mode and m.value(run) is None]
            if absent:
                lines.append(
                    f"{group.group}: {row.name}, {' and '.join(absent)} of seed {run.seed}"
                )
    return tuple(lines)


def _not_run_at_all(group: GroupVerdict) -> list[str]:
    """Name the states that the group's study plans and that have no run, a line for each kind."""
    lines = []
    for kind, awaited in group.awaited.items():
        gone = sorted(awaited - {0} - {row.state for row in group.rows if row.ticket == kind})
        if gone:
            states = f"state{'' if len(gone) == 1 else 's'} {', '.join(map(str, gone))}"
            lines.append(f"{group.group}: {kind} {states}: planned, and nothing has run")
    return lines
