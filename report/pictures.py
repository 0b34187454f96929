"""Which figures a report shows: what is chosen for them, where they are drawn, their captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from matplotlib.figure import Figure

from errors import InputError
from files.atomic import sha256_of
from files.results import IMP, REGIMES
from files.tickets import load_ticket
from pruning_utils import percent_left_in
from report.difference_figure import difference_figure
from report.drawing import save_figure, slug, styles
from report.figures import accuracy_figure, time_figure
from report.judged import MEASURES, GroupVerdict, TicketRow, Verdict
from report.page import Picture
from report.runs import Point
from report.setting import ATTACK, attack_of
from report.ticket_figures import density_figure, overlap_figure
from report.tickets import Masks, TicketFile, find_tickets, layer_densities, overlap_matrices, pick
from report.words import of_data

FIGURES = ("accuracy-*", "difference-*", "time-*", "density", "overlap")  # names of their files
MOST_SOURCES = 16  # runs whose tickets are drawn
MOST_TICKETS = 16  # rows of the overlap's heat map, where fewer sources allow it
MOST_STATES = 4  # tickets of one source

Drawn = tuple[str, str, str, Figure]  # name of its files, title, caption, and the figure
Attacks = tuple[str, str]  # by which RA was measured: for a title, and as a sentence
Curves = Mapping[Path, Sequence[Point]]  # by the path of results.json
Lines = dict[str, list[tuple[str, bool, Sequence[Point]]]]  # as `time_figure` takes them


def draw_pictures(
    verdict: Verdict, curves: Curves, runs_dir: Path, out: Path, formats: Sequence[str] = ()
) -> tuple[list[Picture], list[str]]:
    """Draw every figure that the runs allow into `out`, in further formats too.

    Returns the pictures in the order of the page, and a line for each that had to be left out.
    """
    notes: list[str] = []
    pictures = []
    for name, title, caption, figure in itertools.chain(
        _accuracy_pictures(verdict),
        _difference_pictures(verdict),
        _time_pictures(verdict, curves, notes),
        _ticket_pictures(verdict, runs_dir, notes),
    ):
        paths = save_figure(figure, out / name, formats)
        pictures.append(Picture(title, caption, tuple(paths)))
    return pictures, notes


def _places(verdict: Verdict) -> Iterator[tuple[str, str, list[GroupVerdict], Attacks]]:
    """Yield of each data set and fraction a name for files, a title, its groups, and attacks."""
    used: set[str] = set()
    for place in dict.fromkeys(group.group.place for group in verdict.groups):
        name = base = slug(place[0], f"{100 * place[1]:g}%")
        for number in itertools.count(2):
            if name.lower() not in used:
                break
            name = f"{base}-{number}"
        used.add(name.lower())
        groups = [group for group in verdict.groups if group.group.place == place]
        setting = verdict.setting(place)
        told = setting.told.get(ATTACK, ()) if setting else ()
        yield name, of_data(*place), groups, (attack_of(setting), _ra_by(told))


def _styles(verdict: Verdict) -> dict[str, tuple[str, str]]:
    return styles(group.group.name for group in verdict.groups)


def _same_colour(verdict: Verdict, groups: Sequence[GroupVerdict]) -> str:
    """Say where pre-trainings of one figure have a colour in common, of which there are seven."""
    looks = _styles(verdict)
    colours = [looks[group.group.name][0] for group in groups]
    shared = len(set(colours)) < len(colours)
    return "Pre-trainings of one colour differ by their markers. " if shared else ""


# --- accuracy -----------------------------------------------------------------------------------


def _accuracy_pictures(verdict: Verdict) -> Iterator[Drawn]:
    for name, title, groups, (attack, ra_by) in _places(verdict):
        caption = (
            "Mean over seeds. Bars with caps: one standard deviation. Pale wide bars: 95 % for "
            "other test images, where outcomes are there, for each network alone; that two of them "
            "overlap does not make networks equal, as the differences, which pair the images, "
            "show. Dashed: the dense network of the same colour; dotted: the least that matches "
            "it by the rule. Stars at the top: double wins by the rule. Thin lines: baselines, "
            "with arrowheads where they lie below the panel. A gap is a missing run: one that the "
            "study plans or, without a plan, that another pre-training has. Points at one sparsity "
            "are set apart a little; two tickets of one state are not joined. "
            f"{_same_colour(verdict, groups)}{ra_by}"
        )
        figure = accuracy_figure(groups, _styles(verdict), attack)
        yield f"accuracy-{name}", f"Accuracy against sparsity: {title}", caption, figure


def _difference_pictures(verdict: Verdict) -> Iterator[Drawn]:
    for name, title, groups, (attack, ra_by) in _places(verdict):
        judged = [group for group in groups if group.dense is not None and group.found]
        if not judged:
            continue
        caption = (
            "What each ticket that IMP found lacks against its dense network, with 95 % intervals "
            "(arrowheads: those much wider than most leave the panel). Grey: within the margin of "
            "the evidence; dotted: the tolerance of the rule. Solid intervals know of "
            "seeds and images and decide: a ticket matches where its interval lies above the "
            "band’s lower edge, and is worse where it lies below. Dashed ones, of images only "
            "or of seeds alone, leave it undecided, as does a point without any. Stars: double "
            "wins on all three, white ones by the rule’s tolerance, black ones by the evidence. "
            f"{ra_by}"
        )
        figure = difference_figure(judged, _styles(verdict), attack)
        yield f"difference-{name}", f"Differences to the dense network: {title}", caption, figure


def _ra_by(attacks: Sequence[str]) -> str:
    if not attacks:
        return "By which attack RA was measured is not recorded."
    if len(attacks) == 1:
        return f"RA by {attacks[0]}."
    return f"RA by attacks that differ, and cannot be compared: {'; '.join(attacks)}."


def _time_pictures(verdict: Verdict, curves: Curves, notes: list[str]) -> Iterator[Drawn]:
    for name, title, groups, _ in _places(verdict):
        heading = f"Validation accuracy against time: {title}"
        lines, once = _timed_lines(groups, curves)
        if not lines:
            why = "no metrics.jsonl tells seconds of several epochs"
            notes.append(f"{heading} is left out: {why}.")
            continue
        if once:
            notes.append(f"{heading} leaves out what was measured once: {', '.join(once)}.")
        caption = (
            "One seed. Solid: the sparsest double-win ticket (without one, the sparsest ticket); "
            "dashed: the dense network. Accuracy on the validation set, after epochs that measured "
            "it. The time is all that passed while the run was going on, evaluations included. "
            f"{_same_colour(verdict, groups)}"
        ).rstrip()
        yield f"time-{name}", heading, caption, time_figure(title, lines, _styles(verdict))


def _timed_lines(groups: Iterable[GroupVerdict], curves: Curves) -> tuple[Lines, list[str]]:
    """Choose what to draw against time, and name what has a single point, which is no curve.

    Each pre-training has its dense network, and its sparsest double win or else sparsest ticket.
    """
    lines: Lines = {}
    once: dict[str, None] = {}
    for group in groups:
        chosen = group.sparsest or next(reversed(group.found), None)
        rows = [row for row in (group.dense, chosen) if row is not None]
        for row, measure in itertools.product(rows, MEASURES):
            curve = _timed_curve(row, measure.mode, curves)
            if len(curve) > 1:
                line = (group.group.name, row is group.dense, curve)
                lines.setdefault(measure.name, []).append(line)
            elif curve:
                once[f"{group.group.name} {row.name} under {REGIMES[measure.mode]}"] = None
    return lines, list(once)


def _timed_curve(row: TicketRow, mode: str, curves: Curves) -> Sequence[Point]:
    """The points with seconds of the lowest seed that has several; else one, else none."""
    runs = sorted((run for run in row.runs if run.mode == mode), key=lambda run: run.seed)
    timed = [[p for p in curves.get(run.path, ()) if p.seconds is not None] for run in runs]
    return max(timed, key=lambda points: min(len(points), 2), default=[])


# --- the tickets --------------------------------------------------------------------------------


def _ticket_pictures(verdict: Verdict, runs_dir: Path, notes: list[str]) -> Iterator[Drawn]:
    sources = find_tickets(runs_dir)
    if not sources:
        notes.append(
            "Layer densities and mask overlap are left out: there are no K-ticket.safetensors "
            f"below {runs_dir}."
        )
        return
    judged = {row.state for group in verdict.groups for row in group.rows if row.state is not None}
    masks = _load_masks(_choose_tickets(sources, judged, notes), notes)
    if not masks:
        return
    transferred = {
        sha256 for group in verdict.groups for row in group.rows for sha256 in row.hashes
    }
    densities: dict[str, dict[str, dict[str, float]]] = {}
    for ticket, mask in masks:
        label = f"state {ticket.state} ({100 - percent_left_in(mask):.1f} %)"
        densities.setdefault(ticket.source, {})[label] = layer_densities(mask)
    caption = (
        "Weights left in each convolution, in the order of the network, for up to four tickets "
        "of each source; darker is sparser, in brackets is what is pruned of all."
    )
    colours = {name: colour for name, (colour, _) in _styles(verdict).items()}
    yield "density", "Density of each layer", caption, density_figure(densities, colours)
    names = [
        f"{ticket.source} {ticket.state}{'' if sha256_of(ticket.path) in transferred else '*'}"
        for ticket, _ in masks
    ]
    caption = (
        "Intersection over union of the surviving weights of two tickets, named by source and "
        "state (*: of which no transfer is here). In brackets: what two random masks with these "
        "densities of each layer would have. The tickets of one run of IMP are nested, so their "
        "overlap is just the ratio of their densities. Tickets of unequal densities cannot reach 1."
    )
    figure = overlap_figure(names, *overlap_matrices([mask for _, mask in masks]))
    yield "overlap", "Mask overlap", caption, figure


def _choose_tickets(
    sources: Mapping[str, list[TicketFile]], judged: Set[int], notes: list[str]
) -> list[TicketFile]:
    """Choose a few states of each source: those that all of IMP's runs share, where it has any.

    Of these, those that are `judged` where there are some: the last ticket is often not trained.
    """
    states_of = {name: {ticket.state for ticket in files} for name, files in sources.items()}
    of_imp = [states_of[name] for name, files in sources.items() if files[0].kind == IMP]
    shared = set.intersection(*of_imp) if of_imp else set()
    shared = shared & judged or shared
    if len(sources) > MOST_SOURCES:
        notes.append(f"Tickets of the first {MOST_SOURCES} of {len(sources)} sources are drawn.")
    drawn = list(sources)[:MOST_SOURCES]
    most = max(1, min(MOST_STATES, MOST_TICKETS // len(drawn)))
    chosen = []
    for name in drawn:
        states = states_of[name].intersection(pick(shared, most)) or pick(states_of[name], most)
        chosen += [ticket for ticket in sources[name] if ticket.state in states]
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
