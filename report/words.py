"""A verdict in words, for the terminal and the page."""

from __future__ import annotations

from report.judged import MEASURES, GroupVerdict


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
