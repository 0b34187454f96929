"""The verdict on hand-made results whose answers are known."""

import dataclasses
import math

import pytest
from helpers.report_cases import FAILED_CHECK, run, sha256, ticket

from errors import InputError
from report.as_json import verdict_json
from report.verdict import judge

DENSE = ticket(0, 90.0, 80.0, 40.0)


def only(verdict):
    assert len(verdict.groups) == 1
    return verdict.groups[0]


def told_of(verdict):
    """The warnings, but for that of seeds, which a test of something else may leave uneven."""
    return [line for line in verdict.warnings if "with the same seeds" not in line]


def wins(verdict, kind="imp", state=1):
    row = next(r for r in only(verdict).rows if (r.ticket, r.state) == (kind, state))
    return (*row.wins.values(), row.double_win)


def test_a_seed_that_failed_is_pointed_out_since_it_widens_what_the_rule_tolerates():
    ras = {1: 40.0, 2: 40.4, 3: 28.0}
    dense = [r for seed, ra in ras.items() for r in ticket(0, 90.0, 80.0, ra, seed=seed)]
    tickets = [r for seed in ras for r in ticket(1, 90.0, 80.0, 30.0 + seed, seed=seed)]
    verdict = judge(dense + tickets)
    assert wins(verdict) == (True,) * 4  # 4 points worse than the seeds that did not fail
    told = [line for line in verdict.warnings if "points apart" in line]
    assert len(told) == 1
    assert "points apart: dense, RA under AT (28.00 to 40.40 %); where a run has failed" in told[0]
    fine = [r for r in dense + tickets if r.seed != 3]
    assert not any("points apart" in line for line in judge(fine).warnings)


@pytest.mark.parametrize(("ra", "told"), [(34.9, 1), (35.1, 0), (44.9, 0), (45.1, 1)])
def test_seeds_more_than_five_points_apart_are_pointed_out(ra, told):
    runs = [r for seed, ra in ((1, 40.0), (2, ra)) for r in ticket(0, 90.0, 80.0, ra, seed=seed)]
    assert sum("more than 5 points apart" in line for line in judge(runs).warnings) == told


@pytest.mark.parametrize(("ra", "told"), [(45.5, 1), (28.2, 1), (28.0, 0), (20.0, 0)])
def test_ra_above_sa_is_told_of(ra, told):
    lines = judge(ticket(0, 90.0, 80.0, 40.0) + ticket(1, 90.0, 27.1, ra)).warnings
    found = [line for line in lines if f"ra_best has RA {ra:.2f} % above SA 27.10 %" in line]
    assert len(found) == told


def test_tickets_of_other_seeds_than_the_dense_network_are_named():
    dense = [r for seed in (1, 2) for r in ticket(0, 90.0, 80.0, 40.0, seed=seed)]
    tickets = [r for state in range(1, 6) for r in ticket(state, 90.0, 80.0, 40.0, seed=1)]
    told = [line for line in judge(dense + tickets).warnings if "the same seeds" in line]
    assert len(told) == 1
    assert "imp state 1, imp state 2, imp state 3, imp state 4 and 1 more and the dense" in told[0]
    even = [r for r in dense + tickets if r.seed == 1]
    assert not any("the same seeds" in line for line in judge(even).warnings)


# --- what matches -------------------------------------------------------------------------------


def test_exactly_equal_is_a_match_even_without_a_margin():
    assert wins(judge(DENSE + ticket(1, 90.0, 80.0, 40.0), margin=0)) == (True,) * 4


def test_a_tie_stays_a_tie_whatever_the_rounding():
    assert 80.01 - 0.3 > 79.71  # in floating point
    verdict = judge(ticket(0, 80.01, 80.01, 80.01) + ticket(1, 79.71, 79.71, 79.71), margin=0.3)
    assert wins(verdict) == (True,) * 4


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((89.9, 80.0, 40.0), (False, True, True, False)),
        ((90.0, 79.9, 40.0), (True, False, True, False)),
        ((90.0, 80.0, 39.9), (True, True, False, False)),
        ((99.0, 99.0, 99.0), (True, True, True, True)),
    ],
)
def test_a_double_win_needs_all_three(figures, expected):
    assert wins(judge(DENSE + ticket(1, *figures), margin=0)) == expected


def test_a_dense_network_of_random_weights_is_not_the_line_to_match():
    """`--reinit` without a ticket: it carries the hash of weights that it did not use."""
    reinit = ticket(0, 70, 60, 25, ticket="reinit")
    group = only(judge(reinit + ticket(1, 88, 78, 38)))
    assert group.dense is None
    assert "no dense run" in group.error
    group = only(
        judge(DENSE + ticket(0, 70, 60, 25, ticket="reinit", seed=2) + ticket(1, 88, 78, 38))
    )
    assert group.dense.stats["st_sa"].mean == 90
    assert {row.ticket: row.double_win for row in group.rows} == {"imp": False, "reinit": False}


def test_with_one_dense_seed_the_margin_is_what_a_ticket_may_lack():
    at_the_line, below = ticket(1, 89.5, 79.5, 39.5), ticket(2, 89.49, 79.5, 39.5)
    verdict = judge(DENSE + at_the_line + below, margin=0.5)
    assert wins(verdict) == (True,) * 4
    assert wins(verdict, state=2) == (False, True, True, False)
    assert only(verdict).tolerance == {"st_sa": 0.5, "at_sa": 0.5, "at_ra": 0.5}


def test_with_several_dense_seeds_their_sample_deviation_replaces_the_margin():
    dense = [r for s, sa in enumerate((89.0, 90.0, 91.0)) for r in ticket(0, sa, sa, 40.0, seed=s)]
    verdict = judge(
        dense + ticket(1, 89.0, 89.0, 40.0) + ticket(2, 88.99, 89.0, 39.99), margin=50.0
    )
    # Deviations with n - 1 are 1, 1 and 0 points; with n they would be 0.816.
    assert only(verdict).tolerance == pytest.approx({"st_sa": 1.0, "at_sa": 1.0, "at_ra": 0.0})
    assert wins(verdict) == (True,) * 4
    assert wins(verdict, state=2) == (False, True, False, False)


def test_the_mean_over_seeds_is_judged_and_its_spread_is_told():
    seeds = [r for s, sa in ((1, 88.0), (2, 92.0)) for r in ticket(1, sa, 80, 40, seed=s)]
    verdict = judge(DENSE + ticket(0, 90.0, 80.0, 40.0, seed=2) + seeds)
    stat = only(verdict).rows[0].stats["st_sa"]
    assert (stat.mean, stat.n) == (90.0, 2)
    assert stat.std == pytest.approx(math.sqrt(8))
    assert wins(verdict)[0] is True


@pytest.mark.parametrize(
    ("dense", "own", "matches"),
    [
        ({1: 92.0, 2: 88.0}, {1: 90.0}, True),  # 2 below the dense seed 1: within the spread, 2.83
        ({1: 93.0, 2: 87.0, 3: 90.0}, {1: 89.9}, False),  # 3.1 below it, and 0.1 below their mean
        ({1: 90.0}, {1: 89.4, 2: 95.0}, False),  # though their mean is above
        ({1: 90.0}, {1: 89.5, 2: 80.0}, True),
        ({1: 90.0, 2: 92.0}, {2: 91.0, 3: 88.1}, False),  # each has one of its own: means of all
        ({1: 90.0, 2: 92.0}, {2: 91.0, 3: 88.2}, True),  # 1.4 below, of a spread of 1.41
    ],
)
def test_the_rule_compares_the_seeds_that_both_have(dense, own, matches):
    runs = [r for seed, sa in dense.items() for r in ticket(0, sa, 80.0, 40.0, seed=seed)]
    runs += [r for seed, sa in own.items() for r in ticket(1, sa, 80.0, 40.0, seed=seed)]
    assert wins(judge(runs))[0] is matches


def test_at_figures_are_those_of_the_network_with_the_best_ra():
    # Judged by the best-SA network it would win on SA; by the last network it would lose on RA.
    pair = run(
        mode="adv", sa_best={"sa": 85, "ra": 0}, ra_best={"sa": 70, "ra": 50},
        last={"sa": 0, "ra": 0},
    )  # fmt: skip
    verdict = judge([*DENSE, run(90.0, mode="std"), pair])
    assert wins(verdict) == (True, False, True, False)
    stats = only(verdict).rows[0].stats
    assert (stats["at_sa_of_best_sa"].mean, stats["at_ra_of_best_sa"].mean) == (85.0, 0.0)


def test_the_st_figure_is_that_of_the_best_network():
    standard = run(mode="std", sa_best={"sa": 90, "ra": None}, last={"sa": 10, "ra": None})
    assert wins(judge([*DENSE, standard]))[0] is True


# --- what is missing ----------------------------------------------------------------------------


def test_a_missing_run_leaves_its_wins_open():
    verdict = judge(DENSE + [run(90.0, mode="std")])
    assert wins(verdict) == (True, None, None, None)
    assert verdict.missing == ("adv, cifar10, 100 % of the data: imp state 1, AT, seed 1",)


def test_one_loss_settles_it_whatever_is_missing():
    assert wins(judge(DENSE + [run(10.0, mode="std")])) == (False, None, None, False)


def test_a_missing_dense_regime_leaves_its_wins_open():
    verdict = judge([DENSE[0], *ticket(1, 90, 80, 40)])
    assert wins(verdict) == (True, None, None, None)
    assert verdict.missing == ("adv, cifar10, 100 % of the data: dense, AT, seed 1",)
    assert verdict.errors == ()


def test_missing_seeds_are_named_and_the_others_are_judged():
    dense = [r for s in (1, 2, 3) for r in ticket(0, 90, 80, 40, seed=s)]
    some = [r for s in (1, 3) for r in ticket(1, 90, 80, 40, seed=s)]
    verdict = judge(dense + some[:-1])
    assert wins(verdict) == (True,) * 4
    assert [s.n for s in list(only(verdict).rows[0].stats.values())[:3]] == [2, 1, 1]
    assert [line.split(": ")[1] for line in verdict.missing] == [
        "imp state 1, ST, seed 2",
        "imp state 1, AT, seed 2, 3",
    ]


def test_an_at_run_without_ra_is_open_on_ra_only():
    unmeasured = run(mode="adv", ra_best={"sa": 80, "ra": None})
    verdict = judge([*DENSE, run(90.0, mode="std"), unmeasured])
    assert wins(verdict) == (True, True, None, None)
    assert verdict.missing == (
        "adv, cifar10, 100 % of the data: imp state 1, RA under AT of seed 1",
    )


def test_a_group_without_a_dense_run_is_an_error_that_names_it():
    lost = ticket(1, 90, 80, 40, pretraining="std", dataset="svhn", data_number=0.1)
    verdict = judge(DENSE + ticket(1, 90, 80, 40) + lost)
    assert len(verdict.errors) == 1
    assert "std, svhn, 10 % of the data" in verdict.errors[0]
    assert "no dense run" in verdict.errors[0]
    by_name = {group.group.pretraining: group for group in verdict.groups}
    assert set(by_name["std"].rows[0].wins.values()) == {None}
    assert by_name["std"].rows[0].double_win is None
    assert by_name["adv"].rows[0].double_win is True


# --- groups, baselines, the sparsest ------------------------------------------------------------


def test_shares_of_the_data_that_a_study_writes_alike_are_one():
    runs = ticket(0, 90, 80, 40, data_number=0.1) + ticket(1, 90, 80, 40, data_number=0.1 + 1e-12)
    assert str(only(judge(runs)).group) == "adv, cifar10, 10 % of the data"


def test_pretraining_dataset_and_fraction_are_judged_apart():
    lower = {"pretraining": "std"}, {"dataset": "svhn"}, {"data_number": 0.1}
    runs = DENSE + ticket(1, 50, 50, 50)
    for change in lower:
        runs += ticket(0, 50, 50, 20, **change) + ticket(1, 50, 50, 20, **change)
    doubles = {str(g.group): g.rows[0].double_win for g in judge(runs).groups}
    assert len(doubles) == 4
    assert doubles.pop("adv, cifar10, 100 % of the data") is False
    assert set(doubles.values()) == {True}


def test_density_1_is_the_line_to_match_whatever_ticket_says():
    dense = [run(90, mode="std", state=0, ticket="random"), DENSE[1]]
    verdict = judge(dense + ticket(1, 90, 80, 40))
    assert wins(verdict) == (True,) * 4
    assert [row.ticket for row in only(verdict).rows] == ["imp"]


def test_baselines_are_judged_but_are_not_the_sparsest_ticket():
    runs = DENSE + ticket(2, 90, 80, 40)
    for kind, sa in (("omp", 90), ("random", 70), ("reinit", 95)):
        runs += ticket(5, sa, 80, 40, ticket=kind)
    verdict = judge(runs)
    doubles = {row.ticket: row.double_win for row in only(verdict).rows}
    assert doubles == {"imp": True, "omp": True, "random": False, "reinit": True}
    assert only(verdict).sparsest.state == 2


def test_the_sparsest_double_win_may_follow_a_loss():
    runs = DENSE + ticket(1, 80, 80, 40) + ticket(2, 90, 80, 40) + ticket(10, 90, 80, 40)
    assert only(judge(runs + ticket(11, 90, 80, 10))).sparsest.state == 10


@pytest.mark.parametrize("state", [None, 2])
def test_tickets_of_one_state_or_none_are_told_apart_by_density(state):
    runs = [run(90, mode="std", state=state, density=d) for d in (0.5, 0.2)]
    runs.append(run(80, mode="std", state=state, density=0.2000001, seed=2))
    verdict = judge(DENSE + runs)
    assert [(row.density, row.stats["st_sa"].n) for row in only(verdict).rows] == [
        (0.5, 1),
        (0.2, 2),
    ]


def test_a_copied_run_does_not_count_as_a_seed():
    copy = run(50.0, mode="std", path="zz/copy")
    verdict = judge(DENSE + ticket(1, 90, 80, 40) + [copy])
    assert only(verdict).rows[0].stats["st_sa"].n == 1
    assert wins(verdict)[0] is True
    assert verdict.warnings[0].startswith(
        "zz/copy/results.json is another run of the ticket and seed of"
    )
    assert "(sa_best 50.00 % / -, there 90.00 % / -; last " in verdict.warnings[0]


def test_a_copy_with_the_same_accuracies_repeats_the_run():
    copies = [run(90, mode="std", path=path) for path in ("a/copy", "b/copy")]
    verdict = judge([*DENSE, *ticket(1, 90, 80, 40), *copies])
    assert sum("repeats the run of a/copy" in line for line in verdict.warnings) == 2


def hashed(kind, *letters_and_seeds, **changes):
    """The runs of tickets of state 1, "A1" being those of ticket file A with seed 1."""
    runs = []
    for letter, seed in letters_and_seeds:
        sha256 = None if letter == "?" else letter.lower() * 64
        own = {"ticket": kind, "ticket_sha256": sha256, "seed": int(seed), **changes}
        runs += [run(90, mode=mode, path=f"{kind}/{letter}{seed}/{mode}", **own)
                 for mode in ("std", "adv")]  # fmt: skip
    return runs


def rows_of(verdict):
    """[(name, number of seeds)] of the rows."""
    return [(row.name, row.stats["st_sa"].n) for row in only(verdict).rows]


@pytest.mark.parametrize("kind", ["imp", "omp", "reinit", "random"])
def test_two_tickets_of_one_state_are_no_copies_of_each_other(kind):
    runs = DENSE + hashed(kind, "A1", "A2", "B1")
    for order in (runs, runs[::-1]):
        verdict = judge(order)
        assert rows_of(verdict) == [
            (f"{kind} state 1 (ticket aaaaaaaa)", 2),
            (f"{kind} state 1 (ticket bbbbbbbb)", 1),
        ]
        told = [line for line in verdict.warnings if "different tickets" in line]
        assert len(told) == 1
        assert not any("left out" in line for line in verdict.warnings)
    assert told[0].endswith(
        f"{kind} state 1 stands for different tickets, judged apart and not contrasted: "
        "ticket aaaaaaaa, ticket bbbbbbbb"
    )
    hashes = [row["tickets_sha256"] for row in verdict_json(verdict)["rows"]]
    assert hashes == [["a" * 64], ["b" * 64]]


@pytest.mark.parametrize(("kind", "lines"), [("imp", 1), ("omp", 1), ("reinit", 1), ("random", 0)])
def test_a_row_of_several_tickets_is_a_warning_unless_they_are_drawn_at_random(kind, lines):
    verdict = judge(DENSE + hashed(kind, "A1", "B2", "C3"))
    assert rows_of(verdict) == [(f"{kind} state 1", 3)]
    told = told_of(verdict)
    assert len(told) == lines
    if lines:
        assert f"{kind} state 1 is made of 3 ticket files (aaaaaaaa, bbbbbbbb, ccc" in told[0]
    assert told_of(judge(DENSE + hashed(kind, "A1", "A2", "A3"))) == []


def test_copies_are_left_out_whatever_is_known_of_their_ticket():
    copies = [*hashed("imp", "A1", "?2"), run(50, mode="std", ticket_sha256="a" * 64, path="z1")]
    copies.append(run(50, mode="std", seed=2, ticket_sha256="b" * 64, path="z2"))
    dense = run(10, mode="std", state=0, ticket_sha256="d" * 64, path="z3")  # of another file
    verdict = judge([*DENSE, *copies, dense])
    assert [line.split("/")[0] for line in told_of(verdict)] == ["z1", "z2", "z3"]
    assert rows_of(verdict) == [("imp state 1", 2)]
    assert only(verdict).dense.stats["st_sa"].mean == 90


def test_several_tickets_of_a_state_are_not_contrasted():
    changes = {"pretraining": "std"}
    runs = [*DENSE, *hashed("imp", "A1", "B1"), *ticket(0, 90, 80, 40, **changes)]
    runs += ticket(1, 90, 80, 40, **changes)
    assert judge(runs).contrasts == ()
    assert len(judge(runs[:4] + runs[6:]).contrasts) == 3


def test_one_ticket_file_under_two_states_is_told_of():
    tickets = ticket(1, 90, 80, 40) + ticket(2, 90, 80, 40)
    (row, other) = only(judge(DENSE + tickets)).rows
    assert row.hashes != other.hashes
    same = [dataclasses.replace(run, ticket_sha256="ab" * 32) for run in tickets]
    (line,) = judge(DENSE + same).warnings
    assert "imp state 1 and imp state 2 are of one ticket file (abababab)" in line


def test_tickets_of_one_state_and_two_densities_are_told_apart_by_them():
    verdict = judge(DENSE + ticket(1, 90, 80, 40) + ticket(1, 70, 60, 20, density=0.5))
    names = [row.name for row in only(verdict).rows]
    assert names == ["imp state 1 (density 0.8)", "imp state 1 (density 0.5)"]
    (line,) = verdict.warnings
    assert line.endswith("not contrasted: density 0.5, density 0.8")


@pytest.mark.parametrize(
    ("changes", "recipe", "told"),
    [
        ({}, {}, None),
        ({"density": 0.5}, {}, "imp state 1 is not contrasted: its density is 0.8 and 0.5"),
        ({"arch": "resnet50"}, {}, "as they differ: architectures resnet18 and resnet50"),
        ({}, {"epochs": 24}, "as they differ: ST by epochs 12 and 24; AT by epochs 12 and 24"),
        ({}, {"mean": "0.5"}, None),  # which a pre-training has of its own
    ],
)
def test_only_like_is_contrasted_with_like(changes, recipe, told):
    ours = DENSE + ticket(1, 90, 80, 40)
    other = {"pretraining": "std"}
    theirs = ticket(0, 91, 81, 41, **{**other, **changes, "density": 1.0})
    theirs += ticket(1, 90, 80, 40, **{**other, **changes})
    recipes = {run.path: {"epochs": 12, "mean": "0.4"} for run in ours}
    recipes |= {run.path: {"epochs": 12, "mean": "0.4", **recipe} for run in theirs}
    verdict = judge(ours + theirs, recipes=recipes)
    assert len(verdict.contrasts) == (3 if told is None else 0)
    between = [line for line in verdict.warnings if "contrasted" in line]
    assert [line.partition("and std: ")[2] for line in between] == (
        [] if told is None else [told if "state" in told else f"not contrasted, {told}"]
    )


def test_a_ticket_of_another_network_is_not_judged_and_a_runs_own_warnings_are_told():
    other = ticket(1, 90, 80, 40, arch="resnet50", masking_checks=FAILED_CHECK)
    verdict = judge(DENSE + other)
    own, foreign = verdict.groups
    assert own.rows == ()
    assert foreign.dense is None
    assert foreign.rows[0].double_win is None
    text = "\n".join(verdict.warnings)
    assert "runs from different networks, judged apart: resnet18; resnet50" in text
    assert "gradients may be masked" in text


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_must_be_a_number_of_points(margin):
    with pytest.raises(InputError, match="margin"):
        judge(DENSE, margin)


def test_verdict_json_has_the_stated_rows():
    verdict = judge(DENSE + ticket(2, 90, 80, 40) + [run(80, mode="std", state=3)])
    data = verdict_json(verdict)
    group = {"pretraining": "adv", "dataset": "cifar10", "data_number": 1.0}
    hashes = {
        "init_sha256": sha256("adv"), "test_split": sha256("cifar10"), "data": "cifar10",
    }  # fmt: skip
    stated = [
        {
            **group, "state": 2, "density": 0.8**2, "ticket": "imp",
            "wins": {"st_sa": True, "at_sa": True, "at_ra": True}, "double_win": True,
            **hashes, "warnings": [],
        },
        {
            **group, "state": 3, "density": 0.8**3, "ticket": "imp",
            "wins": {"st_sa": False, "at_sa": None, "at_ra": None}, "double_win": False,
            **hashes, "warnings": [],
        },
    ]  # fmt: skip
    assert [dict(list(row.items())[:12]) for row in data["rows"]] == stated
    assert list(data["rows"][0])[12:] == [
        "difference", "evidence", "double_win_evidence", "look", "evidence_margin",
        "tickets_sha256",
    ]  # fmt: skip
    assert data["sparsest"] == [{**group, "state": 2, "sparsity": 0.36, **hashes}]
    assert data["margin"] == 0.5
    assert verdict_json(judge(DENSE + ticket(1, 0, 0, 0)))["sparsest"] == []
