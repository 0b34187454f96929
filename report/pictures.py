"""Which figures a report shows: what is chosen for them, where they are drawn, their captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from errors import InputError
from files.results import Group
from files.tickets import load_ticket
from report.difference_figure import difference_figure
from report.figures import (
    accuracy_figure,
    density_figure,
    overlap_figure,
    save_figure,
    slug,
    styles,
    time_figure,
)
from report.judged import MEASURES, GroupVerdict, TicketRow, Verdict
from report.page import Picture
from report.runs import Point
from report.tickets import Masks, TicketFile, find_tickets, layer_densities, overlap_matrix, pick

MOST_SOURCES = 16  # IMP runs whose tickets are drawn
MOST_TICKETS = 16  # rows of the overlap's heat map, where fewer sources allow it
MOST_STATES = 4  # tickets of one IMP run

Curves = Mapping[Path, Sequence[Point]]  # by the path of results.json


def draw_pictures(
    verdict: Verdict, curves: Curves, runs_dir: Path, out: Path
) -> tuple[list[Picture], list[str]]:
    """Draw every figure that the runs allow into `out`.

    Returns the pictures in the order of the page, and a line for each that had to be left out.
    """
    notes: list[str] = []
    pictures = [
        *_accuracy_pictures(verdict, out),
        *_difference_pictures(verdict, out),
        *_time_pictures(verdict, curves, out, notes),
        *_ticket_pictures(find_tickets(runs_dir), runs_dir, out, notes),
    ]
    return pictures, notes


def _places(verdict: Verdict) -> Iterator[tuple[str, list[GroupVerdict]]]:
    """Yield the groups of each data set and fraction, with a name that is good for a file."""
    used: set[str] = set()
    for place in dict.fromkeys(group.group.place for group in verdict.groups):
        name = base = slug(place[0], f"{100 * place[1]:g}%")
        for number in itertools.count(2):
            if name.lower() not in used:
                break
            name = f"{base}-{number}"
        used.add(name.lower())
        yield name, [group for group in verdict.groups if group.group.place == place]


def _title(group: Group) -> str:
    return f"{group.data}, {100 * group.data_number:g} % of the training data"


def _look(verdict: Verdict) -> dict[str, tuple[str, str]]:
    return styles(group.group.name for group in verdict.groups)


# --- accuracy -----------------------------------------------------------------------------------


def _accuracy_pictures(verdict: Verdict, out: Path) -> Iterator[Picture]:
    for name, groups in _places(verdict):
        stem = out / f"accuracy-{name}"
        save_figure(accuracy_figure(groups, _look(verdict)), stem)
        caption = (
            "Mean over seeds. Bars with caps: one standard deviation. Pale wide bars: 95 % for "
            "other test images, where outcomes are there. Dashed: the dense network of the same "
            "colour. Stars: double wins by the rule. Thin lines: baselines, which may leave the "
            "panel at the bottom. A gap is a missing run. Each step to the right prunes 20 % of "
            "what is left."
        )
        yield Picture(stem, f"Accuracy against sparsity: {_title(groups[0].group)}", caption)


def _difference_pictures(verdict: Verdict, out: Path) -> Iterator[Picture]:
    for name, groups in _places(verdict):
        judged = [group for group in groups if group.dense is not None and group.found]
        if not judged:
            continue
        stem = out / f"difference-{name}"
        save_figure(difference_figure(judged, _look(verdict)), stem)
        caption = (
            "What each ticket that IMP found lacks against its dense network, with 95 % intervals "
            "(dashed: of images only or of seeds alone; very wide ones leave the panel). Grey: "
            "within the margin. A ticket matches where its interval lies above the band\u2019s "
            "lower edge and is worse where it lies below. Stars: double wins on all three."
        )
        yield Picture(stem, f"Differences to the dense network: {_title(groups[0].group)}", caption)


def _time_pictures(
    verdict: Verdict, curves: Curves, out: Path, notes: list[str]
) -> Iterator[Picture]:
    for name, groups in _places(verdict):
        title = f"Accuracy against training time: {_title(groups[0].group)}"
        lines = _timed_lines(groups, curves)
        if not lines:
            notes.append(f"{title} is left out: no metrics.jsonl tells seconds.")
            continue
        stem = out / f"time-{name}"
        save_figure(time_figure(_title(groups[0].group), lines, _look(verdict)), stem)
        caption = (
            "One seed. Solid: the sparsest double-win ticket (without one, the sparsest ticket); "
            "dashed: the dense network. Accuracy on the test set, or on the validation set where "
            "the test set is only measured at the end."
        )
        yield Picture(stem, title, caption)


def _timed_lines(
    groups: Iterable[GroupVerdict], curves: Curves
) -> dict[str, list[tuple[str, bool, Sequence[Point]]]]:
    """Choose what to draw against time: {measure: [(pre-training, is dense, curve)]}.

    Each pre-training has its dense network, and its sparsest double win or else sparsest ticket.
    """
    lines: dict[str, list[tuple[str, bool, Sequence[Point]]]] = {}
    for group in groups:
        found = [row for row in group.rows if row.ticket == "imp"]
        chosen = group.sparsest or min(found, key=lambda row: row.density, default=None)
        for row, measure in itertools.product((group.dense, chosen), MEASURES):
            curve = _first_timed_curve(row, measure.mode, curves)
            if curve is not None:
                line = (group.group.name, row is group.dense, curve)
                lines.setdefault(measure.name, []).append(line)
    return lines


def _first_timed_curve(row: TicketRow | None, mode: str, curves: Curves) -> Sequence[Point] | None:
    """Return the curve of the lowest seed that recorded its seconds."""
    for run in sorted(row.runs if row else (), key=lambda run: run.seed):
        points = curves.get(run.path, ())
        if run.mode == mode and any(point.seconds is not None for point in points):
            return points
    return None


# --- the tickets --------------------------------------------------------------------------------


def _ticket_pictures(
    sources: Mapping[str, list[TicketFile]], runs_dir: Path, out: Path, notes: list[str]
) -> Iterator[Picture]:
    if not sources:
        notes.append(
            "Layer densities and mask overlap are left out: there are no K-ticket.safetensors "
            f"below {runs_dir}."
        )
        return
    masks = _load_masks(_choose_tickets(sources, notes), notes)
    if not masks:
        return
    densities: dict[str, dict[int, dict[str, float]]] = {}
    for ticket, mask in masks:
        densities.setdefault(ticket.source, {})[ticket.state] = layer_densities(mask)
    save_figure(density_figure(densities), out / "density")
    yield Picture(
        out / "density",
        "Density of each layer",
        "Weights left in each convolution, in the order of the network, for up to four tickets "
        "of each IMP run; darker is sparser.",
    )
    names = [f"{ticket.source} {ticket.state}" for ticket, _ in masks]
    overlap = overlap_matrix([mask for _, mask in masks])
    save_figure(overlap_figure(names, overlap), out / "overlap")
    yield Picture(
        out / "overlap",
        "Mask overlap",
        "Intersection over union of the surviving weights of two tickets, named by IMP run and "
        "state. Two random masks of density d would overlap by d / (2 - d).",
    )


def _choose_tickets(sources: Mapping[str, list[TicketFile]], notes: list[str]) -> list[TicketFile]:
    """Choose a few states of each IMP run: those that all runs share, where there are any."""
    shared = set.intersection(*({t.state for t in files} for files in sources.values()))
    if len(sources) > MOST_SOURCES:
        notes.append(f"Tickets of the first {MOST_SOURCES} of {len(sources)} IMP runs are drawn.")
    drawn = list(sources.values())[:MOST_SOURCES]
    most = max(1, min(MOST_STATES, MOST_TICKETS // len(drawn)))
    chosen = []
    for files in drawn:
        states = pick(shared or {t.state for t in files}, most)
        chosen += [ticket for ticket in files if ticket.state in states]
    return chosen


def _load_masks(tickets: Iterable[TicketFile], notes: list[str]) -> list[tuple[TicketFile, Masks]]:
    """Load the tickets that can be read, and note the others."""
    loaded: list[tuple[TicketFile, Masks]] = []
    for ticket in tickets:
        try:
            loaded.append((ticket, load_ticket(ticket.path)))
        except InputError as error:
            notes.append(f"left out: {error}")
    return loaded
