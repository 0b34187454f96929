"""Resuming with other inputs, or from a checkpoint that lies in another folder than the run's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.main_cases import (
    Interrupted,
    assert_same_bits,
    contents,
    copy_after_each_epoch,
    die_saving,
    load,
    metrics,
    one_error_line,
    read_json,
    run_imp,
    run_transfer,
    skip_pictures,
    write_images,
)

import main_downstream
import main_imp_pretrain
from engine import training as training_module
from engine.distributed import Runtime
from engine.run_folder import RunFolder
from engine.steps import Execution
from engine.training import Training
from errors import InputError
from files.checkpoints import save_checkpoint
from files.run_args import ADDED

NETWORK = ["-a", "resnet20s", "--width", "4", "--input_size", "16", "-b", "12", "-j", "0"]
NETWORK += ["--device", "cpu"]
SEARCH = ["--mode", "std", "--epochs", "3", "--prune_epoch", "1", "--pretrain_epochs", "1"]
SHORT = ["--mode", "std", "--epochs", "3", "--lr", "0.01", "--decreasing_lr", "2"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def search(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(data, folder, *SEARCH)
    return folder


def sparse(search, *flags):
    ticket = str(search / "2-ticket.safetensors")
    return [*SHORT, "--init", str(search / "init.pth.tar"), "--tickets_file", ticket, *flags]


def cut_off(run, data, folder, flags, epoch):
    """Run until the checkpoint after `epoch` epochs is about to be written."""
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        die_saving(patch, epoch)
        with pytest.raises(Interrupted):
            run(data, folder, *flags)


def transfer_line(data, folder, flags, capsys):
    argv = ["--dataset", "folder", "--data", str(data), "--save_dir", str(folder)]
    return one_error_line([*argv, *NETWORK, *flags], main_downstream.main, capsys)


# --- other inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", ["tickets_file", "init"])
def test_an_input_that_is_forgotten_on_resume_is_asked_for(
    data, search, tmp_path, capsys, forgotten
):
    flags = sparse(search)
    cut_off(run_transfer, data, tmp_path / "run", flags, 2)
    at = flags.index(f"--{forgotten}")
    fewer = [*flags[:at], *flags[at + 2 :], "--resume"]
    line = transfer_line(data, tmp_path / "run", fewer, capsys)
    assert f"holds a run with --{forgotten} {flags[at + 1]}, not none" in line
    run_transfer(data, tmp_path / "run", *flags, "--resume")
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["state"], round(results["density"], 2)) == (2, 0.64)


def test_an_input_that_a_run_began_without_is_refused_on_resume(data, search, tmp_path, capsys):
    cut_off(run_transfer, data, tmp_path / "run", SHORT, 2)
    line = transfer_line(data, tmp_path / "run", [*sparse(search), "--resume"], capsys)
    assert "holds a run with --init none, not " in line


def test_weights_that_were_fetched_are_not_a_file_of_their_name(data, search, tmp_path, capsys):
    cut_off(run_transfer, data, tmp_path / "run", sparse(search), 2)
    args = read_json(tmp_path / "run" / "args.json")
    del args["init_content"]  # as of a run that began with `--init torchvision`
    (tmp_path / "run" / "args.json").write_text(json.dumps(args | {"init": "torchvision"}))
    line = transfer_line(data, tmp_path / "run", [*sparse(search), "--resume"], capsys)
    assert "holds a run with --init torchvision, not " in line


@pytest.mark.parametrize("names", [("torchvision", "hf:a/b/x.pt"), ("hf:a/b/1.pt", "hf:a/b/2.pt")])
def test_weights_that_were_fetched_are_those_of_their_name(tmp_path, names):
    """They have no fingerprint: a run would go on under the name of weights that it never had."""
    then, now = names
    (tmp_path / "args.json").write_text(json.dumps({"init": then, "data_content": "images"}))

    def differences(init):
        free, inputs, contents = ["init"], ["init"], {"data": "images"}
        folder = RunFolder(tmp_path, {"init": init}, free, inputs, "auto", Path, "x", contents)
        return list(folder.differences())

    assert differences(then) == []
    assert differences(now) == [("init", then, now)]


def test_a_flag_that_was_added_is_compared_with_runs_from_before_it(tmp_path, monkeypatch):
    monkeypatch.setitem(ADDED, "label_smoothing", 0.0)
    (tmp_path / "args.json").write_text(json.dumps({"init": None}))

    def differences(value):
        flags = {"init": None, "label_smoothing": value}
        return list(RunFolder(tmp_path, flags, [], [], "auto", Path, "x", {}).differences())

    assert differences(0.0) == []
    assert differences(0.4) == [("label_smoothing", 0.0, 0.4)]


def test_an_empty_last_file_of_a_copy_that_broke_off_is_written_again(data, search, tmp_path):
    folder = tmp_path / "run"
    run_transfer(data, folder, *SHORT)
    whole = read_json(folder / "results.json")
    (folder / "results.json").write_text("")
    run_transfer(data, folder, *SHORT, "--resume")
    assert read_json(folder / "results.json")["last"] == whole["last"]
    copy = Path(shutil.copytree(search, tmp_path / "search"))
    last = max(copy.glob("*-ticket.safetensors"))
    before = last.read_bytes()
    last.write_bytes(b"")
    run_imp(data, copy, *SEARCH, "--resume")
    assert last.read_bytes() == before


def test_a_finished_run_is_not_that_of_other_flags(data, search, tmp_path, capsys):
    run_transfer(data, tmp_path / "run", *sparse(search))
    other = [*sparse(search), "--resume", "--seed", "7"]
    line = transfer_line(data, tmp_path / "run", other, capsys)
    assert "holds a run with --seed 1, not 7" in line
    run_transfer(data, tmp_path / "run", *sparse(search), "--resume")
    assert "this run is finished; nothing to do" in capsys.readouterr().out


def test_a_finished_run_is_not_that_of_other_files(data, search, tmp_path, capsys):
    flags, run = sparse(search), tmp_path / "run"
    run_transfer(data, run, *flags)
    other = [str(search / "1-ticket.safetensors") if "2-ticket" in f else f for f in flags]
    line = transfer_line(data, run, [*other, "--resume"], capsys)
    assert "holds a run with --tickets_file that holds sha256" in line
    absent = [str(tmp_path / "no.pth.tar") if f.endswith("init.pth.tar") else f for f in flags]
    line = transfer_line(data, run, [*absent, "--resume"], capsys)
    assert f"--init {tmp_path / 'no.pth.tar'}: no such file" in line
    moved = shutil.copy(search / "2-ticket.safetensors", tmp_path / "copy.safetensors")
    same = [str(moved) if "2-ticket" in f else f for f in flags]
    run_transfer(data, run, *same, "--resume")
    assert "this run is finished" in capsys.readouterr().out


def test_a_finished_run_does_not_ask_for_files_that_were_removed_since(
    data, search, tmp_path, capsys
):
    ticket = shutil.copy(search / "2-ticket.safetensors", tmp_path / "gone.safetensors")
    flags = [str(ticket) if "2-ticket" in f else f for f in sparse(search)]
    run_transfer(data, tmp_path / "run", *flags)
    Path(ticket).unlink()
    run_transfer(data, tmp_path / "run", *flags, "--resume")
    assert "this run is finished; nothing to do\n" in capsys.readouterr().out
    run_transfer("elsewhere", tmp_path / "run", *flags, "--resume")
    assert f"(with --data {data}; the one of the flags" in capsys.readouterr().out


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["anew", "resume"])
def test_files_of_a_run_whose_flags_are_lost_are_not_overwritten(
    resume, data, search, tmp_path, capsys
):
    for name in ("results.json", "checkpoint.pth.tar", "init.pth.tar", "1-ticket.safetensors"):
        run = tmp_path / name
        run.mkdir()
        (run / name).write_text("of days of work")
        line = transfer_line(data, run, [*SHORT, *resume], capsys)
        assert f"holds {name} of a run whose args.json is missing; choose another" in line
        assert [path.read_text() for path in run.iterdir()] == ["of days of work"]


def test_tickets_that_omp_made_are_not_those_of_a_search(data, search, tmp_path, capsys):
    schedule = ["--mode", "std", "--epochs", "3", "--prune_epoch", "1"]
    init = ["--init", str(search / "init.pth.tar")]
    folder = str(tmp_path / "run")
    network = ["-a", "resnet20s", "--width", "4", "--input_size", "16", "--save_dir", folder]
    main_imp_pretrain.main([*schedule, *init, *network, "--ticket", "omp"])
    again = [str(data), *schedule, *init, *network, "--resume"]
    line = one_error_line(again, main_imp_pretrain.main, capsys)
    assert "holds a run with --ticket omp, not imp" in line
    main_imp_pretrain.main([*schedule, *init, *network, "--ticket", "omp", "--resume"])
    assert "this run is finished" in capsys.readouterr().out
    random = [*schedule, *init, *network, "--ticket", "random", "--resume"]
    line = one_error_line(random, main_imp_pretrain.main, capsys)
    assert "holds a run with --ticket omp, not random" in line


# --- a checkpoint elsewhere ---------------------------------------------------------------------


def test_a_transfer_goes_on_in_another_folder_with_its_best_networks(data, search, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        copy_after_each_epoch(patch, tmp_path / "after")
        run_transfer(data, tmp_path / "whole", *sparse(search))
    checkpoint = tmp_path / "after" / "2" / "checkpoint.pth.tar"
    run_transfer(data, tmp_path / "moved", *sparse(search), "--resume", str(checkpoint))
    assert metrics(tmp_path / "moved") == metrics(tmp_path / "whole")
    for name in ("sa_best", "last"):
        results = [read_json(tmp_path / run / "results.json")[name] for run in ("moved", "whole")]
        assert results[0] == results[1]


def test_a_checkpoint_without_its_best_networks_is_refused_before_training(
    data, search, tmp_path, capsys
):
    cut_off(run_transfer, data, tmp_path / "cut", sparse(search), 3)
    checkpoint = shutil.copy(tmp_path / "cut" / "checkpoint.pth.tar", tmp_path)
    flags = [*sparse(search), "--resume", str(checkpoint)]
    line = transfer_line(data, tmp_path / "moved", flags, capsys)
    assert str(tmp_path / "model_SA_best.pth.tar") in line
    shutil.copy(tmp_path / "cut" / "model_SA_best.pth.tar", tmp_path)
    best = load(tmp_path / "model_SA_best.pth.tar")
    torch.save(best | {"best_sa": best["best_sa"] + 1}, tmp_path / "model_SA_best.pth.tar")
    line = transfer_line(data, tmp_path / "moved", flags, capsys)
    assert "not the run's best network at this" in line
    assert not (tmp_path / "moved").exists()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--seed", "5"], "of a run with --seed 1, not 5"),
        (["--lr", "0.1"], "of a run with --lr 0.01, not 0.1"),
        (["--mode", "adv"], "of a run with --mode std, not adv"),
        (["--tickets_file", "1-ticket.safetensors"], "of a run with --tickets_file that holds"),
        (["--init", ""], "of a run with --init "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_checkpoint_of_a_run_with_other_flags_is_refused(
    data, search, tmp_path, capsys, other, told
):
    """Its results would name a ticket, a density and a seed that were never trained."""
    cut_off(run_transfer, data, tmp_path / "cut", sparse(search), 2)
    other = [str(search / word) if word.endswith(".safetensors") else word for word in other]
    resume = ["--resume", str(tmp_path / "cut" / "checkpoint.pth.tar")]
    line = transfer_line(data, tmp_path / "moved", [*sparse(search), *other, *resume], capsys)
    assert told in line
    assert not (tmp_path / "moved").exists()


def test_a_checkpoint_whose_flags_are_not_known_has_the_tickets_masks_at_least(
    data, search, tmp_path, capsys
):
    with pytest.MonkeyPatch.context() as patch:
        copy_after_each_epoch(patch, tmp_path / "after")
        run_transfer(data, tmp_path / "whole", *sparse(search))
    (tmp_path / "after" / "2" / "args.json").unlink()
    resume = ["--resume", str(tmp_path / "after" / "2" / "checkpoint.pth.tar")]
    for state in (1, 3):
        other = ["--tickets_file", str(search / f"{state}-ticket.safetensors")]
        flags = [*sparse(search), *other, *resume]
        line = transfer_line(data, tmp_path / "moved", flags, capsys)
        assert "has other masks than the ticket of the flags" in line
    run_transfer(data, tmp_path / "moved", *sparse(search), *resume)
    (warning,) = read_json(tmp_path / "moved" / "results.json")["warnings"]
    assert "no args.json beside it: whether its run had the same flags is not known" in warning


def test_a_transfer_whose_epochs_are_done_is_tested_in_another_folder(data, search, tmp_path):
    run_transfer(data, tmp_path / "whole", *sparse(search))
    resume = ["--resume", str(tmp_path / "whole" / "checkpoint.pth.tar")]
    run_transfer(data, tmp_path / "moved", *sparse(search), *resume)
    whole, moved = (read_json(tmp_path / run / "results.json") for run in ("whole", "moved"))
    assert (moved["sa_best"], moved["last"]) == (whole["sa_best"], whole["last"])


@pytest.mark.parametrize("known", [True, False])
def test_a_search_does_not_go_on_from_a_state_of_another_rate(
    data, search, tmp_path, capsys, known
):
    cut_off(run_imp, data, tmp_path / "cut", SEARCH, 3)
    if not known:
        (tmp_path / "cut" / "args.json").unlink()
    flags = [*SEARCH, "--rate", "0.5", "--resume", str(tmp_path / "cut" / "1-checkpoint.pth.tar")]
    network = ["-a", "resnet20s", "--width", "4", "--input_size", "16", "-b", "12", "-j", "0"]
    argv = [str(data), "--save_dir", str(tmp_path / "moved"), *network, "--device", "cpu", *flags]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    if known:
        assert "of a run with --rate 0.2, not 0.5" in line
    else:
        assert "has a density of 80.00 %, state 1 has 50.00 % with --rate 0.5" in line
    assert not (tmp_path / "moved").exists()


def test_a_search_goes_on_in_another_folder_and_leaves_it_whole(data, search, tmp_path):
    cut_off(run_imp, data, tmp_path / "cut", SEARCH, 3)
    checkpoint = tmp_path / "cut" / "1-checkpoint.pth.tar"
    run_imp(data, tmp_path / "moved", *SEARCH, "--resume", str(checkpoint))
    for name in ("init.pth.tar", *(f"{k}-ticket.safetensors" for k in range(5))):
        assert (tmp_path / "moved" / name).read_bytes() == (search / name).read_bytes(), name
    assert metrics(tmp_path / "moved") == metrics(search)
    for state in (1, 2, 3):
        name = f"{state}-model_best.pth.tar"
        found, expected = (load(folder / name) for folder in (tmp_path / "moved", search))
        assert found["best_acc1"] == expected["best_acc1"]
    run_imp(data, tmp_path / "moved", *SEARCH, "--export_released", "3")


def test_a_run_goes_on_from_elsewhere_in_a_folder_that_the_same_command_began(
    data, search, tmp_path
):
    cut_off(run_imp, data, tmp_path / "cut", SEARCH, 3)
    flags = [*SEARCH, "--resume", str(tmp_path / "cut" / "1-checkpoint.pth.tar")]
    cut_off(run_imp, data, tmp_path / "moved", flags, 4)
    run_imp(data, tmp_path / "moved", *flags)
    assert metrics(tmp_path / "moved") == metrics(search)
    name = "4-ticket.safetensors"
    assert (tmp_path / "moved" / name).read_bytes() == (search / name).read_bytes()


@pytest.mark.parametrize("name", ["metrics.jsonl", "1-ticket.safetensors", "init.pth.tar"])
def test_a_search_from_elsewhere_is_not_mixed_with_another_of_equal_flags(
    data, search, tmp_path, capsys, name
):
    """Another number of processes, which is free, makes such another."""
    cut_off(run_imp, data, tmp_path / "cut", SEARCH, 3)
    cut_off(run_imp, data, tmp_path / "own", SEARCH, 4)
    shutil.copy(tmp_path / "cut" / "metrics.jsonl", tmp_path / "own")
    if name == "metrics.jsonl":
        first, *rest = (tmp_path / "own" / name).read_text().splitlines()
        other = {**json.loads(first), "train_loss": 9.0}
        (tmp_path / "own" / name).write_text("\n".join([json.dumps(other), *rest]) + "\n")
    else:
        shutil.copy(search / "2-ticket.safetensors", tmp_path / "own" / name)
    before = contents(tmp_path / "own")
    flags = [*SEARCH, "--resume", str(tmp_path / "cut" / "1-checkpoint.pth.tar")]
    argv = [str(data), "--save_dir", str(tmp_path / "own"), *NETWORK, "--device", "cpu", *flags]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert f"own: holds {name} of another run than --resume's" in line
    assert contents(tmp_path / "own") == before


def test_a_transfer_from_elsewhere_is_not_mixed_with_another_of_equal_flags(
    data, search, tmp_path, capsys
):
    cut_off(run_transfer, data, tmp_path / "cut", sparse(search), 2)
    cut_off(run_transfer, data, tmp_path / "own", sparse(search), 3)
    figures = tmp_path / "own" / "metrics.jsonl"
    first, *rest = figures.read_text().splitlines()
    figures.write_text("\n".join([json.dumps({**json.loads(first), "train_loss": 9.0}), *rest]))
    resume = ["--resume", str(tmp_path / "cut" / "checkpoint.pth.tar")]
    line = transfer_line(data, tmp_path / "own", [*sparse(search), *resume], capsys)
    assert "holds metrics.jsonl of another run than --resume's" in line


# --- what --continue_from takes as it is ----------------------------------------------------------


@pytest.mark.parametrize("flag", [["--reset_fc"], ["--init_key", "weights"]])
def test_what_the_first_init_needed_is_no_matter_of_the_initial_weights(
    data, search, tmp_path, capsys, flag
):
    path = tmp_path / "pretrained.pth.tar"
    torch.save({"weights": load(search / "init.pth.tar")}, path)
    key = ["--init_key", "weights"]
    begun = [*SEARCH, "--init", str(path), *dict.fromkeys([*key, *flag])]
    run_imp(data, tmp_path / "whole", *begun)
    ticket = str(tmp_path / "whole" / "2-ticket.safetensors")
    capsys.readouterr()
    run_imp(data, tmp_path / "again", *SEARCH, *flag, "--continue_from", ticket)
    assert "may differ from that run" not in capsys.readouterr().err
    for k in (3, 4):
        name = f"{k}-ticket.safetensors"
        found, expected = ((tmp_path / run / name).read_bytes() for run in ("again", "whole"))
        assert found == expected
    weights = [load(tmp_path / run / "3-checkpoint.pth.tar") for run in ("again", "whole")]
    assert_same_bits(weights[0]["state_dict"], weights[1]["state_dict"])


def test_a_lost_search_goes_on_in_its_own_folder_with_the_flags_that_it_had(data, search, tmp_path):
    path = tmp_path / "pretrained.pth.tar"
    torch.save({"weights": load(search / "init.pth.tar")}, path)
    begun = [*SEARCH, "--init_key", "weights", "--reset_fc"]
    run_imp(data, tmp_path / "whole", *begun, "--init", str(path))
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "lost"))
    for lost in [*folder.glob("*checkpoint.pth.tar"), *folder.glob("[34]-ticket.safetensors")]:
        lost.unlink()
    ticket = str(folder / "2-ticket.safetensors")
    run_imp(data, folder, *begun, "--continue_from", ticket, "--resume")
    name = "4-ticket.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tickets_after_the_one_to_go_on_from_are_not_overwritten(data, search, tmp_path, capsys):
    folder = Path(shutil.copytree(search, tmp_path / "lost"))
    for lost in [*folder.glob("*checkpoint.pth.tar"), folder / "4-ticket.safetensors"]:
        lost.unlink()
    before = contents(folder)
    taken = ["--continue_from", str(folder / "1-ticket.safetensors"), "--resume"]
    argv = [str(data), *NETWORK, *SEARCH, *taken, "--save_dir", str(folder)]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "2-ticket.safetensors lies beside it and would be overwritten" in line
    assert contents(folder) == before


@pytest.mark.parametrize(("given", "tag"), [([], "adv"), (["--tag", "fast"], "fast")])
def test_a_run_that_goes_on_keeps_its_name(data, tmp_path, given, tag):
    cut_off(run_transfer, data, tmp_path / "run", [*SHORT, "--tag", "adv"], 2)
    run_transfer(data, tmp_path / "run", *SHORT, *given, "--resume")
    results = read_json(tmp_path / "run" / "results.json")
    assert results["pretraining"] == tag
    told = [line for line in results["warnings"] if "--tag" in line]
    assert told == ([f"--tag {tag}: the run began as adv; its results say {tag}"] if given else [])


@pytest.mark.parametrize(
    "anew", [lambda old: old + b" ", lambda old: old[:-1] + b"?"], ids=["size", "bytes"]
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_that_were_made_anew_are_noticed(data, tmp_path, capsys, split, anew):
    images = Path(shutil.copytree(data, tmp_path / "data"))
    cut_off(run_transfer, images, tmp_path / "run", SHORT, 2)
    for path in (images / split).rglob("*.png"):
        path.write_bytes(anew(path.read_bytes()))
    line = transfer_line(images, tmp_path / "run", [*SHORT, "--resume"], capsys)
    assert "holds a run with --data whose images are " in line


def test_a_state_0_that_trained_its_own_weights_is_exported_from_its_ticket(data, search, tmp_path):
    folder = Path(shutil.copytree(search, tmp_path / "run"))
    run_imp(data, folder, *SEARCH, "--export_released", "0")
    exported = load(next(folder.glob("0-*released*")))
    assert exported["state_prune"] == 0
    (folder / "0-ticket.safetensors").unlink()
    argv = [str(data), *NETWORK, *SEARCH, "--export_released", "0", "--save_dir", str(folder)]
    with pytest.raises(InputError, match="0-checkpoint.pth.tar: names no initial weights"):
        main_imp_pretrain.main(argv)


@pytest.mark.parametrize("again", ["the same", "another figure"])
def test_a_best_network_whose_checkpoint_is_lost_counts_as_the_best(
    data, tmp_path, monkeypatch, again
):
    """The run dies between the two files of its best epoch, which goes otherwise once more."""
    folder, flags = tmp_path / "run", [*SHORT, "--lr", "0.03"]
    run_transfer(data, tmp_path / "whole", *flags)
    best = load(tmp_path / "whole" / "model_SA_best.pth.tar")
    cut_off(run_transfer, data, folder, flags, best["epoch"])
    assert load(folder / "model_SA_best.pth.tar")["epoch"] == best["epoch"]
    if again == "another figure":
        validate = main_downstream.Transfer.validate
        monkeypatch.setattr(
            main_downstream.Transfer, "validate", lambda run: {**validate(run), "val_sa": 1.0}
        )
    run_transfer(data, folder, *flags, "--resume")
    end = load(folder / "checkpoint.pth.tar")
    assert end["best_sa"] == best["best_sa"]
    kept = load(folder / "model_SA_best.pth.tar")
    assert (kept["epoch"], kept["best_sa"]) == (best["epoch"], best["best_sa"])
    told = [line for line in read_json(folder / "results.json")["warnings"] if "cut off" in line]
    assert len(told) == (again == "another figure")


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(("figures", "best"), [([20.0, 40.0], 40.0), ([40.0], 30.0)])
def test_a_states_best_network_is_that_of_its_record_though_its_checkpoint_is_lost(
    data, tmp_path, monkeypatch, figures, best, elsewhere
):
    """The run dies between the two files of its last epoch of `figures`, then finds 30 %."""
    flags = ["--mode", "std", "--pretrain_epochs", "3", "--epochs", "4", "--prune_epoch", "1"]
    flags += ["--save_every_steps", "1"]
    folder, found = tmp_path / "run", iter(figures)
    validate = main_imp_pretrain.TicketSearch.validate
    monkeypatch.setattr(
        main_imp_pretrain.TicketSearch,
        "validate",
        lambda run: replace(validate(run), top1=next(found, 30.0)),
    )
    cut_off(run_imp, data, folder, flags, len(figures))
    source = folder / "0-checkpoint.pth.tar"
    folder = tmp_path / "another" if elsewhere else folder
    run_imp(data, folder, *flags, "--resume", str(source))
    kept = load(folder / "0-model_best.pth.tar")
    assert (kept["epoch"], kept["best_acc1"]) == (len(figures), best)
    assert load(folder / "0-checkpoint.pth.tar")["best_acc1"] == best


def test_two_networks_of_one_epoch_are_both_tested(data, tmp_path):
    """A stop between the files of an epoch that goes otherwise the second time leaves such two."""
    folder, flags = tmp_path / "run", [*SHORT, "--lr", "0.03"]
    run_transfer(data, folder, *flags)
    before = read_json(folder / "results.json")
    other = load(folder / "model_SA_best.pth.tar")
    other["epoch"] = load(folder / "checkpoint.pth.tar")["epoch"]
    other["state_dict"] = {
        name: torch.zeros_like(value) if name.endswith("fc.weight") else value
        for name, value in other["state_dict"].items()
    }  # whatever the image, the class of the largest bias
    save_checkpoint(folder / "model_SA_best.pth.tar", other)
    (folder / "results.json").unlink()
    run_transfer(data, folder, *flags, "--resume")
    after = read_json(folder / "results.json")
    assert after["last"] == before["last"]
    assert after["sa_best"] != before["sa_best"]
    assert after["sa_best"]["sa"] == pytest.approx(100 / 3)


# --- what cannot go on to the bit -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "saved_by", "told"),
    [("cuda:1", "cuda", 0), ("cuda:1", "cpu", 1), ("cpu", "cuda", 1), ("cpu", "cpu", 0)],
)
def test_random_starts_go_on_on_any_gpu_and_another_kind_of_device_is_told_of(
    data, tmp_path, monkeypatch, device, saved_by, told
):
    run_transfer(data, tmp_path / "run", *SHORT)
    checkpoint = load(tmp_path / "run" / "checkpoint.pth.tar")
    (own,) = checkpoint["resume"]["ranks"]
    own["random"]["cuda"] = ["a GPU's"] if saved_by == "cuda" else []
    model = torch.nn.Linear(2, 2)
    training = Training.__new__(Training)  # only what restoring looks at: no GPU is needed
    training.model, training.scaler = model, None
    training.optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training.runtime = Runtime(torch.device("cpu"))
    training.execution = Execution(torch.device(device))
    monkeypatch.setattr(training_module, "Meter", lambda *_: None)
    given: list[tuple[object, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *state: given.append(state))
    checkpoint |= {"optimizer": training.optimizer.state_dict()}
    lines: list[str] = []
    training.restore(checkpoint, lines.append)
    assert len(lines) == told
    assert given == (
        [("a GPU's", torch.device("cuda:1"))] if device == "cuda:1" and not told else []
    )


def test_the_scale_of_the_loss_goes_on_with_other_processes_too(data, tmp_path):
    run_transfer(data, tmp_path / "run", *SHORT)
    checkpoint = load(tmp_path / "run" / "checkpoint.pth.tar")
    model = torch.nn.Linear(2, 2)
    training = Training.__new__(Training)
    training.model, training.scaler = model, torch.amp.GradScaler("cpu")
    training.optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training.runtime = Runtime(torch.device("cpu"), 0, 2)
    checkpoint |= {"optimizer": training.optimizer.state_dict()}
    checkpoint["resume"]["scaler"] = {**training.scaler.state_dict(), "scale": 8.0}
    lines: list[str] = []
    training.restore(checkpoint, lines.append)
    assert training.scaler.state_dict()["scale"] == 8.0
    assert "saved by 1 processes, not 2" in lines[0]


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), InputError, "out of memory with 12 images"),
        (RuntimeError("[gloo] Connection closed by peer"), RuntimeError, "closed by peer"),
        (RuntimeError("size mismatch for fc"), InputError, "another network than the flags ask"),
    ],
)
def test_what_fails_while_a_checkpoint_is_taken_up_is_called_what_it_is(
    data, tmp_path, monkeypatch, error, raised, told
):
    run_transfer(data, tmp_path / "run", *SHORT)
    (tmp_path / "run" / "results.json").unlink()

    def fail(*_):
        raise error

    monkeypatch.setattr(training_module, "load_optimizer", fail)
    with pytest.raises(raised, match=told):
        run_transfer(data, tmp_path / "run", *SHORT, "--resume")


# --- what is left lying -------------------------------------------------------------------------


def test_torn_files_of_a_killed_run_are_removed_but_not_those_of_an_evaluation_at_work(
    data, search, tmp_path
):
    cut_off(run_transfer, data, tmp_path / "run", sparse(search), 2)
    ours = [".eval.json.a.tmp", ".eval.outcomes.safetensors.b.tmp"]
    ours += [".eval.autoattack_progress.json.c.tmp"]
    ours += [".mine.e.tmp", ".mine.tmp"]  # of somebody else
    torn = [f".{name}.d.tmp" for name in ("checkpoint.pth.tar", "args.json", "net_train.png",
            "model_RA_best.pth.tar", "results.json", "checkpoint.pth.tar.previous")]  # fmt: skip
    for name in (*torn, *ours):
        (tmp_path / "run" / name).touch()
    run_transfer(data, tmp_path / "run", *sparse(search), "--resume")
    assert sorted(path.name for path in (tmp_path / "run").glob(".*.tmp")) == sorted(ours)
