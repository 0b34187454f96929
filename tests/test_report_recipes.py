"""Runs of one group that were made by different recipes are told of."""

import itertools
import json

import pytest
from helpers.report_cases import write_run

from files.run_args import ADDED
from report.write import judge_runs

RECIPE = {
    "epochs": 12, "lr": 0.1, "decreasing_lr": [6, 9], "amp": "off", "input_size": 32,
    "data_content": "4500 images of 10 classes (ee0dc7ac22010897)", "global_batch": 128,
    "processes": 1, "micro_batch": None, "sync_bn": False, "tf32": False,
    "train_step": 3, "test_eps": 8 / 255, "objective": "at", "beta": None,
    "seed": 1, "threads": 1, "save_dir": "a",
}  # fmt: skip


def made(folder, mode="adv", state=1, seed=1, pretraining="adv", **changes):
    own = {"mode": mode, "state": state, "seed": seed, "pretraining": pretraining}
    write_run(folder / f"{mode}{state}-{seed}", **own)
    text = json.dumps({**RECIPE, "seed": seed, **changes})
    (folder / f"{mode}{state}-{seed}" / "args.json").write_text(text)


def told(folder):
    return [line for line in judge_runs(folder).verdict.warnings if "recipes" in line]


def test_runs_of_one_recipe_may_differ_in_what_changes_no_result(tmp_path):
    for state, seed in ((0, 1), (1, 1), (1, 2)):
        changes = {"threads": seed, "save_dir": f"{state}{seed}"}
        made(tmp_path, state=state, seed=seed, micro_batch=128 if state else None, **changes)
    assert told(tmp_path) == []


def test_passes_that_are_cut_alike_are_alike_whatever_the_flag_says(tmp_path):
    for state, micro_batch in ((0, 64), (1, 100)):
        made(tmp_path, state=state, micro_batch=micro_batch)
    assert told(tmp_path) == []


@pytest.mark.parametrize(
    ("mode", "change", "words"),
    [
        ("adv", {"epochs": 120}, "epochs 12 and 120"),
        ("std", {"lr": 0.01, "amp": "bf16"}, "lr 0.1 and 0.01; amp off and bf16"),
        ("adv", {"decreasing_lr": [50]}, "decreasing_lr [6, 9] and [50]"),
        ("adv", {"global_batch": 256}, "images a step 128 and 256"),
        ("std", {"micro_batch": 2}, "images a pass 128 and 2"),
        ("std", {"micro_batch": 100}, "images a pass 128 and 64"),  # two equal ones
        ("adv", {"processes": 2}, "processes 1 and 2; images a pass 128 and 64"),
        ("std", {"sync_bn": True}, "sync_bn False and True"),
        ("adv", {"tf32": True}, "tf32 False and True"),
        ("adv", {"test_eps": 4 / 255}, "test_eps 8/255 and 4/255"),
        ("adv", {"objective": "trades", "beta": 6}, "objective at and trades; beta None and 6"),
        ("std", {"data_content": "450 images"}, "training data 4500 images of 10 classes"),
    ],
)
def test_a_recipe_that_differs_is_named_once_with_its_values(tmp_path, mode, change, words):
    for state in (0, 1, 2):
        made(tmp_path, mode, state)
        made(tmp_path, mode, state, seed=2, **(change if state else {}))
    (line,) = told(tmp_path)
    regime = {"std": "ST", "adv": "AT"}[mode]
    assert line.startswith(
        f"adv, cifar10, 100 % of the data: {regime} by different recipes: {words}"
    )


def test_the_attack_is_no_matter_of_standard_training(tmp_path):
    made(tmp_path, "std", 0)
    made(tmp_path, "std", 1, train_step=10, test_eps=0.1)
    made(tmp_path, "adv", 1, epochs=3)  # another regime
    assert told(tmp_path) == []


def test_a_flag_that_an_older_version_did_not_record_counts_as_alike(tmp_path):
    made(tmp_path, state=0)
    made(tmp_path, state=1, a_flag_of_a_later_version=3)
    assert told(tmp_path) == []
    made(tmp_path, state=2, a_flag_of_a_later_version=4)
    assert told(tmp_path)[0].endswith("different recipes: a_flag_of_a_later_version 3 and 4")


def test_a_flag_that_was_added_is_compared_with_runs_from_before_it(tmp_path, monkeypatch):
    monkeypatch.setitem(ADDED, "label_smoothing", 0.0)
    for value in (0.0, 0.4):
        made(tmp_path / str(value), state=0)
        made(tmp_path / str(value), state=1, label_smoothing=value)
    assert told(tmp_path / "0.0") == []
    assert told(tmp_path / "0.4")[0].endswith("different recipes: label_smoothing 0 and 0.4")


def test_pretrainings_that_share_a_figure_but_no_state_are_told_of_if_attacks_differ(
    tmp_path,
):
    made(tmp_path / "ours", state=1)
    made(tmp_path / "theirs", state=2, test_eps=4 / 255, pretraining="std")
    (line,) = [line for line in judge_runs(tmp_path).verdict.warnings if "differ" in line]
    assert line == (
        "adv, cifar10, 100 % of the data and std: not contrasted, as they differ: AT by test_eps "
        "8/255 and 4/255"
    )


def test_a_run_that_is_left_out_for_another_of_its_seed_is_named_with_its_recipe(tmp_path):
    made(tmp_path / "eps4", test_eps=4 / 255)
    made(tmp_path / "eps8", test_eps=8 / 255)
    (line,) = [line for line in judge_runs(tmp_path).verdict.warnings if "left out" in line]
    assert line.startswith(f"{tmp_path / 'eps8'}")
    assert "by another recipe (test_eps 4/255 and 8/255), and is left out" in line


def test_a_run_whose_flags_cannot_be_read_counts_as_alike(tmp_path):
    odd = '{"lr": 0.1, "global_batch": "x", "processes": 0}'
    for state, text in ((0, None), (1, "{"), (2, "[]"), (3, odd)):
        made(tmp_path, state=state)
        file = tmp_path / f"adv{state}-1" / "args.json"
        file.unlink() if text is None else file.write_text(text)
    assert told(tmp_path) == []


# --- records that are not those of the runs -------------------------------------------------------


def said(folder, words):
    return [line for line in judge_runs(folder).verdict.warnings if words in line]


def test_a_lost_record_beside_others_is_told_of(tmp_path):
    for state, seed in ((0, 1), (1, 1), (1, 2)):
        made(tmp_path, state=state, seed=seed)
    assert said(tmp_path, "args.json") == []
    (tmp_path / "adv1-2" / "args.json").unlink()
    (line,) = said(tmp_path, "args.json")
    assert "1 of 3 runs have no usable args.json" in line
    assert str(tmp_path / "adv1-2") in line
    for record in tmp_path.glob("*/args.json"):
        record.unlink()
    assert said(tmp_path, "args.json") == []  # other people's, who have none


def test_a_pre_training_of_which_no_recipe_is_known_is_not_contrasted(tmp_path):
    for side, state in itertools.product(("adv", "std"), (0, 1)):
        made(tmp_path / side, state=state, pretraining=side)
    records = [tmp_path / "std" / f"adv{state}-1" / "args.json" for state in (0, 1)]
    records[0].unlink()
    assert said(tmp_path, "not contrasted") == []
    records[1].unlink()
    (line,) = said(tmp_path, "not contrasted")
    assert line.endswith("a known and an unknown recipe (std: no usable args.json)")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"tag": "std"}, "tag std, there adv"),
        ({"mode": "std", "seed": 7}, "mode std, there adv; seed 7, there 1"),
        ({"arch": "resnet50"}, "arch resnet50, there resnet18"),
        ({"reinit": True}, "reinit True, there False"),
        ({"tickets_file_content": "sha256 0123456789abcdef"}, "tickets_file_content sha256 01234"),
        ({"dataset": "svhn", "data_number": 0.1}, "dataset svhn, there cifar10; data_number 0.1"),
    ],
)
def test_a_record_of_another_run_is_told_of(tmp_path, theirs, words):
    made(tmp_path, state=0)
    made(tmp_path, state=1)
    record = tmp_path / "adv1-1" / "args.json"
    record.write_text(json.dumps({**RECIPE, **theirs}))
    (line,) = said(tmp_path, "is not of the run")
    assert line.startswith(f"{record} is not of the run in results.json: {words}")
