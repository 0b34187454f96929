"""Recipes, flag types, and wrong input answered in one line, status 2, with nothing written."""

import argparse
import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.main_cases import HERE, TINY, contents, one_error_line, skip_pictures, write_images

import errors
import main_downstream
import main_imp_pretrain
from cli import build, parsing, settle
from cli.flags import build_imp_parser, build_transfer_parser
from cli.nodes import settle_nodes
from cli.parsing import Parser, Switch
from cli.recipes import RECIPES, apply_recipe, recipe
from cli.settle import settle_pretrained
from engine import distributed
from engine.schedules import Schedule
from errors import InputError, RunFailed
from files.checkpoints import save_checkpoint
from files.tickets import save_ticket
from main_downstream import TRANSFER_DATASETS
from models import ARCHS, build_model

ROOT = Path(__file__).resolve().parent.parent
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


MULTI = ("--lr_schedule", "multistep")


def imp(*words):
    args = build_imp_parser(ARCHS).parse_args(["DATA", *words])
    apply_recipe(args, "imp")
    return args


def transfer(*words):
    args = build_transfer_parser(ARCHS, TRANSFER_DATASETS).parse_args(list(words))
    apply_recipe(args, "transfer")
    return args


# --- recipes: those of the released scripts and the paper, written out --------------------------

ALL = {"momentum": 0.9, "warmup": 0, "train_randinit": True, "seed": 1, "width": 16}
IMAGES = {"input_size": 224, "augment": "rrc", "hflip": True, "stem": "imagenet"}
IMP = {
    **ALL, **IMAGES, "arch": "resnet50", "lr": 5e-4, "lr_schedule": "constant",
    "weight_decay": 1e-4, "batch_size": 2048, "epochs": 570, "prune_epoch": 30, "rate": 0.2,
    "pretrain_epochs": 0, "pretrain_lr": 0.1,
    "train_eps": 8 / 255, "train_step": 3, "train_gamma": 16 / (3 * 255),
}  # fmt: skip
ATTACKS = {
    "train_eps": 8 / 255, "train_step": 10, "train_gamma": 2 / 255,
    "test_eps": 8 / 255, "test_step": 20, "test_gamma": 2 / 255, "test_randinit": True,
}  # fmt: skip
CIFAR_ADV = {
    **ALL, **IMAGES, **ATTACKS, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "epochs": 100,
    "lr_schedule": "multistep", "decreasing_lr": (50, 75), "eval_from": 45, "data_number": 1.0,
}  # fmt: skip
SVHN_ADV = {
    **CIFAR_ADV, "lr": 0.01, "epochs": 80, "lr_schedule": "cosine", "eval_from": 0,
}  # fmt: skip
del SVHN_ADV["decreasing_lr"]  # not used
STD = {
    **ALL, **IMAGES, "batch_size": 64, "lr": 0.001, "weight_decay": 5e-4, "epochs": 150,
    "lr_schedule": "multistep", "decreasing_lr": (50, 100), "eval_from": 0, "data_number": 1.0,
}  # fmt: skip
NATIVE = {"input_size": 32, "augment": "crop", "stem": "cifar"}


@pytest.mark.parametrize(
    ("task", "mode", "dataset", "expected"),
    [
        ("imp", "adv", None, IMP),
        ("imp", "std", None, IMP),
        ("transfer", "adv", "cifar10", CIFAR_ADV),
        ("transfer", "adv", "cifar100", CIFAR_ADV),
        ("transfer", "adv", "cifar10_2", CIFAR_ADV),
        ("transfer", "adv", "cifar10_3", {**CIFAR_ADV, **NATIVE}),
        ("transfer", "adv", "folder", CIFAR_ADV),
        ("transfer", "adv", "digits", {**CIFAR_ADV, **NATIVE, "hflip": False}),
        ("transfer", "adv", "svhn", SVHN_ADV),
        ("transfer", "std", "cifar10", STD),
        ("transfer", "std", "cifar100", STD),
        ("transfer", "std", "cifar10_2", STD),
        ("transfer", "std", "cifar10_3", {**STD, **NATIVE}),
        ("transfer", "std", "svhn", STD),
        ("transfer", "std", "visda", STD),
        ("transfer", "std", "digits", {**STD, **NATIVE, "hflip": False}),
    ],
)
def test_a_flag_left_out_takes_the_recipes_value(task, mode, dataset, expected):
    words = ["--mode", mode]
    args = imp(*words) if task == "imp" else transfer(*words, "--dataset", dataset)
    for name, value in expected.items():
        assert getattr(args, name) == value, name


def test_a_flag_that_is_given_beats_the_recipe():
    args = transfer(
        *("--dataset", "svhn", "--lr", "0.5", "--epochs", "3", "--wd", "0", "--momentum", "0"),
        *("--lr_schedule", "multistep", "--decreasing_lr", "1,2", "--seed", "0", "--no_hflip"),
        *("--eval_from", "0", "--warmup", "0", "--test_step", "0", "--train_eps", "0"),
    )
    assert (args.lr, args.epochs, args.weight_decay, args.momentum) == (0.5, 3, 0, 0)
    assert (args.lr_schedule, args.decreasing_lr) == ("multistep", (1, 2))
    assert (args.seed, args.hflip, args.test_step, args.train_eps) == (0, False, 0, 0)


X86 = {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("capabilities", "words", "slow"),
    [
        (X86, ["--amp", "bf16"], True),
        (X86, ["--amp", "off"], False),
        (X86 | {"avx512_bf16": True}, ["--amp", "bf16"], False),
        (X86 | {"amx_bf16": True}, ["--amp", "bf16"], False),
        ({"architecture": "other"}, ["--amp", "bf16"], False),  # nobody knows
        (None, ["--amp", "bf16"], False),  # an older PyTorch, which cannot tell
    ],
)
@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_bf16_on_a_cpu_that_emulates_it_is_warned_of(task, capabilities, words, slow, monkeypatch):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    _, notes = notes_of(task, *words, "--device", "cpu")
    assert notes == slow * [
        "--amp bf16: this CPU has no bf16 instructions and emulates them; --amp off is faster"
    ]


def test_pretrained_is_init_torchvision():
    args, _ = notes_of("imp", "--pretrained")
    settle_pretrained(args)
    assert args.init == "torchvision"


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ((), lambda e: 0.1 * 0.1 ** ((e >= 50) + (e >= 75))),
        (("--dataset", "svhn"), lambda e: 0.01 * (1 + math.cos(math.pi * e / 80)) / 2),
        (("--mode", "std"), lambda e: 0.001 * 0.1 ** ((e >= 50) + (e >= 100))),
    ],
)
def test_the_recipes_learning_rate_at_every_epoch(words, rate):
    args = transfer(*words)
    schedule = Schedule(args.lr_schedule, args.lr, args.epochs, args.decreasing_lr, args.warmup)
    for epoch in range(args.epochs):
        assert schedule.at(epoch, 7, 100) == pytest.approx(rate(epoch), rel=1e-12)


def test_the_stem_follows_the_input_size():
    assert imp("--input_size", "63").stem == "cifar"
    assert imp("--input_size", "64").stem == "imagenet"
    assert imp("--input_size", "32", "--stem", "imagenet").stem == "imagenet"


def notes_of(task, *words):
    """The arguments, and what is to be warned of."""
    parser = (
        build_imp_parser(ARCHS)
        if task == "imp"
        else build_transfer_parser(ARCHS, TRANSFER_DATASETS)
    )
    args = parser.parse_args([*(["DATA"] if task == "imp" else []), *words])
    return args, apply_recipe(args, task)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("IMP", ("imp", "adv")), ("AT", ("transfer", "adv")),
        ("AT on SVHN", ("transfer", "adv", "svhn")), ("ST", ("transfer", "std")),
    ],
)  # fmt: skip
def test_the_readmes_table_of_recipes_is_the_one_in_use(name, of):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| recipe |") :]
    line = re.search(rf"^\| {name} \| (.*) \|$", table, re.MULTILINE)
    assert line
    epochs, batch, rate, decay, attack = line[1].split(" | ")
    found = recipe(*of)
    assert epochs.split(",")[0] == str(found["epochs"])
    assert (batch, decay) == (str(found["batch_size"]), f"{found['weight_decay']:.4f}")
    assert rate.split(",")[0] == f"{found['lr']:.4f}".rstrip("0")
    if found["lr_schedule"] == "multistep":
        assert rate.partition(" at ")[2] == ", ".join(map(str, found["decreasing_lr"]))
    assert ("cosine" in rate) == (found["lr_schedule"] == "cosine")
    steps = f"PGD-{found['train_step']}," if of[1] == "adv" else "none"
    assert attack.startswith(steps)


CONSTANT = ["--lr_schedule", "constant"]


@pytest.mark.parametrize(
    ("task", "words", "told"),
    [
        ("imp", ["--epochs", "60"], None),
        ("imp", ["--epochs", "2"], "state 1 trains 2 of --prune_epoch 30 epochs only, and ticket"),
        (
            "imp",
            ["--epochs", "45"],
            "state 2 trains 15 of --prune_epoch 30 epochs only, and ticket",
        ),
        ("transfer", ["--mode", "std", "--epochs", "2", *CONSTANT], None),
        (
            "transfer",
            ["--epochs", "60"],
            "the recipe's --decreasing_lr 50,75: 75 is never reached: with --epochs 60 the last",
        ),
        ("transfer", ["--epochs", "76"], None),
        (
            "transfer",
            ["--epochs", "46", *CONSTANT],
            "--eval_from 45 of the recipe: with --epochs 46 the last",
        ),
        ("transfer", ["--epochs", "47", *CONSTANT], None),
        ("transfer", ["--epochs", "46", "--eval_from", "45", *CONSTANT], None),
        ("transfer", ["--epochs", "1", *CONSTANT], None),
        ("transfer", ["--decreasing_lr", "50,75"], None),
        (
            "transfer",
            ["--decreasing_lr", "1,75", "--epochs", "75"],
            "--decreasing_lr 1,75: 75 is never reached: with --epochs 75 the last epoch is 74, "
            "counted from 0",
        ),
        ("imp", ["--decreasing_lr", "29", "--lr_schedule", "multistep"], None),
        ("imp", ["--decreasing_lr", "30", "--lr_schedule", "multistep"], "with --prune_epoch 30"),
        ("imp", ["--decreasing_lr", "3"], "not used, the learning rate's schedule is constant;"),
        (
            "transfer",
            ["--dataset", "svhn", "--decreasing_lr", "50,75"],
            "--decreasing_lr 50,75: not used, the learning rate's schedule is cosine; "
            "--lr_schedule multistep uses them",
        ),
        ("transfer", ["--dataset", "svhn"], None),
        (
            "imp",
            ["--pretrain_lr", "0.2"],
            "--pretrain_lr 0.2: not used without --pretrain_epochs N",
        ),
        ("imp", ["--pretrain_lr", "0.2", "--pretrain_epochs", "1"], None),
        # whose --init stands beside the ticket, or is in the checkpoint
        ("imp", ["--reset_fc", "--init_key", "x", "--continue_from", "1-ticket.safetensors"], None),
        ("imp", ["--reset_fc", "--init_key", "x", "--resume"], None),
        ("imp", ["--start_epoch", "30", "--resume"], "--start_epoch 30: not used, the run goes on"),
        (
            "imp",
            ["--mode", "std", "--train_step", "3", "--train_eps", "0.1"],
            "--train_eps, --train_step: not used, --mode std trains on clean images",
        ),
        (
            "transfer",
            ["--mode", "std", "--no_test_randinit", "--test_step", "7"],
            "--test_randinit, --test_step: not used, --mode std tests clean images; --eval_attack",
        ),
        ("transfer", ["--mode", "std", "--no_train_randinit"], "--train_randinit: not used"),
        ("transfer", ["--mode", "std", "--test_step", "7", "--eval_attack", "pgd"], None),
        ("transfer", ["--mode", "std", "--test_step", "7", "--check_masking"], None),
        ("transfer", ["--mode", "std", "--test_step", "7", "--evaluate"], None),
        ("transfer", ["--test_step", "7", "--train_step", "3"], None),
        (
            "transfer",
            ["--test_gamma", "0"],
            "--test_gamma 0: the attack does nothing, RA is measured on the random starts alone",
        ),
        (
            "transfer",
            ["--test_eps", "0", "--test_step", "0"],
            "--test_eps 0, --test_step 0: the attack does nothing, RA is measured on clean images",
        ),
        ("imp", ["--train_step", "0"], "training is on the random starts alone"),
        ("imp", ["--train_step", "0", "--no_train_randinit"], "training is on clean images"),
        ("imp", ["--mode", "std", "--train_step", "0"], "--train_step: not used, --mode std"),
    ],
)
def test_flags_without_effect_are_warned_of(task, words, told):
    _, notes = notes_of(task, *words)
    assert len(notes) == (told is not None)
    assert all(told in note for note in notes)


def test_each_flag_without_effect_is_warned_of():
    _, notes = notes_of("imp", "--pretrain_lr", "0.2", "--mode", "std", "--train_step", "3")
    assert [note.partition(":")[0] for note in notes] == ["--train_step", "--pretrain_lr 0.2"]


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (
            ["--dataset", "svhn", "--lr_schedule", "multistep"],
            "0.01, divided by ten at epochs 50, 75",
        ),
        (["--dataset", "svhn"], "0.01, by a cosine to 0 over 80 epochs"),
        (["--dataset", "svhn", "--mode", "std", "--lr_schedule", "multistep"], "epochs 50, 100"),
        (
            ["--epochs", "60"],
            "0.1, divided by ten at epochs 50, 75 (counted from 0; the last is 59)",
        ),
        (
            ["--lr_schedule", "constant", "--warmup", "3"],
            "0.1, constant, after linear warm-up to epoch 3",
        ),
        (["--warmup", "50"], "0.1, divided by ten at epochs 50, 75 (counted from 0), after linear"),
    ],
)
def test_a_schedule_that_is_named_is_the_one_that_is_used_and_said(words, rate):
    args = transfer(*words)
    assert rate in str(build.schedule(args, args.epochs))


def test_milestones_are_named_and_after_warm_up():
    for words in (["--decreasing_lr", ""], ["--dataset", "svhn", "--decreasing_lr", "", *MULTI]):
        with pytest.raises(InputError, match="there are no milestones"):
            transfer(*words)
    for words in (["--warmup", "51"], ["--warmup", "5", "--decreasing_lr", "3,10"]):
        with pytest.raises(InputError, match="is not over at milestone (50|3); name later ones"):
            transfer(*words)


def test_svhn_by_milestones_lowers_the_rate_where_the_released_scripts_say():
    args = transfer("--dataset", "svhn", "--lr_schedule", "multistep")
    schedule = build.schedule(args, args.epochs)
    rates = [schedule.at(epoch) for epoch in (49, 50, 74, 75)]
    assert rates == pytest.approx([0.01, 0.001, 0.001, 0.0001], rel=1e-12)


# --- nodes ----------------------------------------------------------------------------------------

MASTER = {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
SPAWNED = {"multiprocessing_distributed": True}
ENV = {"dist_url": "env://"}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, {}, (1, 0, None)),
        (
            {},
            {"WORLD_SIZE": "4", "RANK": "3", **MASTER},
            (1, 0, None),
        ),  # only where it is asked for
        ({"dist_url": "tcp://h:1", "world_size": 2, "rank": 1}, {}, (2, 1, "tcp://h:1")),
        ({**ENV, "world_size": 1}, {}, (1, 0, None)),
        ({**ENV}, {"WORLD_SIZE": "1"}, (1, 0, None)),
        (
            {**ENV, **SPAWNED},
            {"WORLD_SIZE": "2", "RANK": "1", **MASTER},
            (2, 1, "tcp://head:29500"),
        ),
        (
            {**ENV, **SPAWNED, "world_size": 3, "rank": 2},
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "::1", "MASTER_PORT": "1"},
            (3, 2, "tcp://[::1]:1"),
        ),
        ({**ENV}, {"WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (1, 0, "env://")),  # torchrun knows
    ],
)
def test_nodes_are_counted_as_the_released_code_does(given, environment, expected):
    args = argparse.Namespace(
        world_size=None,
        rank=None,
        dist_url=None,
        multiprocessing_distributed=False,
    )
    vars(args).update(given)
    settle_nodes(args, environment)
    assert (args.world_size, args.rank, args.dist_url) == expected


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ({}, {}, "$WORLD_SIZE is not set; set it, or give --world_size N"),
        (
            {},
            {"WORLD_SIZE": "4"},
            "start the processes by torchrun, or one for each node with --mul",
        ),
        (SPAWNED, {"WORLD_SIZE": "4", **MASTER}, "$RANK is not set; set it, or give --rank R"),
        (
            SPAWNED,
            {"WORLD_SIZE": "4", "RANK": "0"},
            "$MASTER_ADDR is not set; set it, or give --di",
        ),
        (SPAWNED, {"WORLD_SIZE": "many"}, "$WORLD_SIZE 'many' is not a whole number of at least 1"),
    ],
)
def test_an_environment_that_lacks_something_is_one_line(given, environment, told):
    args = argparse.Namespace(
        **{"world_size": None, "rank": None, "multiprocessing_distributed": False, **ENV},
    )
    vars(args).update(given)
    with pytest.raises(InputError) as caught:
        settle_nodes(args, environment)
    assert f"--dist_url env://: {told}" in str(caught.value)


# --- how a step is shared out -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "processes", "micro_batch", "told"),
    [
        (2048, 8, 256, "2048 images a step, 256 for each of 8 processes (--nproc)"),
        (
            2048, 2, 256,
            "2048 images a step, 1024 for each of 2 processes (--nproc), in 4 passes of 256 "
            "(--micro_batch)",
        ),
        (2048, 1, 256, "2048 images a step, in 8 passes of 256 (--micro_batch)"),
        (2048, 3, 256, "683 for each of 3 processes (--nproc), in 3 passes of 228 (--micro_batch)"),
        (2048, 16, 256, "2048 images a step, 128 for each of 16 processes (--nproc)"),
        (128, 1, None, "128 images a step"),
    ],
)  # fmt: skip
def test_processes_and_images_per_pass_are_said_in_a_line(batch, processes, micro_batch, told):
    line = build.shared_out(batch, processes, micro_batch)
    assert line.endswith(told)
    args = imp("-b", str(batch), *(["--micro_batch", str(micro_batch)] if micro_batch else []))
    counts = [int(word) for word in re.findall(r"\d+(?= images| for each| \(--micro)", line)]
    assert build.images_per_pass(args, processes) == counts[-1]


def test_a_search_passes_at_most_256_images_at_a_time_unless_told_otherwise(tmp_path):
    for words, expected in (
        ([], 256), (["--micro_batch", "64"], 64), (["--micro_batch", "2048"], 2048),
    ):  # fmt: skip
        args = imp("--save_dir", str(tmp_path), *words)
        settle.settle_micro_batch(args)
        assert args.micro_batch == expected
        assert build.images_per_pass(args, 1) == expected
    args = imp("-b", "32")
    settle.settle_micro_batch(args)
    assert build.images_per_pass(args, 1) == 32
    assert transfer().micro_batch is None


@pytest.mark.parametrize("recorded", [None, 32])
def test_a_search_that_goes_on_keeps_its_images_per_pass(tmp_path, recorded):
    (tmp_path / "args.json").write_text(f'{{"micro_batch": {json.dumps(recorded)}}}')
    for words, expected in ((["--resume"], recorded), ([], 256)):
        args = imp("--save_dir", str(tmp_path), *words)
        settle.settle_micro_batch(args)
        assert args.micro_batch == expected


def test_a_recipe_is_a_copy():
    recipe("imp", "adv")["lr"] = 7
    assert recipe("imp", "adv")["lr"] == 5e-4


@pytest.mark.parametrize(("task", "mode", "dataset"), RECIPES)
def test_recipes_hold_values_that_their_flags_admit(task, mode, dataset):
    imp, transfer = build_imp_parser(ARCHS), build_transfer_parser(ARCHS, TRANSFER_DATASETS)
    parser, words = {"imp": (imp, ["DATA"]), "transfer": (transfer, [])}[task]
    assert mode in ("adv", "std", "*")
    assert dataset in (*TRANSFER_DATASETS, "*")
    values = RECIPES[task, mode, dataset]
    assert values.keys() <= vars(parser.parse_args(words)).keys()
    for name, value in values.items():
        if isinstance(value, tuple):
            assert not value or parsing.milestones(",".join(map(str, value))) == value
        else:
            assert parser.admits(name, value), (name, value)


# --- spelling and types ---------------------------------------------------------------------------


def test_dash_and_underscore_are_the_same_in_every_flag():
    for parser in (build_imp_parser(ARCHS), build_transfer_parser(ARCHS, TRANSFER_DATASETS)):
        for action in parser._actions:
            for flag in action.option_strings:
                if not flag.startswith("--") or "_" not in flag:
                    continue
                value = [] if action.nargs == 0 else [str(_some(action))]
                plain = parser.parse_args([flag, *value])
                other = parser.parse_args([flag[:2] + flag[2:].replace("_", "-"), *value])
                mixed = parser.parse_args([flag[:2] + flag[2:].replace("_", "-", 1), *value])
                assert vars(plain) == vars(other) == vars(mixed), flag


def _some(action):
    if action.choices:
        return next(iter(action.choices))
    for value in ("1", "16", "0.5", "1/2", ".1,.2,.3", "test", "text"):
        try:
            (action.type or str)(value)
            return value
        except (argparse.ArgumentTypeError, ValueError):
            continue
    raise AssertionError(f"{action.option_strings}: let `_some` try a value of its type")


def test_a_value_keeps_its_dashes():
    args = imp("--save-dir=my-run_1", "--tag", "a-b_c")
    assert (args.save_dir, args.tag) == ("my-run_1", "a-b_c")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("16/(3*255)", 16 / (3 * 255)),
        ("0.031", 0.031),
        ("0", 0.0),
        ("1", 1.0),
        ("2e-3", 0.002),
    ],
)
def test_fractions_of_the_pixel_range(text, value):
    assert parsing.pixel_fraction(text) == value
    assert imp("--train_eps", text, "--train_gamma", text).train_gamma == value


@pytest.mark.parametrize(
    "text",
    ["nan", "inf", "-1", "1.01", "8/0", "1/(0*3)", "16/(3+255)", "8//255", "eight", "", "256/255"],
)
def test_what_is_no_fraction_of_the_pixel_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match="like 8/255"):
        parsing.pixel_fraction(text)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("positive_int", ["1", "12"], ["0", "-1", "1.5", "nan", "x", "1" + "0" * 400, "9" * 5000]),
        ("two_or_more", ["2", "256"], ["1", "0", "x"]),
        ("natural", ["0", "3"], ["-1", "0.5", ""]),
        ("positive", ["0.1", "1e-9"], ["0", "-1", "nan", "inf", "1e999"]),
        ("not_negative", ["0", "5e-4"], ["-0.1", "nan", "inf"]),
        ("share", ["1", "0.1", "1/10"], ["0", "1.1", "nan", "1/0"]),
        ("pruning_rate", ["0.2", "1/5"], ["0", "1", "nan", "-0.2"]),
        ("image_size", ["8", "224"], ["7", "0", "5000", "32.0"]),
        ("seed_value", ["0", str(2**63 - 1)], ["-1", str(2**63), "1.0", "1" + "0" * 400]),
        ("milestones", ["50,75", "", "3"], ["a,b", "1.5", "-1,2"]),
        ("channel_triple", [".1,.2,.3", "0 0 0"], ["1,2", "1,2,3,4", "nan,0,0", "a,b,c"]),
    ],
)
def test_types_refuse_what_is_out_of_range(kind, good, bad):
    convert = getattr(parsing, kind)
    for text in good:
        convert(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^'.*' is not "):
            convert(text)


def test_milestones_and_triples_are_read():
    assert parsing.milestones("50,75") == (50, 75)
    assert parsing.milestones("") == ()
    assert parsing.channel_triple(".49,.48,.45") == (0.49, 0.48, 0.45)


def test_a_switch_is_on_off_or_left_to_the_recipe():
    parser = Parser(prog="x")
    parser.add_argument("--train_randinit", action=Switch)
    read = lambda *words: parser.parse_args(list(words)).train_randinit  # noqa: E731
    assert read() is None
    assert read("--train_randinit") is True
    assert read("--train-randinit") is True
    for off in ("--no_train_randinit", "--no-train-randinit", "--no-train_randinit"):
        assert read(off) is False
    assert read("--no-train_randinit", "--train_randinit") is True  # the last one counts
    assert imp("--no-train_randinit").train_randinit is False


# --- wrong input ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data folder, weights, tickets and files that are none of these."""
    root = tmp_path_factory.mktemp("place")
    write_images(root / "data")
    model = build_model("resnet20s", 3, *IMAGENET, "cifar", 4)
    save_checkpoint(root / "init.pth.tar", model.state_dict())
    other = build_model("resnet20s", 3, *IMAGENET, "cifar", 8)
    save_checkpoint(root / "wide.pth.tar", other.state_dict())
    broken = {**model.state_dict(), "conv1.weight": torch.full((4, 3, 3, 3), math.nan)}
    save_checkpoint(root / "nan.pth.tar", broken)
    mask = {"layer1.0.conv1.weight_mask": torch.ones(9, 9, 3, 3, dtype=torch.bool)}
    save_ticket(root / "other.safetensors", mask, arch="x", state=1, density=1.0, init_sha256="0")
    save_checkpoint(root / "empty.pth.tar", {"no": torch.zeros(1)})
    (root / "text.pth.tar").write_text("not a checkpoint\n")
    (root / "classes.txt").write_text("purple\n")
    for folder in ("train/red", "train/green", "val/red", "val/green"):
        (root / "bare" / folder).mkdir(parents=True)
    return root


# Every one of these is refused by both mains; PLACE is the folder of the fixture.
BAD_FOR_BOTH = [
    (["--learning"], "unrecognized arguments: --learning"),
    (["--epoch", "3"], "unrecognized arguments: --epoch"),  # no abbreviations
    (["--prune"], "unrecognized arguments"),
    (["-lr", "0.1"], "unrecognized arguments"),
    (["--mode", "both"], "--mode: invalid choice: 'both'"),
    (["-a", "vgg16"], "invalid choice: 'vgg16'"),
    (["--lr", "nan"], "--lr/--learning_rate: 'nan' is not a number above 0"),
    (["--lr", "0"], "'0' is not a number above 0"),
    (["--lr"], "--lr/--learning_rate: expected one argument"),
    (["--momentum", "inf"], "--momentum: 'inf' is not a number"),
    (["--wd", "-1"], "'-1' is not a number of at least 0"),
    (["--epochs", "0"], "--epochs: '0' is not a whole number of at least 1"),
    (["--epochs", "1.5"], "'1.5' is not a whole number"),
    (["--epochs", "1" + "0" * 400], "is not a whole number"),
    (["--warmup", "-2"], "--warmup: '-2' is not"),
    (["-b", "0"], "'0' is not a whole number of at least 1"),
    (["-b", "1"], "batch size 1: must be at least 2"),
    (["--micro_batch", "0"], "--micro_batch: '0' is not"),
    (["--decreasing_lr", "75,50"], "--decreasing_lr 75,50: must increase"),
    (["--decreasing_lr", "50,50"], "--decreasing_lr 50,50: must increase"),
    (["--decreasing_lr", "a,b"], "'a' is not a whole number"),
    (["--lr_schedule", "linear"], "invalid choice: 'linear'"),
    (["--train_eps", "8/0"], "'8/0' is not a fraction of the pixel range"),
    (["--train_eps", "8"], "'8' is not a fraction of the pixel range"),
    (["--train_gamma", "nan"], "'nan' is not a fraction of the pixel range"),
    (["--train_step", "-1"], "'-1' is not a whole number of at least 0"),
    (["--seed", "-1"], "--seed: '-1' is not a whole number from 0"),
    (["--seed", "x"], "--seed: 'x' is not"),
    (["--input_size", "4"], "'4' is not a size from 8 to 4096 pixels"),
    (["--augment", "all"], "invalid choice: 'all'"),
    (["--width", "0"], "--width: '0' is not"),
    (["--stem", "vit"], "invalid choice: 'vit'"),
    (["--mean", "0.5,0.5"], "'0.5,0.5' is not three numbers"),
    (["--mean", ".5,.5,.5"], "--mean and --std go together"),
    (["--mean", "124,116,104", "--std", "1,1,1"], "--mean 124 116 104 is of images of 0 to 255"),
    (["--mean", ".5,.5,.5", "--std", "58,57,57"], "--std 58 57 57 is of images of 0 to 255"),
    (["--mean", ".5,.5,.5", "--std", "5,4.76,4.5"], "--std 5 4.76 4.5 is larger than the range"),
    (["--mean", ".5,.5,.5", "--std", "0,0,0"], "--std must be above 0, not 0"),
    (["--workers", "100000"], "--workers 100000: at most 4 per core"),
    (["--threads", "100000"], "--threads 100000: "),
    (["--classes", "99"], "classes 99: must be 2 to 3"),
    (["--classes", "PLACE/classes.txt"], "no such class in the data set: purple"),
    (["--classes", "PLACE/none.txt"], "neither a number nor a readable file"),
    (["--init", "PLACE/none.pth.tar"], "none.pth.tar: no such file"),
    (["--init", "PLACE/text.pth.tar"], "text.pth.tar is a text file"),
    (["--init", "PLACE/wide.pth.tar"], "wide.pth.tar"),
    (["--init", "PLACE/nan.pth.tar"], "nan.pth.tar"),
    (["--init", "PLACE/other.safetensors"], "other.safetensors: holds masks only"),
    (["--resume", "PLACE/none.pth.tar"], "--resume PLACE/none.pth.tar: no such file"),
    (["--resume", "PLACE/empty.pth.tar"], "no checkpoint to resume from, it lacks"),
    (["--resume", "PLACE/text.pth.tar"], "text.pth.tar"),
    (["--amp", "fp16"], "--amp fp16 needs CUDA"),
    (["--cuda_graphs"], "--cuda_graphs goes with --compile"),
    (["--compile", "--cuda_graphs"], "--cuda_graphs needs CUDA"),
    (["--print_freq", "0"], "--print_freq: '0' is not"),
    (["--device", "cuda"], "CUDA was asked for, but PyTorch sees no CUDA device"),
    (["--gpu", "3"], "CUDA was asked for, but PyTorch sees no CUDA device"),
]
BAD_FOR_IMP = [
    (["--rate", "1"], "--rate: '1' is not a fraction between 0 and 1"),
    (["--rate", "nan"], "'nan' is not a fraction"),
    (["--prune_epoch", "0"], "--prune_epoch: '0' is not"),
    (["--pretrain_epochs", "-1"], "'-1' is not a whole number of at least 0"),
    (["--keep", "none"], "invalid choice: 'none'"),
    (["--export_released", "7"], "7-checkpoint.pth.tar: no such file"),
    (["--ticket", "omp"], "--ticket omp prunes pre-trained weights: name them by --init"),
    (["--ticket", "best"], "invalid choice: 'best'"),
]
BAD_FOR_TRANSFER = [
    (["--evaluate"], "--evaluate: no checkpoint in"),  # IMP's validates --init then
    (["--dataset", "mnist"], "--dataset: invalid choice: 'mnist'"),
    (["--dataset", "imagenet"], "--dataset: invalid choice: 'imagenet'"),
    (["--dataset", "visda"], "image_list.txt: not there"),
    (["--data", "PLACE/none"], "PLACE/none: no such folder; expected one with train/CLASS/*"),
    (["--data", "PLACE/bare"], "no image in it"),
    (["--data_number", "0"], "'0' is not a fraction above 0 and at most 1"),
    (["--data_number", "1.5"], "'1.5' is not a fraction above 0"),
    (["--test_eps", "9"], "--test_eps: '9' is not"),
    (["--test_step", "x"], "'x' is not a whole number of at least 0"),
    (["--eval_from", "-1"], "--eval_from: '-1' is not"),
    (["--eval_batch_size", "0"], "--eval_batch_size: '0' is not"),
    (["--tickets_file", "PLACE/none.safetensors"], "none.safetensors: no such file"),
    (["--tickets_file", "PLACE/text.pth.tar"], "text.pth.tar is a text file"),
    (["--tickets_file", "PLACE/init.pth.tar"], "init.pth.tar: holds no masks"),
    (["--tickets_file", "PLACE/other.safetensors"], "(9, 9, 3, 3)"),
    (["more"], "unrecognized arguments: more"),
]
CASES = [
    *((main_imp_pretrain.main, *case) for case in BAD_FOR_BOTH + BAD_FOR_IMP),
    *((main_downstream.main, *case) for case in BAD_FOR_BOTH + BAD_FOR_TRANSFER),
]


NEEDS_NO_GPU = {("--device", "cuda"), ("--gpu", "3"), ("--amp", "fp16")}


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_a_folder_whose_name_is_no_text_is_refused(task):
    parser = (
        build_imp_parser(ARCHS) if task == "imp" else build_transfer_parser(ARCHS, ("cifar10",))
    )
    data = ["DATA"] if task == "imp" else []
    for name, told in (("caf\udce9", "not UTF-8"), ("café", None)):
        args = parser.parse_args([*data, "--save_dir", name])
        if told is None:
            apply_recipe(args, task)
            continue
        with pytest.raises(InputError, match=told):
            apply_recipe(args, task)


@pytest.mark.parametrize(
    ("main", "words", "told"),
    CASES,
    ids=[f"{main.__module__[5:8]} {' '.join(words)[:40]}" for main, words, _ in CASES],
)
def test_wrong_input_is_one_line_status_2_and_nothing_written(
    main, words, told, place, tmp_path, monkeypatch, capsys
):
    if torch.cuda.is_available() and tuple(words) in NEEDS_NO_GPU:
        pytest.skip("right where there is a GPU")
    skip_pictures(monkeypatch)
    monkeypatch.chdir(tmp_path)
    init = ["--init", str(place / "init.pth.tar")] if "omp" not in words else []
    argv = [*TINY, *HERE, *init, "--save_dir", "out"]
    if main is main_imp_pretrain.main:
        argv = [str(place / "data"), *argv]
    else:
        argv = ["--dataset", "folder", "--data", str(place / "data"), *argv]
    before = contents(place)
    words = [word.replace("PLACE", str(place)) for word in words]
    message = one_error_line([*argv, *words], main, capsys)
    assert told.replace("PLACE", str(place)) in message
    assert list(tmp_path.iterdir()) == []
    assert contents(place) == before


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "DATA is missing"),
        (["PLACE/none"], "PLACE/none: no such folder; expected one with train/CLASS/* and val"),
        (["PLACE/data/train"], "no folder train; expected train/CLASS/* and val/CLASS/*"),
        (["PLACE/bare"], "no image in it"),
        (["PLACE/data", "PLACE/data"], "unrecognized arguments"),
    ],
)
def test_wrong_data_for_imp(data, told, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("PLACE", str(place)) for word in data]
    argv = [*words, *TINY, *HERE, "--init", str(place / "init.pth.tar"), "--save_dir", "out"]
    message = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert told.replace("PLACE", str(place)) in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a, b"), 2, "error: a, b\n"),
        (RunFailed("no space"), 1, "error: no space\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_main_raises_becomes_a_line_and_a_status(error, status, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        errors.run_main(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == line


def test_a_bug_of_ours_keeps_its_traceback():
    def main():
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        errors.run_main(main)


def run_unread(folder, *words):
    """Run Python with a standard output whose reader has gone, as `| head` goes."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        return subprocess.run(
            [sys.executable, *words], cwd=folder, stdout=stdout, stderr=subprocess.PIPE,
            text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def test_what_is_only_printed_may_be_cut_short_by_its_reader(tmp_path):
    done = run_unread(tmp_path, str(ROOT / "main_imp_pretrain.py"), "DATA", "--dry_run")
    assert (done.returncode, done.stderr) == (141, "")


RUNNING = """
import os, errors, sys
def main():
    {}
errors.run_main(main)
"""


@pytest.mark.parametrize("flag", ["--dry-run", "-h", "--help", "--slurm", "--folder"])
def test_other_flags_that_only_print_may_be_cut_short_too(flag, tmp_path):
    done = run_unread(tmp_path, "-c", RUNNING.format("print('usage')"), flag)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("printing", ["print('epoch 1', flush=True)", "print('epoch 1')"])
def test_a_run_whose_output_nobody_reads_does_not_end_in_silence(printing, tmp_path):
    done = run_unread(tmp_path, "-c", RUNNING.format(printing))
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: the pipe was closed")
    assert done.stderr.count("\n") == 1


def test_another_pipe_that_breaks_is_a_bug_with_its_traceback(tmp_path):
    breaking = "r, w = os.pipe(); os.close(r); os.write(w, b'gradients')"
    done = subprocess.run(
        [sys.executable, "-c", RUNNING.format(breaking), "--dry_run"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"]
)
@pytest.mark.parametrize(("images", "fewer"), [(128, 64), (3, 2)])  # a single one is refused
def test_running_out_of_memory_names_a_value_to_try(message, images, fewer):
    error = torch.OutOfMemoryError if "CUDA" in message else RuntimeError
    told = f"{images} .*: try --micro_batch {fewer}, and another --save_dir"
    with pytest.raises(InputError, match=told), errors.memory_advice(images):
        raise error(message)
    with pytest.raises(RuntimeError, match="another"), errors.memory_advice(128):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ENOSPC", "cannot be written (No space left on device); free some space"),
        ("EIO", "cannot be read or written (Input/output error); is the disk whole, and writable?"),
        ("EROFS", "cannot be read or written (Read-only file system); is the disk whole, and"),
    ],
)
def test_a_full_disk_and_a_broken_one_get_the_advice_that_helps(name, told):
    number = getattr(errno, name)
    with pytest.raises(errors.RunFailed) as caught, errors.failures_named():
        raise OSError(number, os.strerror(number), "/data/train_32x32.mat")
    assert str(caught.value).startswith(f"/data/train_32x32.mat: {told}")


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "ENAMETOOLONG", "ELOOP"])
def test_a_path_that_this_user_cannot_follow_is_wrong_input(name, capsys):
    def look():
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number), "/scratch/other/weights.pth")

    with pytest.raises(SystemExit) as stop:
        errors.run_main(look)
    assert stop.value.code == 2
    reason = os.strerror(getattr(errno, name))
    assert capsys.readouterr().err == f"error: /scratch/other/weights.pth: {reason}\n"


def test_threads_and_tf32_are_as_asked_for():
    distributed.configure_torch(threads=2, tf32=True)
    assert torch.get_num_threads() == 2
    assert torch.backends.cudnn.allow_tf32
    distributed.configure_torch(threads=None, tf32=False)
    assert torch.get_num_threads() == 2  # left as it is
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
