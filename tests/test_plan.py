"""--dry_run: what would be done, written and spent; nothing is touched."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.main_cases import (
    HERE,
    TINY,
    contents,
    flat_files,
    names,
    one_error_line,
    run_imp,
    run_transfer,
    skip_pictures,
    steady,
    write_images,
)

import main_downstream
import main_imp_pretrain
from cli.plan import ASSUMED_RATE, attack_passes, training_passes
from engine.schedules import States
from errors import InputError
from models import build_model, estimate_flops


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("plan") / "data")


def plan(main, argv, capsys):
    capsys.readouterr()
    main([*argv, "--dry_run"])
    printed = capsys.readouterr()
    known = (" of the recipe: ", " epochs only, and ticket ")  # of runs as short as these
    for line in printed.err.splitlines():
        assert any(words in line for words in known), line
    return printed.out


def plan_as_json(main, argv, capsys):
    text = plan(main, [*argv, "--json"], capsys)
    assert text.count("\n") == 1
    return json.loads(text)


def plan_imp(capsys, data, *words):
    return plan(main_imp_pretrain.main, [str(data), *TINY, *HERE, *words], capsys)


def transfer_flags(data, *words):
    return ["--dataset", "folder", "--data", str(data), *TINY, *steady(words), *HERE, *words]


def plan_transfer(capsys, data, *words):
    return plan(main_downstream.main, transfer_flags(data, *words), capsys)


def written(text):
    """The files that a plan names, `{0..2}-ticket` told one by one."""
    block = re.search(r"^writes into .*:\n((?:  .*\n?)+)", text, re.MULTILINE)
    assert block
    found = set[str]()
    for name in block[1].split("\n"):
        found |= flat_files(name.strip())
    return found - {""}


@pytest.mark.parametrize(
    ("schedule", "of", "last"),
    [
        ((0, 4, 2), [1, 1, 2, 2, 3], 2),
        ((2, 4, 2), [0, 0, 1, 1, 2, 2, 3], 2),
        ((1, 3, 2), [0, 1, 1, 2, 3], 2),  # the last state is cut short
        ((0, 1, 30), [1, 2], 1),
    ],
)
def test_every_epoch_belongs_to_one_state(schedule, of, last):
    states = States(*schedule)
    assert [states.of(epoch) for epoch in range(states.total_epochs + 1)] == of
    assert states.last == last
    for state in range(0 if schedule[0] else 1, last + 2):
        assert states.first_epoch(state) == of.index(state)


def test_the_papers_schedule_is_19_states():
    assert States(0, 570, 30).last == 19


def test_the_plan_of_an_imp_run_names_states_densities_and_steps(data, capsys):
    text = plan_imp(
        capsys, data, "--pretrain_epochs", "2", "--epochs", "5", "--prune_epoch", "2",
    )  # fmt: skip
    for line in (
        "IMP, adv: resnet20s at 16 pixels, seed 1",
        "  state 0: density 100 %, 2 epochs of dense training",
        "  state 1: density 80.00 %, 2 epochs",
        "  state 2: density 64.00 %, 2 epochs",
        "  state 3: density 51.20 %, 1 epochs",
        "  3 steps per epoch of 12 images",
    ):
        assert line in text.splitlines()
    assert "state 4" not in text
    assert "MISSING" not in text


def test_the_plan_of_the_recipe_is_the_papers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = plan(main_imp_pretrain.main, ["imagenet"], capsys)
    assert "IMP, adv: resnet50 at 224 pixels, seed 1" in text
    assert "  state 19: density 1.44 %, 30 epochs\n" in text
    assert "state 20" not in text
    assert "{0..20}-ticket.safetensors" in text
    assert "  626 steps per epoch of 2048 images" in text  # of ImageNet's 1,281,167


def test_the_files_named_are_the_files_written(data, capsys, tmp_path, monkeypatch):
    skip_pictures(monkeypatch)
    for name, words in {
        "plain": ["--mode", "std", "--epochs", "2", "--prune_epoch", "1"],
        "last": ["--mode", "std", "--epochs", "2", "--prune_epoch", "1", "--keep", "last"],
        "none": ["--mode", "std", "--epochs", "1", "--prune_epoch", "1", "--keep", "tickets"],
        "dense": ["--mode", "std", "--epochs", "1", "--prune_epoch", "1", "--pretrain_epochs", "1"],
    }.items():
        folder = tmp_path / name
        text = plan_imp(capsys, data, *words, "--save_dir", str(folder))
        assert f"writes into {folder}:" in text
        run_imp(data, folder, *words)
        assert written(text) == names(folder)
        argv = [str(data), *TINY, *HERE, *words]
        files = plan_as_json(main_imp_pretrain.main, argv, capsys)["writes"]
        assert {file.rstrip("/") for file in files} == {name.rstrip("/") for name in names(folder)}
    init = ["--init", str(tmp_path / "plain" / "init.pth.tar")]
    for mode, more in (("std", ["--save_all"]), ("adv", [])):
        words = ["--mode", mode, "--epochs", "2", *init, *more]
        text = plan_transfer(capsys, data, *words, "--save_dir", str(tmp_path / mode))
        run_transfer(data, tmp_path / mode, *words)
        assert written(text) == names(tmp_path / mode)
    one_shot = ["--ticket", "omp", *init, "--epochs", "2", "--prune_epoch", "1"]
    text = plan_imp(capsys, data, *one_shot, "--save_dir", str(tmp_path / "omp"))
    run_imp(data, tmp_path / "omp", *one_shot)
    assert written(text) == names(tmp_path / "omp")


@pytest.mark.parametrize(
    ("data_words", "line"),
    [
        ([], "  2 evaluations on 12 validation images, a final test on 12"),
        (["--eval_from", "0"], "  3 evaluations on 12 validation images, a final test on 12"),
        (["--eval_from", "99"], "  1 evaluations on 12 validation images, a final test on 12"),
        (["--data_number", "0.5"], "  3 epochs of 2 steps of 12"),
        ([], "  3 epochs of 3 steps of 12"),
        (["--dataset", "cifar10"], "  3 epochs of 3750 steps of 12"),
        (["--dataset", "cifar10", "--data_number", ".1"], "  3 epochs of 375 steps of 12"),
        (["--dataset", "svhn"], " validation images, a final test on 26032"),
        (["--dataset", "cifar10_3"], " on 5000 validation images, a final test on 10000"),
    ],
)
def test_the_plan_of_a_transfer_names_steps_and_evaluations(data, capsys, data_words, line):
    text = plan_transfer(capsys, data, "--epochs", "3", "--eval_from", "1", *data_words)
    assert line in text


IMP_TEXT = """\
IMP, std: resnet20s at 16 pixels, seed 1
  DATA/train {data}/train
  DATA/val {data}/val
  --init gone.pt   <- MISSING
  state 0: density 100 %, 1 epochs of dense training
  state 1: density 80.00 %, 2 epochs
  state 2: density 64.00 %, 1 epochs
  3 steps per epoch of 12 images
writes into runs/imp:
  init.pth.tar
  args.json
  metrics.jsonl
  tb/
  accuracy_vs_density.png
  {{0..3}}-ticket.safetensors
  {{0..2}}-checkpoint.pth.tar, …-model_best.pth.tar
cost (estimate from FLOPs): 480 passes of one image, 6.4e+08 FLOP, 3.6e-09 GPU-hours at 50 TFLOP/s
memory (estimate): 0.00044 GB for weights, gradients, momentum and masks, 0.0012 GB for 12 \
images per pass (--micro_batch N: fewer)
disk (estimate): 0.0019 GB
"""
TRANSFER_TEXT = """\
transfer, adv: resnet20s to folder at 16 pixels, seed 1
  --data {data}
  --tickets_file gone.safetensors   <- MISSING
  3 epochs of 3 steps of 12
  2 evaluations on 12 validation images, a final test on 12
writes into runs/transfer:
  args.json
  metrics.jsonl
  tb/
  checkpoint.pth.tar
  model_SA_best.pth.tar
  model_RA_best.pth.tar
  {{0..2}}-checkpoint.pth.tar
  net_train.png
  outcomes.safetensors
  results.json
cost (estimate from FLOPs): 5e+03 passes of one image, 6.6e+09 FLOP, 3.6e-08 GPU-hours at 50 TFLOP/s
memory (estimate): 0.00023 GB for weights, gradients, momentum and masks, 0.0012 GB for 12 \
images per pass (--micro_batch N: fewer)
disk (estimate): 0.00075 GB
"""
EVALUATION_TEXT = """\
evaluation of a checkpoint on test
  --resume gone   <- MISSING
  --eval_attack pgd
  --check_masking True
writes into runs/transfer:
  eval.json
  eval.outcomes.safetensors
and seen.pt
"""


def test_the_whole_text_of_a_plan(data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = plan_imp(
        capsys, data, "--mode", "std", "--pretrain_epochs", "1", "--epochs", "3",
        "--prune_epoch", "2", "--init", "gone.pt",
    )  # fmt: skip
    assert text == IMP_TEXT.format(data=data)
    words = [
        "--epochs",
        "3",
        "--eval_from",
        "1",
        "--save_all",
        "--tickets_file",
        "gone.safetensors",
    ]
    assert plan_transfer(capsys, data, *words) == TRANSFER_TEXT.format(data=data)
    words = ["--evaluate", "--resume", "gone", "--eval_attack", "pgd", "--check_masking"]
    assert plan_transfer(capsys, data, *words, "--save_adv", "seen.pt") == EVALUATION_TEXT


def test_a_plan_as_json_says_what_its_text_says(data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [str(data), *TINY, *HERE, "--epochs", "3", "--prune_epoch", "2", "--init", "gone.pt"]
    found = plan_as_json(main_imp_pretrain.main, flags, capsys)
    assert found["inputs"] == [
        {"name": "DATA/train", "path": f"{data}/train", "missing": False},
        {"name": "DATA/val", "path": f"{data}/val", "missing": False},
        {"name": "--init", "path": "gone.pt", "missing": True},
    ]
    assert found["states"] == [
        {"state": 1, "density": pytest.approx(0.8), "epochs": 2},
        {"state": 2, "density": pytest.approx(0.64), "epochs": 1},
    ]
    expected = {"task": "imp", "epochs": 3, "steps_per_epoch": 3, "last_ticket": 3, "timed": None}
    assert {name: found[name] for name in expected} == expected
    assert found["cost"]["passes"] == 3 * (36 * 9 + 12)
    assert found["cost"]["gpu_hours"] == found["cost"]["flop"] / ASSUMED_RATE / 3600
    found = plan_as_json(main_downstream.main, transfer_flags(data, "--time_it"), capsys)
    assert (found["task"], found["epochs"], found["last_ticket"]) == ("transfer", 100, None)
    assert found["timed"]["images_per_second"] > 0
    in_training = 100 * 36 * training_passes(10)
    share = found["timed"]["hours"] / found["timed"]["whole_hours"]
    assert share == pytest.approx(in_training / found["cost"]["passes"])
    found = plan_as_json(main_imp_pretrain.main, [*flags, "--time_it"], capsys)
    share = found["timed"]["hours"] / found["timed"]["whole_hours"]
    assert share == pytest.approx(36 * 9 / (36 * 9 + 12))
    found = plan_as_json(main_imp_pretrain.main, ["--ticket", "omp", "--init", "gone"], capsys)
    assert (found["task"], found["last_ticket"], found["cost"]) == ("omp", 20, None)


def test_json_without_a_dry_run_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for main, flags in (
        (main_imp_pretrain.main, [str(data), *TINY, *HERE]),
        (main_downstream.main, transfer_flags(data)),
    ):
        with pytest.raises(InputError, match="--json goes with --dry_run"):
            main([*flags, "--json"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--time_it"], "--time_it goes with --dry_run"),
        (["--dry_run", "--export_released"], "--export_released writes a file at once"),
    ],
)
def test_flags_about_a_plan_that_would_do_something_else_are_refused(
    data, tmp_path, monkeypatch, flags, told
):
    monkeypatch.chdir(tmp_path)
    state = ["0"] if "--export_released" in flags else []  # of a search, state 0
    for main, more in (
        (main_imp_pretrain.main, [str(data), *TINY, *HERE, *flags, *state]),
        (main_downstream.main, transfer_flags(data, *flags)),
    ):
        with pytest.raises(InputError, match=told):
            main(more)
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_is_not_there_is_made_of_another(data, tmp_path, capsys):
    (tmp_path / "train").symlink_to(data / "train")
    (tmp_path / "test").symlink_to(data / "test")
    text = plan_transfer(capsys, tmp_path, "--epochs", "3", "--eval_from", "1")
    assert "on 3 validation images, a final test on 12" in text
    (tmp_path / "test").unlink()
    (tmp_path / "val").symlink_to(data / "val")
    text = plan_transfer(capsys, tmp_path, "--epochs", "3", "--eval_from", "1")
    assert "on 12 validation images, a final test on 12" in text


@pytest.mark.parametrize("how", ["number", "file"])
def test_only_the_images_of_the_chosen_classes_are_counted(data, how, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("# two\ngreen\nred\n")
    words = ["--classes", "2" if how == "number" else str(tmp_path / "names.txt"), "-b", "2"]
    assert "  12 steps per epoch of 2 images\n" in plan_imp(capsys, data, *words)
    text = plan_transfer(capsys, data, *words, "--epochs", "3")
    assert "  3 epochs of 12 steps of 2\n" in text
    assert " on 8 validation images, a final test on 8\n" in text
    for dataset, steps in (("cifar10", 4500), ("cifar100", 450), ("digits", 130)):
        more = ["--epochs", "3", "--dataset", dataset]
        assert f"3 epochs of {steps} steps of 2\n" in plan_transfer(capsys, data, *words, *more)
    text = plan_imp(capsys, tmp_path / "none", *words)
    assert f"  {1_281_167 * 2 // 1000 // 2} steps per epoch" in text


def test_images_in_folders_of_a_class_and_in_an_annotated_val_are_counted(data, tmp_path, capsys):
    """As tiny-imagenet unpacks."""
    for name in ("red", "green", "blue"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / f"{name}_boxes.txt").touch()
        (tmp_path / "train" / name / "images").symlink_to(data / "train" / name)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "images").symlink_to(data / "val")
    text = plan_transfer(capsys, tmp_path, "-b", "2", "--epochs", "3", "--classes", "2")
    assert "  3 epochs of 12 steps of 2\n" in text
    assert " on 8 validation images, a final test on 8\n" in text


@pytest.mark.parametrize("there", ["no folder", "no class", "no image"])
def test_without_an_image_the_cost_is_unknown(there, tmp_path, capsys):
    data = tmp_path / "data"
    if there != "no folder":
        (data / "train").mkdir(parents=True)
    if there == "no image":
        (data / "train" / "red").mkdir()
        (data / "train" / "red" / "notes.txt").touch()
    flags = transfer_flags(data, "--epochs", "3", "--time_it")
    text = plan(main_downstream.main, flags, capsys)
    assert "  3 epochs; images not counted, so steps and cost are unknown\n" in text
    assert "estimate" not in text
    found = plan_as_json(main_downstream.main, flags, capsys)
    unknown = ("cost", "timed", "steps_per_epoch", "validation_images", "test_images")
    assert [found[name] for name in unknown] == [None] * 5


def test_where_the_test_images_are_the_validation_images_both_are_measured_once(
    data, capsys, tmp_path
):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "test")
    text = plan_transfer(capsys, tmp_path / "data", "--mode", "std", "--epochs", "3")
    passes = 3 * 36 * 3 + 3 * 12 + 2 * 12
    assert f"cost (estimate from FLOPs): {passes:.3g} passes" in text


def test_tests_whose_cost_is_not_estimated_are_named(data, capsys):
    text = plan_transfer(capsys, data, "--eval_attack", "autoattack", "--check_masking")
    assert "  --eval_attack autoattack (its cost is not estimated)\n" in text
    assert "  --check_masking (its cost is not estimated)\n" in text


def test_a_batch_is_of_all_nodes_and_a_rest_of_one_image_is_no_step(data, capsys):
    nodes = ["--multiprocessing_distributed", "--world_size", "3", "--rank", "0"]
    text = plan_imp(capsys, data, *nodes, "--dist_url", "tcp://127.0.0.1:1")
    assert "  1 steps per epoch of 36 images" in text
    told = plan_transfer(capsys, data, *nodes, "--dist_url", "tcp://127.0.0.1:1", "--nproc", "2")
    assert " epochs of 1 steps of 36" in told
    assert "6 images per pass" in told  # of a node's 12, by two processes
    assert "  1 steps per epoch of 35 images" in plan_imp(capsys, data, "-b", "35")
    assert "  2 steps per epoch of 34 images" in plan_imp(capsys, data, "-b", "34")


@pytest.mark.parametrize(
    ("batch", "told"),
    [("48", "--batch_size 48: more than the 36 training"), ("1", "batch size 1: must be at least")],
)
def test_a_batch_that_ends_a_run_ends_its_plan_too(data, capsys, batch, told):
    for main, words in (
        (main_imp_pretrain.main, [str(data), *TINY, *HERE]),
        (main_downstream.main, transfer_flags(data)),
    ):
        argv = [*words, "-b", batch, "--dry_run"]
        assert told in one_error_line(argv, main, capsys)


def test_classes_that_end_a_run_end_its_plan_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("cat\n")
    for classes, told in (("1", "classes 1: names 1"), ("one.txt", "classes one.txt: names 1"),
                          ("11", "classes 11: must be 2 to 10")):  # fmt: skip
        argv = ["--dataset", "cifar10", "--classes", classes, "--dry_run"]
        assert told in one_error_line(argv, main_downstream.main, capsys)


def test_too_large_a_batch_of_several_nodes_is_told_of_for_each(data, capsys):
    nodes = ["--multiprocessing_distributed", "--world_size", "2"]
    argv = [*transfer_flags(data, *nodes), "-b", "24", "--dry_run"]
    line = one_error_line(argv, main_downstream.main, capsys)
    told = "--batch_size 24 on each of 2 nodes: more than the 36 training images; -b 18 or less"
    assert told in line


def test_data_that_a_run_would_download_are_not_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = plan(main_downstream.main, ["--dataset", "cifar10", "--epochs", "10000000000"], capsys)
    assert "MISSING" not in text


def test_missing_inputs_are_marked_and_others_are_not(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("init.pth.tar").touch()
    text = plan_imp(
        capsys, tmp_path / "none", "--init", "init.pth.tar", "--resume", "gone.pth.tar",
        "--classes", "names.txt",
    )  # fmt: skip
    marked = [line.split()[:2] for line in text.splitlines() if line.endswith("<- MISSING")]
    none = tmp_path / "none"
    assert marked == [
        ["DATA/train", str(none / "train")], ["DATA/val", str(none / "val")],
        ["--resume", "gone.pth.tar"], ["--classes", "names.txt"],
    ]  # fmt: skip
    assert "  --init init.pth.tar\n" in text
    text = plan_transfer(
        capsys, tmp_path / "none", "--init", "gone.pth.tar", "--tickets_file", "t.safetensors"
    )
    marked = [line.split()[0] for line in text.splitlines() if line.endswith("<- MISSING")]
    assert marked == ["--data", "--init", "--tickets_file"]
    for words in (["--init", "torchvision"], ["--resume"], ["--classes", "2"]):
        assert "MISSING" not in plan_transfer(capsys, data, *words)
        assert "MISSING" not in plan_imp(capsys, data, *words)
    assert "MISSING" not in plan(main_downstream.main, ["--dataset", "digits"], capsys)


def test_the_cost_is_that_of_the_passes_and_said_to_be_an_estimate(data, capsys):
    assert (attack_passes(20), training_passes(0), training_passes(3)) == (40, 3, 9)
    text = plan_imp(capsys, data, "--epochs", "4", "--prune_epoch", "2")
    # A PGD-3 step: 3 times forward and backward, then the loss's 3 passes; 12 validation images.
    passes = 4 * (36 * 9 + 12)
    assert f"cost (estimate from FLOPs): {passes:.3g} passes of one image, " in text
    model = build_model("resnet20s", 1000, (0.5,) * 3, (0.5,) * 3, "cifar", 4)
    flops = estimate_flops(model, 16) * passes
    assert f" {flops:.2g} FLOP, {flops / ASSUMED_RATE / 3600:.2g} GPU-hours" in text
    assert "memory (estimate)" in text
    text = plan_transfer(
        capsys, data, "--epochs", "3", "--eval_from", "1", "--train_step", "1", "--test_step", "2"
    )
    training, evaluation = 3 * 36 * 5, 2 * 12 + 3 * 12  # 2 evaluations, then 3 tests
    passes = training + evaluation * (1 + 2 * 2 + 1)
    assert f"cost (estimate from FLOPs): {passes:.3g} passes" in text
    text = plan_transfer(capsys, data, "--mode", "std", "--epochs", "3")
    passes = 3 * 36 * 3 + 3 * (12 + 12) + 2 * 12  # no network is best by RA
    assert f"cost (estimate from FLOPs): {passes:.3g} passes" in text
    attacked = ["--eval_attack", "pgd", "--test_step", "2", "--restarts", "4"]
    text = plan_transfer(capsys, data, "--mode", "std", "--epochs", "3", *attacked)
    passes += 2 * 12 * 4 * (2 * 2 + 1)
    assert f"cost (estimate from FLOPs): {passes:.3g} passes" in text


def test_time_it_times_a_few_steps(data, capsys):
    for text in (plan_imp(capsys, data, "--time_it"), plan_transfer(capsys, data, "--time_it")):
        assert re.search(
            r"^timed here: \S+ images/s in steps of 12 random images on cpu: ", text, re.M
        )


def test_a_dry_run_of_an_evaluation_names_its_file(data, capsys, tmp_path):
    text = plan_transfer(capsys, data, "--evaluate", "--resume", str(tmp_path / "gone.pth.tar"))
    assert re.search(r"--resume .*gone.pth.tar +<- MISSING", text)
    assert "  eval.json" in text


def test_a_dry_run_of_a_searchs_evaluation_names_its_file_and_no_states(
    data, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = (
        f"evaluation of a network on DATA/val\n  DATA/train {data}/train\n  DATA/val {data}/val\n"
    )
    last = "writes into runs/imp:\n  eval.json\n"
    of_init = plan_imp(capsys, data, "--evaluate", "--init", "gone.pt")
    assert of_init == f"{first}  --init gone.pt   <- MISSING\n{last}"
    of_path = plan_imp(capsys, data, "--evaluate", "--resume", "gone.pth.tar")
    assert of_path == f"{first}  --resume gone.pth.tar   <- MISSING\n{last}"
    for state, mark in ((1, "   <- MISSING"), (2, "")):
        file = Path(f"runs/imp/{state}-checkpoint.pth.tar")
        assert plan_imp(capsys, data, "--evaluate") == f"{first}  --resume {file}{mark}\n{last}"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "2-checkpoint.pth.tar").touch()
    assert "--resume runs/imp/2-" in plan_imp(capsys, data, "--evaluate", "--init", "gone.pt")


def test_dry_runs_write_nothing(data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = contents(data)
    for words in ([], ["--time_it"], ["--resume"], ["--pretrain_epochs", "1"]):
        plan_imp(capsys, data, *words)
    for words in ([], ["--time_it"], ["--resume"], ["--save_all"], ["--evaluate"]):
        plan_transfer(capsys, data, *words)
    assert list(tmp_path.iterdir()) == []
    assert contents(data) == before
