"""The setting of the runs: what the page, the figures and verdict.json say they were made by."""

import json

import pytest
from helpers.outcome_cases import SPLIT, right, write_tested

from attack_utils import PGDConfig
from report.as_json import verdict_json
from report.pictures import _ra_by
from report.setting import _pgd, attack_of, setting_lines
from report.write import judge_runs

PGD = "Linf PGD-20, eps 8/255, step size 2/255, random start"
ARGS = {
    "class_names": ["cat", "dog"], "input_size": 32, "code": "abc", "data_content": "9 images",
    "packages": {"torch": "2.1", "timm": None}, "train_step": 10, "train_eps": 8 / 255,
    "epochs": 12,
    "train_gamma": 2 / 255, "train_randinit": True, "test_step": 20, "test_eps": 8 / 255,
    "test_gamma": 2 / 255, "test_randinit": True,
}  # fmt: skip


def write(root, outcomes=True, attack=PGD, **changes):
    for mode, robust in (("std", None), ("adv", right(500, 200))):
        folder = root / mode
        write_tested(folder, right(500, 400), robust, attack=attack, state=0)
        (folder / "args.json").write_text(json.dumps({**ARGS, **changes}))
        if not outcomes:
            (folder / "outcomes.safetensors").unlink()
    return judge_runs(root).verdict


def test_the_setting_is_told_in_words_and_in_verdict_json(tmp_path):
    verdict = write(tmp_path)
    (setting,) = verdict.settings
    assert setting_lines(setting) == [
        "network: resnet18", "side of the input in pixels: 32", "classes: 2", "test images: 500",
        f"fingerprint of the test images: {SPLIT}", "training data: 9 images",
        "epochs of ST: 12", "epochs of AT: 12",
        f"RA by: {PGD}", "AT by: Linf PGD-10, eps 8/255, step size 2/255, random start",
        "version of the code: abc", "packages: torch 2.1",
    ]  # fmt: skip
    (told,) = verdict_json(verdict)["setting"]
    assert (told["dataset"], told["data_number"]) == ("cifar10", 1.0)
    assert (told["attack"], told["test_images"], told["classes"]) == ([PGD], [500], [2])
    assert attack_of(setting) == "Linf PGD-20, eps 8/255"


def test_without_outcomes_the_attack_is_that_of_the_flags_in_the_same_words(tmp_path):
    verdict = write(tmp_path, outcomes=False)
    assert verdict.settings[0].told["attack"] == (PGD,)
    assert verdict.settings[0].told["test_images"] == ()
    assert _ra_by(verdict.settings[0].told["attack"]) == f"RA by {PGD}."


def test_without_outcomes_and_flags_the_attack_is_that_of_the_results(tmp_path):
    write(tmp_path, outcomes=False)
    for path in tmp_path.rglob("args.json"):
        path.unlink()
    for path in tmp_path.rglob("results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "attack": "PGD-7"}))
    assert judge_runs(tmp_path).verdict.settings[0].told["attack"] == ("PGD-7",)


def test_attacks_that_differ_are_both_told_of(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", attack="PGD-20, eps 4/255", seed=2)
    path = tmp_path / "b/adv/results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pretraining": "std"}))
    verdict = judge_runs(tmp_path).verdict
    (setting,) = verdict.settings
    assert f"RA by (differ): {PGD}; Linf PGD-20, eps 4/255" in setting_lines(setting)
    assert attack_of(setting) == "attacks differ"
    assert "cannot be compared" in _ra_by(verdict.settings[0].told["attack"])


@pytest.mark.parametrize("eps", [8 / 255, 2.5 / 255, 0.1, 0.0313, 1 / 3])
@pytest.mark.parametrize("start", [True, False])
def test_an_attack_has_the_same_words_in_flags_and_outcomes(eps, start):
    config = PGDConfig(eps=eps, step_size=eps / 3, steps=7, random_start=start)
    flags = {"test_step": 7, "test_eps": eps, "test_gamma": eps / 3, "test_randinit": start}
    assert _pgd(flags, "test") == str(config)


def test_what_is_not_recorded_is_not_told(tmp_path):
    verdict = write(tmp_path, outcomes=False)
    for path in tmp_path.rglob("args.json"):
        path.unlink()
    verdict = judge_runs(tmp_path).verdict
    assert setting_lines(verdict.settings[0]) == [
        "network: resnet18", f"fingerprint of the test images: {SPLIT}",
    ]  # fmt: skip
    assert attack_of(verdict.settings[0]) == ""
    assert "is not recorded" in _ra_by(verdict.settings[0].told["attack"])


def test_flags_of_a_foreign_kind_are_left_out_of_the_setting(tmp_path):
    verdict = write(tmp_path, input_size=[32, 32], code={"commit": "abc"}, epochs=None)
    told = verdict.settings[0].told
    assert (told["input_size"], told["code"], told["st_epochs"]) == ((), (), ())
    assert told["training_data"] == ("9 images",)


def test_a_flag_that_is_no_number_is_left_out_of_the_setting(tmp_path):
    verdict = write(tmp_path, input_size=float("nan"), epochs=float("inf"))
    told = verdict.settings[0].told
    assert (told["input_size"], told["st_epochs"]) == ((), ())
    json.dumps(verdict_json(verdict), allow_nan=False)  # or the report ends without its tables
