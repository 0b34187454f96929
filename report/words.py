"""A verdict in words, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from files.results import REGIMES
from report.evidence import Difference, Evidence, corrected
from report.judged import MEASURES, GroupVerdict, TicketRow

SIGNS: dict[Evidence, str] = {"matches": "+", "worse": "-", "undecided": "?"}
BY_RULE = {True: "yes", False: "no", None: "open"}
BY_EVIDENCE = {True: "yes", False: "no", None: "undecided"}
UNLIKE = "trained or tested unlike the dense network"
WAITING = "planned seeds or measures are missing"
RISK = "the chance of a wrong decision is above 5 %"
AGAIN = "for whoever decides now and again later"  # of a look that is interim
LOOKS = {
    "fixed": "The number of seeds was fixed beforehand.",
    "interim": f"interim: {WAITING}{{of}}; {RISK} {AGAIN}",
    "sequential": f"sequential: {RISK}, since seeds were added to those that were planned",
    None: "This assumes that the number of seeds was fixed beforehand.",
}


def of_data(data: str, fraction: float) -> str:
    """Name a data set and the share of its training data that was used."""
    return f"{data}, {100 * fraction:g} % of the training data"


def look(group: GroupVerdict) -> str:
    """Say whether the number of seeds was fixed beforehand, and of which tickets it is open."""
    waiting = group.interim
    some = f" for {', '.join(row.name for row in waiting)}" if waiting != group.found else ""
    return LOOKS[group.look].format(of=some)


# --- figures --------------------------------------------------------------------------------------


def points(count: float) -> str:
    return f"{count:g} point{'' if count == 1 else 's'}"


def distinct(value: float, *limits: float, shape: str = "") -> str:
    """Write a figure with two decimals, or with more where it would look like what it is not.

    limits: what it is compared with. shape: a sign, as in format strings.
    """
    unequal = [limit for limit in limits if not math.isclose(value, limit, abs_tol=1e-9)]
    shown = ""
    for decimals in range(2, 7):
        shown = f"{value:{shape}.{decimals}f}"
        if all(float(shown) != round(limit, decimals) for limit in unequal):
            break
    return shown


def needed(group: GroupVerdict, name: str) -> float | None:
    """The least mean that matches on a measure by the rule; None without a dense run."""
    stat = group.dense.stats[name] if group.dense else None
    allowed = group.tolerance[name]
    return None if stat is None or allowed is None else stat.mean - allowed


def needed_text(group: GroupVerdict, name: str) -> str:
    """The same in words, which no mean that is not just that one looks like."""
    least = needed(group, name)
    means = [stat.mean for row in group.rows if (stat := row.stats[name]) is not None]
    return "" if least is None else distinct(least, *means)


def accuracy(group: GroupVerdict, row: TicketRow, name: str) -> str:
    """A mean and its spread; no loss looks like a match."""
    stat, least = row.stats[name], needed(group, name)
    if stat is None:
        return "missing"
    limits = [] if least is None else [least]
    return distinct(stat.mean, *limits) + ("" if stat.std is None else f" ± {stat.std:.2f}")


# --- the rule -------------------------------------------------------------------------------------


def rule(group: GroupVerdict, margin: float) -> str:
    """Say in words what a ticket may lack on each measure."""
    parts = []
    for measure in MEASURES:
        allowed, least = group.tolerance[measure.name], needed_text(group, measure.name)
        stat = group.dense.stats[measure.name] if group.dense else None
        if allowed is None or stat is None:
            parts.append(f"nothing known ({measure.title}: no dense run)")
        elif stat.std is None:
            parts.append(f"{margin:g} ({measure.title}: one dense seed, --margin): {least}")
        else:
            parts.append(f"{allowed:.2f} ({measure.title}: std of {stat.n} dense seeds): {least}")
    return ", ".join(parts)


def conclusion(group: GroupVerdict) -> str:
    """Say in one sentence what the rule and the evidence find."""
    if group.error:
        return "Not judged: there is no dense run to match."
    sparsest = group.sparsest
    if sparsest is not None:
        chance = ", possibly by chance" if group.by_chance else ""
        said = f"Sparsest double win: {_where(sparsest)} by the paper\u2019s rule{chance}"
    elif not group.found:
        said = "No ticket of IMP"
    elif any(row.double_win is None for row in group.found):
        said = f"No double-win ticket so far; some tickets are open ({', '.join(_why_open(group))})"
    else:
        said = "No double-win ticket by the paper\u2019s rule"
    join = ";" if group.by_chance else ","
    said += f"{join} {_chain(group)}"
    count = len(group.undecided)
    tickets = "1 ticket" if count == 1 else f"{count or 'no'} tickets"
    return f"{said}; {tickets} undecided."


def _why_open(group: GroupVerdict) -> list[str]:
    """Say what leaves tickets of IMP open by the rule."""
    rows = [row for row in group.found if row.double_win is None]
    missing = any(
        row.stats[measure.name] is None and measure.mode in group.modes
        for row in (group.dense, *rows)
        if row
        for measure in MEASURES
    )
    why = {
        f"the study leaves {regime} out": mode not in group.modes
        for mode, regime in REGIMES.items()
    }
    why |= {"runs are missing": missing, UNLIKE: any(row.unlike for row in rows)}
    return [reason for reason, holds in why.items() if holds]


def not_compared(group: GroupVerdict) -> str:
    """Name the tickets that were trained or tested unlike the dense network, and on what."""
    rows = [
        row.name
        + ("" if row.unlike == MEASURES else f" ({', '.join(m.title for m in row.unlike)})")
        for row in group.rows
        if row.unlike
    ]
    if not rows:
        return ""
    return f"Open by the rule, undecided by the evidence, as {UNLIKE}: {', '.join(rows)}."


def _chain(group: GroupVerdict) -> str:
    """Say how far the chain goes; where not at all, what breaks it and what lies beyond."""
    last = group.sparsest_evidence
    if last is not None:
        return f"{_where(last)} with evidence"
    singly = [row.name for row in group.found if row.double_win_evidence]
    if not singly:
        return "none with evidence"
    if group.chain:
        first = group.chain[0]
        how = "undecided" if first.double_win_evidence is None else "no double win"
        broken = f"{first.name} is {how}"
    else:
        broken = f"imp state {group.not_run[0]} has not run"
    beyond = f"{', '.join(singly)} {'has' if len(singly) == 1 else 'have'} it singly"
    return f"no unbroken chain with evidence ({broken}; {beyond})"


def _where(row: TicketRow) -> str:
    return f"{row.sparsity:.1f} % ({row.name})"


# --- the evidence ---------------------------------------------------------------------------------


def difference(found: Difference | None, margin: float | None = None) -> str:
    """Lay a difference out with its interval, in points; nothing looks like 0 or the margin."""
    if found is None:
        return "missing"
    limits = (0.0,) if margin is None else (0.0, -margin)
    mean = distinct(found.mean, *limits, shape="+")
    low, high = found.interval()
    if low is None or high is None:
        return f"{mean} [no interval]"
    ends = (distinct(end, *limits, shape="+") for end in (low, high))
    return f"{mean} [{', '.join(ends)}]"


def kind(found: Difference) -> str:
    """Say what an interval knows of, and of how many seeds."""
    return f"{found.kind}, {found.seeds} seed{'' if found.seeds == 1 else 's'}"


def kinds(row: TicketRow) -> str:
    """Say the same of a ticket's intervals, once where they are alike, else with the measures."""
    of = {m.title: kind(found) for m in MEASURES if (found := row.differences[m.name])}
    return _of_measures(of) or "none"


def _of_measures(said: Mapping[str, str]) -> str:
    """Join what is said of each measure: once where it is the same of all, else by measure."""
    titles: dict[str, list[str]] = {}
    for title, each in said.items():
        titles.setdefault(each, []).append(title)
    if len(titles) == 1:
        return next(iter(titles))
    return "; ".join(f"{', '.join(of)}: {each}" for each, of in titles.items())


def not_enough(group: GroupVerdict) -> str:
    """Name the tickets that are undecided though they are worse on a measure, and say why."""
    rows = [
        row.name
        for row in group.rows
        if row.double_win_evidence is None and "worse" in row.evidence.values()
    ]
    if not rows:
        return ""
    level = 100 * corrected(len(MEASURES))
    return (
        f"Undecided though worse on a measure: {', '.join(rows)}. With {len(MEASURES)} measures "
        f"there are as many chances to find one worse by chance; so it takes one whose {level:.1f} "
        "% interval, not just its 95 %, lies below the margin."
    )


def _tolerances(group: GroupVerdict) -> dict[str, str]:
    """Say of each measure that the dense network has where the rule's tolerance comes from."""
    stats = {m.title: group.dense.stats[m.name] for m in MEASURES} if group.dense else {}
    return {
        title: "one dense seed, --margin" if stat.std is None else "itself estimated"
        for title, stat in stats.items()
        if stat is not None
    }


def evidence_rule(group: GroupVerdict) -> str:
    """Say in words what a ticket may lack, and how surely, by the evidence."""
    if group.evidence_margin is not None:
        who = "given to the report" if group.margin_given else "fixed by the study"
        margin = f"{group.evidence_margin:g} ({who}, not estimated)"
    elif which := _of_measures(_tolerances(group)):
        margin = f"the rule\u2019s tolerance ({which}; or give --evidence_margin)"
    else:
        margin = "nothing known"
    return f"margin in points: {margin}"
