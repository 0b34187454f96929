"""What the terminal and the page say in words: no rounding turns a loss into a match."""

import pytest
from helpers.outcome_cases import right, write_tested
from helpers.report_cases import ticket

from report.console import table
from report.evidence import Difference, SeedTerm
from report.page import page
from report.verdict import judge
from report.words import difference, distinct, evidence_rule, points
from report.write import judge_runs


@pytest.mark.parametrize(
    ("value", "limits", "shown"),
    [
        (-0.004, (0.0,), "-0.004"),
        (-0.004, (), "-0.00"),
        (0.0, (0.0,), "+0.00"),
        (-1.0000004, (-1.0,), "-1.00"),  # beyond six decimals there is nothing to be told
        (-1.00004, (-1.0,), "-1.00004"),
        (-1.5, (-1.0, 0.0), "-1.50"),
    ],
)
def test_a_figure_has_as_many_decimals_as_tell_it_from_what_it_is_compared_with(
    value, limits, shown
):
    assert distinct(value, *limits, shape="+").rstrip("0") == shown.rstrip("0")


def test_an_interval_that_just_crosses_the_margin_does_not_look_as_if_it_ended_there():
    found = Difference(-0.5, 3, None, "seeds only", 0.0, (SeedTerm(0.0136, 3),))
    low, high = found.interval()
    assert f"{low:+.2f}" == "-1.00"
    assert difference(found, 1.0) == f"-0.50 [{low:+.3f}, {high:+.3f}]"
    assert difference(found) == f"-0.50 [-1.00, {high:+.3f}]"  # which is not 0.00


def test_a_loss_by_less_than_a_hundredth_of_a_point_is_seen_in_the_terminal_and_on_the_page():
    dense = [95.01, 95.48, 95.94]
    runs = [run for seed, sa in enumerate(dense, 1) for run in ticket(0, sa, sa, sa, seed=seed)]
    for seed, sa in enumerate((95.01, 95.0, 95.01), 1):
        runs += ticket(3, sa, sa, sa, seed=seed)
    verdict = judge(runs)
    (group,) = verdict.groups
    told = table(group, verdict)
    assert "95.007 ± 0.01 -" in told
    assert "minus 0.47 (SA under ST: std of 3 dense seeds): 95.012" in told
    html = page(verdict, [], {})
    assert "95.007 ± 0.01<small>" in html
    assert "needed: 95.012 (dense 95.48 minus 0.47" in html


def test_what_is_worse_on_a_measure_and_yet_undecided_is_explained(tmp_path):
    lost = {1: 1786, 2: 1780, 3: 1774}  # worse at 95 %, not at 98.3 %
    for seed in lost:
        for state, st in ((0, 1800), (1, lost[seed])):
            own = {"state": state, "seed": seed}
            write_tested(tmp_path / f"{state}-{seed}-std", right(2000, st), **own)
            clean, robust = right(2000, 1600), right(2000, 800)
            write_tested(tmp_path / f"{state}-{seed}-adv", clean, robust, **own)
    verdict = judge_runs(tmp_path, evidence_margin=0.0).verdict
    (group,) = verdict.groups
    (row,) = group.found
    assert (row.evidence["st_sa"], row.double_win_evidence) == ("worse", None)
    said = "Undecided though worse on a measure: imp state 1."
    assert said in table(group, verdict)
    assert said in page(verdict, [], {})
    assert "98.3 % interval" in table(group, verdict)


def test_the_tolerance_of_one_dense_seed_is_not_said_to_be_estimated():
    one, several = [], []
    for seed in (1, 2):
        several += ticket(0, 90 + seed, 80, 40, seed=seed) + ticket(1, 90, 80, 40, seed=seed)
    one += ticket(0, 90, 80, 40) + ticket(1, 90, 80, 40)
    assert "tolerance (one dense seed, --margin; or" in evidence_rule(judge(one).groups[0])
    assert "tolerance (itself estimated; or" in evidence_rule(judge(several).groups[0])


def test_measures_that_differ_in_their_seeds_are_told_apart_by_name(tmp_path):
    images = 2000
    for state in (0, 1):
        for seed in (1, 2, 3):
            own = {"state": state, "seed": seed}
            write_tested(tmp_path / f"{state}-{seed}-std", right(images, 1800 + seed), **own)
        at = right(images, 1600), right(images, 800)
        write_tested(tmp_path / f"{state}-1-adv", *at, state=state)
    verdict = judge_runs(tmp_path).verdict
    (group,) = verdict.groups
    told = table(group, verdict)
    assert "SA under ST: paired, 3 seeds; SA under AT, RA under AT: images only, 1 seed" in told
    each = "SA under ST: itself estimated; SA under AT, RA under AT: one dense seed, --margin"
    assert f"tolerance ({each}; or give --evidence_margin)" in told


def test_one_point_is_no_points():
    assert [points(count) for count in (1, 0.5, 2)] == ["1 point", "0.5 points", "2 points"]
