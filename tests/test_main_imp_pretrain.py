"""main_imp_pretrain.py: states, rewinding, files, and runs that go on as if never stopped."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.main_cases import (
    TINY,
    Interrupted,
    assert_same_bits,
    assert_same_run,
    contents,
    copy_after_each_epoch,
    die,
    die_saving,
    effective_weights,
    load,
    metrics,
    names,
    one_error_line,
    read_json,
    replace,
    run_imp,
    skip_pictures,
    write_images,
)
from torch import nn
from torch.nn.utils import prune

import attack_utils
import main_imp_pretrain
import pruning_utils
from engine import steps
from engine.log import provenance
from engine.steps import Metrics
from errors import InputError
from files.atomic import sha256_of, write_json
from files.checkpoints import save_checkpoint
from files.fingerprints import weights_sha256
from files.imp_run import SearchRecord, save_state
from files.tickets import load_ticket, ticket_header
from input_pipeline.loader import Loader
from models import build_model, load_pretrained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ALWAYS = {"args.json", "metrics.jsonl", "tb", "init.pth.tar", "accuracy_vs_density.png"}
# Two epochs of dense training, then states 1 and 2 of two epochs each.
SCHEDULE = ["--pretrain_epochs", "2", "--epochs", "4", "--prune_epoch", "2", "--lr", "0.01"]
STATE_OF = [0, 0, 1, 1, 2, 2]


def tiny(stem="cifar"):
    return build_model("resnet20s", 3, *IMAGENET, stem, 4)


def cut(left, rate):
    return left - round(rate * left)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A whole adversarial run, copied after every epoch, and what each epoch began with."""
    root = tmp_path_factory.mktemp("imp")
    seen: list[SimpleNamespace] = []
    train = steps.train_one_epoch

    def spy(model, batches, optimizer, **rest):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        entry = SimpleNamespace(start=start, optimizer=len(optimizer.state), passes=0, leaks=0)

        def check(module, *_):
            entry.passes += 1
            if hasattr(module, "weight_mask"):
                entry.leaks += int(module.weight[~module.weight_mask].count_nonzero())

        hooks = [layer.register_forward_hook(check) for layer in layers]
        seen.append(entry)
        result = train(model, batches, optimizer, **rest)
        for hook in hooks:
            hook.remove()
        return result

    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        copy_after_each_epoch(patch, root / "copies")
        replace(patch, train, spy)
        run_imp(data, root / "run", *SCHEDULE)
    return SimpleNamespace(folder=root / "run", copies=root / "copies", epochs=seen)


@pytest.fixture(scope="module")
def standard(data, tmp_path_factory):
    """A whole standard run of two states from given weights, seed 1."""
    root = tmp_path_factory.mktemp("imp_std")
    torch.manual_seed(5)
    save_checkpoint(root / "given.pth.tar", tiny().state_dict())
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(data, root / "run", *standard_flags(root / "given.pth.tar"))
    return SimpleNamespace(folder=root / "run", given=root / "given.pth.tar")


def standard_flags(given):
    return [*("--mode", "std", "--epochs", "2", "--prune_epoch", "1"), "--init", str(given)]


# --- states -------------------------------------------------------------------------------------


def test_state_0_comes_first_and_is_not_counted_in_epochs(run):
    lines = metrics(run.folder)
    assert [line["state"] for line in lines] == STATE_OF
    assert [line["epoch"] for line in lines] == list(range(6))
    # state 0: a cosine from --pretrain_lr to 0; the others: --lr, constant
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.05, *[0.01] * 4])
    assert [line["density"] for line in lines] == pytest.approx([1, 1, 0.8, 0.8, 0.64, 0.64])


def test_schedule_and_warm_up_begin_anew_in_every_state(data, tmp_path):
    run_imp(
        data, tmp_path / "steps", *SCHEDULE, "--mode", "std", "--lr_schedule", "multistep",
        "--decreasing_lr", "1",
    )  # fmt: skip
    rates = [line["lr"] for line in metrics(tmp_path / "steps")]
    assert rates == pytest.approx([0.1, 0.05, 0.01, 0.001, 0.01, 0.001])
    run_imp(data, tmp_path / "warm", *SCHEDULE, "--mode", "std", "--warmup", "2")
    rates = [line["lr"] for line in metrics(tmp_path / "warm")]  # of an epoch's last step
    assert rates == pytest.approx([0.1, 0.05, 0.005, 0.01, 0.005, 0.01])


# --- masks --------------------------------------------------------------------------------------


def test_the_ticket_of_state_k_has_density_08_to_the_k_exactly(run):
    weights = sum(m.weight.numel() for m in tiny().modules() if isinstance(m, nn.Conv2d))
    left, before = weights, None
    for state in range(4):
        path = run.folder / f"{state}-ticket.safetensors"
        masks = load_ticket(path)
        assert sum(mask.numel() for mask in masks.values()) == weights
        assert sum(int(mask.sum()) for mask in masks.values()) == left
        header = ticket_header(path)
        assert float(header["density"]) == pytest.approx(left / weights, abs=1e-12)
        assert left / weights == pytest.approx(0.8**state, abs=1e-4)
        assert (header["state"], header["arch"]) == (str(state), "resnet20s")
        assert header["init_sha256"] == sha256_of(run.folder / "init.pth.tar")
        if before:
            assert all(bool((before[name] | ~masks[name]).all()) for name in masks)  # nested
        left, before = cut(left, 0.2), masks


@pytest.mark.parametrize(("rate", "value"), [("1/2", 0.5), ("0.3", 0.3), ("0.15", 0.15)])
def test_another_rate_removes_that_fraction_of_what_is_left(data, tmp_path, rate, value):
    short = ("--mode", "std", "--epochs", "1", "--prune_epoch", "1")
    run_imp(data, tmp_path / "run", *short, "--rate", rate)
    left = sum(m.weight.numel() for m in tiny().modules() if isinstance(m, nn.Conv2d))
    for state in range(3):
        masks = load_ticket(tmp_path / "run" / f"{state}-ticket.safetensors").values()
        assert sum(int(mask.sum()) for mask in masks) == left
        left = cut(left, value)


@pytest.mark.parametrize("further", [[], ["--dry_run"]])
def test_prunes_that_leave_no_weight_are_refused(further, data, tmp_path, capsys):
    few = ["--epochs", "3", "--prune_epoch", "1", "--rate", "0.95"]
    argv = flags_of(data, tmp_path / "run", *few, *further)
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "--rate 0.95: 4 prunes" in line
    assert not (tmp_path / "run").exists()


def test_layers_of_which_nothing_remains_are_told_and_recorded(data, tmp_path, capsys):
    few = ("--mode", "std", "--epochs", "1", "--prune_epoch", "1", "--rate", "0.98")
    run_imp(data, tmp_path / "run", *few)
    masks = load_ticket(tmp_path / "run" / "2-ticket.safetensors").values()
    empty = sum(not bool(mask.any()) for mask in masks)
    told = f"state 2: nothing remains of {empty} of the {len(masks)} convolutions: "
    assert told in capsys.readouterr().err
    assert any(told in line for line in read_json(tmp_path / "run" / "args.json")["warnings"])


def test_state_1_prunes_the_initial_weights_before_any_training(run):
    model = tiny()
    load_pretrained(model, run.folder / "init.pth.tar")
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.2)
    masks = load_ticket(run.folder / "1-ticket.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert torch.equal(masks[f"{name}.weight_mask"], module.weight_mask.bool())


def test_later_states_prune_the_trained_weights(run):
    trained = effective_weights(load(run.copies / "4" / "1-checkpoint.pth.tar")["state_dict"])
    kept = load_ticket(run.folder / "1-ticket.safetensors")
    after = load_ticket(run.folder / "2-ticket.safetensors")
    size = torch.cat([trained[n.removesuffix("_mask")].abs()[kept[n]] for n in kept])
    survives = torch.cat([after[name][kept[name]] for name in kept])
    assert size[~survives].max() <= size[survives].min()


def test_each_state_starts_from_the_masked_initial_weights(run):
    init = load(run.folder / "init.pth.tar")
    for epoch in (2, 4):
        start = run.epochs[epoch].start
        masks = load_ticket(run.folder / f"{STATE_OF[epoch]}-ticket.safetensors")
        for name, value in effective_weights(start).items():
            mask = masks.get(f"{name}_mask")
            assert torch.equal(value, init[name] if mask is None else init[name] * mask), name
    # what was trained is not what was begun with: all of it had to be put back
    trained = effective_weights(load(run.folder / "1-checkpoint.pth.tar")["state_dict"])
    still = [name for name in init if torch.equal(trained[name], init[name])]
    assert still == ["normalize.mean", "normalize.std"]


def test_each_state_has_a_new_optimizer(run):
    assert [entry.optimizer > 0 for entry in run.epochs] == [False, True] * 3


def test_pruned_weights_are_exactly_zero_in_every_forward_pass_of_training(run):
    for entry, state in zip(run.epochs, STATE_OF, strict=True):
        # 19 convolutions, 3 batches, 3 passes of the attack and 1 of the loss
        assert entry.passes == 19 * 3 * 4
        assert entry.leaks == 0, state


def test_pruned_weights_are_exactly_zero_in_every_checkpoint(run):
    paths = sorted(run.copies.glob("*/[12]-*.pth.tar"))
    assert len(paths) >= 12
    for path in paths:
        state_dict = load(path)["state_dict"]
        state = int(path.name[0])
        masks = load_ticket(run.folder / f"{state}-ticket.safetensors")
        weights = effective_weights(state_dict)
        for name, mask in masks.items():
            assert torch.equal(state_dict[name], mask)
            assert weights[name.removesuffix("_mask")][~mask].count_nonzero() == 0


# --- files --------------------------------------------------------------------------------------


def checkpoints(*states):
    ends = ("checkpoint", "model_best")
    return {f"{state}-{end}.pth.tar" for state in states for end in ends}


def tickets(*states):
    return {f"{state}-ticket.safetensors" for state in states}


def test_a_run_writes_these_files_and_no_other(run, standard):
    assert names(run.folder) == ALWAYS | checkpoints(0, 1, 2) | tickets(0, 1, 2, 3)
    assert names(standard.folder) == ALWAYS | checkpoints(1, 2) | tickets(0, 1, 2, 3)


def test_a_ticket_is_written_the_moment_its_mask_exists(run):
    written = [tickets(*states) for states in ([], [], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2])]
    for epoch, expected in enumerate(written, start=1):
        assert {n for n in names(run.copies / str(epoch)) if "ticket" in n} == expected


def test_checkpoints_have_the_released_entries_and_open_without_an_allow_list(run):
    released = {"epoch", "arch", "state_dict", "best_acc1", "state_prune", "init"}
    init = run.folder / "init.pth.tar"
    trunk = weights_sha256(load(init), ("fc.", "normalize."))
    origin = {"file": init.name, "sha256": sha256_of(init), "weights_sha256": trunk}
    bare = set(tiny().state_dict())
    masked = {m.removesuffix("_mask") for m in load_ticket(run.folder / "1-ticket.safetensors")}
    pruned = bare - masked | {f"{m}_orig" for m in masked} | {f"{m}_mask" for m in masked}
    for state, epoch in enumerate((2, 4, 6)):
        last = load(run.folder / f"{state}-checkpoint.pth.tar")
        best = load(run.folder / f"{state}-model_best.pth.tar")
        assert released | {"optimizer"} <= set(last)
        assert released <= set(best)
        assert "optimizer" not in best
        assert last["epoch"] == epoch
        for file in (last, best):
            assert (file["arch"], file["state_prune"]) == ("resnet20s", state)
            assert file["init"] == (origin if state else {})
            assert set(file["state_dict"]) == (pruned if state else bare)
            kinds = {v.dtype for k, v in file["state_dict"].items() if k.endswith("_mask")}
            assert kinds <= {torch.bool}


def test_the_init_file_is_a_plain_state_dict_that_init_accepts(run, data, tmp_path):
    init = load(run.folder / "init.pth.tar")
    model = tiny()
    assert set(init) == set(model.state_dict())
    load_pretrained(model, run.folder / "init.pth.tar")
    assert_same_bits(dict(model.state_dict()), init)
    # state 0 was trained before it was written
    dense = load(run.folder / "0-checkpoint.pth.tar")["state_dict"]
    assert_same_bits(dict(dense), init)


def test_init_is_what_the_run_starts_from(standard):
    given, init = load(standard.given), load(standard.folder / "init.pth.tar")
    assert_same_bits(dict(given), init)


def test_args_json_tells_flags_command_code_packages_and_hardware(run):
    written = read_json(run.folder / "args.json")
    assert (written["epochs"], written["prune_epoch"], written["rate"]) == (4, 2, 0.2)
    assert (written["mode"], written["seed"], written["train_step"]) == ("adv", 1, 3)
    assert {"command", "code", "packages", "hardware"} <= set(written)


@pytest.mark.parametrize(("keep", "stay"), [("last", checkpoints(2)), ("tickets", set())])
def test_keep_decides_which_checkpoints_stay(data, standard, tmp_path, keep, stay):
    run_imp(data, tmp_path / "run", *standard_flags(standard.given), "--keep", keep)
    assert names(tmp_path / "run") == ALWAYS | tickets(0, 1, 2, 3) | stay
    for name in stay | tickets(0, 1, 2, 3):
        if name.endswith(".pth.tar"):
            assert_same_bits(load(tmp_path / "run" / name), load(standard.folder / name))
    # finished, whatever stayed
    before = contents(tmp_path / "run")
    flags = [*standard_flags(standard.given), "--keep", keep, "--resume"]
    run_imp(data, tmp_path / "run", *flags)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("epochs", [1, 2])  # of a state
def test_two_checkpoints_to_resume_from_stay_while_a_search_goes_on(tmp_path, epochs):
    network = {"arch": "resnet20s", "classes": ["a"], "weights": {}, "training": {}}
    for epoch in range(5 * epochs):
        record = SearchRecord(1 + epoch // epochs)
        save_state(tmp_path, record, epoch=epoch, is_best=True, keep="last", **network)
        found = {path.name for path in tmp_path.glob("*-checkpoint.pth.tar*")}
        assert len(found) <= (3 if epochs == 2 and epoch % 2 == 0 else 2), found
    assert "5-checkpoint.pth.tar" in found
    assert len(found) == 2


@pytest.mark.parametrize("mode", ["adv", "std"])
def test_export_released_writes_one_file_of_the_released_format(data, run, tmp_path, mode, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    write_json(folder / "args.json", {**read_json(folder / "args.json"), "mode": mode})
    before = names(folder)
    run_imp(data, folder, "--export_released", "2")  # the mode is the run's
    assert names(folder) - before == {"2-released.pth.tar"}
    assert f"wrote {folder / '2-released.pth.tar'}" in capsys.readouterr().out
    file, own = load(folder / "2-released.pth.tar"), load(folder / "2-checkpoint.pth.tar")
    assert set(file) == {
        "epoch", "arch", "state_dict", "best_acc1", "optimizer", "state_prune", "init"
    }  # fmt: skip
    left_out = set() if mode == "adv" else {"normalize.mean", "normalize.std"}
    assert set(file["state_dict"]) == set(own["state_dict"]) - left_out
    assert set(file["init"]) == set(tiny().state_dict()) - left_out
    for name, value in file["state_dict"].items():
        assert value.is_floating_point() or name.endswith("num_batches_tracked")
        assert torch.equal(value.double(), own["state_dict"][name].double())
    exported = load_ticket(folder / "2-released.pth.tar")
    assert_same_bits(exported, load_ticket(folder / "2-ticket.safetensors"))


def test_the_figure_shows_the_best_accuracy_of_each_state(data, standard, tmp_path, monkeypatch):
    drawn: list[Any] = []
    monkeypatch.setattr(main_imp_pretrain, "plot_curves", lambda *a, **k: drawn.append((a, k)))
    run_imp(data, tmp_path / "run", *standard_flags(standard.given))
    path, x, curves, *_ = drawn[-1][0]
    assert path == tmp_path / "run" / "accuracy_vs_density.png"
    assert x == pytest.approx([80, 64])
    best = [line["val_sa"] for line in metrics(tmp_path / "run")]
    assert list(curves.values()) == [best]


# --- accuracies ---------------------------------------------------------------------------------


def test_the_best_accuracy_starts_anew_in_every_state(data, tmp_path, monkeypatch):
    scripted = iter([50.0, 60.0, 40.0, 40.0, 20.0, 45.0])  # of equals the earliest

    def pretend(*_, **__):
        return Metrics(12, 1.0, next(scripted), 100.0)

    replace(monkeypatch, steps.evaluate, pretend)
    run_imp(data, tmp_path / "run", *SCHEDULE)
    for state, best, epoch in ((0, 60, 2), (1, 40, 3), (2, 45, 6)):
        assert load(tmp_path / "run" / f"{state}-checkpoint.pth.tar")["best_acc1"] == best
        kept = load(tmp_path / "run" / f"{state}-model_best.pth.tar")
        assert (kept["best_acc1"], kept["epoch"]) == (best, epoch)


def test_even_a_state_that_never_gets_one_image_right_has_a_best_network(
    data, standard, tmp_path, monkeypatch
):
    def pretend(*_, **__):
        return Metrics(12, 1.0, 0.0, 100.0)

    replace(monkeypatch, steps.evaluate, pretend)
    run_imp(data, tmp_path / "run", *standard_flags(standard.given))
    assert checkpoints(1, 2) <= names(tmp_path / "run")


def test_the_lines_that_scripts_read_are_printed(data, tmp_path, capsys):
    run_imp(data, tmp_path / "run", "--epochs", "2", "--prune_epoch", "1", "--print_freq", "2")
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    remain = [re.fullmatch(r"\* remain weight =  ([\d.]+) %", line) for line in lines]
    percent = [float(match[1]) for match in remain if match]
    assert percent == pytest.approx([80, 64, 51.2], abs=0.01)
    validated = [
        match for line in lines if (match := re.fullmatch(r" \* Acc@1 (\S+) Acc@5 (\S+)", line))
    ]
    assert [float(m[1]) for m in validated] == pytest.approx(
        [line["val_sa"] for line in metrics(tmp_path / "run")], abs=6e-4
    )
    rates = [line for line in lines if re.fullmatch(r"[\d.e-]+", line)]
    assert rates == [str(line["lr"]) for line in metrics(tmp_path / "run")]
    told = [line for line in lines if line.startswith("learning rate in ")]
    assert told == ["learning rate in every state from 1 on: 0.0005, constant"]
    assert lines.index(rates[0]) < lines.index(validated[0][0])
    assert all(m[2] == "100.000" for m in validated)  # three classes: Acc@5 is over all of them
    shown = [line for line in lines if line.startswith("[state 2/2, density 64.00 %] epoch 2/2")]
    assert any("2/3  loss" in line and "images/s  ETA" in line for line in shown)
    assert any("val SA" in line and "elapsed" in line for line in shown)
    warned = ["not used: test/", "no --init: starting from random weights (seed 1)"]
    assert read_json(tmp_path / "run" / "args.json")["warnings"] == [
        line.removeprefix("warning: ") for line in printed.err.splitlines()
    ]
    for line, words in zip(printed.err.splitlines(), warned, strict=True):
        assert line.endswith(words)


def test_adversarial_states_attack_with_the_flags_and_standard_ones_do_not(
    data, tmp_path, monkeypatch
):
    made: list[Any] = []
    make = attack_utils.make_pgd

    def spy(model, config, *rest):
        made.append(config)
        return make(model, config, *rest)

    replace(monkeypatch, make, spy)
    short = ("--epochs", "1", "--prune_epoch", "1")
    run_imp(data, tmp_path / "std", *short, "--mode", "std")
    assert made == []
    run_imp(data, tmp_path / "recipe", *short)
    run_imp(
        data, tmp_path / "flags", *short, "--train_eps", "4/255", "--train_steps", "1",
        "--train_step_size", "1/255", "--no-train_randinit",
    )  # fmt: skip
    recipe, flags = made
    assert (recipe.eps, recipe.steps, recipe.random_start) == (8 / 255, 3, True)
    assert recipe.step_size == pytest.approx(16 / (3 * 255))
    assert (flags.eps, flags.steps, flags.step_size) == (4 / 255, 1, 1 / 255)
    assert flags.random_start is False
    assert metrics(tmp_path / "recipe") != metrics(tmp_path / "std")


# --- evaluation ---------------------------------------------------------------------------------


def test_evaluate_writes_eval_json_with_the_accuracy_of_the_run(data, run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    before = contents(folder)
    of_epoch = [line["val_sa"] for line in metrics(run.folder)]
    for name, epoch in (("1-checkpoint.pth.tar", 4), ("2-checkpoint.pth.tar", 6), (None, 6)):
        resume = ["--resume", str(folder / name)] if name else []
        run_imp(data, folder, *SCHEDULE, "--evaluate", *resume)
        written = read_json(folder / "eval.json")
        told = {"checkpoint", "eval_set", "dataset", "data", "classes", "input_size", "augment"}
        told |= {"eval_batch_size", "amp", "seed", "acc1", "acc5", "images", "warnings"}
        told |= {"mean", "std", "weights_sha256"}
        assert set(written) == told | set(provenance())
        assert (written["eval_batch_size"], written["amp"]) == (12, "off")
        assert written["checkpoint"] == str(folder / (name or "2-checkpoint.pth.tar"))
        assert written["acc1"] == of_epoch[epoch - 1]
        assert written["acc5"] == 100
    kept = read_json(folder / "eval.1.json")  # of the other network
    assert kept["checkpoint"] == str(folder / "1-checkpoint.pth.tar")
    for name in ("eval.json", "eval.1.json"):
        (folder / name).unlink()
    assert contents(folder) == before  # nothing else was touched
    assert " * Acc@1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--evaluate", "--continue_from", "1-ticket.safetensors"], "--continue_from trains a"),
        (["--evaluate", "--export_released", "1"], "leave out --evaluate"),
        (["--init", "robust.pt", "--pretrained"], "--pretrained is --init torchvision, not robust"),
        (["--pretrained", "--init", "robust.pt"], "--pretrained is --init torchvision, not robust"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(data, tmp_path, capsys, words, told):
    line = one_error_line(flags_of(data, tmp_path / "x", *words), main_imp_pretrain.main, capsys)
    assert told in line
    assert not (tmp_path / "x").exists()


def test_evaluate_takes_a_states_best_network(data, run, tmp_path):
    best = run.folder / "1-model_best.pth.tar"
    run_imp(data, tmp_path / "out", *SCHEDULE, "--evaluate", "--resume", str(best))
    assert names(tmp_path / "out") == {"eval.json"}
    assert read_json(tmp_path / "out" / "eval.json")["acc1"] == load(best)["best_acc1"]


def test_evaluate_names_the_flags_that_this_main_has(data, run, tmp_path, capsys):
    best = run.folder / "1-model_best.pth.tar"
    argv = flags_of(data, tmp_path, "--evaluate", "--resume", str(best), "--classes", "2")
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    told = "a network of 3 classes, the evaluation set has 2; name another set, or --classes"
    assert line.endswith(told)


def test_evaluate_tells_before_its_test_that_its_place_cannot_be_written(
    data, run, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    argv = flags_of(
        data, tmp_path / "file", "--evaluate", "--resume", str(run.folder / "2-checkpoint.pth.tar")
    )
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "--save_dir" in line
    assert "cannot be written" in line


def test_loaders_of_evaluate_have_no_more_processes_than_threads(data, run, tmp_path, monkeypatch):
    threads, epoch = set(), Loader.epoch

    def spy(self, *args, **how):
        threads.add(self.threads)
        return epoch(self, *args, **how)

    monkeypatch.setattr(Loader, "epoch", spy)
    best = run.folder / "1-model_best.pth.tar"
    run_imp(data, tmp_path, *SCHEDULE, "--evaluate", "--resume", str(best), "--threads", "2")
    assert threads == {2}


def test_evaluate_takes_the_network_that_the_flag_names(data, run, tmp_path, capsys):
    bare = run.folder / "init.pth.tar"
    argv = flags_of(data, tmp_path, "--evaluate", "--resume", str(bare))
    at = argv.index("-a")
    argv = argv[:at] + argv[at + 4 :]  # without --width too
    main_imp_pretrain.main(argv)  # not the recipe's ResNet-50
    line = one_error_line([*argv, "-a", "resnet18"], main_imp_pretrain.main, capsys)
    assert "init.pth.tar: read as plain, does not fit resnet18" in line


def test_running_out_of_memory_in_validation_names_what_helps(
    data, run, tmp_path, capsys, monkeypatch
):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("evaluation.evaluator.evaluate", run_out)
    best = run.folder / "1-model_best.pth.tar"
    of_run = flags_of(data, tmp_path / "run", *SCHEDULE, "--mode", "std")
    of_file = flags_of(data, tmp_path / "run", "--evaluate", "--resume", str(best))
    told = "out of memory with 12 images per pass: in validation, "
    line = one_error_line(of_file, main_imp_pretrain.main, capsys)
    assert line.endswith(f"{told}try -b 6")
    line = one_error_line(of_run, main_imp_pretrain.main, capsys)
    assert f"{told}take a device with more memory, or -b 6 and another --save_dir" in line


def test_evaluate_without_data_names_no_flag_that_this_main_lacks(data, run, capsys):
    flags = ["--evaluate", "--save_dir", str(run.folder), "-j", "0", "--device", "cpu"]
    with pytest.raises(InputError, match="DATA is missing"):
        main_imp_pretrain.main(flags)
    told = capsys.readouterr().err
    assert f"the network's run had {data}\n" in told
    assert "--data" not in told


def test_evaluate_without_a_checkpoint_is_refused(data, tmp_path, capsys):
    argv = flags_of(data, tmp_path / "none", "--evaluate")
    assert "no checkpoint" in one_error_line(argv, main_imp_pretrain.main, capsys)
    assert not (tmp_path / "none").exists()


# --- resuming -----------------------------------------------------------------------------------


def flags_of(data, save_dir, *flags):
    taken: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_imp_pretrain, "main", taken.extend)
        run_imp(data, save_dir, *flags)
    return taken


@pytest.mark.parametrize(
    "epochs",
    [
        pytest.param(1, id="within-state-0"),
        pytest.param(2, id="after-state-0"),
        pytest.param(3, id="within-state-1"),
        pytest.param(4, id="at-a-state-boundary"),
        pytest.param(6, id="before-the-last-ticket"),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_run(data, run, tmp_path, epochs):
    folder = tmp_path / "run"
    shutil.copytree(run.copies / str(epochs), folder)
    missing = STATE_OF[epochs] if epochs < 6 else 3
    if epochs in (2, 4, 6):
        assert not (folder / f"{missing}-ticket.safetensors").exists()
    run_imp(data, folder, *SCHEDULE, "--resume")
    assert_same_run(folder, run.folder)


def test_resume_takes_a_path_and_does_the_later_epochs_again(data, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "3-ticket.safetensors").unlink()
    path = folder / "1-checkpoint.pth.tar"
    run_imp(data, folder, *SCHEDULE, "--resume", str(path))
    assert_same_run(folder, run.folder)


@pytest.mark.parametrize("where", ["pruning", "training", "saving"])
def test_a_run_that_dies_anywhere_in_an_epoch_resumes_to_the_same_run(
    data, run, tmp_path, monkeypatch, where
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        if where == "pruning":
            die(patch, pruning_utils.prune_by_magnitude, 2)
        elif where == "training":
            die(patch, steps.training_step, 5 * 3)  # in the middle of epoch 5
        else:
            die_saving(patch, 5)
        with pytest.raises(Interrupted):
            run_imp(data, folder, *SCHEDULE)
    # an epoch's line comes before its checkpoint: it must not be there twice in the end
    assert len(metrics(folder)) == (5 if where == "saving" else 4)
    run_imp(data, folder, *SCHEDULE, "--resume")
    assert_same_run(folder, run.folder)


def test_layers_of_which_nothing_remains_stay_recorded_after_an_interruption(
    data, tmp_path, monkeypatch
):
    few = ("--mode", "std", "--epochs", "4", "--prune_epoch", "2", "--rate", "0.95")
    with monkeypatch.context() as patch:
        die_saving(patch, 4)  # the second epoch of state 2
        with pytest.raises(Interrupted):
            run_imp(data, tmp_path / "run", *few)
    run_imp(data, tmp_path / "run", *few, "--resume")
    warnings = read_json(tmp_path / "run" / "args.json")["warnings"]
    assert sum(line.startswith("state 2: nothing remains of ") for line in warnings) == 1


def test_a_run_that_dies_before_its_first_checkpoint_starts_anew(data, run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        die(patch, steps.training_step, 2)
        with pytest.raises(Interrupted):
            run_imp(data, folder, *SCHEDULE)
    assert (folder / "args.json").exists()
    run_imp(data, folder, *SCHEDULE, "--resume")
    assert_same_run(folder, run.folder)


@pytest.mark.parametrize("epochs", [6, 2])
def test_resume_does_not_begin_anew_over_a_run_whose_checkpoints_are_lost(
    data, run, tmp_path, capsys, epochs
):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    trained = [folder / f"{state}-ticket.safetensors" for state in (2, 3)]
    for path in [*folder.glob("*checkpoint.pth.tar"), *trained]:
        path.unlink()
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:epochs]))
    before = contents(folder)
    argv = flags_of(data, folder, *SCHEDULE, "--resume")
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    told = f"holds the figures of {epochs} epochs, but no checkpoint; --continue_from a ticket"
    assert told in line
    assert contents(folder) == before


def test_resume_does_not_begin_anew_over_tickets_that_were_copied_without_checkpoints(
    data, run, tmp_path, capsys
):
    kept = ["init.pth.tar", *(f"{state}-ticket.safetensors" for state in range(3))]
    for more, told in (
        ([], "init.pth.tar of a run whose args.json is missing"),
        (["args.json"], "holds 3 tickets of a search, but no checkpoint"),
    ):
        folder = tmp_path / f"run{len(more)}"
        folder.mkdir()
        for name in (*kept, *more):
            shutil.copy(run.folder / name, folder)
        before = contents(folder)
        argv = flags_of(data, folder, *SCHEDULE, "--resume")
        assert told in one_error_line(argv, main_imp_pretrain.main, capsys)
        assert contents(folder) == before


def test_resume_in_an_empty_folder_is_a_new_run(data, standard, tmp_path):
    run_imp(data, tmp_path / "run", *standard_flags(standard.given), "--resume")
    assert_same_run(tmp_path / "run", standard.folder)


def test_resume_of_a_finished_run_changes_nothing(data, run, capsys):
    before = contents(run.folder)
    capsys.readouterr()
    run_imp(data, run.folder, *SCHEDULE, "--resume")
    assert contents(run.folder) == before
    assert capsys.readouterr().out == f"{run.folder}: this run is finished; nothing to do\n"


def test_a_run_is_not_resumed_with_other_flags(data, run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.copies / "3", folder)
    before = contents(folder)
    for flags in (["--lr", "0.5"], ["--mode", "std"], ["--seed", "2"], ["--rate", "0.3"]):
        argv = flags_of(data, folder, *SCHEDULE, *flags, "--resume")
        message = one_error_line(argv, main_imp_pretrain.main, capsys)
        assert f"holds a run with {flags[0]} " in message
    assert contents(folder) == before


def test_a_folder_with_a_run_in_it_is_not_overwritten(data, standard, capsys):
    before = contents(standard.folder)
    argv = flags_of(data, standard.folder, *standard_flags(standard.given))
    message = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "holds a run already; add --resume" in message
    assert contents(standard.folder) == before


def nothing_written(folder):
    return not folder.exists()


def foreign(run: Any, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    shutil.copy(run.folder / "init.pth.tar", folder)
    payload = {**load(run.folder / "1-checkpoint.pth.tar"), **changes}
    path = folder / "1-checkpoint.pth.tar"
    save_checkpoint(path, {k: v for k, v in payload.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "flags", "told"),
    [
        ({"resume": None}, (), "lacks 'resume'"),
        ({"state_dict": None}, (), "lacks 'state_dict'"),
        ({"optimizer": None}, (), "lacks 'optimizer'"),
        ({}, ("--width", "8"), "another architecture"),
        ({}, ("--classes", "2"), "1-checkpoint.pth.tar"),
        ({"init": {"file": "init.pth.tar", "sha256": "0"}}, (), "not the initial weights"),
        ({"init": {"file": "gone.pth.tar", "sha256": "0"}}, (), "no such file"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    data, run, standard, tmp_path, capsys, changes, flags, told
):
    path = foreign(run, tmp_path / "other", **changes)
    argv = flags_of(data, tmp_path / "new", *SCHEDULE, *flags, "--resume", str(path))
    assert told in one_error_line(argv, main_imp_pretrain.main, capsys)
    assert nothing_written(tmp_path / "new")


def test_a_dense_checkpoint_of_another_network_is_refused_in_one_line(data, run, tmp_path, capsys):
    path = run.copies / "1" / "0-checkpoint.pth.tar"
    argv = flags_of(
        data, tmp_path / "new", *SCHEDULE, "--resume", str(path), "-a", "resnet20s", "--width", "8"
    )
    one_error_line(argv, main_imp_pretrain.main, capsys)
    assert nothing_written(tmp_path / "new")


# --- the same bits ------------------------------------------------------------------------------


def test_the_same_seed_and_other_workers_give_the_same_bits(data, run, tmp_path):
    run_imp(data, tmp_path / "again", *SCHEDULE, "--workers", "2")
    assert_same_run(tmp_path / "again", run.folder)


def test_standard_runs_repeat_too(data, standard, tmp_path):
    run_imp(data, tmp_path / "again", *standard_flags(standard.given), "-j", "2")
    assert_same_run(tmp_path / "again", standard.folder)


def test_another_seed_gives_another_run_and_0_is_a_seed(data, tmp_path):
    short = ("--mode", "std", "--epochs", "1", "--prune_epoch", "1")
    for name, seed in (("0", "0"), ("0 again", "0"), ("1", "1")):
        run_imp(data, tmp_path / name, *short, "--seed", seed)
    assert_same_run(tmp_path / "0", tmp_path / "0 again")
    first, other = (load(tmp_path / name / "init.pth.tar")["conv1.weight"] for name in "01")
    assert not torch.equal(first, other)
    assert read_json(tmp_path / "0" / "args.json")["seed"] == 0


def test_the_order_of_the_data_depends_on_the_seed_alone(data, standard, tmp_path):
    run_imp(data, tmp_path / "run", *standard_flags(standard.given), "--seed", "2")
    assert metrics(tmp_path / "run") != metrics(standard.folder)
    assert_same_bits(
        load(tmp_path / "run" / "init.pth.tar"), load(standard.folder / "init.pth.tar")
    )


# --- tickets without training -------------------------------------------------------------------


@pytest.mark.parametrize("ticket", ["omp", "random"])
def test_one_shot_tickets_have_imps_counts_and_need_no_data(standard, tmp_path, ticket, capsys):
    folder = tmp_path / "run"
    flags = [
        "--ticket", ticket, "--init", str(standard.given), *TINY, "--epochs", "2",
        "--prune_epoch", "1", "--save_dir", str(folder),
    ]  # fmt: skip
    main_imp_pretrain.main(flags)
    assert names(folder) == {"args.json", "init.pth.tar"} | tickets(0, 1, 2, 3)
    for state in range(4):
        own = load_ticket(folder / f"{state}-ticket.safetensors")
        imp = load_ticket(standard.folder / f"{state}-ticket.safetensors")
        assert sum(int(m.sum()) for m in own.values()) == sum(int(m.sum()) for m in imp.values())
        same = all(torch.equal(own[name], imp[name]) for name in imp)
        assert same == (state == 0 or (ticket == "omp" and state == 1))
        header = ticket_header(folder / f"{state}-ticket.safetensors")
        assert header["kind"] == ticket
        assert header["init_sha256"] == sha256_of(folder / "init.pth.tar")
    assert_same_bits(dict(load(folder / "init.pth.tar")), dict(load(standard.given)))
    before = contents(folder)
    capsys.readouterr()
    main_imp_pretrain.main([*flags, "--resume"])
    assert contents(folder) == before
    assert "this run is finished" in capsys.readouterr().out
