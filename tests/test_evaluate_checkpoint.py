"""`--evaluate` and what a run is asked to test: sets, attacks, files, flags that do not fit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.evaluation_cases import evaluator, loader, shorten_autoattack, trained
from helpers.main_cases import (
    HERE,
    TINY,
    Interrupted,
    contents,
    die,
    documented_fields,
    load,
    names,
    one_error_line,
    read_json,
    run_transfer,
    skip_pictures,
    steady,
    write_images,
)

import main_downstream
from engine import log
from errors import InputError, RunFailed
from evaluation.evaluator import Evaluator
from evaluation.request import Request
from evaluation.split_test import SplitTest
from files.atomic import write_json
from files.checkpoints import save_checkpoint, transfer_keys
from files.fingerprints import weights_sha256
from files.names import AUTOATTACK_PROGRESS, EVALUATION_PROGRESS
from files.outcomes import read_outcomes
from input_pipeline.loader import Loader
from models import build_model

ATTACK = ["--test_eps", "4/255", "--test_step", "3"]
TRAIN = ["--mode", "adv", "--epochs", "3", "--lr", "0.05", "--eval_from", "2", "--train_step", "1"]
ALWAYS = {
    "checkpoint", "eval_set", "dataset", "input_size", "augment", "seed", "eval_batch_size", "sa",
    "ra", "images", "warnings", "amp", "asked", "attack", "data", "classes",
    "mean", "std", "weights_sha256",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("target") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """An adversarial transfer of three epochs, for its files."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_transfer(data, folder, *TRAIN, *ATTACK)
    return folder


@pytest.fixture
def checkpoint(run):
    return run / "model_RA_best.pth.tar"


def evaluate(checkpoint, out, *flags, data="nowhere", dataset="folder", size=16):
    """What eval.json says; of the network nothing is told but the file."""
    where = ["--dataset", dataset, "--data", str(data), "--save_dir", str(out), *HERE]
    framing = ["--input_size", str(size), *ATTACK]
    main_downstream.main(
        [*where, *framing, "--evaluate", "--resume", str(checkpoint), *map(str, flags)]
    )
    found = read_json(out / "eval.json")
    origin = set(log.provenance())
    assert origin <= set(found)
    return {key: value for key, value in found.items() if key not in origin}


def refused(capsys, *flags):
    where = ["--data", "nowhere", "--save_dir", "nowhere/run", *HERE]
    return one_error_line([*where, *map(str, flags)], main_downstream.main, capsys)


# --- the test split -----------------------------------------------------------------------------


def test_eval_json_of_the_test_split(data, run, checkpoint, tmp_path):
    found = evaluate(checkpoint, tmp_path / "out", data=data)
    assert names(tmp_path / "out") == {"eval.json", "eval.outcomes.safetensors"}
    assert set(found) == ALWAYS
    assert found["checkpoint"] == str(checkpoint)
    assert (found["eval_set"], found["dataset"], found["images"]) == ("test", "folder", 12)
    assert found["attack"] == "Linf PGD-3, eps 4/255, step size 2/255, random start"
    best = read_json(run / "results.json")["ra_best"]
    assert {key: found[key] for key in best} == best


def test_images_are_framed_and_attacked_as_in_the_run_unless_flags_say_otherwise(
    data, run, checkpoint, tmp_path, capsys
):
    where = ["--dataset", "folder", "--data", str(data), *HERE]

    def tested(path, *flags):
        out = tmp_path / "out"
        main_downstream.main([*where, "-e", "--resume", str(path), "--save_dir", str(out), *flags])
        found = read_json(out / "eval.json")
        return found, capsys.readouterr().out

    found, said = tested(checkpoint)
    results = read_json(run / "results.json")
    assert {"sa": found["sa"], "ra": found["ra"]} == results["ra_best"]
    line = f"as {run / 'args.json'} has recorded: input_size 16, augment rrc, test_eps 0.01569, "
    assert (
        line + "test_step 3, test_gamma 0.007843, test_randinit True, seed 1, mode adv, amp off"
        in said
    )

    other = shutil.copytree(run, tmp_path / "other")
    recorded = read_json(other / "args.json")
    write_json(other / "args.json", {**recorded, "augment": "none", "seed": 7})
    found, said = tested(other / checkpoint.name, "--input_size", "20")
    assert (found["input_size"], found["augment"], found["seed"]) == (20, "none", 7)
    assert "recorded: augment none, test_eps" in said

    write_json(other / "args.json", {**recorded, "amp": "bf16"})
    found, said = tested(other / checkpoint.name)
    assert found["amp"] == "bf16"
    found, said = tested(other / checkpoint.name, "--amp", "off")
    assert found["amp"] == "off"

    write_json(other / "args.json", {**recorded, "mode": "std", "tf32": True})
    found, said = tested(other / checkpoint.name)
    assert (found["ra"], found["attack"]) == (None, None)
    assert "mode std, amp off, tf32 True" in said
    found, said = tested(other / checkpoint.name, "--mode", "adv", "--no_tf32")
    assert found["ra"] == results["ra_best"]["ra"]
    assert "tf32" not in said

    shutil.copy(checkpoint, tmp_path / "alone.pth.tar")
    found, said = tested(tmp_path / "alone.pth.tar", "--input_size", "20", *ATTACK)
    assert (found["input_size"], found["augment"]) == (20, "rrc")
    assert "recorded" not in said


def test_the_data_set_is_the_runs_unless_another_is_named(data, run, checkpoint, tmp_path, capsys):
    out = ["--save_dir", str(tmp_path), *HERE]
    main_downstream.main([*out, "-e", "--resume", str(checkpoint), "--data", str(data)])
    results = read_json(run / "results.json")
    found = read_json(tmp_path / "eval.json")
    assert found["dataset"] == "folder"
    assert {"sa": found["sa"], "ra": found["ra"]} == results["ra_best"]
    assert "dataset folder" in capsys.readouterr().out
    recorded = read_json(run / "args.json")
    shutil.copy(checkpoint, tmp_path)
    write_json(tmp_path / "args.json", {**recorded, "dataset": "cifar10_2"})
    evaluate(tmp_path / checkpoint.name, tmp_path / "out", data=data)
    told = capsys.readouterr().err
    assert "--dataset folder: the network's run had cifar10_2, which may frame images" in told


def test_restarts_of_an_attack_without_a_random_start_are_refused(checkpoint, capsys):
    flags = ["--restarts", "5", "--no_test_randinit"]
    line = refused(capsys, "-e", "--resume", checkpoint, "--eval_attack", "pgd", *flags)
    assert "--restarts 5: without a random start all are the same attack" in line


def test_a_run_of_another_seed_is_repeated_unless_a_seed_is_given(data, run, checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path)
    recorded = read_json(run / "args.json")
    write_json(tmp_path / "args.json", {**recorded, "seed": 7})
    seeds = [
        evaluate(tmp_path / checkpoint.name, tmp_path / "out", *flags, data=data)["seed"]
        for flags in ((), ("--seed", "2"))
    ]
    assert seeds == [7, 2]


@pytest.mark.parametrize("kind", ["test", "cifar10_c", "adv"])
def test_loaders_of_an_evaluation_have_no_more_processes_than_threads(
    data, checkpoint, cifar10_c, tmp_path, monkeypatch, kind
):
    threads, epoch = set(), Loader.epoch

    def spy(self, *args, **how):
        threads.add(self.threads)
        return epoch(self, *args, **how)

    flags: dict[str, Any] = {"data": data}
    words = ["--threads", 2]
    if kind == "adv":
        evaluate(checkpoint, tmp_path / "out", "--save_adv", tmp_path / "adv.pt", data=data)
        words += ["--eval_set", f"adv:{tmp_path / 'adv.pt'}"]
    elif kind == "cifar10_c":
        checkpoint = says_0_when_dark(tmp_path / "dark.pth.tar")
        words += ["--eval_set", f"cifar10_c:{cifar10_c}"]
        flags = {"dataset": "cifar10_3", "size": 32}
    monkeypatch.setattr(Loader, "epoch", spy)
    evaluate(checkpoint, tmp_path / "out", *words, **flags)
    assert threads == {2}


def test_a_bare_state_dict_is_the_network_that_the_flag_names(data, checkpoint, tmp_path, capsys):
    bare = tmp_path / "bare.pth.tar"
    save_checkpoint(bare, load(checkpoint)["state_dict"])
    assert evaluate(bare, tmp_path, data=data)["images"] == 12  # not the recipe's ResNet-50
    evaluate(bare, tmp_path, "-a", "resnet20s", data=data)
    flags = ["--evaluate", "--resume", bare, "-a", "resnet18", "--input_size", 16]
    assert "does not fit resnet18" in refused(capsys, *flags)


def test_some_images_of_every_class_are_tested(data, checkpoint, tmp_path):
    found = evaluate(checkpoint, tmp_path, "--eval_images", 4, data=data)
    assert found["images"] == 4
    assert found["sa"] in (0, 25, 50, 75, 100)
    red = tmp_path / "red.pth.tar"  # says red of everything: of every third class
    state = load(checkpoint)
    state["state_dict"]["1.fc.bias"] = torch.tensor([0.0, 0.0, 1e9])
    save_checkpoint(red, state)
    assert evaluate(red, tmp_path, "--eval_images", 4, data=data)["sa"] == 25
    found = evaluate(red, tmp_path, "--eval_images", 8, "--eval_batch_size", 3, data=data)
    assert (found["images"], found["sa"], found["eval_batch_size"]) == (8, 25, 3)
    assert evaluate(red, tmp_path, data=data)["sa"] == pytest.approx(100 / 3)
    told = evaluate(red, tmp_path, "--eval_images", 3, data=data)["warnings"]
    assert not any("--eval_images" in line for line in told)


def test_a_class_that_some_images_leave_out_is_told(data, checkpoint, tmp_path):
    rare = shutil.copytree(data, tmp_path / "rare")
    for path in sorted((rare / "test/red").iterdir())[1:]:
        path.unlink()
    found = evaluate(checkpoint, tmp_path / "out", "--eval_images", 3, data=rare)
    told = "--eval_images 3: no image of 1 of 3 classes is among them, first red"
    assert told in found["warnings"]
    assert told not in evaluate(checkpoint, tmp_path / "out", data=rare)["warnings"]


def test_standard_mode_measures_ra_if_asked(data, checkpoint, tmp_path):
    found = evaluate(checkpoint, tmp_path, "--mode", "std", data=data)
    assert (found["ra"], found["attack"]) == (None, None)
    attacked = evaluate(checkpoint, tmp_path, "--mode", "std", "--eval_attack", "pgd", data=data)
    assert attacked["ra"] == evaluate(checkpoint, tmp_path, data=data)["ra"]


def test_evaluating_writes_which_images_are_right(data, checkpoint, tmp_path):
    found = evaluate(checkpoint, tmp_path, data=data)
    outcomes = read_outcomes(tmp_path / "eval.outcomes.safetensors")
    (network,) = {network for network, _ in outcomes.bits}
    assert outcomes.accuracy(network, "clean") == found["sa"]
    assert outcomes.accuracy(network, "pgd") == found["ra"]
    assert outcomes.attacks["pgd"] == found["attack"]


def test_restarts_are_recorded_and_never_raise_ra(data, checkpoint, tmp_path):
    single = evaluate(checkpoint, tmp_path, data=data)
    assert "restarts" not in single
    several = evaluate(checkpoint, tmp_path, "--restarts", 4, data=data)
    assert several["restarts"] == 4
    assert several["attack"] == f"{single['attack']}, worst of 4 runs"
    assert several["ra"] <= single["ra"]


def test_a_test_attacks_the_same_images_whatever_was_drawn_before():
    model, request = trained(), Request(attacked=True)
    kept: list[list] = [[], [], []]
    for state, (seed, crafted) in enumerate(zip((1, 1, 2), kept, strict=True)):
        torch.manual_seed(100 + state)
        test = SplitTest(evaluator(seed=seed, steps=2), loader(20), request, Path())
        test.sa_and_ra(model, "it", crafted)
    first, again, other = (torch.cat([images for images, _ in crafted]) for crafted in kept)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_restarts_are_those_of_the_request(monkeypatch):
    tested, model, split = evaluator(12 / 255, steps=1), trained(), loader(64)
    asked, made = [], Evaluator.pgd

    def pgd(self, network, config=None, restarts=1):
        asked.append(restarts)
        return made(self, network, config, restarts)

    monkeypatch.setattr(Evaluator, "pgd", pgd)
    tests = [
        SplitTest(tested, split, Request(attacked=True, restarts=count), Path())
        for count in (1, 10)
    ]
    for test in tests:
        test.sa_and_ra(model, "it")
    once, often = (test.accuracy("it") for test in tests)
    assert once.sa == often.sa
    assert once.ra >= often.ra
    assert [test.measure for test in tests] == ["pgd", "restarts"]
    assert tests[1].attacks["restarts"].endswith("worst of 10 runs")
    assert asked == [1, 10]


def test_a_network_of_other_classes_is_refused_in_one_line(data, checkpoint, tmp_path, capsys):
    flags = ["--dataset", "folder", "--data", data, "--classes", 2, "--input_size", 16]
    flags += ["--save_dir", tmp_path / "out", "--evaluate", "--resume", checkpoint]
    message = refused(capsys, *flags)
    assert "a network of 3 classes, the evaluation set has 2" in message
    assert not (tmp_path / "out").exists()


def test_a_refused_evaluation_leaves_the_former_in_place(data, checkpoint, tmp_path, capsys):
    evaluate(checkpoint, tmp_path, data=data)
    former = contents(tmp_path)
    where = ["--dataset", "folder", "--data", data, "--classes", 2, "--input_size", 16]
    refused(capsys, *where, "--save_dir", tmp_path, "--evaluate", "--resume", checkpoint)
    assert contents(tmp_path) == former


def test_a_stem_that_the_network_does_not_have_is_refused(data, checkpoint, tmp_path, capsys):
    told = refused(capsys, "--evaluate", "--resume", checkpoint, "--stem", "imagenet")
    assert "a network with the cifar stem, which --stem imagenet does not change" in told
    evaluate(checkpoint, tmp_path, "--stem", "cifar", data=data)


def test_where_the_images_of_the_run_lay_is_told_if_data_is_left_out(data, checkpoint, capsys):
    flags = ["--evaluate", "--resume", str(checkpoint), "--save_dir", "out", *HERE]
    with pytest.raises(InputError, match="data"):
        main_downstream.main(flags)
    assert f"no place of images is named; the network's run had {data}\n" in capsys.readouterr().err


def test_a_stem_that_does_not_fit_the_images_is_warned_of(data, checkpoint, tmp_path, capsys):
    evaluate(checkpoint, tmp_path, data=data)
    assert capsys.readouterr().err == ""
    evaluate(checkpoint, tmp_path, data=data, size=64)
    assert "cifar stem on images of 64 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "told"), [("128", False), ("5", True)])
def test_a_run_that_goes_on_with_other_evaluation_batches_says_so_in_its_results(
    data, run, tmp_path, monkeypatch, size, told
):
    skip_pictures(monkeypatch)
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "results.json").unlink()
    run_transfer(data, folder, *TRAIN, *ATTACK, "--resume", "--eval_batch_size", size)
    lines = [
        line for line in read_json(folder / "results.json")["warnings"] if "eval_batch" in line
    ]
    assert len(lines) == told
    assert all("--eval_batch_size 5: the run began with 128" in line for line in lines)


def test_evaluation_batches_do_not_matter_to_a_run_without_an_attack(data, tmp_path, monkeypatch):
    skip_pictures(monkeypatch)
    folder, flags = tmp_path / "run", ["--mode", "std", "--epochs", "1"]
    run_transfer(data, folder, *flags)
    (folder / "results.json").unlink()
    run_transfer(data, folder, *flags, "--resume", "--eval_batch_size", "5")
    assert "eval_batch" not in str(read_json(folder / "results.json")["warnings"])


def test_running_out_of_memory_in_evaluation_names_its_own_flag(
    data, run, checkpoint, tmp_path, capsys, monkeypatch
):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("evaluation.evaluator.evaluate", run_out)
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "results.json").unlink()
    told = "out of memory with 128 images per pass: in evaluation, try --eval_batch_size 64"
    where = ["--dataset", "folder", "--data", data, "--save_dir", folder, *TINY, *ATTACK]
    for flags in ([*TRAIN, *steady(TRAIN), "--resume"], ["--evaluate", "--resume", checkpoint]):
        assert told in refused(capsys, *where, *flags)


def test_processes_that_read_other_networks_are_refused(
    data, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("engine.distributed.gather_from_ranks", lambda own: [own, "another"])
    where = ["--dataset", "folder", "--data", data, "--save_dir", tmp_path / "out", *TINY, *ATTACK]
    line = refused(capsys, *where, "--evaluate", "--resume", checkpoint)
    assert "process 1 has other weights than process 0 (another, not " in line
    assert not (tmp_path / "out" / "eval.json").exists()


def test_an_evaluation_leaves_what_one_of_another_kind_has_found(data, checkpoint, tmp_path):
    first = evaluate(checkpoint, tmp_path, data=data)
    outcomes = (tmp_path / "eval.outcomes.safetensors").read_bytes()
    assert evaluate(checkpoint, tmp_path, data=data) == first
    assert names(tmp_path) == {"eval.json", "eval.outcomes.safetensors"}
    other = ("--test_eps", "2/255", "--mean", "0,0,0", "--std", "1,1,1")
    for number, flags in ((1, ("--eval_images", "5")), (2, other[:2]), (3, other)):
        evaluate(checkpoint, tmp_path, *flags, data=data)
        assert (tmp_path / f"eval.{number}.json").is_file()
    kept = read_json(tmp_path / "eval.1.json")
    assert {key: kept[key] for key in first} == first
    assert (tmp_path / "eval.1.outcomes.safetensors").read_bytes() == outcomes


def test_a_network_whose_output_is_not_finite_has_no_accuracy(data, checkpoint, tmp_path):
    content = load(checkpoint)
    last = [name for name in content["state_dict"] if name.endswith("weight")][-1]
    content["state_dict"][last].fill_(3e38)
    save_checkpoint(tmp_path / "diverged.pth.tar", content)
    with pytest.raises(RunFailed, match=r"test SA .*: the network's output is not finite"):
        evaluate(tmp_path / "diverged.pth.tar", tmp_path / "out", data=data)
    assert not (tmp_path / "out" / "eval.json").exists()


class OnAGpu(torch.Tensor):
    """NumPy cannot read it until it is on the CPU."""

    def numpy(self, *, force=False):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, *_):
        return self.as_subclass(torch.Tensor)


def test_weights_have_one_fingerprint_wherever_they_are():
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True])}
    there = {name: tensor.as_subclass(OnAGpu) for name, tensor in weights.items()}
    assert weights_sha256(there) == weights_sha256(weights)


def test_the_entry_that_is_named_is_tested(data, checkpoint, tmp_path, capsys):
    content = load(checkpoint)
    other = {name: value.flip(0) for name, value in content["state_dict"].items()}
    save_checkpoint(tmp_path / "two.pth.tar", {"state_dict": content["state_dict"], "ema": other})
    found = [
        evaluate(tmp_path / "two.pth.tar", tmp_path / str(n), *flags, data=data)
        for n, flags in enumerate(((), ("--init_key", "ema")))
    ]
    assert found[0]["weights_sha256"] != found[1]["weights_sha256"]
    said = capsys.readouterr().out
    assert "two.pth.tar, entry ema\n" in said
    assert "two.pth.tar: averaged weights (EMA) lie under ema: --init_key ema takes them" in said


def test_what_flags_were_warned_of_is_recorded(data, checkpoint, tmp_path):
    alone = shutil.copy(checkpoint, tmp_path / "alone.pth.tar")
    (told,) = evaluate(alone, tmp_path / "out", data=data)["warnings"]
    assert told.startswith(f"{alone}: no args.json beside it: framing and attack are as flags say")
    assert "--input_size 32 --augment crop" in told


def test_a_test_takes_the_batches_of_its_run_and_tells_of_other_processes(
    data, run, checkpoint, tmp_path
):
    other = shutil.copytree(run, tmp_path / "other")
    recorded = read_json(other / "args.json")
    write_json(other / "args.json", {**recorded, "eval_batch_size": 5, "processes": 4})
    found = evaluate(other / checkpoint.name, tmp_path / "out", data=data)
    assert found["eval_batch_size"] == 5
    (line,) = found["warnings"]
    assert line.startswith("the network's run had 4 processes, this test has 1")
    clean = evaluate(other / checkpoint.name, tmp_path / "clean", "--mode", "std", data=data)
    assert clean["warnings"] == []  # nothing is drawn
    assert evaluate(checkpoint, tmp_path / "own", data=data)["warnings"] == []


def test_images_that_cannot_be_read_are_not_counted(data, checkpoint, tmp_path):
    broken, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "out"
    assert evaluate(checkpoint, out, "--skip_bad", data=broken)["images"] == 12
    assert (out / "eval.outcomes.safetensors").exists()
    min((broken / "test").rglob("*.png")).write_bytes(b"no image")
    found = evaluate(checkpoint, out, "--skip_bad", data=broken)
    assert found["images"] == 11
    assert any("could not be read, so outcomes have no place" in w for w in found["warnings"])
    assert not (out / "eval.outcomes.safetensors").exists()  # those of the test before
    flags = ["--skip_bad", "--check_masking", "--eval_attack", "pgd"]
    some = evaluate(checkpoint, tmp_path / "some", *flags, "--eval_images", "6", data=broken)
    assert some["images"] == 5
    assert some["masking_checks"][0]["detail"].endswith(", 5 images")
    assert any("skipped 1 broken image" in w for w in some["warnings"])


def test_images_that_cannot_be_read_leave_no_outcomes_though_as_many_were_asked_for(
    data, checkpoint, tmp_path
):
    broken = Path(shutil.copytree(data, tmp_path / "data"))
    min((broken / "test").rglob("*.png")).write_bytes(b"no image")
    flags = ["--skip_bad", "--eval_images", "11"]  # eleven others; of these eleven ten can be
    found = evaluate(checkpoint, tmp_path / "out", *flags, data=broken)
    assert found["images"] == 10
    assert not (tmp_path / "out" / "eval.outcomes.safetensors").exists()


def test_a_folder_is_no_file_of_adversarial_images(data, checkpoint, tmp_path, capsys):
    where = ["--dataset", "folder", "--data", data, "--resume", checkpoint]
    line = refused(capsys, "--evaluate", *where, "--save_adv", tmp_path)
    assert f"--save_adv: {tmp_path} is a folder; name a file" in line
    line = refused(capsys, "--evaluate", *where, "--save_adv", tmp_path / "a.safetensors")
    assert "is a PyTorch file; name it like a.pt" in line
    (tmp_path / "init.pth.tar").touch()
    line = refused(capsys, "--evaluate", *where, "--save_adv", tmp_path / "init.pth.tar")
    assert "is a file of a run, which would be lost" in line


@pytest.mark.parametrize("flag", ["--save_dir", "--save_adv"])
def test_a_place_that_cannot_be_written_is_told_before_the_test(
    data, checkpoint, tmp_path, capsys, flag
):
    (tmp_path / "file").write_text("")
    where = ["--dataset", "folder", "--data", data, "--resume", checkpoint, *HERE]
    argv = ["--evaluate", *where, "--save_dir", tmp_path / "out", flag, tmp_path / "file" / "x"]
    line = one_error_line([*map(str, argv)], main_downstream.main, capsys)
    assert flag in line
    assert "cannot be written" in line


def test_the_network_that_is_tested_is_of_the_files_that_are_named(
    data, checkpoint, tmp_path, capsys
):
    save_checkpoint(tmp_path / "other.pth.tar", load(checkpoint))
    flags = ["--evaluate", "--resume", checkpoint, "--init", tmp_path / "other.pth.tar"]
    assert f"--evaluate is about {checkpoint}, of a run with --init none" in refused(capsys, *flags)
    alone = shutil.copy(checkpoint, tmp_path / "alone.pth.tar")
    flags = ["--evaluate", "--resume", alone, "--init", tmp_path / "other.pth.tar"]
    assert "whose run is not known: leave out --init" in refused(capsys, *flags)
    evaluate(alone, tmp_path / "out", data=data)
    said = capsys.readouterr()
    assert f"testing {alone}\n" in said.out
    assert "no args.json beside it" in said.err


def test_restarts_are_those_of_the_run_where_images_are_attacked(data, run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    recorded = read_json(again / "args.json")
    write_json(again / "args.json", {**recorded, "restarts": 3})
    found = evaluate(again / "model_RA_best.pth.tar", tmp_path / "a", data=data)
    assert found["restarts"] == 3
    found = evaluate(again / "model_RA_best.pth.tar", tmp_path / "b", "--mode", "std", data=data)
    assert "restarts" not in found


# --- saved adversarial sets ---------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--restarts", 3), ("--eval_images", 7)])
def test_a_saved_adversarial_set_gives_the_ra_of_the_attack(data, checkpoint, tmp_path, flags):
    file = tmp_path / "sets" / "adv.pth.tar"
    crafted = evaluate(checkpoint, tmp_path / "a", "--save_adv", file, *flags, data=data)
    content = load(file)
    count = crafted["images"]
    assert content["data"].shape == (count, 3, 16, 16)
    assert content["data"].dtype == torch.float32
    every = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert content["label"].tolist() == [every[12 * place // count] for place in range(count)]
    # ... and needs no other data
    found = evaluate(checkpoint, tmp_path / "b", "--eval_set", f"adv:{file}")
    assert set(found) == ALWAYS
    assert (found["sa"], found["ra"], found["images"]) == (None, crafted["ra"], count)
    assert found["eval_set"] == f"adv:{file}"
    assert crafted["ra"] < crafted["sa"]


def test_saved_images_are_within_eps_of_the_test_images(data, checkpoint, tmp_path):
    sets = []
    for eps in ("0", "4/255"):
        file = tmp_path / "adv.pth.tar"
        evaluate(checkpoint, tmp_path, "--save_adv", file, "--test_eps", eps, data=data)
        sets.append(load(file)["data"])
    distance = (sets[1] - sets[0]).abs().max().item()
    assert distance == pytest.approx(4 / 255, abs=1e-6)


def test_images_that_an_attack_left_in_its_graph_are_an_adversarial_set(checkpoint, tmp_path):
    images, labels = torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 2])
    found = []
    for data in (images, images.clone().requires_grad_()):
        file = tmp_path / f"{data.requires_grad}.pth.tar"
        torch.save({"data": data, "label": labels}, file)
        found.append(evaluate(checkpoint, tmp_path / "x", "--eval_set", f"adv:{file}")["ra"])
    assert found[0] == found[1]


def test_what_is_not_an_adversarial_set_is_refused_in_one_line(checkpoint, tmp_path, capsys):
    flags = ["--evaluate", "--resume", checkpoint, "--eval_set", f"adv:{checkpoint}"]
    assert "make one with --save_adv" in refused(capsys, *flags, "--input_size", 16)
    images = tmp_path / "images.pth.tar"
    flags = ["--evaluate", "--resume", checkpoint, "--eval_set", f"adv:{images}"]
    of_no_class = torch.tensor([0, 3])
    rounded = torch.tensor([0, 1], dtype=torch.bfloat16)  # 257 would have become 256
    for labels in (of_no_class, rounded):
        save_checkpoint(images, {"data": torch.rand(2, 3, 16, 16), "label": labels})
        assert "integers of 0 to 2" in refused(capsys, *flags, "--input_size", 16)


# --- CIFAR-10-C ---------------------------------------------------------------------------------


@pytest.fixture
def cifar10_c(tmp_path):
    """Two of the 15 corruptions and an extra one as published: 5 severities of 4 images each."""
    folder = tmp_path / "data" / "CIFAR-10-C"
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.tile([0, 0, 1, 9], 5))
    for name, bright in (("fog", [0] * 5), ("snow", [0, 1, 2, 3, 4]), ("spatter", [4] * 5)):
        images = np.zeros((20, 32, 32, 3), np.uint8)
        for severity, count in enumerate(bright):  # of the first images of each severity
            images[4 * severity : 4 * severity + count] = 255
        np.save(folder / f"{name}.npy", images)
    return folder


def says_0_when_dark(path: Path) -> Path:
    """A network of ten classes: 0 for a black image, 1 for a white one."""
    torch.manual_seed(0)
    model = build_model("resnet20s", 10, (0.5,) * 3, (0.5,) * 3, "cifar", 4).eval()
    features: dict[str, torch.Tensor] = {}
    fc: Any = model.fc
    fc.register_forward_pre_hook(lambda _, inputs: features.update(last=inputs[0]))
    with torch.no_grad():
        model(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]))
        dark, white = features["last"]
        fc.weight.zero_()
        fc.weight[1] = white - dark
        fc.bias[:] = -1e6
        fc.bias[0] = ((white - dark) * (white + dark)).sum() / 2
        fc.bias[1] = 0
    save_checkpoint(path, {"state_dict": transfer_keys(model.state_dict()), "result": {}})
    return path


def test_cifar10_c_is_tested_by_corruption_and_severity(cifar10_c, tmp_path, capsys):
    checkpoint = says_0_when_dark(tmp_path / "dark.pth.tar")
    wanted = {
        "fog": {"severities": [50.0] * 5, "mean": 50.0},
        # right are dark ones of class 0 and white ones of class 1
        "snow": {"severities": [50.0, 25.0, 0.0, 25.0, 25.0], "mean": 25.0},
    }
    named = f"cifar10_c:{cifar10_c}"
    for flag, root in (("cifar10_c", cifar10_c.parent), (named, "nowhere")):
        flags = ["--eval_set", flag, "--mode", "std"]
        found = evaluate(
            checkpoint, tmp_path / "out", *flags, data=root, dataset="cifar10_3", size=32
        )
        beside = {"corruptions_extra", "corruptions_missing", "warnings"}
        assert set(found) == ALWAYS | {"corruptions"} | beside
        assert found["corruptions_extra"] == {"spatter": {"severities": [25.0] * 5, "mean": 25.0}}
        assert len(found["corruptions_missing"]) == 13
        assert found["corruptions"] == wanted
        assert (found["sa"], found["ra"], found["images"]) == (37.5, None, 4)
        assert found["eval_set"] == named
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fog", *["50.00"] * 6] in table
    assert ["snow", "50.00", "25.00", "0.00", "25.00", "25.00", "25.00"] in table


def test_cifar10_c_needs_a_network_of_ten_classes(cifar10_c, checkpoint, capsys):
    flags = ["--evaluate", "--resume", checkpoint, "--eval_set", f"cifar10_c:{cifar10_c}"]
    flags += ["--input_size", 32]
    assert "3 classes, the evaluation set has 10" in refused(capsys, *flags)
    (cifar10_c / "fog.npy").unlink()
    (cifar10_c / "snow.npy").unlink()
    assert "unpack CIFAR-10-C" in refused(capsys, *flags)


# --- AutoAttack and masking checks --------------------------------------------------------------


def test_autoattack_and_masking_checks_go_into_eval_json(
    data, run, checkpoint, tmp_path, monkeypatch
):
    shorten_autoattack(monkeypatch)
    flags = ["--eval_attack", "autoattack", "--check_masking", "--eval_images", 9]
    flags += ["--masking_source", run / "model_SA_best.pth.tar"]
    found = evaluate(checkpoint, tmp_path, *flags, data=data)
    assert set(found) == ALWAYS | {"autoattack", "masking_checks"}
    result = found["autoattack"]
    assert result["network"] == "ra_best"
    assert (result["images"], result["sa"]) == (9, found["sa"])
    assert result["ra"] <= result["sa"]
    assert result["eps"] == 4 / 255
    assert result["attacks"] == ["apgd-ce", "square"]
    assert "3 classes: the targeted attacks" in result["note"]
    assert result["package"].startswith("pyautoattack ")
    checks = found["masking_checks"]
    assert [check["name"] for check in checks] == ["more_steps", "large_eps", "transfer"]
    assert all("9 images" in check["detail"] for check in (checks[0], checks[2]))
    assert names(tmp_path) == {"eval.json", "eval.outcomes.safetensors"}  # no progress is left


def test_that_autoattack_ran_in_another_precision_is_told(data, checkpoint, tmp_path, monkeypatch):
    shorten_autoattack(monkeypatch)
    flags = ["--eval_attack", "autoattack", "--eval_images", 4]
    for amp, told in (("bf16", 1), ("off", 0)):
        found = evaluate(checkpoint, tmp_path / amp, *flags, "--amp", amp, data=data)
        assert (found["amp"], found["autoattack"]["amp"]) == (amp, "off")
        words = "in float32, which its attacks need; the other accuracies are with --amp bf16"
        assert sum(words in line for line in found["warnings"]) == told


def test_results_json_has_autoattack_and_masking_checks_beside_pgd(
    data, run, tmp_path, monkeypatch
):
    shorten_autoattack(monkeypatch)
    skip_pictures(monkeypatch)
    flags = ["--eval_attack", "autoattack", "--check_masking", "--eval_images", "6"]
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:  # it also survives a stop between its two last steps
        die(patch, write_json, 3)
        with pytest.raises(Interrupted):
            run_transfer(data, folder, *TRAIN, *ATTACK, *flags)
    assert (folder / AUTOATTACK_PROGRESS).is_file()
    assert not (folder / "results.json").exists()
    run_transfer(data, folder, *TRAIN, *ATTACK, *flags, "--resume")
    assert names(folder) - {AUTOATTACK_PROGRESS} == names(folder)
    results, plain = (read_json(path / "results.json") for path in (folder, run))
    assert set(results) == set(plain) | {"autoattack", "masking_checks"}
    for role in ("sa_best", "ra_best", "last"):
        assert results[role] == plain[role]  # all images, by PGD: as without
    told = re.findall(r"`(\w+)`", documented_fields()["autoattack"])
    assert list(results["autoattack"]) == told
    assert results["autoattack"]["network"] == "ra_best"
    assert results["autoattack"]["images"] == 6
    assert {check["name"] for check in results["masking_checks"]} == {"more_steps", "large_eps"}
    # ... which are those of the file kept
    file = folder / "model_RA_best.pth.tar"
    found = evaluate(file, tmp_path / "eval", *flags, data=data)
    assert found["masking_checks"] == results["masking_checks"]
    assert found["autoattack"] == results["autoattack"]


def test_an_evaluation_cut_off_in_autoattack_is_taken_up(data, checkpoint, tmp_path, monkeypatch):
    shorten_autoattack(monkeypatch)
    flags = ["--eval_attack", "autoattack", "--eval_batch_size", 4]
    whole = evaluate(checkpoint, tmp_path / "whole", *flags, data=data)
    with monkeypatch.context() as patch:
        die(patch, write_json, 3)
        with pytest.raises(Interrupted):
            evaluate(checkpoint, tmp_path / "cut", *flags, data=data)
    assert names(tmp_path / "cut") == {EVALUATION_PROGRESS}
    assert read_json(tmp_path / "cut" / EVALUATION_PROGRESS)["done"] == 2
    assert evaluate(checkpoint, tmp_path / "cut", *flags, data=data) == whole
    assert names(tmp_path / "cut") == {"eval.json", "eval.outcomes.safetensors"}


def test_an_evaluation_leaves_the_progress_of_the_runs_own_autoattack_alone(
    data, run, tmp_path, monkeypatch
):
    shorten_autoattack(monkeypatch)
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / AUTOATTACK_PROGRESS).write_text("the run's own")
    flags = ["--eval_attack", "autoattack", "--eval_images", 4]
    evaluate(folder / "model_RA_best.pth.tar", folder, *flags, data=data)
    assert (folder / AUTOATTACK_PROGRESS).read_text() == "the run's own"
    assert not (folder / EVALUATION_PROGRESS).exists()


def test_a_source_of_other_classes_is_refused_in_one_line(data, checkpoint, tmp_path, capsys):
    other = says_0_when_dark(tmp_path / "ten.pth.tar")
    flags = ["--dataset", "folder", "--data", data, "--input_size", 16, *ATTACK, "--evaluate"]
    flags += ["--resume", checkpoint, "--check_masking", "--masking_source", other]
    assert "ten.pth.tar: a network of 10 classes" in refused(capsys, *flags)


# --- flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--eval_set cifar10_c", "go with --evaluate"),
        ("--save_adv x", "go with --evaluate"),
        ("--eval_images 5", "--eval_images goes with"),
        ("--evaluate --masking_source x", "--masking_source goes with --check_masking"),
        ("--evaluate --check_masking --masking_source x", "--masking_source x: no such file"),
        ("--evaluate --mode std --restarts 2", "need an attack: add --eval_attack pgd"),
        ("--evaluate --mode std --save_adv x", "need an attack: add --eval_attack pgd"),
        ("--evaluate --eval_set adv:x --check_masking", "--eval_set adv is not attacked"),
        ("--evaluate --eval_set adv:x --restarts 2", "--eval_set adv is not attacked"),
        ("--evaluate --eval_set adv:x --eval_attack pgd", "--eval_set adv is not attacked"),
        ("--evaluate --eval_set cifar10_c --save_adv x", "--eval_set cifar10_c is not attacked"),
        ("--evaluate", "no checkpoint in nowhere/run"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(flags, message, capsys, monkeypatch):
    assert message in refused(capsys, *flags.split())
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("given", ["adv:", "adv", "cifar10_c:", "imagenet", "test:x"])
def test_an_unknown_evaluation_set_is_refused(given, capsys):
    message = refused(capsys, "--evaluate", "--eval_set", given)
    assert "is none of test, cifar10_c, cifar10_c:DIR, adv:FILE" in message


def test_a_missing_package_is_told_before_the_run_starts(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    flags = ["--dataset", "folder", "--data", data, "--save_dir", tmp_path / "run"]
    message = refused(capsys, *flags, "--eval_attack", "autoattack")
    assert "pip install pyautoattack" in message
    assert not (tmp_path / "run").exists()


def test_the_plan_of_an_evaluation(checkpoint, tmp_path, capsys):
    flags = ["--evaluate", "--resume", checkpoint, "--eval_set", "adv:gone", "--dry_run"]
    main_downstream.main([*map(str, flags), "--save_dir", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert str(checkpoint) in told
    assert "gone   <- MISSING" in told
    assert "eval.json" in told
    assert "epochs" not in told
    assert not (tmp_path / "out").exists()
