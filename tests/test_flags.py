"""The flags of both mains: spellings, groups, defaults; building a parser changes nothing."""

import json
from pathlib import Path

import pytest

from cli.flags import build_imp_parser, build_transfer_parser
from cli.recipes import apply_recipe, recipe
from cli.recorded import OWN, TAKEN, WITHOUT_EFFECT, take_recorded
from errors import InputError
from files.run_args import ADDED
from report.recipes import NOT_COMPARED

ARCHS = ("resnet18", "resnet50")
DATASETS = ("cifar10", "svhn", "folder")


def imp():
    return build_imp_parser(ARCHS)


def transfer():
    return build_transfer_parser(ARCHS, DATASETS)


def read(parser, *words):
    data = ["DATA"] if parser.prog.startswith("main_imp") else []
    return parser.parse_args([*data, *words])


BOTH = [imp, transfer]
GROUPS = [
    "data", "model", "ticket", "attack", "optimisation", "evaluation", "runtime", "output",
]  # fmt: skip


@pytest.mark.parametrize("build", BOTH)
def test_help_is_grouped_in_this_order(build, capsys):
    with pytest.raises(SystemExit) as stop:
        build().parse_args(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    places = [printed.index(f"\n{group}") for group in GROUPS]
    assert places == sorted(places)
    assert "table in cli/recipes.py" in " ".join(printed.split())


@pytest.mark.parametrize("build", BOTH)
def test_every_flag_says_what_it_does(build):
    for action in build()._actions:
        assert action.help, action.option_strings


@pytest.mark.parametrize("build", BOTH)
def test_building_and_parsing_are_pure(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = vars(read(build()))
    assert first == vars(read(build()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("build", "task"), [(imp, "imp"), (transfer, "transfer")])
def test_what_a_recipe_fills_is_none_when_left_out(build, task):
    """Only so can a value of 0 be told from none."""
    args = vars(read(build()))
    filled = {*recipe(task, "adv"), *recipe(task, "std"), "stem"} & args.keys()
    assert len(filled) > 20
    assert {name for name in filled if args[name] is not None} == set()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (imp, {"mode": None, "init": None, "keep": "all", "pretrain_epochs": 0, "ticket": "imp"}),
        (imp, {"resume": None, "dry_run": False, "evaluate": False, "export_released": None}),
        (transfer, {"mode": None, "data_number": 1.0, "save_all": False}),
        (transfer, {"tickets_file": None, "resume": None, "evaluate": False, "tag": None}),
        *((build, {"device": "auto", "gpu": None, "nproc": None}) for build in BOTH),
        *((build, {"world_size": None, "rank": None, "dist_url": None}) for build in BOTH),
        *((build, {"micro_batch": None, "channels_last": True}) for build in BOTH),
    ],
)
def test_defaults(build, expected):
    args = vars(read(build()))
    assert {name: args[name] for name in expected} == expected


def test_every_flag_is_in_one_class_of_what_evaluate_does_with_it_when_left_out():
    flags = {action.dest for build in BOTH for action in build()._actions} - {"help"}
    assert sorted([*TAKEN, *OWN, *WITHOUT_EFFECT]) == sorted(flags)


@pytest.mark.parametrize("build", BOTH)
def test_flags_that_evaluate_takes_from_the_record_are_none_when_left_out(build):
    args = vars(read(build()))
    assert {name for name in TAKEN if args.get(name) is not None} == set()


RECORDS = Path(__file__).parent.parent / "results" / "miniature" / "runs"


def test_flags_that_runs_in_the_repository_have_not_recorded_have_a_value_for_them():
    recorded = {
        key
        for record in ("imp/adv", "transfer/adv/folder/std/f0.1/state0/seed1")
        for key in json.loads((RECORDS / record / "args.json").read_text())
    }
    flags = {action.dest for build in BOTH for action in build()._actions} - {"help"}
    lacking = flags - recorded - ADDED.keys() - NOT_COMPARED
    assert not lacking, "put into ADDED of files/run_args.py, by what training did before the flag"


SPELLINGS = [
    (BOTH, ["-a", "resnet18"], ["--arch", "resnet18"]),
    (BOTH, ["-b", "7"], ["--batch_size", "7"]),
    (BOTH, ["-b", "7"], ["--batch-size", "7"]),
    (BOTH, ["-b7"], ["--batch_size=7"]),
    (BOTH, ["-j", "0"], ["--workers", "0"]),
    (BOTH, ["-p", "3"], ["--print-freq", "3"]),
    (BOTH, ["-e"], ["--evaluate"]),
    (BOTH, ["--lr", "1"], ["--learning-rate", "1"]),
    (BOTH, ["--wd", "1e-4"], ["--weight-decay", "1e-4"]),
    (BOTH, ["--train_step", "3"], ["--train_steps", "3"]),
    (BOTH, ["--train_gamma", "2/255"], ["--train_step_size", "2/255"]),
    (BOTH, ["--train-randinit"], ["--train_randinit"]),
    (BOTH, ["--no-train-randinit"], ["--no_train_randinit"]),
    (BOTH, ["--resume"], ["--resume", "auto"]),
    (BOTH, ["--multiprocessing_distributed"], ["--multiprocessing-distributed"]),
    ([transfer], ["--tickets_file", "x"], ["--ticket_file", "x"]),
    ([transfer], ["--test_step", "3"], ["--test_steps", "3"]),
    ([transfer], ["--test_gamma", "2/255"], ["--test-step-size", "2/255"]),
]


@pytest.mark.parametrize(("builds", "one", "other"), SPELLINGS)
def test_two_spellings_of_a_flag_mean_the_same(builds, one, other):
    for build in builds:
        assert vars(read(build(), *one)) == vars(read(build(), *other)) != vars(read(build()))


# The released code's flags, as its scripts spell them.
RELEASED = {
    imp: "-a resnet50 -j 8 --epochs 570 -b 2048 --lr 5e-4 --momentum 0.9 --wd 1e-4 -p 10 "
    "--resume x -e --pretrained --world-size 1 --rank 0 --dist-url tcp://h:1 --dist-backend nccl "
    "--seed 1 --gpu 0 --multiprocessing-distributed --save_dir d --init x --rate 0.2 "
    "--prune_epoch 30 --train_eps 8/255 --train_step 3 --train_gamma 16/(3*255) --train_randinit",
    transfer: "--data data --dataset cifar10 -a resnet50 --init x --batch_size 128 --lr 0.1 "
    "--weight_decay 5e-4 --momentum 0.9 --epochs 100 --decreasing_lr 50,75 --warmup 0 "
    "--train_eps 8/255 --train_step 10 --train_gamma 2/255 --train_randinit --test_eps 8/255 "
    "--test_step 20 --test_gamma 2/255 --test_randinit --seed 1 --gpu 0 --workers 4 "
    "--save_dir d --save_all --resume x --tickets_file x --print_freq 50 --data_number 0.1",
}


@pytest.mark.parametrize("build", BOTH)
def test_the_released_codes_flags_are_understood(build):
    args = vars(read(build(), *RELEASED[build].split()))
    assert args["train_randinit"] is True
    assert args["train_eps"] == 8 / 255
    assert args["seed"] == 1


@pytest.mark.parametrize(
    ("builds", "words"),
    [
        (BOTH, ["--init", ""]),
        (BOTH, ["--init="]),
        (BOTH, ["--init_key", ""]),
        (BOTH, ["--resume", ""]),
        ([transfer], ["--tickets_file", ""]),
        ([transfer], ["--masking_source", ""]),
        (BOTH, ["--world-size", "-1", "--rank", "-1"]),
        (BOTH, ["--no_multiprocessing_distributed"]),
        ([imp], ["--start-epoch", "0"]),
    ],
)
def test_what_the_released_code_means_by_nothing_is_the_same_as_leaving_it_out(builds, words):
    for build in builds:
        assert vars(read(build(), *words)) == vars(read(build()))


@pytest.mark.parametrize("build", BOTH)
@pytest.mark.parametrize(
    "word", ["--arc", "--epoch", "--batch", "--workers_", "--trainrandinit", "--no-epochs", "--dry"]
)
def test_abbreviations_and_near_misses_are_refused(build, word):
    with pytest.raises(InputError, match="^unrecognized arguments: --") as told:
        read(build(), word, "1")
    assert "\n" not in str(told.value)
    assert f"{build().prog} --help" in str(told.value)


@pytest.mark.parametrize(
    ("name", "damaged", "right"),
    [
        ("test_eps", ("abc", "8/255", 2, True, [0.1], {}), (0, 8 / 255, 1.0)),
        ("test_step", ("20", 2.5, -1, [20]), (0, 20)),
        ("test_randinit", ("yes", 1), (True, False)),
        ("dataset", ("mnist", 10), ("svhn",)),
        ("amp", ("fp8", False), ("bf16",)),
        ("seed", (-1, 2**63, "1"), (0, 2**63 - 1)),
    ],
)
def test_a_test_takes_from_the_record_only_what_a_flag_could_say(tmp_path, name, damaged, right):
    parser = transfer()
    words = ["--evaluate", "--save_dir", str(tmp_path)]
    for value in damaged:
        (tmp_path / "args.json").write_text(json.dumps({name: value}))
        with pytest.raises(InputError, match=f"args.json: damaged, its {name} is .*; mend that"):
            take_recorded(parser.parse_args(words), parser)
    for value in (None, *right):
        (tmp_path / "args.json").write_text(json.dumps({name: value}))
        args = parser.parse_args(words)
        take_recorded(args, parser)
        assert vars(args)[name] == value


@pytest.mark.parametrize("name", TAKEN)
def test_whatever_a_recipe_or_default_gives_a_flag_can_be_taken_from_the_record(name):
    parser = transfer()
    for mode in ("std", "adv"):
        args = parser.parse_args(["--mode", mode])
        apply_recipe(args, "transfer")
        assert parser.admits(name, json.loads(json.dumps(vars(args)[name])))
