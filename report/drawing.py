"""What all figures of the report share: style, colours, the axis of sparsity, legends, files.

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
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from files.atomic import replacing
from report.judged import GroupVerdict, Measure, TicketRow
from report.runs import natural_order
from report.words import WAITING, of_data

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dashes = Literal["-", "--"] | tuple[float, Sequence[float]]
SOLID: Dashes = "-"
DASHED: Dashes = "--"
DOTTED: Dashes = (0, (1, 2.5))  # the rule's tolerance; of a baseline, dots are closer and linked
INK = "#333333"  # of what belongs to no series
WIDTH = 10.0  # inches of three panels; on a page of 7 the writing still has 7 points
# Arrowheads of which the tip is where something leaves the panel: CARETDOWN and CARETUP.
BEYOND: tuple[Literal[7], Literal[6]] = (7, 6)
ALWAYS = ("png", "svg")  # formats of every figure
ON_REQUEST = ("pdf",)
MOST_TICKS = 6  # steps between the labels of sparsity
APART = 0.3  # of a state, between two tickets of one
LOOKS_IN_TITLES = {
    "interim": WAITING,
    "sequential": "seeds were added to those planned",
}
Styles = Mapping[str, tuple[str, str]]  # pre-training: colour and marker


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
                    "pdf.fonttype": 42,  # writing stays writing, which journals ask for
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
    safe = (re.sub(r"[^A-Za-z0-9.-]+", "_", str(part).replace("%", "pct")) for part in parts)
    return "-".join(part.strip("._-") for part in safe).strip("-")[:80]


def styles(pretrainings: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give each pre-training a colour and a marker, the same in every figure of a report."""
    names = sorted(set(pretrainings), key=natural_order)
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, name in enumerate(names)
    }


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = ()) -> list[Path]:
    """Write `stem`.png, `stem`.svg and what else is asked for, each whole or not at all.

    Returns the paths. Raises RunFailed for a full disk and the like.
    """
    FigureCanvasAgg(figure)
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = []
    with house_style():
        for kind in (*ALWAYS, *formats):
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            with replacing(paths[-1]) as temporary:
                figure.savefig(
                    temporary, format=kind, dpi=150, facecolor="white", metadata=undated.get(kind)
                )
    return paths


def state_of(density: float) -> float:
    """Place a density on the axis, where the paper's states, of density 0.8^k, are one apart."""
    return math.log(density) / math.log(0.8)


def place_of(row: TicketRow, group: GroupVerdict) -> float:
    """Place a ticket by its density, set apart from others of its state, which it would hide."""
    same = sorted((-r.density, r.which) for r in group.all_rows if r.title == row.title)
    rank = same.index((-row.density, row.which)) - (len(same) - 1) / 2
    return state_of(row.density) + APART * rank


def stars(axis: Axes, height: float, places: Sequence[float], face: str) -> None:
    """Draw a row of stars at a height that is a fraction of the panel: they are no accuracies."""
    if places:
        axis.plot(
            places, [height] * len(places), linestyle="", marker="*", markersize=11, color=INK,
            markerfacecolor=face, markeredgewidth=0.9, transform=axis.get_xaxis_transform(),
            zorder=4,
        )  # fmt: skip


def sparsity_axis(axis: Axes, densities: Iterable[float]) -> None:
    """Label the axis in percent where there is room: both ends always, else the sparser first."""
    places = sorted({round(state_of(density), 2) for density in densities}, reverse=True)
    room = (places[0] - places[-1]) / MOST_TICKS
    shown = [places[0], *places[-1:]] if len(places) > 1 else places
    for place in places[1:-1]:
        if all(abs(place - other) >= room for other in shown):
            shown.append(place)
    axis.set_xticks(shown, [percent(1 - 0.8**place) for place in shown])
    axis.set_xlabel("convolution weights pruned (%),\nlog scale of those left")


def percent(share: float) -> str:
    """Write a share in percent, with as many decimals as it takes not to look like all or none."""
    decimals = next((d for d in range(1, 6) if 0 < round(100 * share, d) < 100), 1)
    return f"{100 * share:.{decimals}f}".removesuffix(".0")


def headline(groups: Sequence[GroupVerdict], rows: Iterable[TicketRow]) -> str:
    """Name the data, and on how many seeds each mean is, so that no figure goes without."""
    key = groups[0].group
    counts = [stat.n for row in rows for stat in row.stats.values() if stat is not None]
    least, most = min(counts, default=0), max(counts, default=0)
    seeds = f"{least}" if least == most else f"{least}–{most}"
    told = [f"{seeds} seed{'' if most == 1 else 's'}"]
    for look, meaning in LOOKS_IN_TITLES.items():
        names = [group.group.name for group in groups if group.look == look]
        which = "" if len(names) == len(groups) else f" ({plain(', '.join(names), 24)})"
        told += [f"{look}{which}: {meaning}"] if names else []
    return f"{of_data(plain(key.data), key.data_number)}\n{'; '.join(told)}"


def title_of(measure: Measure, attack: str) -> str:
    """The title of a panel; that of RA has the attack in a second line, where it is known."""
    return f"{measure.title}\n{plain(attack)}" if measure.attacked and attack else measure.title


def key_of_arrowheads(figure: Figure) -> list[Line2D]:
    """Explain the arrowheads at the panels' edges; there are some where a line is not clipped."""
    if all(line.get_clip_on() for axis in figure.axes for line in axis.lines):
        return []
    label = "goes on beyond the panel"
    return [Line2D([], [], color=INK, linestyle="", marker=BEYOND[0], markersize=6, label=label)]


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put the legend below the panels, in as many columns as fit, and make room for its rows."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches()
    for columns in range(min(len(handles), 8), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        size = legend.get_window_extent(renderer)
        if size.width <= 0.98 * width * figure.dpi or columns == 1:
            break
        legend.remove()
    rows = math.ceil(len(handles) / columns)
    figure.set_size_inches(width, height + size.height / figure.dpi * (rows - 1) / rows)
