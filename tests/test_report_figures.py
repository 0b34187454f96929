"""The figures: the panels, lines and marks that are there, and files that are not empty."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from helpers.report_cases import run, ticket
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from report.figures import (
    accuracy_figure,
    density_figure,
    overlap_figure,
    plain,
    save_figure,
    slug,
    state_of,
    styles,
    time_figure,
)
from report.judged import MEASURES
from report.runs import Point
from report.verdict import judge

TITLES = ["SA under ST", "SA under AT", "RA under AT"]
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
        dashed = [line for line in axis.lines if line.is_dashed()]
        assert {line.get_color() for line in dashed} == {colour for colour, _ in look.values()}
    assert legend_of(figure) == ["adv", "std", "dense", "double win"]


def test_the_lines_show_the_judged_figures_where_the_states_are():
    axis = draw(grid()).axes[2]
    line = next(line for line in axis.lines if line.get_linewidth() == 1.8)
    assert list(line.get_xdata()) == pytest.approx([1, 2, 3])
    assert list(line.get_ydata()) == pytest.approx([41.1, 40.1, 30.1])
    assert state_of(1.0) == 0
    assert [text.get_text() for text in axis.get_xticklabels()] == ["48.8", "36", "20", "0"]


def test_double_win_tickets_are_starred_in_every_panel():
    for axis in draw(grid()).axes:
        (stars,) = [line for line in axis.lines if line.get_marker() == "*"]
        assert list(stars.get_xdata()) == pytest.approx([1, 2])


def test_several_seeds_have_error_bars_and_one_has_none():
    # One for the tickets and one for the dense network, at sparsity 0.
    assert [len(axis.collections) for axis in draw(grid()).axes] == [0, 0, 0]
    assert [len(axis.collections) for axis in draw(grid(seeds=(1, 2))).axes] == [2, 2, 2]


def test_a_missing_run_is_a_gap_in_the_line():
    runs = [r for r in grid() if not (r.mode == "adv" and r.state == 2)]
    gaps = []
    for axis in draw(runs).axes:
        line = next(line for line in axis.lines if line.get_linewidth() == 1.8)
        gaps.append([str(value) for value in line.get_ydata()].count("nan"))
    assert gaps == [0, 1, 1]


def test_baselines_are_thinner_and_each_has_its_own_dashes():
    runs = grid()
    for kind in ("omp", "random", "reinit"):
        runs += ticket(2, 80, 70, 30, ticket=kind) + ticket(3, 70, 60, 20, ticket=kind)
    figure = draw(runs)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.8]
    assert len(thin) == 3
    assert legend_of(figure) == ["adv", "dense", "omp", "random", "reinit", "double win"]
    assert len({str(line._unscaled_dash_pattern) for line in thin}) == 3


def test_a_collapsed_baseline_does_not_squash_the_panel():
    runs = grid() + ticket(3, 10, 10, 1, ticket="random")
    assert draw(runs).axes[0].get_ylim()[0] > 75


@pytest.mark.parametrize("half", [1.0, 5.0])
def test_the_bars_of_a_dense_network_stay_inside_the_panel_beside_a_collapsed_baseline(half):
    (group,) = judge(grid() + ticket(3, 10, 10, 1, ticket="random")).groups
    dense = replace(group.dense, chance={measure.name: half for measure in MEASURES})
    axis = accuracy_figure([replace(group, dense=dense)], styles(["adv"])).axes[0]
    assert 75 < axis.get_ylim()[0] < 90.1 - half  # the lowest mean, the dense network's, is 90.1


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


def test_figures_are_written_as_png_and_svg_and_repeat_to_the_byte(tmp_path):
    paths = save_figure(draw(grid(seeds=(1, 2))), tmp_path / "a.b")
    assert [path.name for path in paths] == ["a.b.png", "a.b.svg"]
    pixels = imread(paths[0])[..., :3]
    assert pixels.shape[0] > 500
    assert 0.5 < (pixels == 1).all(axis=-1).mean() < 0.99  # white paper, with something on it
    assert len(list(ET.parse(paths[1]).getroot().iter("{http://www.w3.org/2000/svg}path"))) > 50
    again = save_figure(draw(grid(seeds=(1, 2))), tmp_path / "c")
    assert paths[1].read_bytes() == again[1].read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn_and_stays_in_the_legend(tmp_path, name):
    figure = draw(grid(name) + grid("second"))
    for path in save_figure(figure, tmp_path / slug("accuracy", name)):
        assert path.parent == tmp_path
        assert path.stat().st_size > 1000
    assert len(legend_of(figure)) == 4


def test_accuracy_against_time_has_the_three_panels_in_a_fitting_unit():
    points = [Point(e, 600.0 * (e + 1), 50.0 + e, 20.0 if e else None) for e in range(4)]
    curves = {"st_sa": [("adv", True, points)], "at_ra": [("adv", False, points)]}
    figure = time_figure("cifar10", curves, styles(["adv"]))
    assert [axis.get_title() for axis in figure.axes] == TITLES
    assert [len(axis.lines) for axis in figure.axes] == [1, 0, 1]
    dense, ticket_line = figure.axes[0].lines[0], figure.axes[2].lines[0]
    assert dense.is_dashed()
    assert np.asarray(dense.get_xdata()).tolist() == [10, 20, 30, 40]
    assert not ticket_line.is_dashed()
    assert np.asarray(ticket_line.get_xdata()).tolist() == [20, 30, 40]
    assert figure.axes[0].get_xlabel() == "wall-clock time, evaluation included (min)"
    assert figure.axes[0].get_ylabel() == "accuracy on the validation set (%)"


def test_labels_are_made_drawable():
    assert plain("new\nline\x00") == "new?line?"
    assert plain("_hidden") == " _hidden"
    assert len(plain("x" * 300)) == 40


def test_density_bars_have_a_panel_a_source_and_sparser_ones_in_front():
    layers = {"conv1": 0.9, "layer1.0.conv1": 0.5}
    sparser = {"conv1": 0.6, "layer1.0.conv1": 0.2}
    figure = density_figure({"adv": {3: sparser, 1: layers}, "std": {1: layers}})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["adv", "std"]
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([90, 50, 60, 20])
    shades = [sum(to_rgb(bar.get_facecolor())) for bar in bars]
    assert shades[0] > shades[2]
    names = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert names == ["conv1", "layer1.0.conv1"]


def test_the_heat_map_writes_each_overlap_and_leaves_the_unknown_blank():
    figure = overlap_figure(["adv 1", "std 1"], [[1.0, None], [None, 1.0]])
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["1.00", "1.00"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["adv 1", "std 1"]


def test_only_a_dense_network_can_be_drawn():
    figure = draw([run(90, mode="std", state=0), run(80, 40, mode="adv", state=0)])
    assert [axis.get_title() for axis in figure.axes] == TITLES
