"""The report's figures: each function draws one, and `save_figure` writes it as PNG and SVG.

Colours are Okabe and Ito's, which the colour-blind tell apart, and every series also has its own
marker, so that the figures read in greyscale. No pyplot: nothing global is touched.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from files.atomic import replacing
from files.results import DENSE
from report.judged import IMP, MEASURES, GroupVerdict, Measure, TicketRow
from report.runs import Point, natural_order
from report.words import of_data

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dashes = Literal["-", "--"] | tuple[float, Sequence[float]]
SOLID: Dashes = "-"
DASHED: Dashes = "--"
BASELINES: dict[str, Dashes] = {"omp": SOLID, "random": (0, (1, 1.5)), "reinit": (0, (6, 2, 1, 2))}
Look = Mapping[str, tuple[str, str]]  # pre-training: colour and marker


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Apply the report's matplotlib settings within the block."""
    with warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; that is no reason to warn twice.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        with matplotlib.rc_context():
            matplotlib.rcParams.update(
                {
                    "text.parse_math": False,  # a '$' in a name is a dollar sign
                    "svg.hashsalt": "report",  # the same results give the same bytes
                    "axes.spines.top": False,
                    "axes.spines.right": False,
                    "axes.grid": True,
                    "grid.color": "#dddddd",
                    "grid.linewidth": 0.6,
                    "axes.axisbelow": True,
                    "axes.titlesize": 11,
                    "legend.frameon": False,
                }
            )
            yield


def plain(text: object, most: int = 40) -> str:
    """Make a name drawable: short, printable, not hidden by a leading underscore."""
    shown = "".join(char if char.isprintable() else "?" for char in str(text))
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return f" {shown}" if shown.startswith("_") else shown


def slug(*parts: object) -> str:
    """Make a harmless file name of names that come from files."""
    joined = "-".join(map(str, parts)).replace("%", "pct")
    return re.sub(r"[^A-Za-z0-9.-]+", "_", joined).strip("._-")[:80]


def styles(pretrainings: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give each pre-training a colour and a marker, the same in every figure of a report."""
    names = sorted(set(pretrainings), key=natural_order)
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, name in enumerate(names)
    }


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg, each whole or not at all, and return the two paths.

    Raises RunFailed for a full disk and the like.
    """
    FigureCanvasAgg(figure)
    png, svg = (stem.with_name(stem.name + suffix) for suffix in (".png", ".svg"))
    with house_style():
        with replacing(png) as temporary:
            figure.savefig(temporary, format="png", dpi=150, facecolor="white")
        with replacing(svg) as temporary:
            figure.savefig(temporary, format="svg", facecolor="white", metadata={"Date": None})
    return [png, svg]


# --- accuracy against sparsity ------------------------------------------------------------------


def accuracy_figure(groups: Sequence[GroupVerdict], look: Look) -> Figure:
    """Draw the groups of one data set and fraction: a panel per measure, against sparsity."""
    densities = [row.density for group in groups for row in group.all_rows]
    reach = state_of(min(densities))
    with house_style():
        figure = Figure(figsize=(12.5, 4.8), layout="constrained")
        axes = figure.subplots(1, len(MEASURES))
        for axis, measure in zip(axes, MEASURES, strict=True):
            for index, group in enumerate(groups):
                # Set apart, so that the bars of one do not hide those of another.
                aside = 0.016 * reach * (index - (len(groups) - 1) / 2)
                _draw_chance(axis, group, measure, look[group.group.name][0], aside)
                _draw_group(axis, group, measure, *look[group.group.name], aside)
            sparsity_axis(axis, densities)
            _accuracy_limits(axis, groups, measure)
            axis.set_title(measure.title)
            if not any(_points(group.all_rows, measure) for group in groups):
                axis.text(0.5, 0.5, "no runs", transform=axis.transAxes, ha="center", color="#666")
        axes[0].set_ylabel("accuracy on the test set (%)")
        key = groups[0].group
        figure.suptitle(of_data(plain(key.data), key.data_number))
        handles = _legend(groups, look)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
    return figure


def state_of(density: float) -> float:
    """Place a density on the axis, where the paper's states, of density 0.8^k, are one apart."""
    return math.log(density) / math.log(0.8)


def _points(
    rows: Iterable[TicketRow], measure: Measure, aside: float = 0.0
) -> list[tuple[float, float, float]]:
    """List (place, mean, std) in order of sparsity; a missing mean is NaN and leaves a gap."""
    points = []
    for row in sorted(rows, key=lambda row: -row.density):
        stat = row.stats[measure.name]
        mean, std = (math.nan, 0.0) if stat is None else (stat.mean, stat.std or 0.0)
        points.append((state_of(row.density) + aside, mean, std))
    return points if any(not math.isnan(mean) for _, mean, _ in points) else []


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
        points = _points((row for row in group.rows if row.ticket == kind), measure, aside)
        if points:
            x, y, _ = zip(*points, strict=True)
            axis.plot(
                x, y, color=colour, linestyle=dashes, linewidth=0.8, marker=marker, markersize=3.5,
                markerfacecolor="white", zorder=2,
            )  # fmt: skip
    points = _points(group.found, measure, aside)
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


def sparsity_axis(axis: Axes, densities: Sequence[float]) -> None:
    """Label the axis in percent, at most eight times, the last ticket always included."""
    places = sorted({round(state_of(density), 2) for density in densities}, reverse=True)
    shown = places[:: max(1, math.ceil(len(places) / 8))]
    axis.set_xticks(shown, [f"{100 * (1 - 0.8**place):.3g}" for place in shown])
    axis.set_xlabel("sparsity (% of weights pruned)")


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
    stars = Line2D([], [], color=grey, linestyle="", marker="*", markersize=10, label="double win")
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
        figure = Figure(figsize=(12.5, 4.6), layout="constrained")
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
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
    return figure


# --- the tickets --------------------------------------------------------------------------------


def density_figure(densities: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Figure:
    """Draw the density of each layer as bars, with a panel for each source of tickets.

    `densities` is {source: {state: {layer: fraction of the weights left}}}. Later states are
    nested in earlier ones, so their bars are drawn in front, darker.
    """
    most = max(len(values) for states in densities.values() for values in states.values())
    with house_style():
        width = min(max(7.0, 0.32 * most + 2), 16)
        figure = Figure(figsize=(width, 1.2 + 2.4 * len(densities)), layout="constrained")
        axes = figure.subplots(len(densities), 1, squeeze=False)[:, 0]
        own_layers = [list(next(iter(states.values()))) for states in densities.values()]
        for index, (axis, (source, states)) in enumerate(zip(axes, densities.items(), strict=True)):
            own = own_layers[index]
            for rank, (state, values) in enumerate(sorted(states.items())):
                mix = (rank + 1) / len(states)
                shade = tuple(1 - mix * (1 - part) for part in to_rgb(COLOURS[0]))
                axis.bar(
                    range(len(values)), [100 * v for v in values.values()], color=shade,
                    edgecolor="black", linewidth=0.4, width=0.8, label=f"state {state}",
                )  # fmt: skip
            axis.set_title(plain(source), loc="left")
            axis.set_ylim(0, 100)
            axis.set_ylabel("left (%)")
            axis.grid(visible=False, axis="x")
            axis.set_xlim(-0.7, len(own) - 0.3)
            step = math.ceil(len(own) / 45)
            axis.set_xticks(range(0, len(own), step))
            following = own_layers[index + 1 : index + 2]
            named = following != [own]  # otherwise the panel below has the same names
            names = [plain(name) for name in own[::step]] if named else []
            axis.set_xticklabels(names or [""] * len(own[::step]), rotation=90, fontsize=8)
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        figure.suptitle("Density of each layer (bars in front of each other, not stacked)")
    return figure


def overlap_figure(names: Sequence[str], table: Sequence[Sequence[float | None]]) -> Figure:
    """Draw intersection over union of the surviving weights as a heat map; None stays blank."""
    with house_style():
        size = 2.6 + 0.52 * len(names)
        figure = Figure(figsize=(size + 1.2, size), layout="constrained")
        axis = figure.subplots()
        values = [[math.nan if cell is None else cell for cell in row] for row in table]
        image = axis.imshow(values, vmin=0, vmax=1, cmap="cividis")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if not math.isnan(value):
                    ink = "black" if value > 0.5 else "white"
                    text = f"{value:.2f}"
                    axis.text(j, i, text, ha="center", va="center", color=ink, fontsize=8)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        places = range(len(names))
        axis.set_xticks(places, [plain(name) for name in names], rotation=90)
        axis.set_yticks(places, [plain(name) for name in names])
        figure.colorbar(image, ax=axis, shrink=0.8, label="surviving weights in common (IoU)")
        axis.set_title("Mask overlap")
    return figure
