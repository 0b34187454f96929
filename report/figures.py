"""The figures of accuracy: against sparsity and against time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from files.results import DENSE, IMP
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
    state_of,
    title_of,
)
from report.judged import MEASURES, GroupVerdict, Measure, TicketRow
from report.runs import Point
from report.words import needed

Fill = Literal["none", "bottom", "left"]  # of a marker: what tells points without a line apart
BASELINES: dict[str, tuple[Dashes, Fill]] = {
    "omp": (SOLID, "none"),
    "random": ((0, (1, 1.5)), "bottom"),
    "reinit": ((0, (6, 2, 1, 2)), "left"),
}


# --- accuracy against sparsity ------------------------------------------------------------------


class _Series(NamedTuple):
    """A group as it is drawn, set aside from the others, whose bars it would hide."""

    group: GroupVerdict
    colour: str
    marker: str
    aside: float

    def place(self, row: TicketRow) -> float:
        return place_of(row, self.group) + self.aside


def accuracy_figure(groups: Sequence[GroupVerdict], styles: Styles, attack: str = "") -> Figure:
    """Draw the groups of one data set and fraction: a panel per measure, against sparsity.

    attack: by which RA was measured, in a few words.
    """
    densities = [row.density for group in groups for row in group.all_rows]
    step = min(0.016 * state_of(min(densities)), 0.5 / len(groups))  # at most half a state in all
    series = [
        _Series(group, *styles[group.group.name], step * (index - (len(groups) - 1) / 2))
        for index, group in enumerate(groups)
    ]
    with house_style():
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        axes = figure.subplots(1, len(MEASURES), sharex=True)
        for axis, measure in zip(axes, MEASURES, strict=True):
            for one in series:
                _draw_chance(axis, one, measure)
                _draw_dense(axis, one, measure)
                _draw_baselines(axis, one, measure)
                _draw_found(axis, one, measure)
            sparsity_axis(axis, densities)
            _accuracy_limits(axis, groups, measure)
            for one in series:
                _mark_beyond(axis, one, measure)
            _draw_wins(axis, series)
            axis.set_title(title_of(measure, attack))
            if not any(row.stats[measure.name] for group in groups for row in group.all_rows):
                axis.text(0.5, 0.5, "no runs", transform=axis.transAxes, ha="center", color="#666")
        axes[0].set_ylabel("accuracy on the test set (%)")
        figure.suptitle(headline(groups, [row for group in groups for row in group.all_rows]))
        legend_below(figure, [*_legend(groups, styles), *key_of_arrowheads(figure)])
    return figure


def _points(
    one: _Series, rows: Sequence[TicketRow], measure: Measure
) -> list[tuple[float, float, float]]:
    """List (place, mean, std) of one kind of tickets in order of sparsity.

    A missing mean is NaN and leaves a gap. So does a state that is awaited and has no row, and what
    is beside one of several tickets of a state, as none of them is the one that the line is of. The
    std of one seed is NaN and has no bar.
    """
    points: list[tuple[float, float, float]] = []
    before = None
    for row in sorted(rows, key=one.place):
        awaited = one.group.awaited.get(row.ticket, ())
        if before is not None and (
            before.which or row.which or _skipped(before.state, row.state, awaited)
        ):
            points.append((math.nan, math.nan, math.nan))
        stat = row.stats[measure.name]
        mean, std = (math.nan, None) if stat is None else (stat.mean, stat.std)
        points.append((one.place(row), mean, math.nan if std is None else std))
        before = row
    return points if any(not math.isnan(mean) for _, mean, _ in points) else []


def _skipped(before: int | None, after: int | None, awaited: Collection[int]) -> bool:
    """Whether a state that is awaited lies between two; foreign tickets may have none."""
    if before is None or after is None:
        return False
    return any(before < state < after for state in awaited)


def _draw_dense(axis: Axes, one: _Series, measure: Measure) -> None:
    """Draw the dense network, and the least mean that matches it by the rule."""
    group, colour, marker, aside = one
    dense = group.dense.stats[measure.name] if group.dense else None
    least = needed(group, measure.name)
    if dense is not None and least is not None:
        axis.axhline(dense.mean, color=colour, linestyle=DASHED, linewidth=1.2, zorder=1)
        axis.axhline(least, color=colour, linestyle=DOTTED, linewidth=0.8, zorder=1)
        axis.errorbar(
            aside, dense.mean, dense.std, color=colour, marker=marker, markersize=6, capsize=3,
            elinewidth=1, markerfacecolor="white", zorder=3,
        )  # fmt: skip


def _draw_found(axis: Axes, one: _Series, measure: Measure) -> None:
    points = _points(one, one.group.found, measure)
    if points:
        x, y, spread = zip(*points, strict=True)
        bars = spread if any(std > 0 for std in spread) else None
        axis.errorbar(
            x, y, bars, color=one.colour, marker=one.marker, linewidth=1.8, markersize=5,
            capsize=3, elinewidth=1, zorder=3,
        )  # fmt: skip


def _draw_baselines(axis: Axes, one: _Series, measure: Measure) -> None:
    for kind in BASELINES:
        points = _points(one, [row for row in one.group.rows if row.ticket == kind], measure)
        if points:
            x, y, _ = zip(*points, strict=True)
            axis.plot(
                x, y, color=one.colour, marker=one.marker, zorder=2, **_style_of(kind)
            )  # fmt: skip


def _style_of(baseline: str) -> dict[str, Any]:
    dashes, filled = BASELINES[baseline]
    return {
        "linestyle": dashes,
        "linewidth": 0.8,
        "markersize": 4.5,
        "fillstyle": filled,
        "markerfacecoloralt": "white",
    }


def _mark_beyond(axis: Axes, one: _Series, measure: Measure) -> None:
    """Mark at the lower edge where a baseline has an accuracy below the panel."""
    bottom, _ = axis.get_ylim()
    means = [(row, row.stats[measure.name]) for row in one.group.rows if row.ticket in BASELINES]
    below = [one.place(row) for row, stat in means if stat is not None and stat.mean < bottom]
    if below:
        axis.plot(
            below, [bottom] * len(below), linestyle="", marker=BEYOND[0], markersize=6,
            color=one.colour, clip_on=False, zorder=4,
        )  # fmt: skip


def _draw_wins(axis: Axes, series: Sequence[_Series]) -> None:
    """Draw double wins as stars, a row a series, above all that is drawn at its accuracy."""
    winning = [one for one in series if any(row.double_win for row in one.group.found)]
    pitch = min(0.065, 0.4 / max(len(winning), 1))
    bottom, top = axis.get_ylim()
    axis.set_ylim(top=bottom + (top - bottom) / (1 - pitch * len(winning)))
    for rank, one in enumerate(winning):
        places = [one.place(row) for row in one.group.found if row.double_win]
        stars(axis, 1 - pitch * (rank + 0.5), places, one.colour)


def _draw_chance(axis: Axes, one: _Series, measure: Measure) -> None:
    """Draw what other test images might have given, without caps, wider and paler than the std."""
    for row in one.group.all_rows:
        stat, half = row.stats[measure.name], row.chance.get(measure.name)
        if row.ticket in (DENSE, IMP) and stat is not None and half is not None:
            low, high = max(stat.mean - half, 0.0), min(stat.mean + half, 100.0)
            axis.vlines(
                one.place(row), low, high, color=one.colour, linewidth=4, alpha=0.3, zorder=1
            )


def _accuracy_limits(axis: Axes, groups: Sequence[GroupVerdict], measure: Measure) -> None:
    """Let a collapsing baseline leave the panel; it would squash what lies near the dense line."""
    means = []  # of dense networks and tickets, whose error bars stay in sight
    lows = [least for g in groups if (least := needed(g, measure.name)) is not None]
    for row in (row for group in groups for row in group.all_rows if row.ticket in (DENSE, IMP)):
        if (stat := row.stats[measure.name]) is not None:
            means.append(stat.mean)
            lows.append(stat.mean - 1.1 * max(stat.std or 0.0, row.chance.get(measure.name) or 0.0))
    if means:
        floor = min(min(means) - 0.6 * max(max(means) - min(means), 1.0), *lows)
        if axis.get_ylim()[0] < floor:
            axis.set_ylim(bottom=max(floor, 0.0))


def _legend(groups: Sequence[GroupVerdict], styles: Styles) -> list[Line2D]:
    handles = []
    for group in groups:
        name = group.group.name
        colour, marker = styles[name]
        handles.append(Line2D([], [], color=colour, marker=marker, label=plain(name)))
    dense = Line2D([], [], color=INK, linestyle=DASHED, linewidth=1.2, marker="o", label="dense")
    dense.set_markerfacecolor("white")  # as at sparsity 0, which tells lines of one colour apart
    handles.append(dense)
    tolerance = "dense less the rule’s tolerance"
    handles.append(Line2D([], [], color=INK, linestyle=DOTTED, linewidth=0.8, label=tolerance))
    used = {row.ticket for group in groups for row in group.rows}
    for kind in BASELINES:
        if kind in used:
            handles.append(Line2D([], [], color=INK, marker="o", label=kind, **_style_of(kind)))
    star = Line2D(
        [], [], color=INK, linestyle="", marker="*", markersize=11, label="double win by the rule"
    )
    return [*handles, star, *_bars(groups)]


def _bars(groups: Sequence[GroupVerdict]) -> list[Line2D]:
    """Explain the two kinds of bars, where there are any."""
    rows = [row for group in groups for row in group.all_rows]
    handles = []
    stats = [row.stats[measure.name] for row in rows for measure in MEASURES]
    if any(stat and stat.std for stat in stats):
        single = any(stat and stat.std is None for stat in stats)
        label = f"± std over seeds{' (none: one seed)' if single else ''}"
        handles.append(
            Line2D([], [], color=INK, linestyle="", marker="|", mew=1.2, ms=11, label=label)
        )
    if any(half is not None for row in rows for half in row.chance.values()):
        label = "95 % over test images, each network alone"
        pale = Line2D([], [], color=INK, linewidth=4, alpha=0.3, label=label)
        handles.append(pale)
    return handles


# --- accuracy against time ----------------------------------------------------------------------


def time_figure(
    title: str, curves: Mapping[str, Sequence[tuple[str, bool, Sequence[Point]]]], styles: Styles
) -> Figure:
    """Draw accuracy on the validation set against wall-clock time, a panel per measure.

    `curves` is {measure: [(pre-training, is dense, points)]}. The dense network is dashed, the
    ticket of each pre-training is solid.
    """
    seconds = [p.seconds for lines in curves.values() for *_, ps in lines for p in ps if p.seconds]
    unit, scale = next(
        ((u, s) for u, s in (("h", 3600), ("min", 60)) if max(seconds, default=0) > 2 * s),
        ("s", 1),
    )
    with house_style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        for axis, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
            for name, dense, points in curves.get(measure.name, ()):
                colour, marker = styles[name]
                key = "ra" if measure.attacked else "sa"
                xy = [(p.seconds / scale, v) for p in points
                      if p.seconds is not None and (v := getattr(p, key)) is not None]  # fmt: skip
                axis.plot(
                    [x for x, _ in xy], [y for _, y in xy], color=colour, linewidth=1.4,
                    linestyle=DASHED if dense else SOLID, marker=marker, markersize=5,
                    markevery=max(1, len(xy) // 6), markerfacecolor="white" if dense else colour,
                )  # fmt: skip
            axis.set_title(measure.title)
            axis.set_xlabel(f"wall-clock time, evaluation included ({unit})")
            axis.set_xlim(left=0)
            if not curves.get(measure.name):
                axis.set(xticks=[], yticks=[])
                told = "no curve:\nnot measured\nin several epochs"
                axis.text(0.5, 0.5, told, transform=axis.transAxes, ha="center", va="center")
        figure.axes[0].set_ylabel("accuracy on the validation set (%)")
        figure.suptitle(f"{plain(title, 80)}\n1 seed of each network")
        names = dict.fromkeys(name for lines in curves.values() for name, *_ in lines)
        handles = [
            Line2D([], [], color=styles[n][0], marker=styles[n][1], label=plain(n)) for n in names
        ]
        for style, label in ((SOLID, "ticket"), (DASHED, "dense")):
            handles.append(Line2D([], [], color=INK, linestyle=style, label=label))
        legend_below(figure, handles)
    return figure
