"""The report in the terminal: a table for each group, and what is missing or went wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from files import names
from files.results import DENSE
from report.judged import BESIDE, MEASURES, GroupVerdict, TicketRow, Verdict
from report.plan import plan_text
from report.words import (
    BY_EVIDENCE,
    BY_RULE,
    SIGNS,
    accuracy,
    conclusion,
    difference,
    evidence_rule,
    kinds,
    look,
    not_compared,
    not_enough,
    rule,
)

MOST_MISSING = 10  # lines about missing runs, of which one may name several


def print_verdict(verdict: Verdict, files: Sequence[Path]) -> None:
    """Print the tables, then what is missing, what went wrong, and the names of the files."""
    for line in verdict.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for group in verdict.groups:
        print(table(group, verdict), end="\n\n")
    if verdict.missing:
        print("missing:", *verdict.missing[:MOST_MISSING], sep="\n  ")
        lines = len(verdict.missing)
        print(f"  … (all {lines} lines in {names.PAGE})" if lines > MOST_MISSING else "")
    sys.stdout.flush()
    for line in verdict.errors:
        print(f"error: {line}", file=sys.stderr)
    print("written:", *files, sep="\n  ")


def print_plan(verdict: Verdict) -> None:
    """Print what would decide the tickets that are undecided, and what went wrong."""
    for line in verdict.warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(plan_text(verdict), flush=True)
    for line in verdict.errors:
        print(f"error: {line}", file=sys.stderr)


def table(group: GroupVerdict, verdict: Verdict) -> str:
    """Lay one group out as text: '+' marks a win, '-' a loss, '?' what is open or undecided.

    First by the rule, then by the evidence. What its runs went on past is numbered between them.
    """
    lines = [str(group.group)]
    head = ["ticket", "sparsity %", *(m.title for m in MEASURES), "best-SA net, AT"]
    head += ["double win", "evidence"]
    notes = list(dict.fromkeys(line for row in group.all_rows for line in row.warnings))
    lines += _aligned([head, *(_cells(row, group, notes) for row in group.all_rows)])
    if group.dense:
        lines.append(f"  matches = at least the dense mean minus {rule(group, verdict.margin)}")
    lines += [f"  [{number}] {note}" for number, note in enumerate(notes, start=1)]
    if group.dense and group.rows:
        lines += ["", *_evidence(group)]
    lines.append(f"  {conclusion(group)}")
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay cells out in columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  " + "  ".join([name.ljust(widths[0]), *cells]).rstrip())
    return lines


def _evidence(group: GroupVerdict) -> list[str]:
    """Lay the differences to the dense network out, in points with their intervals."""
    rows = [["ticket - dense", *(m.title for m in MEASURES), "interval"]]
    for row in group.rows:
        cells = [
            f"{difference(row.differences[m.name], group.margins.get(m.name))} "
            f"{SIGNS[row.evidence[m.name]]}"
            for m in MEASURES
        ]
        rows.append([row.name, *cells, kinds(row)])
    notes = [f"[95 % interval]; {evidence_rule(group)}", look(group)]
    notes += [not_enough(group), not_compared(group)]
    return [*_aligned(rows), *(f"  {note}" for note in notes if note)]


def _cells(row: TicketRow, group: GroupVerdict, notes: Sequence[str]) -> list[str]:
    """Lay a row out; numbers in brackets after its name are those of its warnings in `notes`."""
    mark = {True: " +", False: " -", None: " ?"}
    dense = row.ticket == DENSE
    numbers = ",".join(str(notes.index(line) + 1) for line in row.warnings)
    cells = [f"{row.name} [{numbers}]" if numbers else row.name, f"{row.sparsity:.2f}"]
    for measure in MEASURES:
        sign = "  " if dense else mark[row.wins[measure.name]]
        cells.append(accuracy(group, row, measure.name) + sign)
    beside = [row.stats[measure.name] for measure in BESIDE]
    cells.append(" / ".join("-" if stat is None else f"{stat.mean:.2f}" for stat in beside))
    cells.append("" if dense else BY_RULE[row.double_win])
    cells.append("" if dense else BY_EVIDENCE[row.double_win_evidence])
    return cells
