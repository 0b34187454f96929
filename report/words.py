"""A verdict in words, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable

from files.results import REGIMES
from report.evidence import Difference, Evidence
from report.judged import MEASURES, GroupVerdict, TicketRow

SIGNS: dict[Evidence, str] = {"matches": "+", "worse": "-", "undecided": "?"}
BY_RULE = {True: "yes", False: "no", None: "open"}
BY_EVIDENCE = {True: "yes", False: "no", None: "undecided"}
LOOKS = {
    "fixed": "The number of seeds was fixed beforehand.",
    "interim": "interim: not all of the seeds that were planned have run{of}; above 5 % if it goes "
    "on",
    "sequential": "sequential: above 5 %, since seeds were added to those that were planned",
    None: "This assumes that the number of seeds was fixed beforehand.",
}


def of_data(data: str, fraction: float) -> str:
    """Name a data set and the share of its training data that was used."""
    return f"{data}, {100 * fraction:g} % of the training data"


def look(group: GroupVerdict) -> str:
    """Say whether the number of seeds was fixed beforehand, and of which tickets it is open."""
    waiting = group.interim
    some = f" of {', '.join(row.name for row in waiting)}" if waiting != group.found else ""
    return LOOKS[group.look].format(of=some)


# --- the rule -------------------------------------------------------------------------------------


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
    """Say in one sentence what the rule and the evidence find."""
    if group.error:
        return "Not judged: there is no dense run to match."
    rule, evidence = group.sparsest, group.sparsest_evidence
    if rule is not None:
        chance = ", possibly by chance" if group.by_chance else ""
        said = f"Sparsest double win: {_where(rule)} by the paper\u2019s rule{chance}"
    elif not group.found:
        said = "No ticket of IMP"
    elif any(row.double_win is None for row in group.found):
        left_out = [regime for mode, regime in REGIMES.items() if mode not in group.modes]
        what = "missing runs leave"
        if left_out:
            what = f"{left_out[0]}, which the study leaves out, leaves"
        said = f"No double-win ticket so far; {what} some tickets open"
    else:
        said = "No double-win ticket by the paper\u2019s rule"
    join = ";" if group.by_chance else ","
    said += f"{join} {_where(evidence) if evidence else 'none'} with evidence"
    count = len(group.undecided)
    tickets = "1 ticket" if count == 1 else f"{count or 'no'} tickets"
    return f"{said}; {tickets} undecided."


def _where(row: TicketRow) -> str:
    return f"{row.sparsity:.1f} % ({row.name})"


# --- the evidence ---------------------------------------------------------------------------------


def difference(found: Difference | None) -> str:
    """Lay a difference out with its interval, in points."""
    if found is None:
        return "missing"
    low, high = found.interval()
    if low is None or high is None:
        return f"{found.mean:+.2f} [no interval]"
    return f"{found.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def kinds(found: Iterable[Difference | None]) -> str:
    """Name the kinds of intervals, each once, and how many seeds and images they know of."""
    names = (f"{one.kind}, {one.seeds} seed{'' if one.seeds == 1 else 's'}" for one in found if one)
    return "; ".join(dict.fromkeys(names)) or "none"


def evidence_rule(group: GroupVerdict) -> str:
    """Say in words what a ticket may lack, and how surely, by the evidence."""
    if group.evidence_margin is not None:
        who = "given to the report" if group.margin_given else "fixed by the study"
        margin = f"{group.evidence_margin:g} ({who}, not estimated)"
    elif any(group.margins.get(measure.name) is not None for measure in MEASURES):
        margin = "the rule\u2019s tolerance, which is itself estimated (or give --evidence_margin)"
    else:
        margin = "nothing known"
    return f"margin in points: {margin}"
