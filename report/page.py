"""The report as one web page, which needs no network and escapes everything read from files."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from files.results import REGIMES, Accuracy, RunResult
from report.judged import BESIDE, MEASURES, GroupVerdict, TicketRow, Verdict
from report.markup import Cell, listing, number, table, text, words
from report.page_evidence import contrast_table, explained, glossary, undecided
from report.runs import Point
from report.setting import setting_lines
from report.words import (
    BY_EVIDENCE,
    BY_RULE,
    accuracy,
    conclusion,
    difference,
    evidence_rule,
    look,
    needed_text,
    not_compared,
    not_enough,
    of_data,
    points,
)

SECTIONS = (
    "verdict", "figures", "tickets", "undecided", "contrasts", "runs", "missing", "warnings",
)  # fmt: skip
MOST_POINTS = 60  # of the small curve of a run
TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: what it shows, in words, and its files, of which one is an SVG."""

    title: str
    caption: str
    files: tuple[Path, ...]

    @property
    def svg(self) -> Path:
        return next(path for path in self.files if path.suffix == ".svg")


def page(
    verdict: Verdict,
    pictures: Sequence[Picture],
    curves: Mapping[Path, Sequence[Point]],
) -> str:
    """Build the whole page; `curves` are by path of `results.json`."""
    runs = [run for group in verdict.groups for row in group.all_rows for run in row.runs]
    sections = [
        _section("verdict", "Verdict", _verdict(verdict)),
        _section("figures", "Figures", "".join(map(_picture, pictures))),
        _section("tickets", "Every ticket", _ticket_table(verdict)),
        _section("undecided", "What would decide the rest", undecided(verdict)),
        _section("contrasts", "Between pre-trainings", contrast_table(verdict)),
        _section("runs", f"Every run ({len(runs)})", _run_table(runs, curves)),
        _section("missing", "What is missing", listing(verdict.missing)),
        _section("warnings", "Warnings and omissions", listing(verdict.warnings)),
    ]
    links = "".join(f'<a href="#{name}">{name}</a>' for name in SECTIONS)
    top, middle, rest = re.split(
        "<!-- (?:links|sections) -->", TEMPLATE.read_text(encoding="utf-8")
    )
    return "".join([top, links, middle, "\n".join(sections), rest])


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{body}</section>'


# --- the verdict in words -----------------------------------------------------------------------


def _verdict(verdict: Verdict) -> str:
    parts = [
        "<p>A ticket is a <em>double win</em> when it matches the dense pre-trained network on SA "
        "under standard training (ST) and on both SA and RA under adversarial training (AT). "
        "SA is accuracy on clean test images, RA on attacked ones, in percent. To match is to have "
        "a mean over seeds of at least the dense mean minus the dense network\u2019s standard "
        f"deviation over seeds; with one dense seed, minus a margin of {points(verdict.margin)}. "
        "Under AT, both figures are those of the network with the best validation RA.</p>",
        explained(verdict),
        glossary(),
    ]
    for place in dict.fromkeys(group.group.place for group in verdict.groups):
        parts.append(f"<h3>{text(of_data(*place))}</h3><ul>")
        for group in verdict.groups:
            if group.group.place == place:
                parts.append(_sentence(group, len(verdict.evidence_margins) > 1))
        parts.append("</ul>")
        setting = verdict.setting(place)
        lines = setting_lines(setting) if setting else []
        parts.append(f"<p><small>Setting. {text(' · '.join(lines) or 'not recorded')}</small></p>")
    return "".join(parts)


def _sentence(group: GroupVerdict, margins_differ: bool) -> str:
    kind = "error" if group.error else "win" if group.sparsest else "none"
    said = group.error.split(": ", 1)[-1] if group.error else conclusion(group)
    parts = [f"<strong>{text(group.group.name)}</strong>: {text(said)}"]
    for measure in MEASURES:
        line = group.dense.stats[measure.name] if group.dense else None
        allowed = group.tolerance[measure.name]
        best = accuracy(group, group.sparsest, measure.name) if group.sparsest else None
        if line is None or allowed is None:
            need = "no dense run" if group.dense else ""
        else:
            why = "the margin" if line.std is None else f"its std over {line.n} seeds"
            least = needed_text(group, measure.name)
            need = f"{least} (dense {line.mean:.2f} minus {allowed:.2f}, {why})"
        if need:
            own = f" {best}; needed:" if best else " needed:"
            parts.append(f"<small>{text(f'{measure.title}{own} {need}')}</small>")
    warned = dict.fromkeys(line for row in group.all_rows for line in row.warnings)
    if group.rows and not group.error:
        rule = evidence_rule(group)
        margin = f"{rule[:1].upper()}{rule[1:]}. " if margins_differ else ""
        parts.append(f"<small>{text(f'{margin}{look(group)}')}</small>")
    for said in filter(None, (not_enough(group), not_compared(group))):
        parts.append(f"<small>{text(said)}</small>")
    return f'<li class="{kind}">{" ".join(parts)}{_warnings(list(warned))}</li>'


# --- tables -------------------------------------------------------------------------------------


def _measured(group: GroupVerdict, row: TicketRow, name: str) -> Cell:
    """Lay an accuracy out, and below it the difference to the dense network and the evidence."""
    stat, found, judged = row.stats[name], row.differences.get(name), row is not group.dense
    if stat is None:
        return Cell("missing", None, "num missing")
    mark = {True: "win", False: "loss", None: "open"}[row.wins.get(name)]
    shown = f'<span class="{mark}" title="{mark}">{mark}</span> ' if judged else ""
    html = f"{shown}{text(accuracy(group, row, name))}<small> n={stat.n}</small>"
    if judged and found is not None:
        said = row.evidence[name]
        how = "" if found.kind == "none" else f"; {found.kind}"
        apart = difference(found, group.margins.get(name))
        html += f"<br><small>{text(apart)}<br>{text(said + how)}</small>"
    return Cell(html, stat.mean, "num")


def _ticket_table(verdict: Verdict) -> str:
    heads = ["pre-training", "dataset", "data %", "ticket", "state", "sparsity %"]
    heads += [measure.title for measure in MEASURES]
    heads += ["best-SA net: SA, AT", "best-SA net: RA, AT", "double win", "evidence"]
    rows = []
    for group in verdict.groups:
        for row in group.all_rows:
            judged = row is not group.dense
            double = BY_RULE[row.double_win] if judged else "–"
            surely = BY_EVIDENCE[row.double_win_evidence] if judged else "–"
            beside = [row.stats[measure.name] for measure in BESIDE]
            rows.append(
                [
                    *_place(row),
                    *(_measured(group, row, m.name) for m in MEASURES),
                    *(number(None if stat is None else stat.mean) for stat in beside),
                    Cell(double, double, f"double {double}" if judged else ""),
                    Cell(surely, surely, f"double {surely}" if judged else ""),
                ]
            )
    caption = (
        "Mean ± std over n seeds, in percent on the test set; below it the difference to the dense "
        "network in points, [its 95 % interval], what that says, and what it covers: seeds and "
        "images (paired or unpaired), images only, or seeds only; unlike: trained or tested "
        "unlike the dense network, so open and undecided. Where one has all seeds of the other, "
        "the difference is over these alone. Select a heading to sort."
    )
    return table(caption, heads, rows)


def _place(row: TicketRow | RunResult) -> list[Cell]:
    which = (
        f"<br><small>{text(row.which)}</small>" if isinstance(row, TicketRow) and row.which else ""
    )
    return [
        words(row.group.name),
        words(row.group.data),
        number(100 * row.group.data_number, "{:g}"),
        Cell(text(row.ticket) + which + _warnings(row.warnings), row.ticket),
        number(row.state, "{:d}"),
        number(100 * (1 - row.density)),
    ]


def _warnings(lines: Sequence[str]) -> str:
    """Fold what stands behind a figure into a few characters beside it."""
    if not lines:
        return ""
    count = "1 warning" if len(lines) == 1 else f"{len(lines)} warnings"
    return f'<details class="warned"><summary>{count}</summary>{listing(lines)}</details>'


def _run_table(runs: Sequence[RunResult], curves: Mapping[Path, Sequence[Point]]) -> str:
    heads = ["pre-training", "dataset", "data %", "ticket", "state", "sparsity %", "regime", "seed"]
    heads += [f"{net}: {kind}" for net in ("best SA", "best RA", "last") for kind in ("SA", "RA")]
    heads += ["curve", "reproduce"]
    rows = []
    for run in runs:
        pairs: list[Accuracy] = [run.sa_best, run.ra_best, run.last]
        curve = curves.get(run.path, ())
        top = max((p.sa for p in curve if p.sa is not None), default=None)
        command = "not recorded" if run.command is None else run.command
        rows.append(
            [
                *_place(run),
                words(REGIMES[run.mode]),
                number(run.seed, "{:d}"),
                *(number(value) for pair in pairs for value in pair),
                Cell(curve_svg(curve), top),
                Cell(
                    f"<details><summary>how</summary><pre>{text(command)}</pre>"
                    f"<p>{text(run.path)}</p></details>",
                    command,
                ),
            ]
        )
    caption = (
        "One row a run; accuracies in percent on the test set. The curve is SA (solid) and RA "
        "(dashed) on the validation set by epoch, from 0 to 100 %; it sorts by the highest SA."
    )
    return table(caption, heads, rows)


def curve_svg(curve: Sequence[Point]) -> str:
    """Draw a run's accuracy by epoch as a small inline SVG; without one, say 'none'."""
    if not curve:
        return '<span class="missing">none</span>'
    step = max(1, -(-len(curve) // MOST_POINTS))
    kept = [*curve[:-1:step], curve[-1]]
    first, last = curve[0].epoch, curve[-1].epoch
    lines = []
    for name, read in (("sa", lambda p: p.sa), ("ra", lambda p: p.ra)):
        lines.append(_polyline(name, kept, read, first, max(last - first, 1.0)))
    label = f"validation accuracy from epoch {first:g} to {last:g}"
    return (
        f'<svg class="curve" viewBox="0 0 120 44" role="img" aria-label="{label}">'
        f'<path class="frame" d="M2 2V42H118"/>{"".join(lines)}</svg>'
    )


def _polyline(
    name: str,
    curve: Sequence[Point],
    read: Callable[[Point], float | None],
    first: float,
    span: float,
) -> str:
    places = [
        f"{2 + 116 * (p.epoch - first) / span:.1f},{42 - 0.4 * min(max(value, 0.0), 100.0):.1f}"
        for p in curve
        if (value := read(p)) is not None
    ]
    if len(places) == 1:
        x, y = places[0].split(",")
        return f'<circle class="{name}" cx="{x}" cy="{y}" r="2"/>'
    return f'<polyline class="{name}" points="{" ".join(places)}"/>' if places else ""


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.svg.read_bytes()).decode("ascii")
    return (
        f"<figure><h3>{text(picture.title)}</h3>"
        f'<img alt="{text(f"{picture.title}. {picture.caption}")}" '
        f'src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{text(picture.caption)}</figcaption></figure>\n"
    )
