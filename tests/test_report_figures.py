"""The figures: the panels, lines and marks that are there, and files that are not empty."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from helpers.report_cases import run, ticket
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from report.difference_figure import CEILING, EVIDENCE, difference_figure
from report.drawing import (
    BEYOND,
    DOTTED,
    percent,
    plain,
    save_figure,
    slug,
    sparsity_axis,
    state_of,
    styles,
)
from report.evidence import Difference, SeedTerm
from report.figures import accuracy_figure, time_figure
from report.judged import MEASURES
from report.runs import Point
from report.ticket_figures import density_figure, overlap_figure
from report.verdict import judge

TITLES = ["SA under ST", "SA under AT", "RA under AT"]
SHARED = ["dense", "dense less the rule’s tolerance", "double win by the rule"]
HOSTILE = ["$\\frac{$", "_hidden", "<b>&\"'", "x" * 300, "名前", "../..", "a/b", "%s{0}"]


def grid(name="adv", seeds=(1,)):
    runs = []
    for seed in seeds:
        for state, figures in enumerate(((90, 80, 40), (90, 80, 41), (91, 80, 40), (90, 79, 30))):
            shifted = (figure + seed / 10 for figure in figures)
            runs += ticket(state, *shifted, pretraining=name, seed=seed)
    return runs


def draw(runs):
    groups = judge(runs).groups
    return accuracy_figure(groups, styles(group.group.pretraining for group in groups))


def differences(runs, **options):
    groups = judge(runs, **options).groups
    return difference_figure(groups, styles(group.group.name for group in groups))


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_panel_per_measure_with_a_line_and_a_dashed_dense_line_each():
    figure = draw(grid("adv") + grid("std"))
    assert [axis.get_title() for axis in figure.axes] == TITLES
    look = styles(["adv", "std"])
    for axis in figure.axes:
        thick = [line for line in axis.lines if line.get_linewidth() == 1.8]
        assert {(line.get_color(), line.get_marker()) for line in thick} == set(look.values())
        assert all(len(line.get_xdata()) == 3 for line in thick)
        dashed = [line for line in axis.lines if line.is_dashed() and not is_dotted(line)]
        assert {line.get_color() for line in dashed} == {colour for colour, _ in look.values()}
    assert legend_of(figure) == ["adv", "std", *SHARED]


def test_the_lines_show_the_judged_figures_where_the_states_are():
    axis = draw(grid()).axes[2]
    line = next(line for line in axis.lines if line.get_linewidth() == 1.8)
    assert list(line.get_xdata()) == pytest.approx([1, 2, 3])
    assert list(line.get_ydata()) == pytest.approx([41.1, 40.1, 30.1])
    assert state_of(1.0) == 0
    assert [text.get_text() for text in axis.get_xticklabels()] == ["48.8", "0", "36", "20"]


def stars_of(axis):
    return [line for line in axis.lines if line.get_marker() == "*"]


def test_double_win_tickets_are_starred_in_every_panel():
    for axis in draw(grid()).axes:
        (stars,) = stars_of(axis)
        assert list(stars.get_xdata()) == pytest.approx([1, 2])


def test_stars_are_a_row_a_series_at_the_top_where_no_accuracy_is():
    figure = draw([run for name in ("a", "b", "c") for run in grid(name)])
    for axis in figure.axes:
        rows = [set(stars.get_ydata()) for stars in stars_of(axis)]
        assert [len(heights) for heights in rows] == [1, 1, 1]
        assert len(set.union(*rows)) == 3
        lowest = axis.transAxes.transform((0, min(set.union(*rows))))[1]
        accuracies = [line.get_ydata() for line in axis.lines if line.get_linewidth() == 1.8]
        assert axis.transData.transform((0, np.nanmax(accuracies)))[1] < lowest


def twins():
    """A group with two tickets of state 2, of which the worse is no double win."""
    other = ticket(2, 85, 75, 35, ticket_sha256="cd" * 32, path="other")
    return grid() + other


def test_two_tickets_of_one_state_are_set_apart_and_no_line_joins_them():
    axis = draw(twins()).axes[0]
    line = next(line for line in axis.lines if line.get_linewidth() == 1.8)
    places, accuracies = np.array(line.get_data(), dtype=float)
    assert places[::2] == pytest.approx([1, 1.85, 2.15, 3])
    assert np.isnan(accuracies).tolist() == [False, True] * 3 + [False]  # a gap between each two
    (stars,) = stars_of(axis)
    assert list(stars.get_xdata()) == places[accuracies > 90][:2].tolist()


def test_the_figure_of_differences_sets_two_tickets_of_one_state_apart_too():
    axis = differences(twins()).axes[0]
    places = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert sorted(places) == pytest.approx([1, 1.85, 2.15, 3])


def is_dotted(line):
    return line._unscaled_dash_pattern == DOTTED


def tolerances_of(axis):
    return {line.get_color(): line.get_ydata()[0] for line in axis.lines if is_dotted(line)}


def test_the_tolerance_by_which_double_wins_are_judged_is_drawn_for_each_group():
    runs = grid("adv") + grid("std", seeds=(1, 11))  # the margin, and a std of 1 / sqrt(2)
    look = styles(["adv", "std"])
    colours = [look[name][0] for name in ("adv", "std")]
    for axis, dense in zip(draw(runs).axes, (90, 80, 40), strict=True):
        found = tolerances_of(axis)
        assert [found[colour] for colour in colours] == pytest.approx(
            [dense + 0.1 - 0.5, dense + 0.6 - 0.5**0.5]
        )
    figure = differences(runs, evidence_margin=2.0)
    for axis, colour, allowed in zip(figure.axes[::3], colours, (0.5, 0.5**0.5), strict=True):
        assert tolerances_of(axis) == {colour: pytest.approx(-allowed)}
    assert "the rule’s tolerance" in legend_of(figure)


@pytest.mark.parametrize(
    ("margin", "told"), [(2.0, "2 points"), (1, "1 point"), (None, "the rule’s tolerance")]
)
def test_the_band_of_differences_tells_whose_margin_it_is(margin, told):
    figure = differences(grid(), evidence_margin=margin)
    assert f"evidence margin: {told}" in legend_of(figure)


def test_each_figure_tells_of_how_many_seeds_it_is():
    runs = grid(seeds=(1, 2)) + [run for run in grid(seeds=(3,)) if run.mode == "std"]
    for seeds, drawn in (("1 seed", grid()), ("2–3 seeds", runs)):
        for figure in (draw(drawn), differences(drawn)):
            assert figure.get_suptitle() == f"cifar10, 100 % of the training data\n{seeds}"
    baseline = ticket(2, 80, 70, 30, ticket="random")
    assert "1–2 seeds" in draw(grid(seeds=(1, 2)) + baseline).get_suptitle()
    assert "\n2 seeds" in differences(grid(seeds=(1, 2)) + baseline).get_suptitle()


def test_a_figure_tells_where_the_number_of_seeds_was_not_that_fixed_beforehand():
    adv, std = judge(grid("adv") + grid("std")).groups
    groups = [replace(adv, seeds=frozenset({1, 2})), replace(std, seeds=frozenset({2}))]
    (found,) = {
        draw_groups(groups, styles(["adv", "std"])).get_suptitle().partition("\n")[2]
        for draw_groups in (accuracy_figure, difference_figure)
    }
    assert found == (
        "1 seed; interim (adv): planned seeds or measures are missing; "
        "sequential (std): seeds were added to those planned"
    )
    assert "; interim: planned" in accuracy_figure(groups[:1], styles(["adv"])).get_suptitle()


def test_several_seeds_have_error_bars_and_one_has_none():
    # One for the tickets and one for the dense network, at sparsity 0.
    assert [len(axis.collections) for axis in draw(grid()).axes] == [0, 0, 0]
    assert [len(axis.collections) for axis in draw(grid(seeds=(1, 2))).axes] == [2, 2, 2]


def test_a_ticket_of_one_seed_has_no_bar_beside_those_of_several():
    runs = [run for run in grid(seeds=(1, 2)) if run.seed == 1 or run.state != 2]
    for axis in draw(runs).axes:
        caps = [caps for line, caps, _ in axis.containers if len(line.get_xdata()) > 1]
        lengths = [np.asarray(cap.get_ydata(), float) for cap in caps[0]]
        assert all(np.isnan(ends[1]) and np.isfinite(ends[[0, 2]]).all() for ends in lengths)


def test_a_missing_run_is_a_gap_in_the_line():
    runs = [r for r in grid() if not (r.mode == "adv" and r.state == 2)]
    gaps = []
    for axis in draw(runs).axes:
        line = next(line for line in axis.lines if line.get_linewidth() == 1.8)
        gaps.append([str(value) for value in line.get_ydata()].count("nan"))
    assert gaps == [0, 1, 1]


def test_a_state_that_nothing_ran_of_is_a_gap_where_another_pretraining_has_it():
    figure = draw([r for r in grid("adv") if r.state != 2] + grid("std"))
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    assert [np.isnan(line.get_ydata(orig=False)).tolist() for line in lines] == [
        [False, True, False],
        [False, False, False],
    ]
    alone = draw([r for r in grid() if r.state != 2]).axes[0]  # perhaps nobody wanted it
    line = next(line for line in alone.lines if line.get_linewidth() == 1.8)
    assert list(line.get_xdata()) == pytest.approx([1, 3])


def test_the_panel_of_ra_names_its_attack():
    groups = judge(grid()).groups
    attack = "Linf PGD-100, eps 25.55/255"
    figure = accuracy_figure(groups, styles(["adv"]), attack)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [*TITLES[:2], f"RA under AT\n{attack}"]
    figure.draw_without_rendering()
    panel, shown = figure.axes[2].get_window_extent(), figure.axes[2].title.get_window_extent()
    assert panel.x0 <= shown.x0
    assert shown.x1 <= panel.x1


def test_many_pretrainings_stay_nearer_to_their_own_state_than_to_the_next():
    figure = draw([run for number in range(12) for run in grid(f"pre{number}")])
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    places = np.array([line.get_xdata() for line in thick])
    assert len({*places[:, 0]}) == 12
    assert np.abs(places - [1, 2, 3]).max() < 0.25


@pytest.mark.parametrize("count", [2, 3, 9])
def test_all_of_the_legend_is_inside_the_figure_however_long_the_names(count):
    figure = draw([run for number in range(count) for run in grid(f"{number}_" + "long" * 12)])
    figure.canvas.draw()
    legend, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= legend.x0
    assert legend.x1 <= page.x1
    assert page.y0 <= legend.y0
    panels = [axis.get_window_extent() for axis in figure.axes]
    assert min(panel.y0 for panel in panels) > legend.y1
    assert min(panel.height for panel in panels) > 200  # at 100 dots an inch


def test_the_axis_of_sparsity_labels_both_ends_and_none_of_what_would_overlap():
    axis = Figure().subplots()
    sparsity_axis(axis, [1, 0.8, 0.79, 0.64, 0.5, 0.41, 0.4, 0.395, 0.1, 0.05, 0.0004])
    labels = {text.get_text(): place for text, place in
              zip(axis.get_xticklabels(), axis.get_xticks(), strict=True)}  # fmt: skip
    assert {"0", "99.96"} <= labels.keys()
    places = sorted(labels.values())
    assert np.diff(places).min() > places[-1] / 8
    assert axis.get_xlabel() == "convolution weights pruned (%),\nlog scale of those left"
    assert [percent(share) for share in (0, 0.36, 0.488, 0.99996, 0.0004, 1)] == [
        "0", "36", "48.8", "99.996", "0.04", "100",
    ]  # fmt: skip


def test_baselines_are_thinner_and_each_has_its_own_dashes_and_markers():
    runs = grid()
    for kind in ("omp", "random", "reinit"):
        runs += ticket(2, 90, 80, 40, ticket=kind) + ticket(3, 90, 80, 40, ticket=kind)
    figure = draw(runs)
    lines = [line for line in figure.axes[0].lines if not is_dotted(line)]
    thin = [line for line in lines if line.get_linewidth() == 0.8]
    assert len(thin) == 3
    assert legend_of(figure) == [
        "adv",
        *SHARED[:2],
        "omp",
        "random",
        "reinit",
        *SHARED[2:],
    ]
    assert len({str(line._unscaled_dash_pattern) for line in thin}) == 3
    assert len({line.get_fillstyle() for line in thin}) == 3  # a single state has no line
    told = {line.get_label(): line.get_fillstyle() for line in figure.legends[0].get_lines()}
    assert [told[kind] for kind in ("omp", "random", "reinit")] == ["none", "bottom", "left"]


def arrows_of(axis):
    """Of the arrowheads, which no panel clips: (marker, place, height)."""
    marks = [line for line in axis.lines if not line.get_clip_on()]
    return [(line.get_marker(), line.get_xdata()[0], line.get_ydata()[0]) for line in marks]


def test_a_collapsed_baseline_leaves_the_panel_rather_than_squash_it_and_an_arrow_says_so():
    baseline = ticket(2, 90, 80, 40, ticket="random") + ticket(3, 10, 10, 1, ticket="random")
    figure = draw(grid() + baseline)
    axis = figure.axes[0]
    bottom, _ = axis.get_ylim()
    assert bottom > 75
    assert arrows_of(axis) == [(BEYOND[0], pytest.approx(3), bottom)]
    assert legend_of(figure)[-1] == "goes on beyond the panel"
    assert not arrows_of(draw(grid()).axes[0])
    assert legend_of(draw(grid())) == ["adv", *SHARED]


def differing(*halves):
    """Groups with a ticket for each half width of an interval, all level with the dense network."""
    states = range(len(halves) + 1)
    (group,) = judge([run for state in states for run in ticket(state, 90, 80, 40)]).groups
    rows = []
    for row, half in zip(group.rows, halves, strict=True):
        term = SeedTerm((half / 4.303) ** 2, 3)  # Student's t of two degrees of freedom
        found = Difference(0.0, 3, None, "seeds only", seed_terms=(term,))
        rows.append(replace(row, differences=dict.fromkeys(row.differences, found)))
    return [replace(group, rows=tuple(rows))]


def test_an_interval_that_leaves_the_panel_has_arrowheads_below_the_stars():
    figure = difference_figure(differing(0.5, 0.6, 40), styles(["adv"]))
    axis = figure.axes[0]
    bottom, top = axis.get_ylim()
    ceiling = bottom + CEILING * (top - bottom)
    assert top < 10
    marks, places, heights = zip(*arrows_of(axis), strict=True)
    assert marks == BEYOND
    assert places == pytest.approx([3, 3])
    assert heights == pytest.approx([bottom, ceiling])
    assert ceiling < bottom + (EVIDENCE - 0.03) * (top - bottom)
    assert legend_of(figure)[-1] == "goes on beyond the panel"


def test_intervals_that_are_all_wide_are_shown_whole():
    figure = difference_figure(differing(30, 40), styles(["adv"]))
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < -40
    assert top > 40
    assert not any(map(arrows_of, figure.axes))


@pytest.mark.parametrize("half", [1.0, 5.0])
def test_the_bars_of_a_dense_network_stay_inside_the_panel_beside_a_collapsed_baseline(half):
    (group,) = judge(grid() + ticket(3, 10, 10, 1, ticket="random")).groups
    dense = replace(group.dense, chance={measure.name: half for measure in MEASURES})
    axis = accuracy_figure([replace(group, dense=dense)], styles(["adv"])).axes[0]
    assert 75 < axis.get_ylim()[0] < 90.1 - half  # the lowest mean, the dense network's, is 90.1


def test_the_bars_of_the_images_are_said_to_be_of_each_network_alone():
    (group,) = judge(grid()).groups
    dense = replace(group.dense, chance={measure.name: 1.0 for measure in MEASURES})
    figure = accuracy_figure([replace(group, dense=dense)], styles(["adv"]))
    assert legend_of(figure)[-1] == "95 % over test images, each network alone"


def test_bars_of_the_images_end_where_accuracies_do():
    (group,) = judge(ticket(0, 99.5, 50, 0.5)).groups
    chance = {measure.name: 2.0 for measure in MEASURES}
    group = replace(group, dense=replace(group.dense, chance=chance))
    axes = accuracy_figure([group], styles(["adv"])).axes
    bars = [bar for axis in axes for found in axis.collections for bar in found.get_segments()]
    assert [(low, high) for (_, low), (_, high) in bars] == [(97.5, 100), (48, 52), (0, 2.5)]


def test_a_regime_nobody_ran_says_so():
    figure = draw([r for r in grid() if r.mode == "std"])
    assert [[text.get_text() for text in axis.texts] for axis in figure.axes] == [
        [],
        ["no runs"],
        ["no runs"],
    ]


def test_each_pretraining_has_its_own_colour_and_marker():
    names = [f"p{i}" for i in range(7)]
    look = styles(names)
    assert len({colour for colour, _ in look.values()}) == 7
    assert len({marker for _, marker in look.values()}) == 7
    assert len(set(styles(f"p{i}" for i in range(20)).values())) == 20


def test_dense_lines_of_one_colour_are_told_apart_by_the_markers_on_them():
    names = [f"p{number}" for number in range(8)]  # those of the first and the last are one colour
    runs = []
    for rank, name in enumerate(names):
        runs += ticket(0, 90 - rank, 80, 40, pretraining=name)
    figure = draw(runs)
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    marked = {float(line.get_ydata()[0]): (line.get_color(), line.get_marker()) for line in hollow}
    look = styles(names)
    assert marked == {90.0 - rank: look[name] for rank, name in enumerate(names)}
    shown = next(h for h in figure.legends[0].legend_handles if h.get_label() == "dense")
    assert (shown.get_marker(), shown.get_markerfacecolor()) == ("o", "white")


def test_figures_are_written_as_png_and_svg_and_repeat_to_the_byte(tmp_path):
    paths = save_figure(draw(grid(seeds=(1, 2))), tmp_path / "a.b")
    assert [path.name for path in paths] == ["a.b.png", "a.b.svg"]
    pixels = imread(paths[0])[..., :3]
    assert pixels.shape[0] > 500
    assert 0.5 < (pixels == 1).all(axis=-1).mean() < 0.99  # white paper, with something on it
    assert len(list(ET.parse(paths[1]).getroot().iter("{http://www.w3.org/2000/svg}path"))) > 50
    again = save_figure(draw(grid(seeds=(1, 2))), tmp_path / "c")
    assert paths[1].read_bytes() == again[1].read_bytes()


def test_a_further_format_keeps_its_writing_as_writing(tmp_path):
    *_, pdf = save_figure(draw(grid()), tmp_path / "a", ["pdf"])
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content
    (again,) = save_figure(draw(grid()), tmp_path / "b", ["pdf"])[2:]
    assert again.read_bytes() == content


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn_and_stays_in_the_legend(tmp_path, name):
    figure = draw(grid(name) + grid("second"))
    for path in save_figure(figure, tmp_path / slug("accuracy", name)):
        assert path.parent == tmp_path
        assert path.stat().st_size > 1000
    assert len(legend_of(figure)) == 2 + len(SHARED)


def test_accuracy_against_time_has_the_three_panels_in_a_fitting_unit():
    points = [Point(e, 600.0 * (e + 1), 50.0 + e, 20.0 if e else None) for e in range(4)]
    curves = {"st_sa": [("adv", True, points)], "at_ra": [("adv", False, points)]}
    figure = time_figure("cifar10", curves, styles(["adv"]))
    assert [axis.get_title() for axis in figure.axes] == TITLES
    assert [len(axis.lines) for axis in figure.axes] == [1, 0, 1]
    said = [[text.get_text().split("\n")[0] for text in axis.texts] for axis in figure.axes]
    assert said == [[], ["no curve:"], []]
    dense, ticket_line = figure.axes[0].lines[0], figure.axes[2].lines[0]
    assert dense.is_dashed()
    assert np.asarray(dense.get_xdata()).tolist() == [10, 20, 30, 40]
    assert not ticket_line.is_dashed()
    assert np.asarray(ticket_line.get_xdata()).tolist() == [20, 30, 40]
    assert figure.get_suptitle() == "cifar10\n1 seed of each network"
    assert figure.axes[0].get_xlabel() == "wall-clock time, evaluation included (min)"
    assert figure.axes[0].get_ylabel() == "accuracy on the validation set (%)"


def test_labels_are_made_drawable():
    assert plain("new\nline\x00") == "new?line?"
    assert plain("_hidden") == " _hidden"
    assert len(plain("x" * 300)) == 40


def test_density_bars_have_a_panel_a_source_and_sparser_ones_in_front():
    layers = {"conv1": 0.9, "layer1.0.conv1": 0.5}
    sparser = {"conv1": 0.6, "layer1.0.conv1": 0.2}
    figure = density_figure(
        {"adv": {"state 1": layers, "state 3": sparser}, "std": {"state 1": layers}},
        {"adv": "#0000ff", "std": "#ff0000"},
    )
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["adv", "std"]
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([90, 50, 60, 20])
    shades = [sum(to_rgb(bar.get_facecolor())) for bar in bars]
    assert shades[0] > shades[2]
    reds = [patch.get_facecolor()[0] for axis in figure.axes for patch in axis.patches]
    assert reds[2] < 0.1 < 0.9 < reds[-1]  # the darkest of each panel has its source's colour
    names = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert names == ["conv1", "layer1.0.conv1"]


def test_bars_of_a_source_that_no_other_figure_has_are_in_no_series_colour():
    bars = {"state 1": {"conv1": 0.9}}
    figure = density_figure({"adv": bars, "std, omp": bars}, {"adv": "#0072b2"})
    own, other = (axis.patches[0].get_facecolor() for axis in figure.axes)
    assert own[:3] == pytest.approx(to_rgb("#0072b2"))
    assert len(set(other[:3])) == 1  # grey


def test_the_heat_map_writes_each_overlap_and_leaves_the_unknown_blank():
    figure = overlap_figure(
        ["adv 1", "std 1", "std 2"],
        [[1.0, None, 0.8], [None, 1.0, None], [0.8, None, 1.0]],
        [[0.6, None, 0.5], [None, 0.6, None], [0.5, None, 0.4]],
    )
    axis = figure.axes[0]
    told = [text.get_text() for text in axis.texts]
    assert told == ["1.00", "0.80\n(0.50)", "1.00", "0.80\n(0.50)", "1.00"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["adv 1", "std 1", "std 2"]


def test_only_a_dense_network_can_be_drawn():
    figure = draw([run(90, mode="std", state=0), run(80, 40, mode="adv", state=0)])
    assert [axis.get_title() for axis in figure.axes] == TITLES
