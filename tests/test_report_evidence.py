"""The evidence in a report, on hand-made results and outcomes whose answers are known."""

import csv
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.browser import browser, find_browser
from helpers.outcome_cases import SPLIT, right, write_tested
from helpers.report_cases import run, ticket
from matplotlib.collections import LineCollection

from errors import InputError
from files.study_record import Plan, read_study_record, record_plan
from report.__main__ import main
from report.as_json import verdict_json
from report.difference_figure import difference_figure
from report.drawing import styles
from report.figures import accuracy_figure
from report.page_evidence import contrast_table
from report.plan import plan_text, wanted
from report.power import with_seeds
from report.verdict import judge
from report.words import conclusion, evidence_rule, look, not_compared
from report.write import judge_runs

pytestmark = pytest.mark.usefixtures("skip_figures")

IMAGES = 2000
NO_RUN = "and no run of it counts: nothing has run, or it repeats another folder's"
NOTHING = 100 * (1 - 0.025 ** (1 / IMAGES))  # half-width where no image differs: 0.184 points


def write_ticket(root, state, st=1800, clean=1600, robust=800, seeds=(1, 2, 3), **changes):
    """A ticket of so many correct images on each measure, whose images are the same in all runs."""
    for seed in seeds:
        where = root / changes.get("pretraining", "adv") / f"{state}-{seed}"
        changes |= {"state": state, "seed": seed}
        write_tested(where / "std", right(IMAGES, st), **changes)
        write_tested(where / "adv", right(IMAGES, clean), right(IMAGES, robust), **changes)


def study(root, tickets, **changes):
    for state, correct in tickets.items():
        write_ticket(root, state, *correct, **changes)
    return root


def plan(root, states, seeds, **changes):
    """Record what a study in this folder plans."""
    where = {"pretrainings": ("adv",), "datasets": ("cifar10",), "data_numbers": (1.0,)} | changes
    config = root / where.pop("config", "my.toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch()
    record_plan(root, Plan(str(config), tuple(states), tuple(seeds), **where))


def verdict_of(root, margin=0.5, **options):
    return judge_runs(Path(root), evidence_margin=margin, **options).verdict


def only(verdict):
    assert len(verdict.groups) == 1
    return verdict.groups[0]


# --- what is compared -----------------------------------------------------------------------------


def test_equal_networks_match_and_the_interval_is_that_of_no_event(tmp_path):
    row = only(verdict_of(study(tmp_path, {0: (), 1: ()}))).rows[0]
    for name in ("st_sa", "at_sa", "at_ra"):
        found = row.differences[name]
        assert (found.mean, found.seeds, found.images, found.kind) == (0, 3, IMAGES, "paired")
        assert found.low == pytest.approx(-NOTHING)
        assert found.high == pytest.approx(NOTHING)
    assert set(row.evidence.values()) == {"matches"}
    assert row.double_win_evidence is True


def test_each_measure_is_that_of_the_network_that_the_rule_judges(tmp_path):
    study(tmp_path, {0: (), 1: (1780, 1540, 700)})
    row = only(verdict_of(tmp_path)).rows[0]
    means = [found.mean for found in row.differences.values()]
    assert means == pytest.approx([-1.0, -3.0, -5.0])
    assert row.evidence == {"st_sa": "worse", "at_sa": "worse", "at_ra": "worse"}
    assert row.double_win_evidence is False


def test_one_seed_is_undecided_whatever_it_shows(tmp_path):
    row = only(verdict_of(study(tmp_path, {0: (), 1: (0, 0, 0)}, seeds=(1,)))).rows[0]
    assert {found.kind for found in row.differences.values()} == {"images only"}
    assert set(row.evidence.values()) == {"undecided"}
    assert (row.double_win, row.double_win_evidence) == (False, None)


@pytest.mark.parametrize("fewer", [0, 1], ids=["of the dense network", "of the ticket"])
@pytest.mark.parametrize("shared", [(2,), (1, 3)], ids=["one seed", "two seeds"])
def test_seeds_that_one_side_alone_has_do_not_shift_the_difference(tmp_path, fewer, shared):
    # A seed does to both what it does, up to 2 %; the ticket lacks 10 images, and 1 more per seed.
    for state in (0, 1):
        for seed in shared if state == fewer else (1, 2, 3, 4):
            correct = 1780 - 40 * (4 - seed) - state * (10 + seed)
            write_ticket(tmp_path, state, correct, seeds=(seed,))
    found = only(verdict_of(tmp_path)).rows[0].differences["st_sa"]
    assert found.kind == ("paired" if len(shared) > 1 else "images only")
    assert found.seeds == len(shared)
    assert found.mean == pytest.approx(-100 * (10 + sum(shared) / len(shared)) / IMAGES)


def test_runs_that_only_one_side_has_need_no_outcomes(tmp_path):
    write_ticket(tmp_path, 0, seeds=(1, 2, 3))
    write_ticket(tmp_path, 1, seeds=(1, 2))
    for file in tmp_path.glob("*/0-3/*/outcomes.safetensors"):
        file.unlink()
    found = only(verdict_of(tmp_path)).rows[0].differences["st_sa"]
    assert (found.kind, found.seeds, found.images) == ("paired", 2, IMAGES)


def test_where_each_side_has_seeds_of_its_own_all_of_them_are_used(tmp_path):
    write_ticket(tmp_path, 0, seeds=(1, 2, 3))
    write_ticket(tmp_path, 1, seeds=(2, 3, 4, 5))
    found = only(verdict_of(tmp_path)).rows[0].differences["st_sa"]
    assert (found.kind, found.seeds) == ("unpaired", 3)
    assert [term.seeds for term in found.seed_terms] == [4, 3]


def test_a_contrast_compares_each_side_over_seeds_that_its_dense_network_has_too(tmp_path):
    for tag, lacking, ticket_seeds in (("adv", 4, (1,)), ("std", 10, (1, 2, 3))):
        for seed in (1, 2, 3):
            write_ticket(tmp_path, 0, 1700 + 20 * seed, seeds=(seed,), pretraining=tag)
        for seed in ticket_seeds:
            write_ticket(tmp_path, 1, 1700 + 20 * seed - lacking, seeds=(seed,), pretraining=tag)
    found = next(c for c in verdict_of(tmp_path).contrasts if c.measure == "st_sa").difference
    assert found.kind == "images only"
    assert found.mean == pytest.approx(100 * 6 / IMAGES)


def test_results_without_outcomes_have_intervals_from_seeds_alone_or_none():
    dense = [r for s, sa in enumerate((89, 90, 91)) for r in ticket(0, sa, 80, 40, seed=s)]
    own = [r for s, sa in enumerate((89.5, 90, 91.5)) for r in ticket(1, sa, 80, 40, seed=s)]
    row = only(judge(dense + own)).rows[0]
    # Differences 0.5, 0 and 0.5: mean 1/3, standard error 1/6, quantile 4.3027.
    assert row.differences["st_sa"].kind == "seeds only"
    assert row.differences["st_sa"].low == pytest.approx(1 / 3 - 4.302653 / 6)
    assert row.differences["at_sa"].kind == "none"  # nothing varies
    assert row.double_win_evidence is None


@pytest.mark.parametrize("harm", ["damage", "remove"])
def test_a_run_without_usable_outcomes_is_named_and_its_ticket_is_undecided(tmp_path, harm):
    study(tmp_path, {0: (), 1: (), 2: ()})
    file = tmp_path / "adv" / "1-2" / "std" / "outcomes.safetensors"
    if harm == "damage":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    verdict = verdict_of(tmp_path)
    first, second = only(verdict).rows
    assert [first.differences[name].kind for name in first.evidence] == ["none", "paired", "paired"]
    assert {found.kind for found in second.differences.values()} == {"paired"}
    assert first.evidence["st_sa"] == "undecided"
    told = "\n".join(verdict.warnings)
    assert "SA under ST: 1 of 9 runs have no usable outcomes" in told
    assert (str(file) in told) == (harm != "remove")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "is of seed 1, not 2"),
        ({"correct": 1799}, "has SA under ST of 89.9500 %, not 90.0000 %"),
        ({"split": "b" * 64}, "is of another test split"),
        ({"ticket_sha256": "cd" * 32}, f"is of a run of ticket_sha256 {'cd' * 32}, not "),
        ({"init_sha256": "e" * 64}, f"is of a run of init_sha256 {'e' * 64}, not {'1' * 64}"),
    ],
)
def test_a_run_whose_outcomes_contradict_its_results_is_left_out(changes, told, tmp_path):
    write_ticket(tmp_path / "runs", 0)
    write_ticket(tmp_path / "runs", 1, seeds=(1, 3))
    write_ticket(tmp_path / "runs", 1, 1850, seeds=(2,))
    other = {"seed": 2, "mode": "std", "state": 1} | changes
    write_tested(tmp_path / "else", right(IMAGES, other.pop("correct", 1850)), **other)
    file = tmp_path / "runs" / "adv" / "1-2" / "std" / "outcomes.safetensors"
    if "correct" in changes:
        write_tested(file.parent, right(IMAGES, 1800), seed=2, mode="std", state=1)
    shutil.copy(tmp_path / "else" / file.name, file)
    verdict = verdict_of(tmp_path / "runs")
    (row,) = only(verdict).rows
    assert row.stats["st_sa"] == (90.0, 0.0, 2)
    assert sorted(run.seed for run in row.runs if run.mode == "std") == [1, 3]
    line = next(line for line in verdict.warnings if "left out" in line)
    assert line.startswith(f"{file.with_name('results.json')} is left out: {file.name} beside it ")
    assert told in line
    assert "adv, cifar10, 100 % of the data: imp state 1, ST, seed 2" in only(verdict).missing


def test_where_every_run_contradicts_its_outcomes_there_is_no_report(tmp_path):
    write_tested(tmp_path / "a", right(IMAGES, 1800), mode="std", state=0)
    write_tested(tmp_path / "b", right(IMAGES, 1799), mode="std", state=0)
    shutil.copy(tmp_path / "b" / "outcomes.safetensors", tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(InputError, match=r"no usable run: .*a/results\.json is left out"):
        verdict_of(tmp_path)


def test_different_test_splits_are_never_paired(tmp_path):
    study(tmp_path, {0: ()}, split="a" * 64)
    study(tmp_path / "other", {1: ()}, split="b" * 64)
    assert len(verdict_of(tmp_path).groups) == 2
    for file in tmp_path.glob("**/results.json"):  # of earlier versions: only the outcomes tell
        found = json.loads(file.read_text())
        del found["test_split"]
        file.write_text(json.dumps(found))
    verdict = verdict_of(tmp_path)
    (row,) = only(verdict).rows
    assert {found.kind for found in row.differences.values()} == {"unlike"}
    assert set(row.evidence.values()) == {"undecided"}
    assert row.double_win is None
    told = [line for line in verdict.warnings if "different images, which are not compared" in line]
    assert len(told) == 3


def test_pre_trainings_that_were_tested_on_other_images_are_not_contrasted(tmp_path):
    for side, images in (("adv", 2000), ("std", 1000)):
        for state in (0, 1):
            for seed in (1, 2):
                of = {"state": state, "seed": seed, "pretraining": side}
                folder = tmp_path / side / f"{state}-{seed}"
                write_tested(folder, right(images, images // 2, seed), mode="std", **of)
    verdict = verdict_of(tmp_path)
    assert len(verdict.groups) == 2
    assert verdict.contrasts == ()
    told = [line for line in verdict.warnings if "so they are not contrasted" in line]
    assert [line.partition("SA under ST: ")[2] for line in told] == [
        "tested on different images, so they are not contrasted"
    ]


@pytest.mark.parametrize("apart", ["attack", "recipe"])
def test_a_ticket_that_was_trained_or_attacked_otherwise_is_undecided(tmp_path, apart):
    study(tmp_path, {0: (), 1: ()})
    study(tmp_path, {2: ()}, **({"attack": "PGD-1, eps 8/255"} if apart == "attack" else {}))
    if apart == "recipe":
        for file in tmp_path.glob("adv/*/adv/results.json"):
            epochs = 12 if "/2-" in str(file) else 6
            file.with_name("args.json").write_text(json.dumps({"epochs": epochs}))
    verdict = verdict_of(tmp_path)
    alike, unlike = only(verdict).rows
    assert alike.double_win_evidence is True
    assert (alike.double_win, unlike.double_win, unlike.double_win_evidence) == (True, None, None)
    concerned = {name for name, said in unlike.evidence.items() if said == "undecided"}
    assert concerned == ({"at_ra"} if apart == "attack" else {"at_sa", "at_ra"})
    assert unlike.differences["at_ra"].kind == "unlike"
    assert unlike.differences["at_ra"].interval() == (None, None)
    assert "runs to repeat: the recipe or attack is not the dense network's" in plan_text(verdict)
    assert {name for name, won in unlike.wins.items() if won is None} == concerned


def unlike_grid(folder):
    """A dense network, and a ticket that is as good and was trained with other epochs."""
    study(folder, {0: (), 1: ()})
    for file in folder.glob("adv/*/*/results.json"):
        epochs = 12 if "/0-" in str(file) else 24
        file.with_name("args.json").write_text(json.dumps({"epochs": epochs}))
    return folder


def test_a_ticket_of_another_recipe_is_no_double_win_wherever_it_shows(tmp_path, capsys):
    assert main([str(unlike_grid(tmp_path)), "--evidence_margin", "1"]) == 0
    why = "trained or tested unlike the dense network"
    told = capsys.readouterr().out
    assert f"No double-win ticket so far; some tickets are open ({why})" in told
    assert f"Open by the rule, undecided by the evidence, as {why}: imp state 1." in told
    report = tmp_path / "report"
    for name in ("report.html", "tickets.tex"):
        assert f"as {why}: imp state 1." in (report / name).read_text()
    with (report / "tickets.csv").open(newline="") as stream:
        *_, row = csv.DictReader(stream)
    assert (row["st_sa_interval"], row["st_sa_rule"], row["double_win"]) == (
        "unlike", "open", "open",
    )  # fmt: skip
    assert "open & undecided" in (report / "tickets.tex").read_text()
    data = json.loads((report / "verdict.json").read_text())
    assert (data["rows"][0]["wins"]["at_ra"], data["rows"][0]["double_win"]) == (None, None)
    assert data["sparsest"] == []


def test_a_loss_on_what_can_be_compared_settles_it_though_the_attack_is_another(tmp_path):
    study(tmp_path, {0: ()})
    study(tmp_path, {1: (1000,)}, attack="PGD-1, eps 8/255")
    group = only(verdict_of(tmp_path))
    assert group.rows[0].double_win is False
    assert "imp state 1 (RA under AT)." in not_compared(group)


def test_no_figure_has_a_star_for_a_ticket_of_another_recipe(tmp_path):
    groups = verdict_of(unlike_grid(tmp_path)).groups
    look_of = styles(group.group.name for group in groups)
    for draw in (accuracy_figure, difference_figure):
        for axis in draw(groups, look_of).axes:
            stars = [line for line in axis.lines if line.get_marker() == "*"]
            assert [len(line.get_xdata()) for line in stars if len(line.get_xdata())] == []


def test_without_outcomes_it_is_the_results_that_tell_the_attack(tmp_path):
    study(tmp_path, {0: (), 1: ()})
    for path in tmp_path.glob("adv/*/adv/results.json"):
        path.with_name("outcomes.safetensors").unlink()
        attack = f"PGD-{1 if '/1-' in str(path) else 20}"
        path.write_text(json.dumps({**json.loads(path.read_text()), "attack": attack}))
    verdict = verdict_of(tmp_path)
    (row,) = only(verdict).rows
    kinds = {name: found.kind for name, found in row.differences.items()}
    assert kinds == {"st_sa": "paired", "at_sa": "none", "at_ra": "unlike"}
    assert "RA under AT: measured by different attacks: PGD-1; PGD-20" in "\n".join(
        verdict.warnings
    )


def test_a_run_whose_outcomes_name_another_attack_is_left_out(tmp_path):
    study(tmp_path, {0: (), 1: ()})
    path = tmp_path / "adv" / "1-1" / "adv" / "results.json"
    as_outcomes = {**json.loads(path.read_text()), "attack": "Linf PGD-20, eps 8/255"}
    path.write_text(json.dumps(as_outcomes))
    assert not any("has RA by" in line for line in verdict_of(tmp_path).warnings)
    path.write_text(json.dumps({**as_outcomes, "attack": "Linf PGD-1, eps 8/255"}))
    verdict = verdict_of(tmp_path)
    told = "outcomes.safetensors beside it has RA by Linf PGD-20, eps 8/255, not by Linf PGD-1"
    assert any(told in line for line in verdict.warnings)
    (row,) = only(verdict).rows
    assert path not in {run.path for run in row.runs}


# --- the chain, and the sentence ------------------------------------------------------------------


def test_an_undecided_ticket_breaks_the_chain_and_what_lies_beyond_may_be_chance(tmp_path):
    study(tmp_path, {0: (), 1: (), 2: (1791,), 3: ()})
    group = only(verdict_of(tmp_path))
    assert [row.double_win_evidence for row in group.rows] == [True, None, True]
    assert (group.sparsest.state, group.sparsest_evidence.state) == (3, 1)
    assert conclusion(group) == (
        "Sparsest double win: 48.8 % (imp state 3) by the paper\u2019s rule, possibly by chance; "
        "20.0 % (imp state 1) with evidence; 1 ticket undecided."
    )


def test_an_unbroken_chain_says_both_in_one_sentence(tmp_path):
    group = only(verdict_of(study(tmp_path, {0: (), 1: (), 2: ()})))
    assert conclusion(group) == (
        "Sparsest double win: 36.0 % (imp state 2) by the paper\u2019s rule, 36.0 % (imp state 2) "
        "with evidence; no tickets undecided."
    )


@pytest.mark.parametrize(
    ("tickets", "told"),
    [
        ({1: (1791,), 2: ()}, "imp state 1 is undecided; imp state 2 has it singly"),
        ({1: (1700,), 2: (), 3: ()}, "imp state 1 is no double win; imp state 2, imp state 3 have"),
        ({2: (), 3: ()}, "imp state 1 has not run; imp state 2, imp state 3 have it singly"),
    ],
)
def test_tickets_with_evidence_beyond_a_chain_that_never_begins_are_named(tmp_path, tickets, told):
    plan(tmp_path, [1, 2, 3], [1, 2, 3])
    group = only(verdict_of(study(tmp_path, {0: (), **tickets})))
    assert group.sparsest_evidence is None
    assert f"; no unbroken chain with evidence ({told}" in conclusion(group)


def test_a_planned_state_that_has_not_run_breaks_the_chain(tmp_path):
    study(tmp_path, {0: (), 1: (), 3: ()})
    assert only(verdict_of(tmp_path)).sparsest_evidence.state == 3
    study(tmp_path, {0: (), 1: (), 2: (), 3: ()}, pretraining="std", init_sha256="2" * 64)
    verdict = verdict_of(tmp_path)
    adv, std = verdict.groups
    assert (adv.sparsest_evidence.state, std.sparsest_evidence.state) == (1, 3)
    told = (
        "state 2 has run for another pre-training of this data and not here; it counts as planned"
    )
    assert f"{adv.group}: {told} and breaks the chain" in plan_text(verdict)


def test_a_state_of_the_studys_plan_that_has_not_run_is_said_to_be_planned(tmp_path):
    plan(tmp_path, [1, 2, 3], [1, 2, 3])
    verdict = verdict_of(study(tmp_path, {0: (), 1: (), 3: ()}))
    assert "state 2 was planned and has not run; it breaks the chain" in plan_text(verdict)


def test_a_state_that_was_not_planned_is_no_part_of_the_chain_and_is_told_of(tmp_path):
    plan(tmp_path, [1, 2], [1, 2, 3])
    study(tmp_path, {0: (), 1: (), 2: (), 3: ()})
    verdict = verdict_of(tmp_path)
    assert [row.double_win_evidence for row in only(verdict).rows] == [True, True, True]
    assert only(verdict).sparsest_evidence.state == 2
    (line,) = verdict.warnings
    assert "state 3 was not planned beforehand" in line


@pytest.mark.parametrize("first", [{"states": []}, {"states": [1], "tickets": ("omp",)}])
def test_a_study_that_planned_no_ticket_of_imp_has_no_chain_of_those_that_came_later(
    tmp_path, first
):
    plan(tmp_path, seeds=[1, 2, 3], **first)
    study(tmp_path, {0: ()})
    plan(tmp_path, [1, 2], [1, 2, 3])
    study(tmp_path, {1: (), 2: ()})
    verdict = verdict_of(tmp_path)
    assert [row.double_win_evidence for row in only(verdict).rows] == [True, True]
    assert only(verdict).sparsest_evidence is None
    assert [line.partition(": ")[2][:11] for line in verdict.warnings] == [
        "imp state 1",
        "imp state 2",
    ]


def test_a_ticket_whose_state_is_not_known_is_no_part_of_a_planned_chain(tmp_path):
    plan(tmp_path, [1], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    write_ticket(tmp_path / "foreign", 2, density=0.3)
    for file in tmp_path.glob("foreign/**/results.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "state": None}))
    verdict = verdict_of(tmp_path)
    assert only(verdict).sparsest_evidence.state == 1
    assert "imp density 0.3 was not planned beforehand" in verdict.warnings[0]


def test_baselines_have_no_chain(tmp_path):
    study(tmp_path, {0: (), 1: ()}, ticket="imp")
    write_ticket(tmp_path / "b", 5, ticket="omp")
    group = only(verdict_of(tmp_path))
    assert [row.double_win_evidence for row in group.rows] == [True, True]
    assert group.sparsest_evidence.state == 1


# --- verdict.json, contrasts ----------------------------------------------------------------------


def test_verdict_json_gains_the_evidence(tmp_path):
    study(tmp_path, {0: (), 1: (), 2: (1791,)})
    data = json.loads(json.dumps(verdict_json(verdict_of(tmp_path))))
    first, second = data["rows"]
    assert first["difference"]["st_sa"] == {
        "mean": 0.0, "low": round(-NOTHING, 6), "high": round(NOTHING, 6), "seeds": 3,
        "images": IMAGES, "kind": "paired",
    }  # fmt: skip
    assert second["evidence"] == {"st_sa": "undecided", "at_sa": "matches", "at_ra": "matches"}
    assert (first["double_win_evidence"], second["double_win_evidence"]) == (True, None)
    assert [place["state"] for place in data["sparsest_evidence"]] == [1]
    assert data["evidence_margin"] == 0.5
    assert data["contrasts"] == []


def test_contrasts_compare_what_two_pretrainings_lose(tmp_path):
    study(tmp_path, {0: (), 1: (1780,), 2: ()})
    changes = {"pretraining": "std", "init_sha256": "2" * 64}
    study(tmp_path, {0: (1700,), 1: (1640,), 3: ()}, **changes)
    found = verdict_json(verdict_of(tmp_path))["contrasts"]
    assert [(c["state"], c["measure"]) for c in found] == [
        (1, "st_sa"), (1, "at_sa"), (1, "at_ra"),
    ]  # fmt: skip
    first = found[0]
    assert (first["a"]["pretraining"], first["b"]["pretraining"]) == ("adv", "std")
    assert first["mean"] == pytest.approx(-1.0 + 3.0)
    assert (first["kind"], first["images"], first["test_split"]) == ("paired", IMAGES, SPLIT)


@pytest.mark.parametrize(
    ("seeds_of_b", "expected"),
    [((1, 2, 3), "fixed"), ((1, 2, 3, 4), "interim"), ((1, 2), "sequential"), (None, None)],
)
def test_a_contrast_has_the_worse_look_of_the_two_and_the_page_shows_it(
    tmp_path, seeds_of_b, expected
):
    for tag, seeds in (("adv", (1, 2, 3)), ("std", seeds_of_b)):
        if seeds:
            plan(tmp_path / tag, [1], seeds, pretrainings=(tag,))
        changes = {"pretraining": tag, "init_sha256": tag.encode().hex().ljust(64, "0")}
        study(tmp_path / tag, {0: (), 1: ()}, **changes)
    verdict = verdict_of(tmp_path)
    assert [contrast.look for contrast in verdict.contrasts] == [expected] * 3
    assert {row["look"] for row in verdict_json(verdict)["contrasts"]} == {expected}
    shown = contrast_table(verdict)
    assert shown.count(f">{expected or chr(8211)}</td></tr>") == 3
    assert "is interim or sequential" in shown


@pytest.mark.parametrize(("state", "contrasted"), [(1, {"st_sa", "at_sa"}), (2, set())])
def test_accuracies_under_different_attacks_are_not_contrasted(tmp_path, state, contrasted):
    study(tmp_path, {0: (), 1: ()})
    changes = {"pretraining": "std", "init_sha256": "2" * 64}
    study(tmp_path, {0: (), state: ()}, attack="PGD-2, eps 4/255", **changes)
    verdict = verdict_of(tmp_path)
    assert {contrast.measure for contrast in verdict.contrasts} == contrasted
    (line,) = verdict.warnings
    assert "so they are not contrasted: Linf PGD-2, eps 4/255; Linf PGD-20, eps 8/255" in line
    assert "RA under AT" in line


def test_other_data_or_another_share_of_them_are_not_contrasted(tmp_path):
    study(tmp_path / "a", {0: (), 1: ()})
    others = ({"split": "5" * 63 + "6"}, {"dataset": "svhn"}, {"data_number": 0.1})
    for number, other in enumerate(others, start=2):
        hashed = {"pretraining": f"std{number}", "init_sha256": str(number) * 64}
        study(tmp_path / f"{number}", {0: (), 1: ()}, **hashed, **other)
    assert len(verdict_of(tmp_path).groups) == 4
    assert verdict_of(tmp_path).contrasts == ()


def test_without_a_margin_the_rules_tolerance_is_taken(tmp_path):
    group = only(judge_runs(study(tmp_path, {0: (), 1: ()})).verdict)
    assert group.margins == group.tolerance == {"st_sa": 0, "at_sa": 0, "at_ra": 0}
    with pytest.raises(InputError, match="evidence_margin"):
        judge([run()], 0.5, {}, -1)


def margins(root):
    """The margin of each group's evidence by its data set, and the warnings about margins."""
    verdict = verdict_of(root, margin=None)
    told = [line for line in verdict.warnings if "evidence_margin" in line]
    return {group.group.dataset: group.evidence_margin for group in verdict.groups}, told


def test_the_margin_is_the_one_that_the_studys_file_has_fixed_beforehand(tmp_path):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=1.0)
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=2.5)  # still before the first result
    study(tmp_path, {0: (), 1: (1780,)})
    assert margins(tmp_path) == ({"cifar10": 2.5}, [])
    group = only(verdict_of(tmp_path, margin=None))
    assert group.margins == {"st_sa": 2.5, "at_sa": 2.5, "at_ra": 2.5}
    assert group.rows[0].evidence["st_sa"] == "matches"
    assert only(verdict_of(tmp_path, margin=0.5)).rows[0].evidence["st_sa"] == "worse"
    assert verdict_of(tmp_path, margin=0.5).evidence_margin == 0.5
    plan(tmp_path, [2], (1, 2, 3), pretrainings=("std",), config="other.toml", evidence_margin=1.0)
    assert margins(tmp_path) == ({"cifar10": 2.5}, [])  # a study of other groups


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, 2.5, "evidence_margin was set to 2.5 when the study had results, so it does not"),
        (1.0, 2.5, "evidence_margin was changed to 2.5 after the first results; 1 counts"),
        (1.0, None, "evidence_margin was taken out after the first results; 1 counts"),
    ],
)
def test_a_margin_that_was_changed_after_a_look_does_not_count_and_is_told_of(
    tmp_path, before, after, told
):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=before)
    study(tmp_path, {0: (), 1: (1780,)})
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=after)
    found, (line,) = margins(tmp_path)
    assert found == {"cifar10": before}
    assert line.startswith(f"{tmp_path}/study.json: adv, cifar10, 100 % of the data: {told}")
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=3.0)  # and once more
    found, (line,) = margins(tmp_path)
    assert found == {"cifar10": before}
    assert " to 3 " in line
    verdict = verdict_of(tmp_path)  # --evidence_margin settles it
    assert verdict.evidence_margin == 0.5
    assert len(verdict.warnings) == (before is not None)  # that it takes the place of the fixed one
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=before)
    assert margins(tmp_path) == ({"cifar10": before}, [])


def test_a_margin_of_results_that_were_there_before_the_study_is_not_fixed(tmp_path):
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=2.5)
    found, (line,) = margins(tmp_path)
    assert found == {"cifar10": None}
    assert "the rule's tolerance counts" in line


def test_a_group_that_is_planned_later_has_the_margin_of_its_own_first_plan(tmp_path):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=1.0)
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], (1, 2, 3), datasets=("cifar10", "svhn"), evidence_margin=2.0)
    study(tmp_path / "svhn", {0: (), 1: ()}, dataset="svhn")
    found, (line,) = margins(tmp_path)
    assert found == {"cifar10": 1.0, "svhn": 2.0}
    assert "changed to 2 after the first results; 1 counts" in line
    data = verdict_json(verdict_of(tmp_path, margin=None))
    assert [row["evidence_margin"] for row in data["rows"]] == [1.0, 2.0]
    assert data["evidence_margin"] is None
    assert main([str(tmp_path)]) == 0
    html = (tmp_path / "report" / "report.html").read_text()
    assert "by a margin, which differs and is told below," in html
    assert "Margin in points: 2 (fixed by the study, not estimated). The number of seeds" in html


def test_the_page_names_measures_as_they_are_where_margins_differ(tmp_path):
    plan(tmp_path / "a", [1], (1, 2, 3), evidence_margin=2.0)
    study(tmp_path / "a", {0: (), 1: ()})
    study(tmp_path / "b", {0: (), 1: ()}, dataset="svhn")
    for seed in (2, 3):
        shutil.rmtree(tmp_path / "b" / "adv" / f"0-{seed}" / "std")
    assert main([str(tmp_path)]) == 0
    html = (tmp_path / "report" / "report.html").read_text()
    assert "Margin in points: 2 (fixed by the study" in html
    assert "Margin in points: the rule\u2019s tolerance (SA under ST: one dense seed" in html


def test_the_same_plan_under_another_path_is_no_change(tmp_path):
    """The run folder was moved to a clone on another machine."""
    plan(tmp_path, [1], (1, 2, 3), config="here/my.toml", evidence_margin=1.0)
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], (1, 2, 3), config="there/my.toml", evidence_margin=1.0)
    assert margins(tmp_path) == ({"cifar10": 1.0}, [])
    assert only(verdict_of(tmp_path)).look == "fixed"


def test_a_record_of_an_earlier_version_has_the_margin_of_its_first_plan(tmp_path):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=1.0)
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=2.0)
    file = tmp_path / "study.json"
    data = json.loads(file.read_text())
    for known in data["plans"]:
        del known["begun"], known["regimes"]
    file.write_text(json.dumps(data))
    study(tmp_path, {0: (), 1: ()})
    found, (line,) = margins(tmp_path)
    assert found == {"cifar10": 1.0}
    assert "changed to 2" in line


def test_each_group_has_the_margin_of_its_own_study(tmp_path):
    for number, margin in enumerate((1.0, 2.5), start=1):
        folder, tag = tmp_path / str(number), f"adv{number}"
        plan(folder, [1], (1, 2, 3), pretrainings=(tag,), evidence_margin=margin)
        study(folder, {0: (), 1: ()}, pretraining=tag, init_sha256=str(number) * 64)
    verdict = verdict_of(tmp_path, margin=None)
    assert [group.evidence_margin for group in verdict.groups] == [1.0, 2.5]


def test_studies_of_one_group_that_fix_different_margins_are_an_error(tmp_path):
    for seed, margin in enumerate((1.0, 2.5), start=1):
        folder = tmp_path / str(seed)
        plan(folder, [1], (1, 2), evidence_margin=margin)
        study(folder, {0: (), 1: ()}, seeds=(seed,))
    folders = rf"different margins \({tmp_path}/1: 1; {tmp_path}/2: 2.5\): give --evidence_margin"
    with pytest.raises(InputError, match=folders):
        verdict_of(tmp_path, margin=None)
    assert verdict_of(tmp_path).evidence_margin == 0.5


def test_a_margin_that_is_given_in_place_of_a_fixed_one_is_told_of(tmp_path):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=1.0)
    study(tmp_path, {0: (), 1: ()})
    verdict = verdict_of(tmp_path, margin=5.0)
    (line,) = (line for line in verdict.warnings if "evidence_margin" in line)
    assert "was fixed to 1 before there were results; the 5 of --evidence_margin counts" in line
    assert (
        evidence_rule(only(verdict)) == "margin in points: 5 (given to the report, not estimated)"
    )
    assert not any("evidence_margin" in w for w in verdict_of(tmp_path, margin=1.0).warnings)


# --- what was planned, and what is missing --------------------------------------------------------


def test_a_plan_that_is_changed_before_the_first_result_counts_as_it_is_last(tmp_path):
    plan(tmp_path, [1], (1,))
    plan(tmp_path, [1, 2], (1, 2, 3))
    study(tmp_path, {0: (), 1: ()}, seeds=(1, 2, 3))
    group = only(verdict_of(tmp_path))
    assert (group.look, group.planned) == ("fixed", {1, 2})
    plan(tmp_path, [1], (1, 2, 3, 4))  # after it: what was there beforehand counts
    group = only(verdict_of(tmp_path))
    assert (group.look, group.planned) == ("fixed", {1, 2})


def test_a_file_without_a_margin_takes_none_away_from_another_files(tmp_path):
    plan(tmp_path, [1], (1, 2, 3), evidence_margin=1.0)
    plan(tmp_path, [1], (1, 2, 3), config="other.toml")
    study(tmp_path, {0: (), 1: ()})
    assert margins(tmp_path) == ({"cifar10": 1.0}, [])


def test_two_files_that_plan_the_same_group_count_both(tmp_path):
    plan(tmp_path, [1], (1, 2))
    plan(tmp_path, [2], (3,), config="other.toml", evidence_margin=2.0)
    plan(tmp_path, [1], (1, 2), evidence_margin=1.0)
    study(tmp_path, {0: (), 1: ()}, seeds=(1, 2, 3))
    group = only(verdict_of(tmp_path, margin=None))
    assert (group.look, group.planned, group.evidence_margin) == ("fixed", {1, 2}, 1.0)


@pytest.mark.parametrize(
    ("planned", "expected"),
    [((1, 2, 3), "fixed"), ((1, 2, 3, 4), "interim"), ((1, 2), "sequential"), (None, None)],
)
def test_seeds_are_compared_with_those_that_were_planned_first(tmp_path, planned, expected):
    if planned:
        plan(tmp_path, [1], planned)
    study(tmp_path, {0: (), 1: (), 3: ()})
    plan(tmp_path, [1, 2], [1, 2, 3])
    group = only(verdict_of(tmp_path))
    assert group.look == expected
    assert group.planned == ({1} if planned else {1, 3})


@pytest.mark.parametrize("lacking", ["1-3/std", "1-3/adv", "0-3/std"])
def test_a_planned_seed_that_one_ticket_lacks_makes_it_interim(tmp_path, lacking):
    plan(tmp_path, [1], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    shutil.rmtree(tmp_path / "adv" / lacking)
    assert only(verdict_of(tmp_path)).look == "interim"


@pytest.mark.parametrize("network", ["0", "1"])
def test_a_planned_seed_of_which_a_measure_is_missing_makes_it_interim(tmp_path, network):
    plan(tmp_path, [1], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    file = tmp_path / "adv" / f"{network}-3" / "adv" / "results.json"
    data = json.loads(file.read_text())
    data["ra_best"]["ra"] = None
    file.write_text(json.dumps(data))
    assert only(verdict_of(tmp_path)).look == "interim"


def test_a_look_says_what_is_above_5_percent(tmp_path):
    plan(tmp_path, [1], [1, 2])
    group = only(verdict_of(study(tmp_path, {0: (), 1: ()})))
    assert look(group).startswith("sequential: the chance of a wrong decision is above 5 %")


def test_only_the_tickets_that_lack_seeds_are_interim(tmp_path):
    plan(tmp_path, [1, 2], [1, 2, 3])
    study(tmp_path, {0: (), 1: (), 2: ()})
    shutil.rmtree(tmp_path / "adv" / "2-3")
    group = only(verdict_of(tmp_path))
    assert [(row.state, group.look_at(row)) for row in group.found] == [
        (1, "fixed"),
        (2, "interim"),
    ]
    told = "are missing for imp state 2; the chance of a wrong decision is above 5 %"
    assert told in look(group)


def test_a_study_of_other_tickets_plans_none_of_imp(tmp_path):
    plan(tmp_path, [1, 2], [1, 2, 3], tickets=("omp",))
    study(tmp_path, {0: (), 1: ()}, ticket="omp")
    verdict = verdict_of(tmp_path)
    assert only(verdict).planned == frozenset()
    assert "has not run" not in plan_text(verdict)
    assert conclusion(only(verdict)).startswith("No ticket of IMP")


def test_what_a_study_plans_and_nobody_ran_is_missing(tmp_path):
    where = {"pretrainings": ("adv", "std"), "tickets": ("imp", "random")}
    plan(tmp_path, [0, 1, 2, 4], [1, 2, 3, 4], **where)
    study(tmp_path, {0: (), 1: ()})
    here = "adv, cifar10, 100 % of the data:"
    assert verdict_of(tmp_path).missing == (
        f"std, cifar10, 100 % of the data: planned in {tmp_path}, {NO_RUN}",
        f"{here} imp states 2, 4: planned, and nothing has run",
        f"{here} random states 1, 2, 4: planned, and nothing has run",
        *(f"{here} {row}, {mode}, seed 4" for row in ("dense", "imp state 1")
          for mode in ("ST", "AT")),
    )  # fmt: skip


def test_a_regime_that_a_study_leaves_out_is_not_missing(tmp_path):
    plan(tmp_path, [1], [1, 2, 3], regimes=(("cifar10", "std"),))
    study(tmp_path, {0: (), 1: ()})
    for folder in tmp_path.glob("adv/*/adv"):
        shutil.rmtree(folder)
    verdict = verdict_of(tmp_path)
    assert verdict.missing == ()
    assert "some tickets are open (the study leaves AT out)" in conclusion(only(verdict))


def test_a_regime_that_is_left_out_before_the_first_result_is_not_missing_either(tmp_path):
    for regimes in ((("cifar10", "std"), ("cifar10", "adv")), (("cifar10", "std"),)):
        plan(tmp_path, [1], [1, 2, 3], regimes=regimes)
    study(tmp_path, {0: (), 1: ()})
    for folder in tmp_path.glob("adv/*/adv"):
        shutil.rmtree(folder)
    assert (verdict_of(tmp_path).missing, only(verdict_of(tmp_path)).look) == ((), "fixed")


def test_a_regime_that_is_left_out_after_a_look_stays_awaited(tmp_path):
    plan(tmp_path, [1], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    shutil.rmtree(tmp_path / "adv" / "1-3" / "adv")
    plan(tmp_path, [1], [1, 2, 3], regimes=(("cifar10", "std"),))
    assert only(verdict_of(tmp_path)).look == "interim"


def test_class_folders_of_which_nothing_has_run_are_missing_though_another_studys_have(tmp_path):
    for name in ("a", "b"):
        plan(tmp_path / name, [1], [1, 2, 3], datasets=("folder",))
    study(tmp_path / "a", {0: (), 1: ()}, dataset="folder")
    told = f"adv, folder, 100 % of the data: planned in {tmp_path}/b, {NO_RUN}"
    assert verdict_of(tmp_path).missing == (told,)
    plan(tmp_path / "c", [1], [1, 2, 3], datasets=("cifar10",))
    plan(tmp_path / "d", [1], [1, 2, 3], datasets=("cifar10",))
    study(tmp_path / "c", {0: (), 1: ()})  # a grid that two folders share
    assert verdict_of(tmp_path).missing == (told,)


@pytest.mark.parametrize(("of_the_plan", "look"), [("std", "fixed"), (None, "interim")])
def test_only_a_regime_that_the_study_leaves_out_is_not_waited_for(tmp_path, of_the_plan, look):
    planned = {"regimes": (("cifar10", of_the_plan),)} if of_the_plan else {}
    plan(tmp_path, [1], [1, 2, 3], **planned)
    study(tmp_path, {0: (), 1: ()})
    for folder in tmp_path.glob("adv/*/adv"):
        shutil.rmtree(folder)
    assert only(verdict_of(tmp_path)).look == look


@pytest.mark.parametrize(
    "other",
    [{"pretrainings": ("std",)}, {"datasets": ("svhn",)}, {"data_numbers": (0.1, 0.01)}],
    ids=lambda other: next(iter(other)),
)
def test_a_plan_counts_only_for_the_groups_that_it_names(tmp_path, other):
    """Two studies may share a folder, and each has its seeds and states."""
    plan(tmp_path, [1, 2, 5], [1], config="first.toml", **other)
    plan(tmp_path, [1], [1, 2, 3])
    group = only(verdict_of(study(tmp_path, {0: (), 1: ()})))
    assert (group.look, group.planned) == ("fixed", {1})
    shutil.rmtree(tmp_path / "adv")
    (tmp_path / "study.json").unlink()
    plan(tmp_path, [1, 2, 5], [1], **other)
    group = only(verdict_of(study(tmp_path, {0: (), 1: ()})))
    assert (group.look, group.planned) == (None, {1})


def test_a_plan_counts_only_for_runs_in_its_studys_folder(tmp_path):
    first, second, apart = (tmp_path / name for name in ("first", "second", "apart"))
    plan(first, [1, 2], [1, 2, 3])
    plan(second, [1], [1], pretrainings=("std",))
    study(first, {0: (), 1: ()})
    study(second, {0: (), 1: ()}, pretraining="std", init_sha256="2" * 64)
    study(apart, {0: (), 1: ()}, init_sha256="3" * 64)  # of the same name
    groups = verdict_of(tmp_path).groups
    assert {g.group.init_sha256[0]: (g.look, g.planned) for g in groups} == {
        "1": ("fixed", {1, 2}), "2": ("sequential", {1}), "3": (None, {1}),
    }  # fmt: skip


def test_results_that_were_there_before_their_plan_make_it_unknown_what_was_fixed(tmp_path):
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], [1, 2, 3], datasets=("cifar10", "svhn"))
    assert only(verdict_of(tmp_path)).look is None
    shutil.rmtree(tmp_path)
    study(tmp_path / "svhn", {0: (), 1: ()}, dataset="svhn")
    plan(tmp_path, [1], [1, 2, 3])  # those of other groups do not matter
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], [1, 2, 3], datasets=("cifar10", "svhn"))
    looks = {group.group.dataset: group.look for group in verdict_of(tmp_path).groups}
    assert looks == {"cifar10": "fixed", "svhn": None}
    shutil.rmtree(tmp_path / "svhn")
    (tmp_path / "study.json").unlink()
    shutil.rmtree(tmp_path / "adv")
    plan(tmp_path, [1], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    plan(tmp_path, [1], [1, 2, 3], datasets=("cifar10", "svhn"))  # in time for svhn
    study(tmp_path / "svhn", {0: (), 1: ()}, dataset="svhn")
    assert [group.look for group in verdict_of(tmp_path).groups] == ["fixed", "fixed"]


def test_a_plan_is_recorded_once_for_each_change_of_a_file(tmp_path):
    for config, seeds in [("a", [1]), ("b", [2]), ("a", [1]), ("b", [2]), ("a", [1, 3])]:
        plan(tmp_path, [1], seeds, config=config)
    plans = read_study_record(tmp_path).plans
    assert [(Path(p.config).name, p.seeds) for p in plans] == [
        ("a", (1,)), ("b", (2,)), ("a", (1, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize("moved", ["our.toml", "there/my.toml"])
def test_a_file_that_was_renamed_is_awaited_as_it_is_now(tmp_path, moved):
    plan(tmp_path, [1, 2, 3], [1, 2, 3], evidence_margin=1.0)
    plan(tmp_path, [1], [1], config="other.toml", datasets=("svhn",))
    study(tmp_path, {0: (), 1: ()})
    (tmp_path / "my.toml").unlink()
    (tmp_path / "other.toml").unlink()  # has planned none of these groups
    plan(tmp_path, [1], [1, 2, 3], config=moved)
    row = only(verdict_of(tmp_path))
    assert (row.awaited["imp"], row.planned, row.look) == ({1}, {1, 2, 3}, "fixed")
    plans = read_study_record(tmp_path).plans
    assert [Path(known.config).relative_to(tmp_path).as_posix() for known in plans] == [
        moved, "other.toml", moved,
    ]  # fmt: skip


def test_a_file_that_was_renamed_and_not_changed_goes_by_its_new_name(tmp_path):
    plan(tmp_path, [1], [1])
    (tmp_path / "my.toml").rename(tmp_path / "our.toml")
    plan(tmp_path, [1], [1], config="our.toml")
    (known,) = read_study_record(tmp_path).plans
    assert known.config == str(tmp_path / "our.toml")


@pytest.mark.parametrize("why", ["there", "out of sight", "which of two"])
def test_a_file_that_may_not_have_been_renamed_is_awaited_beside_the_new_one(
    tmp_path, monkeypatch, why
):
    plan(tmp_path, [1], [1])
    plan(tmp_path, [2], [1], config="his.toml")
    real = os.stat

    def stat(path, **how):
        if why == "out of sight" and Path(path).name == "his.toml":
            raise PermissionError(13, "Permission denied", path)
        return real(path, **how)

    monkeypatch.setattr(os, "stat", stat)
    for name in {"there": [], "out of sight": ["his"], "which of two": ["my", "his"]}[why]:
        (tmp_path / f"{name}.toml").unlink()
    new = Plan("our.toml", (3,), (1,), ("adv",), ("cifar10",), (1.0,))
    record_plan(tmp_path, new)
    plans = read_study_record(tmp_path).plans
    assert [Path(known.config).name for known in plans] == ["my.toml", "his.toml", "our.toml"]


def test_a_study_that_begins_in_the_folder_at_the_same_time_keeps_its_plan(tmp_path, monkeypatch):
    lock = fcntl.flock

    def other_was_faster(file, how):
        assert (Path(file.name).parent, how) == (tmp_path, fcntl.LOCK_EX)
        monkeypatch.undo()
        plan(tmp_path, [2], [1], config="his.toml")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", other_was_faster)
    plan(tmp_path, [1], [1])
    plans = read_study_record(tmp_path).plans
    assert [Path(known.config).name for known in plans] == ["his.toml", "my.toml"]


def test_a_plan_of_before_tickets_were_recorded_is_not_another_for_lack_of_them(tmp_path):
    for tickets in (None, ("imp",), ("imp",)):
        plan(tmp_path, [1], [1], tickets=tickets)
        study(tmp_path, {0: (), 1: ()})  # what is planned from now on is late
    assert [known.begun for known in read_study_record(tmp_path).plans] == [False]
    plan(tmp_path / "new", [1], [1], tickets=("imp",))
    plan(tmp_path / "new", [1], [1], tickets=("imp", "omp"))
    assert len(read_study_record(tmp_path / "new").plans) == 2


def test_a_part_of_a_study_is_judged_without_its_plan_and_a_warning_says_so(tmp_path):
    plan(tmp_path, [1], [1, 2, 3], evidence_margin=2.0)
    study(tmp_path / "transfer", {0: (), 1: ()})
    whole, part = verdict_of(tmp_path, None), verdict_of(tmp_path / "transfer", None)
    assert (only(whole).evidence_margin, whole.warnings) == (2.0, ())
    assert only(part).evidence_margin is None
    (line,) = part.warnings
    assert line.startswith(f"{tmp_path}/study.json: what was planned beforehand does not count")
    assert line.endswith(f"give {tmp_path}")


@pytest.mark.parametrize("margin", ["NaN", "Infinity", "-1", "1" + 400 * "0"])
def test_a_record_with_a_margin_that_is_none_is_damaged(tmp_path, margin):
    plan(tmp_path, [1], [1, 2, 3], evidence_margin=2.0)
    study(tmp_path, {0: (), 1: ()})
    file = tmp_path / "study.json"
    file.write_text(file.read_text().replace("2.0", margin))
    verdict = verdict_of(tmp_path, None)
    assert "study.json: damaged" in verdict.warnings[0]
    assert only(verdict).evidence_margin is None


@pytest.mark.parametrize("text", ["{", "[]", '{"plans": [{"seeds": 1}]}', "null", "late"])
def test_a_damaged_record_is_a_warning_and_nothing_is_taken_as_planned(tmp_path, text):
    plan(tmp_path, [1, 2], [1, 2, 3])
    study(tmp_path, {0: (), 1: ()})
    file = tmp_path / "study.json"
    file.write_text(file.read_text().replace("false", "0") if text == "late" else text)
    verdict = verdict_of(tmp_path)
    assert (only(verdict).look, only(verdict).planned) == (None, {1})
    assert "study.json: damaged" in verdict.warnings[0]
    plan(tmp_path, [1, 2], [1, 2, 3])  # too late by now
    verdict = verdict_of(tmp_path)
    assert (only(verdict).look, verdict.warnings) == (None, ())


def test_runs_that_did_not_measure_what_is_judged_are_to_be_repeated_by_the_plan(tmp_path):
    study(tmp_path, {0: (), 1: ()})
    for path in tmp_path.glob("adv/1-*/adv/results.json"):
        data = json.loads(path.read_text())
        data["ra_best"]["ra"] = None
        path.write_text(json.dumps(data))
    (lack,) = wanted(verdict_of(tmp_path))
    assert lack.cannot == ("RA under AT: runs to repeat: some did not measure it",)


def test_plan_lists_the_cheapest_first_with_the_studys_commands(tmp_path, capsys):
    config = tmp_path / "my.toml"
    config.write_text("")
    plan(tmp_path, [1, 2], [1])
    study(tmp_path, {0: (), 1: (), 2: ()}, seeds=(1,))
    assert main([str(tmp_path), "--plan", "--evidence_margin", "1"]) == 0
    told = capsys.readouterr().out
    assert "2 undecided, the cheapest first" in told
    assert "imp state 1: further seeds, ticket and dense: at least 2 of ST and 2 of AT" in told
    assert f"# in {config}: [transfer] seeds = [1, 2, 3]" in told
    assert f"{config} --out {tmp_path} --only " in told
    assert "'^transfer/adv/cifar10/adv/f1/state(0|1)/seed(2|3)$'" in told
    assert not (tmp_path / "report").exists()
    (tmp_path / "study.json").unlink()
    main([str(tmp_path), "--plan"])
    assert "transfer imp state 1 and the dense network under AT with --seed 2, 3" in (
        capsys.readouterr().out
    )


def test_plan_says_which_state_goes_into_the_studys_file_first(tmp_path, capsys):
    config = tmp_path / "my.toml"
    config.write_text("")
    plan(tmp_path, [1, 5], [1, 2, 3])
    study(tmp_path, {0: (), 1: (), 3: ()}, seeds=(1,))
    assert main([str(tmp_path), "--plan", "--evidence_margin", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    added = [line for line in told if "# in" in line]
    assert added == [f"   # in {config}: [transfer] states = [0, 1, 3, 5]"]
    assert "/state(0|3)/" in told[told.index(added[0]) + 1]


@pytest.mark.parametrize(
    ("regimes", "left_out"), [((("cifar10", "std"), ("svhn", "adv")), "AT"), ((), "ST and AT")]
)
def test_plan_prints_no_command_of_a_regime_that_the_study_leaves_out(
    tmp_path, capsys, regimes, left_out
):
    (tmp_path / "my.toml").write_text("")
    plan(tmp_path, [1], [1, 2], regimes=regimes)
    study(tmp_path, {0: (), 1: ()}, seeds=(1,))
    assert main([str(tmp_path), "--plan"]) == 0
    told = capsys.readouterr().out
    assert "/adv/f1/" not in told
    assert ("/cifar10/std/f1/" in told) == (left_out == "AT")
    for regime in left_out.split(" and "):
        line = (
            f"# {tmp_path / 'my.toml'} leaves out {regime}; without it the ticket stays undecided"
        )
        assert line in told
    assert ("[transfer] seeds = " in told) == (left_out == "AT")  # seed 3
    assert "--seed" not in told


def test_tickets_without_a_dense_run_are_not_said_to_be_decided(tmp_path, capsys):
    study(tmp_path, {0: (), 1: ()})
    study(tmp_path / "svhn", {1: (), 2: ()}, dataset="svhn")
    assert main([str(tmp_path), "--plan", "--evidence_margin", "1"]) == 1
    told = capsys.readouterr()
    first = "adv, svhn, 100 % of the data: 2 tickets not judged; transfer the dense network first"
    assert told.out.startswith(first)
    assert told.out.endswith("\nNo other ticket is undecided.\n")
    assert told.err.startswith("error: adv, svhn, 100 % of the data: no dense run")
    assert main([str(tmp_path), "--evidence_margin", "1"]) == 1
    html = (tmp_path / "report" / "report.html").read_text()
    assert first in html
    assert "<p>No other ticket is undecided.</p>" in html
    shutil.rmtree(tmp_path / "svhn")
    capsys.readouterr()
    assert main([str(tmp_path), "--plan", "--evidence_margin", "1"]) == 0
    assert capsys.readouterr() == ("No ticket is undecided.\n", "")


def test_one_measure_that_is_lost_is_enough_to_wait_for(tmp_path):
    study(tmp_path, {0: ()})
    # ST at the margin itself, which no seed decides; RA of AT 2 points behind, give or take 1.
    for seed, robust in ((1, 740), (2, 760), (3, 780)):
        write_ticket(tmp_path, 1, st=1790, robust=robust, seeds=(seed,))
    told = plan_text(verdict_of(tmp_path, 0.5))
    assert "imp state 1: further seeds, ticket and dense: 4 of AT (8 runs)" in told


@pytest.mark.parametrize(
    ("st", "robust", "told"),
    [
        # ST a tenth of a point beyond the margin, which takes hundreds of runs; RA far beyond it.
        ((1780, 1778, 1776), (728, 742, 756), "1 of AT (2 runs)"),
        # 14 runs of ST take less than 4 of AT.
        ((1751, 1763, 1775), (726, 742, 758), "7 of ST (14 runs)"),
    ],
)
def test_of_two_measures_that_are_lost_the_one_of_less_time_is_waited_for(
    tmp_path, st, robust, told
):
    study(tmp_path, {0: ()})
    for seed in (1, 2, 3):
        write_ticket(tmp_path, 1, st=st[seed - 1], robust=robust[seed - 1], seeds=(seed,))
    lines = plan_text(verdict_of(tmp_path, 1))
    assert f"imp state 1: further seeds, ticket and dense: {told}" in lines


def test_further_seeds_that_only_one_side_gains_are_counted_for_that_side_alone(tmp_path):
    for seed, correct in ((1, 1795), (2, 1800), (3, 1805)):
        write_ticket(tmp_path, 0, correct, seeds=(seed,))
    for seed, correct in ((4, 1790), (5, 1795), (6, 1800)):
        write_ticket(tmp_path, 1, correct, seeds=(seed,))
    verdict = verdict_of(tmp_path, 0.75)
    row = only(verdict).rows[0]
    (lack,) = wanted(verdict)
    further = lack.seeds["std"]
    assert lack.numbers("std")[:6] == [1, 2, 3, 4, 5, 6][:further]
    gap = row.differences["st_sa"].mean + 0.75

    def half_width(further):
        new = [1, 2, 3, 4, 5, 6, 7, 8, 9][:further]  # known ones that one side lacks come first
        counts = [len({4, 5, 6}.union(new)), len({1, 2, 3}.union(new))]
        return with_seeds(row.differences["st_sa"], counts).half_width()

    assert half_width(further) <= gap < half_width(further - 1)


def test_seeds_that_one_side_has_come_before_new_ones_and_fewer_runs_before_more(tmp_path):
    study(tmp_path, {0: ()})
    write_ticket(tmp_path, 1, seeds=(1,))
    # Differences of ST: -0.1, 0, 0.1, which takes more than three seeds; of AT none.
    for seed, correct in ((1, 1798), (2, 1800), (3, 1802)):
        write_ticket(tmp_path, 2, correct, seeds=(seed,))
    told = plan_text(verdict_of(tmp_path, 0.2))
    assert told.index("imp state 2: further seeds") < told.index("imp state 1: further seeds")
    assert "imp state 1 and the dense network under ST with --seed 2, 3\n" in told
    assert "imp state 2 and the dense network under ST with --seed 4\n" in told


@pytest.mark.parametrize(
    ("late", "named"),
    [(False, "4, 11, 12, 5"), (True, "4, 5, 11, 12")],
    ids=["planned before results", "planned after results"],
)
def test_planned_seeds_that_have_not_run_come_before_new_ones(tmp_path, late, named):
    if not late:
        plan(tmp_path, [1], [1, 2, 3, 11, 12])
    study(tmp_path, {0: ()}, seeds=(1, 2, 3, 4))
    # RA of AT as far behind as decides it with four further seeds.
    for seed, robust in ((1, 740), (2, 760), (3, 780)):
        write_ticket(tmp_path, 1, st=1790, robust=robust, seeds=(seed,))
    plan(tmp_path, [1], [5, 11, 12])
    (tmp_path / "my.toml").unlink()  # there are no commands without it
    told = plan_text(verdict_of(tmp_path, 0.5))
    assert f"imp state 1 and the dense network under AT with --seed {named}\n" in told
    assert "added after a look and were not planned beforehand" in told


def test_runs_that_one_side_has_are_not_counted_to_those_that_are_lacking(tmp_path):
    for state in (0, 1):
        write_ticket(tmp_path, state, seeds=(1,))
    shutil.rmtree(tmp_path / "adv" / "1-1" / "adv")
    told = plan_text(verdict_of(tmp_path, 1))
    assert (
        "imp state 1: further seeds, ticket and dense: at least 2 of ST and 3 of AT (9 runs)"
        in (told)
    )


@pytest.mark.parametrize("record", ["runs", "elsewhere"])
def test_results_and_records_behind_a_link_count_as_those_in_the_folder(tmp_path, record):
    study(tmp_path / "elsewhere", {0: (), 1: ()})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/disk").symlink_to(tmp_path / "elsewhere")
    plan(tmp_path / record, [1], [1, 2, 3])
    (known,) = only(verdict_of(tmp_path / "runs")).study.plans
    assert known.late


# --- seen -----------------------------------------------------------------------------------------


def test_the_figure_of_differences_has_a_row_a_pretraining_bars_bands_and_stars(tmp_path):
    study(tmp_path, {0: (), 1: (), 2: (1791,), 3: (1000,)})
    study(tmp_path, {0: (), 1: ()}, pretraining="std", init_sha256="2" * 64)
    groups = verdict_of(tmp_path).groups
    figure = difference_figure(groups, styles(group.group.name for group in groups))
    assert len(figure.axes) == 6
    for above, below in zip(figure.axes[:3], figure.axes[3:], strict=True):
        assert (above.get_xlim(), above.get_ylim()) == (below.get_xlim(), below.get_ylim())
    axis = figure.axes[0]
    assert len(axis.collections) == 3  # a bar a ticket
    band = axis.patches[0].get_path().get_extents(axis.patches[0].get_patch_transform())
    assert band.y0 == -0.5  # the margin's
    rule, surely = (line for line in axis.lines if line.get_marker() == "*")
    assert (len(rule.get_xdata()), len(surely.get_xdata())) == (1, 1)
    points = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert "x" in [line.get_marker() for line in points]


def test_the_accuracy_figure_sets_the_bars_of_two_pretrainings_apart_and_explains_them(tmp_path):
    for tag, number in (("adv", "1"), ("std", "2")):
        for seed, correct in ((1, 1790), (2, 1800), (3, 1805)):
            tag_and_hash = {"pretraining": tag, "init_sha256": number * 64}
            write_ticket(tmp_path, 0, correct, seeds=(seed,), **tag_and_hash)
            write_ticket(tmp_path, 1, correct, seeds=(seed,), **tag_and_hash)
    groups = verdict_of(tmp_path).groups
    figure = accuracy_figure(groups, styles(group.group.name for group in groups))
    bars = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    places = [segment[0][0] for bar in bars for segment in bar.get_segments()]
    assert len(set(places)) == 4  # dense network and ticket of each, whose two kinds of bars agree
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[-2:] == ["± std over seeds", "95 % over test images, each network alone"]
    write_ticket(tmp_path, 2, seeds=(1,), pretraining="adv", init_sha256="1" * 64)
    groups = verdict_of(tmp_path).groups
    figure = accuracy_figure(groups, styles(group.group.name for group in groups))
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[-2] == "± std over seeds (none: one seed)"


@pytest.mark.skipif(find_browser() is None, reason="no browser here")
def test_every_column_is_in_sight_in_a_window_of_1280_pixels(tmp_path):
    for seed, correct in ((1, 1500), (2, 1800), (3, 1605)):
        write_ticket(tmp_path, 0, correct, correct, seeds=(seed,))
        write_ticket(tmp_path, 12, 3000 - correct, 3300 - correct, seeds=(seed,))
    assert main([str(tmp_path), "--evidence_margin", "0.5"]) == 0
    with browser(find_browser()) as tab:
        tab.look(1280, 900)
        tab.open(tmp_path / "report" / "report.html")
        table = "document.querySelector('#tickets table')"
        assert "undecided" in tab.run(f"{table}.textContent")
        assert tab.run(f"{table}.scrollWidth - {table}.parentElement.clientWidth") <= 0


def test_terminal_and_page_show_the_intervals_with_their_kind(tmp_path, capsys):
    study(tmp_path, {0: (), 1: (1791,)})
    assert main([str(tmp_path), "--evidence_margin", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "-0.45 [-0.74, -0.16] ?" in told
    assert "paired, 3 seeds" in told
    html = (tmp_path / "report" / "report.html").read_text()
    assert "-0.45 [-0.74, -0.16]<br>undecided; paired</small>" in html
    assert all(part in html for part in ("What would decide", "assumes that"))
    with (tmp_path / "report" / "results.csv").open(newline="") as stream:
        said = {(row["ticket"], row["evidence"]) for row in csv.DictReader(stream)}
    assert said == {("dense", ""), ("imp", "undecided")}
