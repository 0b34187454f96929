"""The figures of the tickets themselves: the density of their layers, and what they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from report.drawing import INK, house_style, plain
from report.tickets import Table


def density_figure(
    densities: Mapping[str, Mapping[str, Mapping[str, float]]], colours: Mapping[str, str]
) -> Figure:
    """Draw the density of each layer as bars, with a panel for each source of tickets.

    Args:
        densities: {source: {ticket: {layer: fraction of the weights left}}}, the densest first.
            Sparser tickets are nested in these, so their bars are drawn in front, darker.
        colours: of sources that have one in the other figures; the rest are grey.
    """
    most = max(len(values) for states in densities.values() for values in states.values())
    with house_style():
        width = min(max(7.0, 0.32 * most + 2), 16)
        figure = Figure(figsize=(width, 1.2 + 2.4 * len(densities)), layout="constrained")
        axes = figure.subplots(len(densities), 1, squeeze=False)[:, 0]
        own_layers = [list(next(iter(states.values()))) for states in densities.values()]
        for index, (axis, (source, states)) in enumerate(zip(axes, densities.items(), strict=True)):
            own = own_layers[index]
            colour = to_rgb(colours.get(source, INK))
            for rank, (ticket, values) in enumerate(states.items()):
                mix = (rank + 1) / len(states)
                shade = tuple(1 - mix * (1 - part) for part in colour)
                axis.bar(
                    range(len(values)), [100 * v for v in values.values()], color=shade,
                    edgecolor="black", linewidth=0.4, width=0.8, label=plain(ticket),
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


def overlap_figure(names: Sequence[str], table: Table, by_chance: Table) -> Figure:
    """Draw intersection over union of the surviving weights as a heat map; None stays blank.

    Below each value of two different tickets, in brackets, stands what chance would give.
    """
    with house_style():
        size = 2.6 + 0.52 * len(names)
        figure = Figure(figsize=(size + 1.2, size), layout="constrained")
        axis = figure.subplots()
        values = [[math.nan if cell is None else cell for cell in row] for row in table]
        image = axis.imshow(values, vmin=0, vmax=1, cmap="cividis")
        for (i, row), chances in zip(enumerate(values), by_chance, strict=True):
            for (j, value), chance in zip(enumerate(row), chances, strict=True):
                if not math.isnan(value):
                    ink = "black" if value > 0.5 else "white"
                    text = f"{value:.2f}" if i == j else f"{value:.2f}\n({chance:.2f})"
                    axis.text(j, i, text, ha="center", va="center", color=ink, fontsize=8)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        places = range(len(names))
        axis.set_xticks(places, [plain(name) for name in names], rotation=90)
        axis.set_yticks(places, [plain(name) for name in names])
        figure.colorbar(image, ax=axis, shrink=0.8, label="surviving weights in common (IoU)")
        axis.set_title("Mask overlap (in brackets: by chance)")
    return figure
