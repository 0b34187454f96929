"""What is said of runs and tickets beside their verdict, a line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from files.results import NETWORKS, RANDOM, REINIT, RunResult
from report.groups import SHOWN
from report.judged import MEASURES, GroupVerdict, Measure, TicketRow

FAR = 5.0  # points between two seeds; a few tenths are usual, chance level is tens below
SOME = 4  # tickets that a line names
BY_CHANCE = 1.0  # points by which RA may be above SA where a network knows next to nothing


def of_runs(runs: Iterable[RunResult]) -> list[str]:
    """Collect what runs went on past, a line that several of them have once."""
    having: dict[str, list[RunResult]] = {}
    for run in runs:
        for line in run.warnings:
            having.setdefault(line, []).append(run)
    return [
        f"{first.path}{f' and {len(others)} more' if others else ''}: {line}"
        for line, (first, *others) in having.items()
    ]


def above_clean(runs: Iterable[RunResult]) -> list[str]:
    """Name runs whose RA is above their SA, a line each: figures exchanged, or no attack at all."""
    return [
        f"{run.path}: {name} has RA {ra:.2f} % above SA {sa:.2f} %, and an attack does not raise "
        "accuracy"
        for run in runs
        for name, (sa, ra) in ((name, getattr(run, name)) for name in NETWORKS)
        if sa is not None and ra is not None and ra > sa + BY_CHANCE
    ]


def of_tickets(groups: Iterable[GroupVerdict]) -> list[str]:
    """Say where several ticket files stand for one state, or one for several states.

    Random masks may be one a seed.
    """
    lines = []
    for group in groups:
        apart: dict[str, list[str]] = {}
        for row in group.rows:
            if row.which:
                apart.setdefault(row.title, []).append(row.which)
            elif len(row.hashes) > 1 and row.ticket != RANDOM:
                several = ", ".join(sha256[:SHOWN] for sha256 in row.hashes)
                lines.append(
                    f"{group.group}: {row.name} is made of {len(row.hashes)} ticket files "
                    f"({several}), whose runs count as those of one ticket"
                )
        of_file: dict[str, list[str]] = {}
        for row in group.rows:
            for sha256 in row.hashes if row.ticket != REINIT else ():
                of_file.setdefault(sha256, []).append(row.name)
        lines += [
            f"{group.group}: {' and '.join(named)} are of one ticket file ({sha256[:SHOWN]}), so "
            "one of them is not what it is called"
            for sha256, named in of_file.items()
            if len(named) > 1
        ]
        lines += [
            f"{group.group}: {title} stands for different tickets, judged apart and not "
            f"contrasted: {', '.join(sorted(several))}"
            for title, several in apart.items()
        ]
    return lines


def unplanned(groups: Iterable[GroupVerdict]) -> list[str]:
    """Name the tickets whose states no study planned before it had results."""
    return [
        f"{group.group}: {row.name} was not planned beforehand, so it is no part of the chain of "
        "double wins with evidence"
        for group in groups
        for row in group.unplanned
    ]


def uneven(groups: Iterable[GroupVerdict]) -> list[str]:
    """Name the tickets that have other seeds than their dense network, a line for each group."""
    lines = []
    for group in groups:
        if group.dense is None:
            continue
        found = dict.fromkeys(
            row.name
            for row, measure in itertools.product(group.rows, MEASURES)
            if (own := _seeds(row, measure))
            and (dense := _seeds(group.dense, measure))
            and own != dense
        )
        if found:
            names = [*found]
            more = f" and {len(names) - SOME} more" if len(names) > SOME else ""
            lines.append(
                f"{group.group}: {', '.join(names[:SOME])}{more} and the dense network were not "
                "trained with the same seeds; where one has all of the other's, the rule and the "
                "evidence compare them over the seeds that both have, not by the means of all"
            )
    return lines


def _seeds(row: TicketRow, measure: Measure) -> set[int]:
    return {run.seed for run in row.runs if measure.values((run,))}


def scattered(groups: Iterable[GroupVerdict]) -> list[str]:
    """Name where seeds lie so far apart that a run may have failed, a line for each group."""
    lines = []
    for group in groups:
        found = [
            f"{row.name}, {measure.title} ({min(values):.2f} to {max(values):.2f} %)"
            for row, measure in itertools.product(group.all_rows, MEASURES)
            if (values := measure.values(row.runs)) and max(values) - min(values) > FAR
        ]
        if found:
            more = f" and {len(found) - SOME} more" if len(found) > SOME else ""
            lines.append(
                f"{group.group}: seeds more than {FAR:g} points apart: {'; '.join(found[:SOME])}"
                f"{more}; where a run has failed, means are not the ticket's, and the rule's "
                "tolerance, the spread of the dense network's seeds, lets too much match"
            )
    return lines
