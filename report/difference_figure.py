"""The figure of differences: what each ticket lacks against its dense network, and how surely."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from report.drawing import (
    DASHED,
    DOTTED,
    INK,
    WIDTH,
    Look,
    headline,
    house_style,
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
RULE, EVIDENCE = 0.955, 0.885  # heights of the two rows of stars, as fractions of the panel
PART = (0, (2, 1.5))  # dashes of an interval of images only, or of seeds alone


def difference_figure(groups: Sequence[GroupVerdict], look: Look, attack: str = "") -> Figure:
    """Draw the groups of one data set and fraction: a row each, a panel per measure.

    Of the tickets, those that IMP found are drawn. The panels of a measure have the same axes.
    """
    densities = {row.density for group in groups for row in group.found}
    with house_style():
        figure = Figure(figsize=(WIDTH, 1.5 + 2.6 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), len(MEASURES), squeeze=False, sharex=True, sharey="col")
        for group, line in zip(groups, axes, strict=True):
            for axis, measure in zip(line, MEASURES, strict=True):
                _panel(axis, group, measure, *look[group.group.name])
            line[0].set_ylabel(f"{plain(group.group.name, 28)}\nticket − dense (points)")
        for axis, measure in zip(axes[0], MEASURES, strict=True):
            axis.set_title(title_of(measure, attack))
            axis.set_ylim(*_limits(groups, measure))
        for axis in axes[-1]:
            sparsity_axis(axis, densities)
        compared = [row for group in groups for row in (group.dense, *group.found) if row]
        figure.suptitle(headline(groups, compared))
        legend_below(figure, _legend(groups))
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
    half = found.half_width()
    bars = axis.errorbar(
        x, found.mean, half, color=colour, elinewidth=1.4, capsize=3, zorder=2, linestyle="",
    )  # fmt: skip
    if not found.conclusive:
        for bar in bars[2]:
            bar.set_linestyle(PART)
    axis.plot(
        [x], [found.mean], linestyle="", marker="x" if sign == "worse" else marker, markersize=6,
        color=colour, markeredgewidth=1.8 if sign == "worse" else 1.2,
        markerfacecolor=colour if sign == "matches" else "white", zorder=3,
    )  # fmt: skip


def _shown(group: GroupVerdict, measure: Measure) -> list[tuple[TicketRow, Difference]]:
    found = [(row, row.differences[measure.name]) for row in group.found]
    return [(row, difference) for row, difference in found if difference is not None]


def _limits(groups: Sequence[GroupVerdict], measure: Measure) -> tuple[float, float]:
    """Let very wide intervals leave the panel, and leave room for the stars at its top."""
    shown = [found for group in groups for _, found in _shown(group, measure)]
    allowed = [found.get(measure.name) for g in groups for found in (g.margins, g.tolerance)]
    margin = max(most or 0.0 for most in allowed)
    means = [found.mean for found in shown] or [0.0]
    low, high = min(*means, -margin, 0.0), max(*means, 0.0)
    reach = 1.2 * max(high - low, 2 * margin, 0.5)
    bars = [half for found in shown if (half := found.half_width()) is not None]
    pad = min(reach, 1.1 * max(bars, default=0.0) + 0.1)
    bottom, top = low - pad, high + pad
    return bottom, top + 0.2 * (top - bottom)


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
