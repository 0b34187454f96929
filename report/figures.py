"""The figures of accuracy: against sparsity and against time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from files.results import DENSE
from report.drawing import (
    DASHED,
    SOLID,
    WIDTH,
    Dashes,
    Look,
    house_style,
    legend_below,
    plain,
    sparsity_axis,
    state_of,
    title_of,
)
from report.judged import IMP, MEASURES, GroupVerdict, Measure, TicketRow
from report.runs import Point
from report.words import of_data

BASELINES: dict[str, Dashes] = {"omp": SOLID, "random": (0, (1, 1.5)), "reinit": (0, (6, 2, 1, 2))}


# --- accuracy against sparsity ------------------------------------------------------------------


def accuracy_figure(groups: Sequence[GroupVerdict], look: Look, attack: str = "") -> Figure:
    """Draw the groups of one data set and fraction: a panel per measure, against sparsity.

    attack: by which RA was measured, in a few words.
    """
    densities = [row.density for group in groups for row in group.all_rows]
    # Set apart, so that the bars of one do not hide those of another: at most half a state in all.
    step = min(0.016 * state_of(min(densities)), 0.5 / len(groups))
    with house_style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots(1, len(MEASURES))
        for axis, measure in zip(axes, MEASURES, strict=True):
            for index, group in enumerate(groups):
                aside = step * (index - (len(groups) - 1) / 2)
                _draw_chance(axis, group, measure, look[group.group.name][0], aside)
                _draw_group(axis, group, measure, *look[group.group.name], aside)
            sparsity_axis(axis, densities)
            _accuracy_limits(axis, groups, measure)
            axis.set_title(title_of(measure, attack))
            if not any(_points(group.all_rows, measure) for group in groups):
                axis.text(0.5, 0.5, "no runs", transform=axis.transAxes, ha="center", color="#666")
        axes[0].set_ylabel("accuracy on the test set (%)")
        key = groups[0].group
        figure.suptitle(of_data(plain(key.data), key.data_number))
        legend_below(figure, _legend(groups, look))
    return figure


def _points(
    rows: Iterable[TicketRow],
    measure: Measure,
    aside: float = 0.0,
    awaited: Collection[int] = (),
) -> list[tuple[float, float, float]]:
    """List (place, mean, std) in order of sparsity; a missing mean is NaN and leaves a gap.

    So does a state that is awaited and has no row.
    """
    points: list[tuple[float, float, float]] = []
    before = None
    for row in sorted(rows, key=lambda row: -row.density):
        if before is not None and _skipped(before.state, row.state, awaited):
            points.append((math.nan, math.nan, 0.0))
        stat = row.stats[measure.name]
        mean, std = (math.nan, 0.0) if stat is None else (stat.mean, stat.std or 0.0)
        points.append((state_of(row.density) + aside, mean, std))
        before = row
    return points if any(not math.isnan(mean) for _, mean, _ in points) else []


def _skipped(before: int | None, after: int | None, awaited: Collection[int]) -> bool:
    """Whether a state that is awaited lies between two; foreign tickets may have none."""
    if before is None or after is None:
        return False
    return any(before < state < after for state in awaited)


def _draw_group(
    axis: Axes, group: GroupVerdict, measure: Measure, colour: str, marker: str, aside: float
) -> None:
    dense = group.dense.stats[measure.name] if group.dense else None
    if dense is not None:
        axis.axhline(dense.mean, color=colour, linestyle=DASHED, linewidth=1.2, zorder=1)
        axis.errorbar(
            aside, dense.mean, dense.std, color=colour, marker=marker, markersize=6, capsize=3,
            elinewidth=1, markerfacecolor="white", zorder=3,
        )  # fmt: skip
    for kind, dashes in BASELINES.items():
        rows = (row for row in group.rows if row.ticket == kind)
        points = _points(rows, measure, aside, group.awaited.get(kind, ()))
        if points:
            x, y, _ = zip(*points, strict=True)
            axis.plot(
                x, y, color=colour, linestyle=dashes, linewidth=0.8, marker=marker, markersize=3.5,
                markerfacecolor="white", zorder=2,
            )  # fmt: skip
    points = _points(group.found, measure, aside, group.awaited.get(IMP, ()))
    if points:
        x, y, spread = zip(*points, strict=True)
        axis.errorbar(
            x, y, spread if any(spread) else None, color=colour, marker=marker, linewidth=1.8,
            markersize=5, capsize=3, elinewidth=1, zorder=3,
        )  # fmt: skip
    stars = _points((row for row in group.found if row.double_win), measure, aside)
    above = ScaledTranslation(0, 9 / 72, axis.figure.dpi_scale_trans)  # the marker stays in sight
    axis.plot(
        [x for x, _, _ in stars], [y for _, y, _ in stars], linestyle="", marker="*",
        markersize=10, markerfacecolor=colour, markeredgecolor="black", markeredgewidth=0.7,
        zorder=4, transform=axis.transData + above,
    )  # fmt: skip


def _draw_chance(
    axis: Axes, group: GroupVerdict, measure: Measure, colour: str, aside: float
) -> None:
    """Draw what other test images might have given, without caps, wider and paler than the std."""
    for row in group.all_rows:
        stat, half = row.stats[measure.name], row.chance.get(measure.name)
        if row.ticket in (DENSE, IMP) and stat is not None and half is not None:
            low, high = max(stat.mean - half, 0.0), min(stat.mean + half, 100.0)
            axis.vlines(
                state_of(row.density) + aside, low, high, color=colour, linewidth=4, alpha=0.3,
                zorder=1,
            )  # fmt: skip


def _accuracy_limits(axis: Axes, groups: Sequence[GroupVerdict], measure: Measure) -> None:
    """Let a collapsing baseline leave the panel; it would squash what lies near the dense line."""
    means, lows = [], []  # of dense networks and tickets, whose error bars stay in sight
    for row in (row for group in groups for row in group.all_rows if row.ticket in (DENSE, IMP)):
        if (stat := row.stats[measure.name]) is not None:
            means.append(stat.mean)
            lows.append(stat.mean - 1.1 * max(stat.std or 0.0, row.chance.get(measure.name) or 0.0))
    if means:
        floor = min(min(means) - 0.6 * max(max(means) - min(means), 1.0), *lows)
        if axis.get_ylim()[0] < floor:
            axis.set_ylim(bottom=max(floor, 0.0))


def _legend(groups: Sequence[GroupVerdict], look: Look) -> list[Line2D]:
    handles = []
    for group in groups:
        name = group.group.name
        colour, marker = look[name]
        handles.append(Line2D([], [], color=colour, marker=marker, label=plain(name)))
    grey = "#444444"
    handles.append(Line2D([], [], color=grey, linestyle=DASHED, linewidth=1.2, label="dense"))
    used = {row.ticket for group in groups for row in group.rows}
    for kind, dashes in BASELINES.items():
        if kind in used:
            handles.append(
                Line2D(
                    [], [], color=grey, linestyle=dashes, linewidth=0.8, marker="o",
                    markersize=3.5, markerfacecolor="white", label=kind,
                )
            )  # fmt: skip
    stars = Line2D(
        [], [], color=grey, linestyle="", marker="*", markersize=10, label="double win by the rule"
    )
    return [*handles, stars, *_bars(groups, grey)]


def _bars(groups: Sequence[GroupVerdict], grey: str) -> list[Line2D]:
    """Explain the two kinds of bars, where there are any."""
    rows = [row for group in groups for row in group.all_rows]
    handles = []
    if any(stat and stat.std for row in rows for stat in row.stats.values()):
        label = "± std over seeds"
        handles.append(
            Line2D([], [], color=grey, linestyle="", marker="|", mew=1.2, ms=11, label=label)
        )
    if any(half is not None for row in rows for half in row.chance.values()):
        pale = Line2D([], [], color=grey, linewidth=4, alpha=0.3, label="95 % over test images")
        handles.append(pale)
    return handles


# --- accuracy against time ----------------------------------------------------------------------


def time_figure(
    title: str, curves: Mapping[str, Sequence[tuple[str, bool, Sequence[Point]]]], look: Look
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
        figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        for axis, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
            for name, dense, points in curves.get(measure.name, ()):
                colour, marker = look[name]
                key = "ra" if measure.name == "at_ra" else "sa"
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
        figure.axes[0].set_ylabel("accuracy on the validation set (%)")
        figure.suptitle(plain(title, 80))
        names = dict.fromkeys(name for lines in curves.values() for name, *_ in lines)
        handles = [
            Line2D([], [], color=look[n][0], marker=look[n][1], label=plain(n)) for n in names
        ]
        for style, label in ((SOLID, "ticket"), (DASHED, "dense")):
            handles.append(Line2D([], [], color="#444444", linestyle=style, label=label))
        legend_below(figure, handles)
    return figure
