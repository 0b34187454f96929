"""What the page says of the evidence, beside what it says of the rule."""

from __future__ import annotations

from report.judged import MEASURES, Verdict
from report.markup import Cell, listing, number, table, text, words
from report.plan import amount, none_undecided, unjudged, wanted
from report.words import difference, kinds


def explained(verdict: Verdict) -> str:
    """Say what "with evidence" means."""
    if verdict.evidence_margin is not None:
        margin = f"by {verdict.evidence_margin:g} points"
    elif len(verdict.evidence_margins) > 1:
        margin = "by a margin, which differs and is told below,"
    else:
        margin = (
            "by the rule\u2019s tolerance, which is itself estimated "
            "(<code>--evidence_margin</code> fixes it beforehand)"
        )
    return (
        "<p>That rule says nothing of chance. <em>With evidence</em> a ticket matches where the "
        "95 % interval of its difference to the dense network, over other seeds and test images, "
        f"shows it worse {margin} at the most; it is worse where all of the interval lies below; "
        "else it is undecided, as it always is with one seed or without outcomes per image. The "
        "sparsest with evidence ends an unbroken chain of double wins from the densest ticket on. "
        "How this is computed, how often it is right and what it allows to be said: "
        "<code>docs/verdict.md</code>.</p>"
    )


def undecided(verdict: Verdict) -> str:
    """List what would decide each ticket that is undecided."""
    first = [unjudged(group) for group in verdict.groups if group.error]
    lines = [f"{lack.group.group}: {lack.row.name}: {amount(lack)}" for lack in wanted(verdict)]
    before = listing(first) if first else ""
    if not lines:
        return f"{before}<p>{text(none_undecided(verdict))}</p>"
    return before + (
        "<p>At today\u2019s means and spread, the cheapest first; <code>--plan</code> prints what "
        "to run. A look at the evidence before seeds are added makes its errors likelier: it is "
        f"then sequential, above 5 %.</p>{listing(lines)}"
    )


def contrast_table(verdict: Verdict) -> str:
    """Lay the contrasts of each two pre-trainings out."""
    if not verdict.contrasts:
        return (
            "<p>None: no two share a state and all else that must be alike (see the warnings).</p>"
        )
    titles = {measure.name: measure.title for measure in MEASURES}
    heads = ["dataset", "data %", "A", "B", "state", "measure", "A − B", "[95 % interval]"]
    heads += ["apart", "interval"]
    rows = []
    for contrast in verdict.contrasts:
        found = contrast.difference
        interval = difference(found).partition(" ")[2]
        apart = {True: "yes", False: "no", None: "–"}[contrast.apart]
        rows.append(
            [
                words(contrast.a.data),
                number(100 * contrast.a.data_number, "{:g}"),
                words(contrast.a.name),
                words(contrast.b.name),
                number(contrast.state, "{:d}"),
                words(titles[contrast.measure]),
                number(found.mean, "{:+.2f}"),
                Cell(text(interval), found.low, "num"),
                Cell(apart, apart, "double yes" if apart == "yes" else ""),
                words(kinds([found])),
            ]
        )
    caption = (
        "(Ticket − dense) of A minus (ticket − dense) of B, in points. A match here and not there "
        "is no difference between the two; this is: between these two pre-trainings and searches, "
        "each of which is one of many. Of rows without any true difference one in twenty is apart "
        "by chance."
    )
    return table(caption, heads, rows)
