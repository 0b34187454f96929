"""Evidence on results whose answers are known, and how often it is right on simulated ones."""

import dataclasses
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.evidence_cases import draws, first, network
from scipy import stats

from report.evidence import (
    Compared,
    Difference,
    SeedTerm,
    contrast,
    contrast_of_accuracies,
    corrected,
    difference_of_accuracies,
    double_win_evidence,
    judge,
    paired_difference,
    sparsest_with_evidence,
)
from report.power import missing, with_seeds

ROOT = Path(__file__).resolve().parent.parent


def runs(*rows):
    """{seed: outcomes}, from a row of ones and zeros for each seed."""
    return {seed: np.array(row, bool) for seed, row in enumerate(rows)}


def same(correct, images, seeds=3):
    return runs(*[[correct] * images] * seeds)


def t(df, level=0.95):
    return stats.t.ppf((1 + level) / 2, df)


# Where the dense network is always wrong the ticket's outcomes are the differences. Of these:
# image means 1, 2/3, 1/3, 0; seed means 1/2, 1/4, 3/4; A = 20/432, B = 9/432, E = 5/432.
TICKET = runs([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0])
DENSE = same(0, 4)


# --- differences and intervals --------------------------------------------------------------------


def test_images_and_seeds_share_in_the_interval():
    found = paired_difference(DENSE, TICKET)
    assert (found.mean, found.seeds, found.images, found.kind) == (50.0, 3, 4, "paired")
    half = 100 * (t(3) * (20 - 5) / 432 + t(2) * 9 / 432) / math.sqrt(24 / 432)
    assert found.half_width() == pytest.approx(half)
    assert found.low == pytest.approx(50 - half)
    assert found.high == 100.0  # no difference can be more


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_no_interval_is_narrower_than_other_images_alone_would_make_it(seeds):
    bound = []
    for sample in range(200):
        drawn = np.random.default_rng([seeds, sample]).random((2, seeds, 60)) < 0.6
        dense, ticket = (dict(enumerate(side)) for side in drawn)
        gains = np.stack([100.0 * ticket[k] - 100.0 * dense[k] for k in dense]).mean(0)
        alone = t(59) * gains.std(ddof=1) / math.sqrt(60)
        half = paired_difference(dense, ticket).half_width()
        assert half >= alone - 1e-9
        bound.append(half <= alone + 1e-9)
    assert 0.1 < np.mean(bound) < 0.5  # the bound is met now and then, and not always


def test_further_seeds_take_their_share_off_what_other_images_alone_would_make():
    # Seeds agree by chance: all of the interval is the images'. Of A = 2 a half is residual.
    today = Difference(0.0, 3, 2000, "paired", 1.0, (SeedTerm(0.0, 3),), 1.0)
    assert today.half_width() == pytest.approx(t(1999) * math.sqrt(2))
    assert with_seeds(today, [6]).half_width() == pytest.approx(t(1999) * math.sqrt(1.5))


def test_a_stricter_level_takes_its_own_quantiles():
    found = paired_difference(DENSE, TICKET)
    level = 1 - 0.05 / 3
    half = 100 * (t(3, level) * 15 + t(2, level) * 9) / 432 / math.sqrt(24 / 432)
    assert found.half_width(level) == pytest.approx(half)


def test_where_images_explain_nothing_the_seeds_remain():
    # E > A: image means are all 1/2, seed means 1/2 too, all is residual.
    found = paired_difference(same(0, 4, 2), runs([1, 0, 1, 0], [0, 1, 0, 1]))
    assert found.image_variance == 0
    assert found.half_width() == pytest.approx(100 * (1 - 0.025 ** (1 / 4)))
    # One image more in one seed: B = (1/4)**2 / 2 / 2.
    found = paired_difference(same(0, 4, 2), runs([1, 0, 1, 1], [0, 1, 0, 1]))
    assert found.half_width() == pytest.approx(100 * t(1) * math.sqrt(1 / 64))


def test_unequal_seeds_are_not_paired_but_the_images_are():
    dense = runs([1, 1, 0, 0], [1, 0, 0, 0])
    found = paired_difference(dense, TICKET)
    assert (found.kind, found.seeds) == ("unpaired", 2)
    assert found.mean == pytest.approx(100 * (1 / 2 - 3 / 8))
    # Dense: seed means 1/2, 1/4, so B = 1/64; squares 15/8 = images 11/8 + seeds 1/8 + residual
    # 3/8 on 3 degrees of freedom, so E = 1/8 / 8 = 1/64.
    # Image means of the ticket minus the dense network's: 0, 1/6, 1/3, 0.
    by_images = np.var([0, 1 / 6, 1 / 3, 0], ddof=1) / 4
    assert found.image_variance == pytest.approx(1e4 * max(0, by_images - 5 / 432 - 1 / 64))
    terms = np.array([9 / 432, 1 / 64])
    assert [term.variance for term in found.seed_terms] == pytest.approx(1e4 * terms)
    # Two seeds have one degree of freedom, which Welch's approximation does not bear.
    assert found.half_width() == pytest.approx(100 * t(1) * math.sqrt(terms.sum()))


def test_residuals_of_both_sides_leave_the_part_of_the_images():
    dense = runs(*[[1, 1, 1, 0, 0, 0, 0, 0]] * 2, [1, 1, 0, 0, 0, 0, 0, 0])
    ticket = runs(*[[0, 0, 0, 0, 0, 0, 0, 1]] * 3, [0, 0, 0, 0, 0, 0, 1, 1])
    found = paired_difference(dense, ticket)
    by_images = np.var([-1, -1, -2 / 3, 0, 0, 0, 1 / 4, 1], ddof=1) / 8
    # One bit in one run of 3 or 4 is unlike the others: squares 1/8 - 1/(8 S) off its image's mean,
    # less those of its seed's mean; on (S - 1) 7 degrees of freedom, and divided by S 8.
    residuals = sum((1 - 1 / s) * (1 - 1 / 8) / ((s - 1) * 7) / (s * 8) for s in (3, 4))
    assert found.image_variance == pytest.approx(1e4 * (by_images - residuals))


def test_as_many_seeds_that_are_other_seeds_are_not_paired():
    others = {seed + 1: bits for seed, bits in TICKET.items()}
    found = paired_difference(TICKET, others)
    assert (found.kind, len(found.seed_terms)) == ("unpaired", 2)
    dense, ticket = {1: 80.0, 2: 90.0}, {2: 80.0, 3: 90.0}
    assert len(difference_of_accuracies(dense, ticket).seed_terms) == 2


def test_with_one_seed_on_a_side_the_interval_is_of_images_only():
    for dense, ticket in ((first(DENSE, 1), first(TICKET, 1)), (DENSE, first(TICKET, 1))):
        found = paired_difference(dense, ticket)
        assert (found.mean, found.seeds, found.kind) == (50.0, 1, "images only")
        assert found.half_width() == pytest.approx(100 * t(3) * math.sqrt(1 / 3 / 4))
        assert judge(found, margin=1000.0) == "undecided"


@pytest.mark.parametrize(("images", "half"), [(2000, 0.1843), (177, 2.0625)])
def test_where_nothing_differs_the_interval_is_what_that_many_images_can_show(images, half):
    found = paired_difference(same(1, images), same(1, images))
    assert found.interval() == pytest.approx((-half, half), abs=1e-4)
    assert found.half_width() == 100 * (1 - 0.025 ** (1 / images))


def test_one_image_that_differs_does_not_make_the_interval_narrower():
    ticket = same(1, 2000)
    ticket[0][7] = False
    none = paired_difference(same(1, 2000), same(1, 2000))
    assert paired_difference(same(1, 2000), ticket).half_width() >= none.half_width()


def test_accuracies_of_0_and_100_percent():
    found = paired_difference(same(1, 100), same(0, 100))
    assert found.mean == -100
    assert found.interval() == (-100, pytest.approx(-100 + 100 * (1 - 0.025 ** (1 / 100))))
    assert judge(found, 0.5) == "worse"
    assert judge(paired_difference(same(0, 100), same(1, 100)), 0.5) == "matches"
    assert judge(paired_difference(same(0, 100), same(0, 100)), 0.5) == "undecided"
    assert judge(paired_difference(same(0, 1000), same(0, 1000)), 0.5) == "matches"


def test_one_image_decides_nothing():
    found = paired_difference(same(1, 1), same(0, 1))
    assert (found.mean, found.kind, found.interval()) == (-100, "none", (None, None))
    assert judge(found, 0.5) == "undecided"


def test_a_state_that_was_not_measured_has_no_difference():
    assert paired_difference(DENSE, {}) is None
    assert paired_difference({}, TICKET) is None
    assert difference_of_accuracies({}, {0: 1.0}) is None
    assert contrast(Compared(DENSE, TICKET), Compared(DENSE, {})) is None
    assert judge(None, 0.5) == "undecided"


def test_outcomes_of_different_images_are_never_paired():
    with pytest.raises(ValueError, match="different images"):
        paired_difference(same(1, 4), same(1, 5))
    with pytest.raises(ValueError, match="different images"):
        paired_difference(same(1, 4), {0: np.ones(4, bool), 1: np.ones(5, bool)})


def test_the_order_of_seeds_does_not_matter_and_sides_can_be_swapped():
    dense = runs([1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1])
    found = paired_difference(dense, TICKET)
    assert paired_difference(dense, dict(reversed(TICKET.items()))) == found
    swapped = paired_difference(TICKET, dense)
    assert (swapped.mean, swapped.half_width()) == (-found.mean, found.half_width())


# --- without outcomes -----------------------------------------------------------------------------


def test_accuracies_alone_give_the_paired_t_interval():
    dense, ticket = {1: 80.0, 2: 82.0, 5: 81.0}, {5: 79.5, 1: 79.0, 2: 82.0}
    found = difference_of_accuracies(dense, ticket)
    assert (found.kind, found.seeds, found.images) == ("seeds only", 3, None)
    order = [1, 2, 5]
    peer = stats.ttest_rel([ticket[s] for s in order], [dense[s] for s in order])
    assert found.interval() == pytest.approx(tuple(peer.confidence_interval()))


def test_accuracies_of_unequal_seeds_give_welchs_interval():
    dense, ticket = {1: 80.0, 2: 82.0, 3: 81.0, 4: 84.0}, {1: 79.0, 2: 80.0, 3: 81.0}
    found = difference_of_accuracies(dense, ticket)
    peer = stats.ttest_ind(list(ticket.values()), list(dense.values()), equal_var=False)
    assert found.interval() == pytest.approx(tuple(peer.confidence_interval()))


@pytest.mark.parametrize(
    ("dense", "ticket"),
    [({1: 80.0}, {1: 80.0}), ({1: 80.0, 2: 81.0}, {1: 80.0}), ({1: 0.3, 2: 0.1}, {1: 0.2, 2: 0.0})],
    ids=["one seed", "one on a side", "no spread but rounding"],
)
def test_accuracies_that_show_no_spread_give_no_interval(dense, ticket):
    found = difference_of_accuracies(dense, ticket)
    assert (found.kind, found.interval()) == ("none", (None, None))
    assert judge(found, 50) == "undecided"


# --- contrasts ------------------------------------------------------------------------------------


def test_a_contrast_with_one_that_never_changes_is_the_other_ones_difference():
    found = contrast(Compared(DENSE, TICKET), Compared(same(1, 4), same(1, 4)))
    alone = paired_difference(DENSE, TICKET)
    assert (found.mean, found.kind) == (alone.mean, "paired")
    assert found.half_width() == pytest.approx(alone.half_width())


def test_in_a_contrast_equal_images_cancel_and_equal_seed_numbers_do_not():
    ten_times = Compared(
        *(runs(*(np.tile(row, 10) for row in x.values())) for x in (DENSE, TICKET))
    )
    found = contrast(ten_times, ten_times)
    assert (found.mean, found.image_variance) == (0, 0)
    assert found.half_width() == pytest.approx(100 * t(4) * math.sqrt(2 * 9 / 432))


def test_a_contrast_has_the_sign_of_the_first():
    better, worse = Compared(DENSE, TICKET), Compared(TICKET, DENSE)
    assert contrast(better, worse).mean == 100
    assert contrast(better, Compared(DENSE, runs([1, 0, 0, 0]))).kind == "images only"
    assert contrast(better, Compared(runs([0] * 4, [0] * 4), TICKET)).kind == "unpaired"
    a, b = Compared({1: 80.0, 2: 81.0}, {1: 80.0, 2: 82.0}), Compared({1: 70.0, 2: 71.0}, {1: 69.0})
    known = Difference(0.5 - (69 - 70.5), 1, None, "none", most=200)
    assert contrast_of_accuracies(a, b) == known


def test_the_interval_of_a_contrast_holds_its_mean_which_may_be_up_to_200():
    gains, loses = Compared(same(0, 500), same(1, 500)), Compared(same(1, 500), same(0, 500))
    found = contrast(gains, loses)
    assert found.interval() == (200 - found.half_width(), 200)
    assert paired_difference(*gains.arms).interval() == (100 - found.half_width(), 100)
    up, down = {1: 0.0, 2: 0.0}, {1: 70.0, 2: 55.0}
    found = contrast_of_accuracies(Compared(up, down), Compared(down, up))
    assert found.interval() == (125 - found.half_width(), 200)


def test_worse_here_and_undecided_there_is_no_difference_between_the_two():
    images = np.arange(100_000)

    def spread(*wrong):
        dense = dict.fromkeys((1, 2, 3), images >= 0)
        return Compared(dense, {seed: images >= n for seed, n in enumerate(wrong, start=1)})

    here, there = spread(1100, 900, 1300), spread(900, 700, 1100)
    said = [judge(paired_difference(*side.arms), 0.5) for side in (here, there)]
    assert said == ["worse", "undecided"]
    low, high = contrast(here, there).interval()
    assert low < 0 < high


# --- what may be said -----------------------------------------------------------------------------


def sure(mean, half, seeds=3):
    """A difference with an interval of mean ± half."""
    variance = (half / t(seeds - 1)) ** 2
    return Difference(mean, seeds, 10**9, "paired", 0.0, (SeedTerm(variance, seeds),))


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.0, 0.4, "matches"),
        (0.0, 0.5, "matches"),  # the lower end lies at the margin
        (0.0, 0.51, "undecided"),
        (-1.0, 0.51, "undecided"),
        (-1.0, 0.5, "undecided"),  # the upper end lies at the margin
        (-1.0, 0.49, "worse"),
        (3.0, 3.6, "undecided"),
    ],
)
def test_the_interval_decides(mean, half, expected):
    assert judge(sure(mean, half), 0.5) == expected


def wins(*differences):
    names = ("st_sa", "at_sa", "at_ra")
    given = dict(zip(names, differences, strict=False))
    return double_win_evidence(given, dict.fromkeys(names, 0.5))


def test_a_double_win_needs_evidence_on_all_three():
    good, open_ = sure(0, 0.4), sure(0, 0.6)
    assert wins(good, good, good) is True
    assert wins(good, good, open_) is None
    assert wins(good, good) is None
    assert wins(good, good, None) is None


def test_one_loss_settles_it_if_it_stands_the_correction_for_three():
    good, lost = sure(0, 0.4), sure(-4, 0.5)
    assert wins(good, good, lost) is False
    assert wins(lost) is False
    barely = sure(-4, 3.4)
    assert judge(barely, 0.5) == "worse"
    assert judge(barely, 0.5, 1 - 0.05 / 3) == "undecided"
    assert wins(good, good, barely) is None


def test_without_a_margin_or_a_measure_nothing_is_said():
    assert double_win_evidence({"st_sa": sure(0, 0.1)}, {"st_sa": None}) is None
    assert double_win_evidence({}, {}) is None


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([True, True, True], 3),
        ([True, True, None, True], 2),
        ([True, False, True, True], 1),
        ([None, True], None),
        ([False], None),
        ([], None),
    ],
)
def test_the_chain_ends_before_the_first_ticket_without_evidence(evidence, expected):
    assert sparsest_with_evidence(list(enumerate(evidence, start=1))) == expected


# --- what is missing ------------------------------------------------------------------------------


def test_a_decided_ticket_lacks_nothing():
    assert missing(sure(0, 0.4), 0.5).seeds == 0


@pytest.mark.parametrize("mean", [0.0, -1.0])
def test_further_seeds_are_the_fewest_that_decide_at_todays_spread(mean):
    today = sure(mean, 2.0)  # a half-width of 2 at three seeds; 0.5 is wanted
    spread = 2.0 / t(2) * math.sqrt(3)  # of one run
    needed = missing(today, 0.5).seeds
    halves = [t(3 + k - 1) * spread / math.sqrt(3 + k) for k in (needed - 1, needed)]
    assert halves[0] > 0.5 >= halves[1]


@pytest.mark.parametrize("mean", [-1.5, -1.6, -2.0])
def test_a_loss_takes_the_seeds_that_its_correction_for_three_asks_for(mean):
    today, good = sure(mean, 2.0), sure(0, 0.4)
    needed = missing(today, 1.0, corrected(3)).seeds

    def after(further):
        return double_win_evidence(
            {"st_sa": good, "at_sa": good, "at_ra": with_seeds(today, [3 + further])},
            dict.fromkeys(("st_sa", "at_sa", "at_ra"), 1.0),
        )

    assert [after(needed - 1), after(needed)] == [None, False]


def test_where_the_images_are_too_few_no_seed_helps():
    today = Difference(0.0, 3, 2000, "paired", 0.16, (SeedTerm(0.04, 3),))
    found = missing(today, 0.5)
    assert found.seeds is None
    assert found.images == math.ceil(2000 * 0.16 * (1.959964 / 0.5) ** 2)
    assert str(found) == f"more images: at least {found.images:,}"
    assert missing(today, 1.0).seeds is not None


def test_where_no_image_differs_it_takes_as_many_as_would_have_shown_a_difference():
    today = Difference(0.0, 3, 100, "paired", 0.0, (SeedTerm(0.0, 3),))
    found = missing(today, 0.5)
    assert found.seeds is None
    judged = [judge(dataclasses.replace(today, images=found.images - n), 0.5) for n in (1, 0)]
    assert judged == ["undecided", "matches"]


def test_one_seed_shows_no_spread_so_the_first_seeds_are_a_start():
    one = paired_difference(same(1, 50, 1), same(1, 50, 1))
    assert str(missing(one, 0.5)) == "at least 2 further seeds"
    assert missing(paired_difference(same(1, 1), same(1, 1)), 0.5).images == 2


@pytest.mark.parametrize("ticket", [{0: 80.0}, {0: 80.0, 1: 80.0}, {0: 80.0, 1: 80.2, 2: 80.1}])
def test_accuracies_alone_decide_nothing_however_many_seeds_there_are(ticket):
    found = difference_of_accuracies(dict.fromkeys(ticket, 70.0), ticket)
    assert judge(found, 0.5) == "undecided"
    assert double_win_evidence({"st_sa": found}, {"st_sa": 0.5}) is None
    assert str(missing(found, 0.5)) == "runs to repeat: some have no outcomes per image"


def test_at_the_margin_itself_nothing_decides():
    assert "no number of seeds" in str(missing(sure(-0.5, 0.3), 0.5))


# --- how often it is right ------------------------------------------------------------------------


def test_the_simulated_networks_are_as_accurate_as_they_say():
    pair = [network(90, 2000, 4), network(88, 2000, 4)]
    drawn = list(draws(300, pair, 4, 2000))
    for place, truth in enumerate(pair):
        figures = np.array([[100 * bits.mean() for bits in d[place].values()] for d in drawn])
        assert figures.mean() == pytest.approx(truth.accuracy, abs=0.15)
        spread = math.sqrt(np.var(figures, axis=1, ddof=1).mean())
        assert spread == pytest.approx(truth.std_of_a_test(2000), rel=0.1)
    wild = network(90, 500, 100)  # whose runs differ by points
    figures = [
        100 * bits.mean() for (runs,) in draws(500, [wild], 4, 500) for bits in runs.values()
    ]
    assert np.mean(figures) == pytest.approx(wild.accuracy, abs=1)


@pytest.mark.parametrize(
    ("images", "accuracy", "ratio", "count"),
    [(2000, 90, 0, 500), (2000, 50, 1, 500), (2000, 90, 16, 500), (10_000, 90, 1, 150)],
)
def test_intervals_are_right_as_often_as_they_say(images, accuracy, ratio, count):
    dense = network(accuracy, images, ratio)
    margin = dense.std_of_a_test(images)
    pair = [dense, network(accuracy - margin, images, ratio)]  # worse by just the margin
    right, matched = Counter(), Counter()
    for both in draws(count, pair, 10, images):
        for seeds in (3, 5, 10):
            found = paired_difference(*(first(one, seeds) for one in both))
            low, high = found.interval()
            right[seeds] += low <= -margin <= high
            matched[seeds] += judge(found, margin) == "matches"

    def slack(p):
        return 2 * math.sqrt(p * (1 - p) / count)

    assert all(right[seeds] / count >= 0.93 - slack(0.93) for seeds in right), right
    if ratio >= 1:
        assert all(right[seeds] / count <= 0.97 + slack(0.97) for seeds in right), right
    assert all(matched[seeds] / count <= 0.025 + slack(0.025) for seeds in (3, 5, 10)), matched


def test_the_chain_is_rarely_too_sparse():
    dense = network(90, 1000, 4)
    margin = 6 * dense.std_of_a_test(1000)
    nets = [dense, dense, *[network(90 - margin, 1000, 4)] * 2]
    too_sparse = reached = 0
    for drawn in draws(400, nets, 5, 1000):
        found = [paired_difference(drawn[0], ticket) for ticket in drawn[1:]]
        evidence = [double_win_evidence({"sa": one}, {"sa": margin}) for one in found]
        last = sparsest_with_evidence(list(enumerate(evidence, start=1)))
        too_sparse += last in (2, 3)
        reached += last == 1
    assert too_sparse / 400 <= 0.05
    assert reached / 400 > 0.8


def test_the_simulation_prints_what_the_docs_say_of_power_and_of_rare_failures():
    script = ROOT / "tests" / "simulate_evidence.py"
    few = ["--draws", "20", "--images", "200", "--ratios", "1", "--seeds", "3", "10"]
    command = [sys.executable, script, *few, "--part", "power", "--part", "failures"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^S = 10: 80 % need [\d.]+ to [\d.]+ standard deviations$", told, re.M)
    assert re.search(r"held, S = 3 / 10 \| matches, S = 3 / 10 \|\n.*\n\| 1 \| ", told)


def test_the_report_judges_without_pytorch():
    code = "import sys, report.evidence, report.power; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
