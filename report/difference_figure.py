"""The figure of differences: what each ticket lacks against its dense network, and how surely."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from report.drawing import (
    BEYOND,
    DASHED,
    DOTTED,
    INK,
    SOLID,
    WIDTH,
    Dashes,
    Styles,
    headline,
    house_style,
    key_of_arrowheads,
    legend_below,
    place_of,
    plain,
    sparsity_axis,
    stars,
    title_of,
)
from report.evidence import Difference, Evidence
from report.judged import MEASURES, GroupVerdict, Measure, TicketRow
from report.words import points

BAND = "#cfd3da"
# Heights of the two rows of stars and of the room below them, as fractions of the panel.
RULE, EVIDENCE, CEILING = 0.955, 0.885, 0.83
PART: Dashes = (0, (2, 1.5))  # dashes of an interval of images only, or of seeds alone


def difference_figure(groups: Sequence[GroupVerdict], styles: Styles, attack: str = "") -> Figure:
    """Draw the groups of one data set and fraction: a row each, a panel per measure.

    Of the tickets, those that IMP found are drawn. The panels of a measure have the same axes.
    """
    densities = {row.density for group in groups for row in group.found}
    with house_style():
        figure = Figure(figsize=(WIDTH, 1.5 + 2.6 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), len(MEASURES), squeeze=False, sharex=True, sharey="col")
        for axis, measure in zip(axes[0], MEASURES, strict=True):
            axis.set_title(title_of(measure, attack))
            axis.set_ylim(*_limits(groups, measure))
        for group, line in zip(groups, axes, strict=True):
            for axis, measure in zip(line, MEASURES, strict=True):
                _panel(axis, group, measure, *styles[group.group.name])
            line[0].set_ylabel(f"{plain(group.group.name, 28)}\nticket − dense (points)")
        for axis in axes[-1]:
            sparsity_axis(axis, densities)
        compared = [row for group in groups for row in (group.dense, *group.found) if row]
        figure.suptitle(headline(groups, compared))
        legend_below(figure, [*_legend(groups), *key_of_arrowheads(figure)])
    return figure


def _panel(axis: Axes, group: GroupVerdict, measure: Measure, colour: str, marker: str) -> None:
    margin = group.margins.get(measure.name)
    if margin is not None:
        axis.axhspan(-margin, 0, color=BAND, linewidth=0, zorder=0)
    axis.axhline(0, color=INK, linestyle=DASHED, linewidth=1, zorder=1)
    tolerance = group.tolerance[measure.name]
    if tolerance is not None:
        axis.axhline(-tolerance, color=colour, linestyle=DOTTED, linewidth=1.2, zorder=1)
    shown = _shown(group, measure)
    for row, found in shown:
        _point(axis, place_of(row, group), found, row.evidence[measure.name], colour, marker)
    if shown:
        stars(axis, RULE, [place_of(r, group) for r in group.found if r.double_win], "white")
        surely = [place_of(row, group) for row in group.found if row.double_win_evidence]
        stars(axis, EVIDENCE, surely, "black")
    else:
        axis.text(0.5, 0.5, "nothing to compare", transform=axis.transAxes, ha="center", color=INK)


def _point(
    axis: Axes, x: float, found: Difference, sign: Evidence, colour: str, marker: str
) -> None:
    low, high = found.interval()
    if low is not None and high is not None:
        _interval(axis, x, (low, found.mean, high), SOLID if found.conclusive else PART, colour)
    axis.plot(
        [x], [found.mean], linestyle="", marker="x" if sign == "worse" else marker, markersize=6,
        color=colour, markeredgewidth=1.8 if sign == "worse" else 1.2,
        markerfacecolor=colour if sign == "matches" else "white", zorder=3,
    )  # fmt: skip


def _interval(
    axis: Axes, x: float, ends: tuple[float, float, float], dashes: Dashes, colour: str
) -> None:
    """Draw an interval as far as the panel has room, with an arrowhead where it goes on."""
    low, mean, high = ends
    bottom, top = axis.get_ylim()
    ceiling = bottom + CEILING * (top - bottom)
    shown = mean - max(low, bottom), min(high, ceiling) - mean
    _, caps, (bar,) = axis.errorbar(
        x, mean, [[shown[0]], [shown[1]]], color=colour, elinewidth=1.4, capsize=3, zorder=2,
        linestyle="",
    )  # fmt: skip
    bar.set_linestyle(dashes)
    for cap, cut, arrow in zip(caps, (low < bottom, high > ceiling), BEYOND, strict=True):
        if cut:
            cap.set(marker=arrow, clip_on=False)


def _shown(group: GroupVerdict, measure: Measure) -> list[tuple[TicketRow, Difference]]:
    found = [(row, row.differences[measure.name]) for row in group.found]
    return [(row, difference) for row, difference in found if difference is not None]


def _limits(groups: Sequence[GroupVerdict], measure: Measure) -> tuple[float, float]:
    """Let intervals much wider than most leave the panel; leave room for the stars at its top."""
    shown = [found for group in groups for _, found in _shown(group, measure)]
    allowed = [found.get(measure.name) for g in groups for found in (g.margins, g.tolerance)]
    margin = max(most or 0.0 for most in allowed)
    means = [0.0, *(found.mean for found in shown)]
    low, high = min(*means, -margin), max(means)
    bars = [half for found in shown if (half := found.half_width()) is not None] or [0.0]
    reach = max(1.2 * (high - low), 2.4 * margin, 0.6, 3 * statistics.median_low(bars))
    ends = [low, high, *(end for found in shown for end in found.interval() if end is not None)]
    bottom, top = max(low - reach, min(ends)), min(high + reach, max(ends))
    pad = max(0.05 * (top - bottom), 0.1)
    return bottom - pad, bottom - pad + (top - bottom + 2 * pad) / CEILING


def _margins(groups: Sequence[GroupVerdict]) -> str:
    """Name the margin by which the evidence is judged, or those that groups have."""
    margins = dict.fromkeys(group.evidence_margin for group in groups)
    return " or ".join("the rule’s tolerance" if m is None else points(m) for m in margins)


def _legend(groups: Sequence[GroupVerdict]) -> list[Line2D | Patch]:
    def point(marker: str, face: str, label: str, size: float = 6) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=INK, markerfacecolor=face,
                      markersize=size, label=label)  # fmt: skip

    return [
        Line2D([], [], color=INK, linewidth=1.4, label="95 %: seeds and images"),
        Line2D(
            [],
            [],
            color=INK,
            linewidth=1.4,
            linestyle=PART,
            label="95 %: images only, or seeds alone",
        ),
        point("o", INK, "matches"),
        point("o", "white", "undecided"),
        point("x", INK, "worse"),
        Patch(color=BAND, label=f"evidence margin: {_margins(groups)}"),
        Line2D([], [], color=INK, linewidth=1.2, linestyle=DOTTED, label="the rule’s tolerance"),
        point("*", "white", "double win by the rule", 11),
        point("*", "black", "double win with evidence", 11),
    ]
