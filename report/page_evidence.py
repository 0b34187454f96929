"""What the page says of the evidence, beside what it says of the rule."""

from __future__ import annotations

from report.judged import MEASURES, Verdict
from report.markup import Cell, listing, number, table, text, words
from report.plan import ADDED, amount, none_undecided, unjudged, wanted
from report.words import AGAIN, RISK, WAITING, difference, kind, points


def explained(verdict: Verdict) -> str:
    """Say what "with evidence" means."""
    if verdict.evidence_margin is not None:
        margin = f"by {points(verdict.evidence_margin)}"
    elif len(verdict.evidence_margins) > 1:
        margin = "by a margin, which differs and is told below,"
    else:
        margin = (
            "by the rule\u2019s tolerance, which is itself estimated where the dense network has "
            "several seeds (<code>--evidence_margin</code> fixes it beforehand)"
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


GLOSSARY = {
    "ticket": "a network of which part of the convolution weights is pruned; transferred to a data "
    "set as its source found it (imp: by iterative magnitude pruning), or as a baseline: omp is "
    "pruned once by magnitude, random has as many weights at random places, reinit the places of a "
    "ticket and random weights",
    "state": "how often a ticket has been pruned; 0 is the dense network, of which all is left",
    "sparsity": "the share of the convolution weights that is pruned; density is what is left",
    "ST, AT": "standard and adversarial training, here of the transfer",
    "SA, RA": "standard accuracy on clean test images, robust accuracy on attacked ones",
    "rule": "the paper\u2019s: a mean over seeds of at least the dense mean minus a tolerance",
    "open": "not judged by the rule: runs are missing, or were trained or tested unlike those of "
    "the dense network",
    "tolerance": "by the rule, the dense network\u2019s standard deviation over seeds (one seed: "
    "--margin)",
    "margin": "how much worse a ticket may be by the evidence, in points",
    "evidence": "what may be said beyond these very seeds and test images",
    "look": "whether the number of seeds was fixed before there were results; – where that is not "
    "known",
    "interim": f"{WAITING}; {RISK} {AGAIN}",
    "sequential": f"seeds were added to those that were planned, perhaps because of a look; {RISK}",
    "best-SA net": "the network of an AT run with the best validation SA; judged is the one with "
    "the best validation RA",
    "point": "one percent of the test images",
}


def glossary() -> str:
    """Explain the words of the page, folded away."""
    items = "".join(f"<dt>{text(word)}</dt><dd>{text(GLOSSARY[word])}</dd>" for word in GLOSSARY)
    return f"<details><summary>What the words mean</summary><dl>{items}</dl></details>"


def undecided(verdict: Verdict) -> str:
    """List what would decide each ticket that is undecided."""
    first = [unjudged(group) for group in verdict.groups if group.error]
    lines = [f"{lack.group.group}: {lack.row.name}: {amount(lack)}" for lack in wanted(verdict)]
    before = listing(first) if first else ""
    if not lines:
        return f"{before}<p>{text(none_undecided(verdict))}</p>"
    return before + (
        "<p>At today\u2019s means and spread, the cheapest first; <code>--plan</code> prints what "
        f"to run. {ADDED}.</p>{listing(lines)}"
    )


def contrast_table(verdict: Verdict) -> str:
    """Lay the contrasts of each two pre-trainings out."""
    if not verdict.contrasts:
        return (
            "<p>None: no two share a state and all else that must be alike (see the warnings).</p>"
        )
    titles = {measure.name: measure.title for measure in MEASURES}
    heads = ["dataset", "data %", "A", "B", "state", "measure", "A − B", "[95 % interval]"]
    heads += ["apart", "interval", "look"]
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
                words(kind(found)),
                words(contrast.look or "–"),
            ]
        )
    caption = (
        "(Ticket − dense) of A minus (ticket − dense) of B, in points. A match here and not there "
        "is no difference between the two; this is: between these two pre-trainings and searches, "
        "each of which is one of many. Of rows without any true difference one in twenty is apart "
        "by chance, and more where the look, the worse of the two, is interim or sequential."
    )
    return table(caption, heads, rows)
