"""What real files do to a run and to a report: the figure, the warning beside it, or a refusal.

Tables, one row a situation: the classes of a classifier and of a data set, pruned files as --init,
runs that a report could merge.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.folder_cases import NFC, NFD, renamed
from helpers.main_cases import (
    HERE,
    TINY,
    Interrupted,
    contents,
    die,
    load,
    one_error_line,
    read_json,
    run_imp,
    run_transfer,
    skip_pictures,
)
from helpers.report_cases import result, sha256, write_run
from PIL import Image

import main_downstream
import main_imp_pretrain
from engine import steps
from files.checkpoints import bare_keys, save_checkpoint
from files.class_names import class_names_in
from files.results import name_of_init
from input_pipeline.names import compare_classes, doubtful_order
from models import build_model
from models.convert import convert
from pruning_utils import masks, prune_by_magnitude
from report.__main__ import main as report
from report.judged import Stat
from report.write import write_report

PLAIN = ((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch, skip_figures):
    skip_pictures(monkeypatch)


def plain_images(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Class folders of dark images, brighter from class to class: all that a network must see."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4), ("test", 4)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                level = 40 + 170 * label // (len(classes) - 1)
                pixels = level + random.integers(0, 30, (16, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{k}.png")
    return root


UNTOLD = "ticket: the file does not say how its masks were found; they count as IMP's"
NO_STATE = (
    "ticket: the file does not say how often its weights were pruned; by its density it counts as "
    "state 3 of --rate 0.2"
)
STD = ["--mode", "std", "--epochs", "3", "--lr", "0.05", "--mean", ".5,.5,.5", "--std", ".3,.3,.3"]
SHORT = ["--mode", "std", "--epochs", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of cat and dog, a transfer to them, a search on them, and initial weights."""
    root = tmp_path_factory.mktemp("made")
    plain_images(root / "data")
    torch.manual_seed(3)
    dense = build_model("resnet20s", 2, *PLAIN, width=4)
    save_checkpoint(root / "dense.pt", dense.state_dict())
    prune_by_magnitude(dense, 0.5)
    save_checkpoint(root / "pruned.pt", dense.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_transfer(root / "data", root / "transfer", *STD, "--init", str(root / "dense.pt"))
        flags = ["--mode", "std", "--epochs", "1", "--prune_epoch", "1"]
        run_imp(root / "data", root / "imp", *flags, "--init", str(root / "dense.pt"))
    return root


def rewritten(path: Path, **changes: Any) -> Callable[[Path], Path]:
    """A checkpoint without `classes`, or with other entries."""
    payload = {k: v for k, v in load(path).items() if k != "classes"}
    return lambda target: save_checkpoint(target, {**payload, **changes}) or target


# ------------------------------------------------------------------ classes of a classifier


@dataclass(frozen=True)
class Classes:
    """What is renamed in the data, what is changed in the checkpoint, and what comes of it.

    sa: percent. warned: words of the only warning. refused: words of the error instead.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    entries: dict[str, Any] | None = None  # in place of `classes`
    sa: float = 100.0
    warned: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


OTHER_ORDER = ("its classes are those of the data set in another order", "class dog is 0 there, 1")
CLASS_CASES = [
    Classes("as trained"),
    Classes("cat becomes zcat", (("cat", "zcat"),), sa=0.0,
            warned=("cat only there; zcat only here", "class dog is 1 there, 0 here")),
    Classes("cat becomes bat", (("cat", "bat"),), warned=("cat only there; bat only here",)),
    Classes("dog becomes a", (("dog", "a"),), sa=0.0, warned=("class cat is 0 there, 1 here",)),
    Classes("all have other names", (("cat", "tench"), ("dog", "goldfish")), sa=0.0,
            warned=("cat, dog only there; goldfish, tench only here",)),
    Classes("a file of another order", entries={"classes": ["dog", "cat"]}, refused=OTHER_ORDER),
    Classes("a file of a class more", entries={"classes": ["cat", "dog", "eel"]},
            warned=("eel only there",)),
    Classes("class_names", entries={"class_names": ("cat", "dog")}),
    Classes("class_to_idx", entries={"class_to_idx": {"dog": 1, "cat": 0}}),
    Classes("class_to_idx of another order", entries={"class_to_idx": {"dog": 0, "cat": 1}},
            refused=OTHER_ORDER),
    Classes("no names", entries={}),
    Classes("a number for names", entries={"classes": 2}),
    Classes("names twice", entries={"classes": ["cat", "cat"]}),
    Classes("no names, folders of numbers", (("cat", "10"), ("dog", "9")), {},
            warned=("holds no class names", "9 comes before 10 counted as numbers")),
    Classes("no names, folders of one digit", (("cat", "0"), ("dog", "1")), {}),
    Classes("no names, folders of padded numbers", (("cat", "09"), ("dog", "10")), {}),
    Classes("no names, upper and lower case", (("cat", "Dog"), ("dog", "cat")), {},
            warned=("cat comes before Dog in upper and lower case alike",)),
    Classes("no names, twins but for case", (("cat", "Cat"), ("dog", "cat")), {},
            warned=("differ in case alone",)),
    Classes("no names, an accent", (("cat", NFD), ("dog", "cafz")), {},
            warned=("cafz comes before caf\u00e9 in Unicode's NFC form",)),
    Classes("NFC in the file, NFD on the disk", (("cat", NFD),), {"classes": [NFC, "dog"]}),
]  # fmt: skip


@pytest.mark.parametrize("task", ["transfer", "imp"])
@pytest.mark.parametrize("case", CLASS_CASES, ids=lambda case: case.name)
def test_a_classifier_is_tested_on_its_own_classes_or_it_is_said(
    made, case, task, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    for part in ("train", "val", "test"):
        for before, _ in case.renames:  # first aside: a name may be another's old one
            renamed(data, f"{part}/{before}", f"{part}/.{before}")
        for before, after in case.renames:
            renamed(data, f"{part}/.{before}", f"{part}/{after}")
    if task == "imp":  # it has no test split
        shutil.rmtree(data / "test")
    trained = load(made / "transfer" / "model_SA_best.pth.tar")
    names = {"classes": trained["classes"]} if case.entries is None else case.entries
    state = {"arch": "resnet20s", **names, "state_dict": trained["state_dict"]}
    if task == "imp":
        state |= {"state_dict": bare_keys(trained["state_dict"]), "epoch": 1, "state_prune": 0}
    save_checkpoint(tmp_path / "x.pth.tar", state)
    flags = ["--evaluate", "--resume", str(tmp_path / "x.pth.tar"), "--mode", "std"]
    if task == "imp":
        argv = [str(data), *TINY, *HERE, "--save_dir", str(tmp_path / "out"), *flags]
        main, key = main_imp_pretrain.main, "acc1"
        argv += ["--epochs", "1", "--prune_epoch", "1"]
    else:
        where = ["--dataset", "folder", "--data", str(data), "--save_dir", str(tmp_path / "out")]
        main, key = main_downstream.main, "sa"
        argv = [*where, *TINY, *HERE, *flags]
    if case.refused:
        line = one_error_line(argv, main, capsys)
        assert all(words in line for words in case.refused)
        assert "rename the class folders" in line
        assert not (tmp_path / "out").exists()
        return
    main(argv)
    found, printed = read_json(tmp_path / "out" / "eval.json"), capsys.readouterr()
    assert found[key] == case.sa
    warned = [line for line in found["warnings"] if "no args.json beside it" not in line]
    assert len(warned) == bool(case.warned), warned
    assert all(words in warned[0] for words in case.warned)
    for line in warned:
        assert printed.err.count(f"warning: {line}\n") == 1
    known = class_names_in(state) is not None
    assert ("holds no class names; its" in printed.out) == (not known and not case.warned)


ORDERS = [
    (("cat", "dog"), None),
    (("airplane", "automobile", "bird"), None),
    (tuple("0123456789"), None),
    (("n01440764", "n01443537", "n02102040"), None),
    (("aquarium_fish", "apple"), "apple comes before aquarium_fish"),
    (("1", "10", "2"), "2 comes before 10 counted as numbers"),
    (("class_1", "class_10", "class_9"), "class_9 comes before class_10"),
    (("10. x", "2. y"), "2. y comes before 10. x"),
    (("a-b", "a1"), None),
    (("Zebra", "ant"), "ant comes before Zebra in upper and lower case alike"),
    (("Cat", "cat"), "cat and Cat differ in case alone|Cat and cat differ in case alone"),
    (("caf\\xe9", "dog"), None),
    ((NFC, "cafz"), "café comes before cafz|cafz comes before café"),
]


@pytest.mark.parametrize(("names", "told"), ORDERS)
def test_an_order_that_other_programs_may_not_share_is_told(names, told):
    doubt = doubtful_order(names)
    assert (doubt is None) == (told is None)
    assert told is None or any(words in doubt for words in told.split("|"))


def test_classes_that_differ_are_told_a_few_at_a_time():
    theirs, ours = [f"a{n}" for n in range(20)], [f"b{n}" for n in range(20)]
    note = compare_classes(theirs, ours, "x.pt", "")
    assert note is not None
    assert len(note) < 200
    assert "a0, a1, a2, a3, a4 and 15 more only there" in note
    assert compare_classes(ours, ours, "x.pt", "") is None


# ------------------------------------------------------------------ where classifiers meet data


def other_classes(made, tmp_path, names) -> str:
    path = tmp_path / "x.pth.tar"
    rewritten(made / "transfer" / "checkpoint.pth.tar", classes=names)(path)
    return str(path)


def transfer_argv(data, save_dir, *flags):
    where = ["--dataset", "folder", "--data", str(data), "--save_dir", str(save_dir)]
    return [*where, *TINY, *HERE, *flags]


def imp_argv(data, save_dir, *flags):
    schedule = ["--mode", "std", "--epochs", "1", "--prune_epoch", "1"]
    return [str(data), *TINY, *HERE, "--save_dir", str(save_dir), *schedule, *flags]


def test_class_names_are_kept_in_every_file_of_a_run(made):
    transfer, imp = made / "transfer", made / "imp"
    for path in (*transfer.glob("*.pth.tar"), *imp.glob("1-*.pth.tar")):
        assert load(path)["classes"] == ["cat", "dog"], path
    for path in (transfer / "args.json", transfer / "results.json", imp / "args.json"):
        assert read_json(path)["class_names"] == ["cat", "dog"]
    assert "classes" not in load(imp / "init.pth.tar")  # a plain state dict


WORD = {"another order": ["dog", "cat"], "other names": ["cat", "eel"], "its own": ["cat", "dog"]}


@pytest.mark.parametrize("names", WORD)
def test_a_transfer_resumed_elsewhere_compares_its_classes(made, names, tmp_path, capsys):
    path = other_classes(made, tmp_path, WORD[names])
    argv = transfer_argv(made / "data", tmp_path / "run", *STD, "--resume", path)
    shutil.copy(made / "transfer" / "model_SA_best.pth.tar", tmp_path)
    check(names, argv, main_downstream.main, tmp_path / "run" / "results.json", capsys)


@pytest.mark.parametrize("names", WORD)
def test_a_search_resumed_elsewhere_compares_its_classes(made, names, tmp_path, capsys):
    shutil.copy(made / "imp" / "init.pth.tar", tmp_path / "init.pth.tar")
    path = tmp_path / "1-checkpoint.pth.tar"
    rewritten(made / "imp" / "1-checkpoint.pth.tar", classes=WORD[names])(path)
    argv = imp_argv(made / "data", tmp_path / "run", "--resume", str(path))
    check(names, argv, main_imp_pretrain.main, tmp_path / "run" / "args.json", capsys)


@pytest.mark.parametrize("names", WORD)
def test_a_search_from_a_classifier_compares_its_classes(made, names, tmp_path, capsys):
    path = other_classes(made, tmp_path, WORD[names])
    argv = imp_argv(made / "data", tmp_path / "run", "--init", path)
    line = check(names, argv, main_imp_pretrain.main, tmp_path / "run" / "args.json", capsys)
    assert ("--reset_fc" in line) == (names == "another order")
    fresh = imp_argv(made / "data", tmp_path / "fresh", "--init", path, "--reset_fc")
    main_imp_pretrain.main(fresh)  # whatever the names: the classifier is left out
    assert not [w for w in read_json(tmp_path / "fresh" / "args.json")["warnings"] if "class" in w]


@pytest.mark.parametrize("names", WORD)
def test_a_source_of_attacks_has_its_classes_compared_before_training(
    made, names, tmp_path, capsys
):
    path = other_classes(made, tmp_path, WORD[names])
    flags = [*SHORT, "--check_masking", "--masking_source", path, "--eval_images", "2"]
    flags += ["--test_step", "1"]
    argv = transfer_argv(made / "data", tmp_path / "run", *flags)
    check(names, argv, main_downstream.main, tmp_path / "run" / "results.json", capsys)


@pytest.mark.parametrize("names", WORD)
def test_an_adversarial_set_names_its_classes(made, names, tmp_path, capsys):
    checkpoint = ["--evaluate", "--resume", str(made / "transfer" / "checkpoint.pth.tar")]
    attack = ["--mode", "std", "--eval_attack", "pgd", "--test_step", "1"]
    saved = ["--save_adv", str(tmp_path / "adv.pt")]
    main_downstream.main(
        transfer_argv(made / "data", tmp_path / "first", *checkpoint, *attack, *saved)
    )
    assert load(tmp_path / "adv.pt")["classes"] == ["cat", "dog"]
    rewritten(tmp_path / "adv.pt", classes=WORD[names])(tmp_path / "adv.pt")
    flags = [*checkpoint, "--mode", "std", "--eval_set", f"adv:{tmp_path / 'adv.pt'}"]
    argv = transfer_argv("nowhere", tmp_path / "run", *flags)
    check(names, argv, main_downstream.main, tmp_path / "run" / "eval.json", capsys)


def check(names, argv, main, file: Path, capsys) -> str:
    """Other names are a warning in the file, the same in another order a refusal."""
    if names == "another order":
        line = one_error_line(argv, main, capsys)
        assert "in another order (class dog is 0 there, 1 here)" in line or (
            "in another order (class cat is 0 there, 1 here)" in line
        )
        assert not file.parent.exists()
        return line
    main(argv)
    told = [line for line in read_json(file)["warnings"] if "its classes are not those" in line]
    assert len(told) == (names == "other names")
    assert all(words in line for line in told for words in ("eel", "dog"))
    return ""


# ------------------------------------------------------------------ pruned files as --init


def pruned_init(folder: Path, rate: float, baked: bool = False, wrapped: bool = False) -> str:
    """Write a network of which a fraction of the weights is pruned, its masks kept or baked in."""
    torch.manual_seed(3)
    model = build_model("resnet20s", 2, *PLAIN, width=4)
    prune_by_magnitude(model, rate)
    state = dict(model.state_dict())
    if baked:
        kept = masks(model)
        for name in [n for n in state if n.endswith("_orig")]:
            plain = name.removesuffix("_orig")
            state[plain] = state.pop(name) * kept[f"{plain}_mask"]
            del state[f"{plain}_mask"]
    if wrapped:
        state = {f"module.{name}": value for name, value in state.items()}
    save_checkpoint(folder / "init.pt", {"state_dict": state} if wrapped else state)
    return str(folder / "init.pt")


FORGOTTEN = ("is pruned to 50.00 %", "the dense network is trained", "--tickets_file")
ZEROS = ("50.00 % of its convolution weights are exactly 0", "without its masks")
PRUNED = {  # what is done to the file; words of a transfer's warning, and of a search's refusal
    "dense": ({"rate": 0.0}, (), ()),
    "masks of ones": ({"rate": 1e-9}, (), ()),
    "pruned": ({"rate": 0.5}, FORGOTTEN, ("is pruned to 50.00 % already", "init.pth.tar")),
    "pruned, of DataParallel": ({"rate": 0.5, "wrapped": True}, FORGOTTEN, ("pruned to 50.00 %",)),
    "baked in": ({"rate": 0.5, "baked": True}, ZEROS, ()),
    "few zeros": ({"rate": 0.02, "baked": True}, (), ()),
}


@pytest.mark.parametrize("name", PRUNED)
def test_masks_in_a_transfers_init_are_not_forgotten_silently(made, name, tmp_path, capsys):
    how, told, _ = PRUNED[name]
    init = pruned_init(tmp_path, **how)
    run_transfer(made / "data", tmp_path / "run", *SHORT, "--init", init)
    found = read_json(tmp_path / "run" / "results.json")
    assert (found["density"], found["state"]) == (1.0, 0)  # whatever is zero is trained
    assert len(found["warnings"]) == bool(told), found["warnings"]
    assert all(words in found["warnings"][0] for words in told)
    assert found["warnings"] == read_json(tmp_path / "run" / "args.json")["warnings"]
    assert capsys.readouterr().err.count("warning: ") == len(found["warnings"])


@pytest.mark.parametrize("baked", [False, True])
def test_with_its_ticket_a_pruned_init_is_no_surprise(made, tmp_path, baked):
    init = ticket = pruned_init(tmp_path, 0.5, baked=baked)
    if baked:
        ticket = str(tmp_path / "ticket.pth.tar")
        convert(init, ticket, masks_from_zeros=True)
    flags = ["--init", init, "--tickets_file", ticket]
    run_transfer(made / "data", tmp_path / "run", *SHORT, *flags)
    found = read_json(tmp_path / "run" / "results.json")
    assert found["density"] == pytest.approx(0.5, abs=1e-3)
    assert found["warnings"] == [UNTOLD, NO_STATE]


@pytest.mark.parametrize("ticket", ["imp", "omp", "random"])
@pytest.mark.parametrize("name", PRUNED)
def test_a_search_does_not_begin_below_density_1(made, name, ticket, tmp_path, capsys):
    how, told, refused = PRUNED[name]
    init = pruned_init(tmp_path, **how)
    flags = ["--init", init] + ([] if ticket == "imp" else ["--ticket", ticket])
    argv = imp_argv(made / "data", tmp_path / "run", *flags)
    if refused:
        line = one_error_line(argv, main_imp_pretrain.main, capsys)
        assert all(words in line for words in refused)
        assert not (tmp_path / "run").exists()
        return
    main_imp_pretrain.main(argv)
    found = read_json(tmp_path / "run" / "args.json")["warnings"]
    zeros = [line for line in found if "exactly 0" in line]
    assert len(zeros) == bool(told)
    assert all(words in zeros[0] for words in told)


def test_a_searchs_checkpoint_is_refused_as_the_start_of_another(made, tmp_path, capsys):
    init = ["--init", str(made / "imp" / "1-checkpoint.pth.tar")]
    argv = imp_argv(made / "data", tmp_path / "run", *init)
    assert "is pruned to 80.0" in one_error_line(argv, main_imp_pretrain.main, capsys)


def test_trained_weights_as_init_are_told(made, tmp_path):
    """A released checkpoint holds the trained weights, and the initial ones under `init`."""
    run_imp(made / "data", tmp_path / "imp", "--mode", "std", "--epochs", "1", "--prune_epoch", "1",
            "--init", str(made / "dense.pt"))  # fmt: skip
    main_imp_pretrain.main(["--save_dir", str(tmp_path / "imp"), "--export_released", "1"])
    released = str(tmp_path / "imp" / "1-released.pth.tar")
    flags = ["--init", released, "--tickets_file", released]
    run_transfer(made / "data", tmp_path / "run", *SHORT, *flags)
    trained, other = read_json(tmp_path / "run" / "results.json")["warnings"]
    assert "these are the weights as trained" in trained
    assert "belongs to other initial weights" in other


# ------------------------------------------------------------------ the hash of initial weights


def recorded(run: Path) -> tuple[str, str]:
    found = read_json(run / "results.json")
    assert read_json(run / "args.json")["init_sha256"] == found["init_sha256"]
    return found["init"], found["init_sha256"]


def test_a_file_and_its_init_file_are_the_same_weights_however_they_are_stored(made, tmp_path):
    state = load(made / "dense.pt")
    plain = {n: v for n, v in state.items() if not n.startswith("normalize.")}
    save_checkpoint(tmp_path / "parallel.pt", {"net": {f"module.{n}": v for n, v in plain.items()}})
    strided = {n: v.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) if v.dim() == 4 else v
               for n, v in plain.items()}  # fmt: skip
    save_checkpoint(tmp_path / "strided.pt", strided)
    expected = recorded(made / "transfer")[1]
    assert read_json(made / "imp" / "args.json")["init_sha256"] == expected
    cases = {
        "imp": ["--init", str(made / "imp" / "init.pth.tar")],
        "parallel.pt": ["--init", str(tmp_path / "parallel.pt")],
        "strided.pt": ["--init", str(tmp_path / "strided.pt")],
        "dense.pt": ["--init", str(made / "dense.pt"), "--reinit", "--tickets_file",
                     str(made / "imp" / "1-ticket.safetensors")],
    }  # fmt: skip
    for name, flags in cases.items():  # the file was made from seed 3
        run_transfer(made / "data", tmp_path / "runs" / name, *SHORT, "--seed", "3", *flags)
        assert recorded(tmp_path / "runs" / name) == (name, expected)


def test_reinit_trains_the_same_bits_with_and_without_an_init(made, tmp_path):
    for name, flags in (("with", ["--init", str(made / "dense.pt")]), ("without", [])):
        run_transfer(made / "data", tmp_path / name, *SHORT, "--reinit", *flags)
    one, two = (load(tmp_path / name / "checkpoint.pth.tar") for name in ("with", "without"))
    assert all(torch.equal(a, two["state_dict"][n]) for n, a in one["state_dict"].items())
    assert read_json(tmp_path / "without" / "results.json")["init_sha256"] is None


def test_a_fresh_stem_is_no_part_of_the_hash(made, tmp_path):
    state = build_model("resnet20s", 2, *PLAIN, stem="imagenet", width=4).state_dict()
    save_checkpoint(tmp_path / "seven.pt", state)
    found = set()
    for seed in ("1", "2"):
        flags = ["--init", str(tmp_path / "seven.pt"), "--seed", seed]
        run_transfer(made / "data", tmp_path / seed, *SHORT, *flags)
        found.add(recorded(tmp_path / seed))
    assert len(found) == 1


def test_other_weights_and_other_types_have_other_hashes(made, tmp_path):
    state = load(made / "dense.pt")
    state["layer1.0.bn1.bias"] = state["layer1.0.bn1.bias"] + 1
    save_checkpoint(tmp_path / "dense.pt", state)
    run_transfer(made / "data", tmp_path / "run", *SHORT, "--init", str(tmp_path / "dense.pt"))
    name, found = recorded(tmp_path / "run")
    assert name == recorded(made / "transfer")[0]
    assert found != recorded(made / "transfer")[1]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, None),
        ("torchvision", "torchvision"),
        ("a/b/robust.pt", "robust.pt"),
        ("runs/adv/init.pth.tar", "adv"),
        ("runs/adv/../std/init.pth.tar", "std"),
        ("odd\n\udce9.pt", "odd??.pt"),
    ],
)
def test_initial_weights_are_called_by_their_file_or_its_folder(path, name):
    assert name_of_init(path) == name


# ------------------------------------------------------------------ warnings as values


def test_a_warning_is_told_once_and_lies_in_every_file_of_a_resumed_run(
    made, tmp_path, capsys, monkeypatch
):
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    (data / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    flags = [*SHORT, "--init", str(made / "pruned.pt"), "--save_every_steps", "1"]
    with monkeypatch.context() as patch:
        die(patch, steps.training_step, 2)
        with pytest.raises(Interrupted):
            run_transfer(data, tmp_path / "run", *flags)
    first = read_json(tmp_path / "run" / "args.json")["warnings"]
    assert len(first) == 2
    assert "hidden: .hidden.png" in first[0]
    assert "--tickets_file" in first[1]
    (data / "train" / "cat" / ".hidden.png").unlink()  # what is gone was met all the same
    run_transfer(data, tmp_path / "run", *flags, "--resume")
    for name in ("args.json", "results.json"):
        assert read_json(tmp_path / "run" / name)["warnings"] == first
    assert capsys.readouterr().err.count("hidden: .hidden.png") == 1
    before = contents(tmp_path / "run")
    run_transfer(data, tmp_path / "run", *flags, "--resume")
    assert contents(tmp_path / "run") == before


def test_images_that_were_skipped_on_the_way_are_in_the_results(made, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    (data / "test" / "cat" / "0.png").write_bytes(b"x")
    flags = [*SHORT, "--init", str(made / "dense.pt"), "--skip_bad"]
    run_transfer(data, tmp_path / "run", *flags)
    assert f"warning: skipped {data}/test/cat/0.png: not a whole image" in capsys.readouterr().err
    for name in ("args.json", "results.json"):
        without, line = read_json(tmp_path / "run" / name)["warnings"]
        assert without.startswith("no outcomes.safetensors: some test images could not be read")
        assert "skipped 1 broken image (--skip_bad), first" in line
        assert "test/cat/0.png" in line


def test_a_ticket_that_leaves_layers_dense_says_so_in_the_results(made, tmp_path):
    found = {n: v for n, v in load(made / "pruned.pt").items() if n.endswith("_mask")}
    del found["conv1.weight_mask"]
    save_checkpoint(tmp_path / "ticket.pt", found)
    flags = ["--init", str(made / "dense.pt"), "--tickets_file", str(tmp_path / "ticket.pt")]
    run_transfer(made / "data", tmp_path / "run", *SHORT, *flags)
    found = read_json(tmp_path / "run" / "results.json")["warnings"]
    dense = "ticket: conv1 has no mask in the ticket and stays dense"
    assert found[:2] == [UNTOLD, dense]
    assert "by its density it counts as state" in found[2]


def test_the_report_shows_warnings_beside_the_figures(tmp_path, capsys):
    for state in (0, 1):
        for mode in ("std", "adv"):
            told = ["data: <b>odd</b>"] * (state == 1) + ["both"]
            write_run(tmp_path / f"{state}{mode}", state=state, mode=mode, warnings=told)
    assert report([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "\n  dense [1] " in printed.out
    assert "\n  imp state 1 [2,1] " in printed.out
    assert "\n  [1] both\n  [2] data: <b>odd</b>\n" in printed.out
    assert printed.err.count(": both\n") == 1  # of four runs
    assert "results.json and 3 more: both" in printed.err
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count('<details class="warned"><summary>2 warnings</summary>') == 4
    assert "<li>data: &lt;b&gt;odd&lt;/b&gt;</li>" in html
    (row,) = read_json(tmp_path / "report" / "verdict.json")["rows"]
    assert row["warnings"] == ["data: <b>odd</b>", "both"]
    lines = (tmp_path / "report" / "results.csv").read_text().splitlines()
    assert sum(line.endswith(",data: <b>odd</b>; both") for line in lines) == 2


# ------------------------------------------------------------------ what a report may merge

A, B = sha256("a"), sha256("b")
ONE, TWO = sha256("one"), sha256("two")
OLD = {"init": ..., "init_sha256": ..., "test_split": ..., "class_names": ..., "warnings": ...}


def of(tag: str | None = None, weights: Any = A, file: str = "a.pt", **more: Any) -> dict[str, Any]:
    return {"pretraining": tag or "unnamed", "init_sha256": weights, "init": file,
            "test_split": ONE, **more}  # fmt: skip


def old(tag: str | None = None, **more: Any) -> dict[str, Any]:
    return {"pretraining": tag or "unnamed", **OLD, **more}


W_A, W_B = f"weights {A[:8]}", f"weights {B[:8]}"
RANDOM = of(weights=None, file=None)
# Runs, in seeds of their own; the groups they form, by name, with their numbers of runs; what is
# said.
MERGES: dict[str, tuple[list[dict[str, Any]], dict[str, int], tuple[str, ...]]] = {
    "one tag": ([of("adv"), of("adv")], {"adv": 2}, ()),
    "two tags": ([of("adv"), of("std", B)], {"adv": 1, "std": 1}, ()),
    "no tag, one file": ([of(), of()], {"a.pt": 2}, ()),
    "no tag, two files": ([of(), of(None, B, "b.pt")], {"a.pt": 1, "b.pt": 1}, ()),
    "no tag, equal seeds": (
        [of(seed=1), of(None, B, "b.pt", seed=1)], {"a.pt": 1, "b.pt": 1}, ()),
    "no tag, files of one name": (
        [of(), of(None, B, "a.pt")], {f"a.pt ({W_A})": 1, f"a.pt ({W_B})": 1},
        ("a.pt names runs from different initial weights",)),
    "a file and its init.pth.tar": ([of(), of(None, A, "imp")], {"a.pt": 2}, ()),
    "one tag, two files": (
        [of("adv"), of("adv", B, "b.pt")], {f"adv ({W_A})": 1, f"adv ({W_B})": 1},
        (f"cifar10: adv names runs from different initial weights, judged apart: {W_B}; {W_A}",)),
    "two tags, one file": (
        [of("adv"), of("fast")], {"adv": 1, "fast": 1},
        (f"cifar10: adv and fast have the same initial weights ({A[:8]}), judged apart",)),
    "a tag forgotten": ([of("adv"), of()], {"adv": 2}, ()),
    "a tag forgotten beside two": (
        [of("adv"), of("fast"), of()], {"adv": 1, "fast": 1, "a.pt": 1}, ("judged apart",)),
    "old ones alone": ([old("adv"), old("adv")], {"adv": 2}, ("2 of 2 results do not tell",)),
    "old ones without a tag": ([old(), old()], {"unnamed": 2}, ("2 of 2 results do not tell",)),
    "an old one of a tag of one hash": (
        [of("adv"), old("adv")], {"adv": 2}, ("1 of 2 results do not tell",)),
    "an old one of a tag of two hashes": (
        [of("adv"), of("adv", B), old("adv")],
        {f"adv ({W_A})": 1, f"adv ({W_B})": 1, "adv (weights unknown)": 1},
        ("1 of 3 results do not tell", "adv names runs from different")),
    "an old one without a tag": (
        [of(), old()], {"a.pt": 1, "unnamed": 1}, ("1 of 2 results do not tell",)),
    "random weights": ([RANDOM, {**RANDOM, "seed": 9}], {"no --init": 2}, ()),
    "one tag, two networks of random weights": (
        [RANDOM, {**RANDOM, "arch": "resnet50"}],
        {"no --init (resnet18)": 1, "no --init (resnet50)": 1},
        ("no --init names runs from different networks, judged apart: resnet18; resnet50",
         "not contrasted, as they differ: architectures resnet18 and resnet50")),
    "one tag, two networks of two files": (
        [of("adv"), {**of("adv", B, "b.pt"), "arch": "resnet50"}],
        {f"adv (resnet18 with {W_A})": 1, f"adv (resnet50 with {W_B})": 1},
        ("adv names runs from different networks and initial weights", "not contrasted")),
    "old ones of two networks": (
        [old("adv"), {**old("adv"), "arch": "resnet50"}],
        {"adv (resnet18)": 1, "adv (resnet50)": 1},
        ("2 of 2 results do not tell", "from different networks", "not contrasted")),
    "random weights under a tag of a file": (
        [of("adv"), of("adv", None, None)], {f"adv ({W_A})": 1, "adv (random weights)": 1},
        ("adv names runs from different initial weights",)),
    "random weights under two tags": (
        [of("a", None, None), of("b", None, None)], {"a": 1, "b": 1}, ()),
    "--reinit without --init": (
        [of("adv"), of("adv", None, None, ticket="reinit", state=2)], {"adv": 2},
        ("1 of 2 results do not tell",)),
    "a tag and a file of the same name": (
        [of("a.pt", B), of()], {f"a.pt ({W_A})": 1, f"a.pt ({W_B})": 1}, ("a.pt names runs",)),
    "two test splits": (
        [of("adv"), of("adv", test_split=TWO)],
        {f"adv, cifar10 (test split {ONE[:8]})": 1, f"adv, cifar10 (test split {TWO[:8]})": 1},
        ("cifar10: tested on images of different content, judged apart",)),
    "an old one beside one test split": (
        [of("adv"), of("adv", test_split=...)], {"adv": 2}, ("1 of 2 results do not tell",)),
    "an old one beside two test splits": (
        [of("adv"), of("adv", test_split=TWO), of("adv", test_split=...)],
        {f"adv, cifar10 (test split {ONE[:8]})": 1, f"adv, cifar10 (test split {TWO[:8]})": 1,
         "adv, cifar10 (test split unknown)": 1},
        ("1 of 3 results do not tell", "different content")),
    "test splits of two data sets": (
        [of("adv"), of("adv", dataset="svhn", test_split=TWO)], {"adv": 1, "adv, svhn": 1}, ()),
    "two files of one tag on two data sets": (
        [of("adv"), of("adv", B, dataset="svhn", test_split=TWO)], {"adv": 1, "adv, svhn": 1}, ()),
    "two test splits and two files": (
        [of("adv"), of("adv", B, test_split=TWO)],
        {f"adv, cifar10 (test split {ONE[:8]})": 1, f"adv, cifar10 (test split {TWO[:8]})": 1},
        ("different content",)),
    "fractions of one data set": (
        [of("adv"), of("adv", data_number=0.1)], {"adv": 1, "adv, cifar10, 10 %": 1}, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGES)
def test_a_report_merges_only_what_is_the_same(name, tmp_path, capsys):
    runs, groups, told = MERGES[name]
    for number, changes in enumerate(runs):
        known = {"mode": "std", "state": 0, "seed": number, **changes}
        folder = tmp_path / f"{number}"
        folder.mkdir()
        content = {k: v for k, v in {**result(**known), **known}.items() if v is not ...}
        (folder / "results.json").write_text(json.dumps(content))
    verdict, _ = write_report(tmp_path)
    found = {str(g.group): sum(len(row.runs) for row in g.all_rows) for g in verdict.groups}
    whole = {1: ", cifar10, 100 % of the data", 2: ", 100 % of the data", 3: " of the data"}
    assert found == {k + whole[len(k.split(", "))]: count for k, count in groups.items()}
    beside = ("metrics", "left out", "with the same seeds")
    own = [w for w in verdict.warnings if not any(words in w for words in beside)]
    assert len(own) == len(told), own
    for words in told:
        assert any(words in line for line in own)
    html = (tmp_path / "report" / "report.html").read_text()
    assert all(f">{key.partition(', ')[0]}</td>" in html for key in groups)


@pytest.mark.parametrize(
    ("places", "called"),
    [
        ({"/a/cats": ONE}, ["folder (cats)"]),
        ({"/a/cats": ONE, "b/dogs/": TWO}, ["folder (cats)", "folder (dogs)"]),
        ({"/job2/cats10": ONE, "/job1/cats9": ONE}, ["folder (cats9)"]),
        (
            {"/a/cats": ONE, "/b/cats": TWO},
            [f"folder (cats, test split {split[:8]})" for split in sorted((ONE, TWO))],
        ),
        ({".": ONE}, ["folder"]),
        ({None: ONE, "/b/dogs": TWO}, ["folder (dogs)", f"folder (test split {ONE[:8]})"]),
    ],
)
def test_class_folders_are_called_by_their_folder(places, called, tmp_path):
    for number, (place, split) in enumerate(places.items()):
        run = write_run(
            tmp_path / f"{number}", mode="std", state=0, seed=number, **of("adv", test_split=split),
            dataset="folder",
        )  # fmt: skip
        if place:
            (run.parent / "args.json").write_text(json.dumps({"data": place}))
    verdict, files = write_report(tmp_path)
    assert sorted({group.group.data for group in verdict.groups}) == called
    assert "folder" in {group.group.dataset for group in verdict.groups}  # in tables
    titles = (tmp_path / "report" / "tickets.tex").read_text()
    assert all(name in titles for name in called)


def test_the_margin_is_the_spread_of_one_pretraining_alone(tmp_path):
    """Untagged seeds of two pre-trainings gave 61.11 ± 7.86 once."""
    for number, (weights, file, sa) in enumerate([(A, "a.pt", 66.67), (B, "b.pt", 55.55)]):
        write_run(tmp_path / f"{number}", sa=sa, mode="std", state=0, seed=number,
                  **of(None, weights, file))  # fmt: skip
    verdict, _ = write_report(tmp_path)
    stats = {g.group.name: g.dense.stats["st_sa"] for g in verdict.groups if g.dense}
    assert stats == {"a.pt": Stat(66.67, None, 1), "b.pt": Stat(55.55, None, 1)}


def test_runs_of_the_mains_are_told_apart_by_what_their_files_held(made, tmp_path):
    """The whole way: two files of one name, no tag, equal seeds; and other test images."""
    torch.manual_seed(8)
    (tmp_path / "other").mkdir()
    state = build_model("resnet20s", 2, *PLAIN, width=4).state_dict()
    save_checkpoint(tmp_path / "other" / "dense.pt", state)
    data = plain_images(tmp_path / "data", ("cat", "dog", "eel"))
    for name, images, init in (
        ("1", made / "data", made / "dense.pt"),
        ("2", made / "data", tmp_path / "other" / "dense.pt"),
        ("3", made / "data", made / "imp" / "init.pth.tar"),
        ("4", data, made / "dense.pt"),
    ):
        run_transfer(images, tmp_path / "runs" / name, *SHORT, "--init", str(init), "--seed", name)
    verdict, _ = write_report(tmp_path / "runs")
    sizes = sorted(len(g.dense.runs) for g in verdict.groups if g.dense)
    assert sizes == [1, 1, 2]
    assert len({g.group.data for g in verdict.groups}) == 2
