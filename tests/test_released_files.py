"""Files in both directions between this code and the released one, as its users have them.

What the released code writes is made here of what this code wrote: standard files without constants
and with float masks, IMP checkpoints with the initial weights inside, no `resume` and no classes.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.main_cases import (
    TINY,
    assert_same_bits,
    contents,
    load,
    metrics,
    names,
    one_error_line,
    read_json,
    run_imp,
    run_transfer,
    skip_pictures,
    steady,
    write_images,
)

import main_downstream
import main_imp_pretrain
import pruning_utils
from files.atomic import fingerprint, sha256_of, write_json
from files.checkpoints import bare_keys, save_checkpoint
from files.tickets import load_ticket
from models import build_model

OURS = ("resume", "history", "classes", "arch")
SEARCH = ["--pretrain_epochs", "1", "--epochs", "2", "--prune_epoch", "1", "--lr", "0.01"]
TRANSFER = ["--mode", "std", "--epochs", "1", "--lr", "0.05"]
MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    skip_pictures(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture(scope="module")
def imp(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imp") / "run"
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(data, folder, *SEARCH, "--mode", "std")
    return folder


@pytest.fixture(scope="module")
def transfer(data, imp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "run"
    given = ["--init", imp / "init.pth.tar", "--tickets_file", imp / "2-ticket.safetensors"]
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_transfer(data, folder, *TRANSFER, *map(str, given))
    return folder


def plain(state):
    return {
        name: value.float() if name.endswith("weight_mask") else value
        for name, value in state.items()
        if not name.startswith("normalize.")
    }


@pytest.fixture(scope="module")
def released(imp, transfer, tmp_path_factory):
    """A standard IMP checkpoint and a standard transfer checkpoint of the released code."""
    folder = tmp_path_factory.mktemp("released")
    search = {n: v for n, v in load(imp / "2-checkpoint.pth.tar").items() if n not in OURS}
    search |= {"state_dict": plain(search["state_dict"]), "init": plain(load(imp / "init.pth.tar"))}
    save_checkpoint(folder / "2-checkpoint.pth.tar", {**search, "arch": "resnet20s"})
    whole = load(transfer / "checkpoint.pth.tar")
    kept = {name: whole[name] for name in ("result", "epoch")}
    state = plain(bare_keys(whole["state_dict"]))
    save_checkpoint(folder / "checkpoint.pth.tar", {**kept, "state_dict": state})
    return SimpleNamespace(
        search=folder / "2-checkpoint.pth.tar", transfer=folder / "checkpoint.pth.tar"
    )


def refused(main, argv, capsys):
    return one_error_line([str(word) for word in argv], main, capsys)


def imp_argv(data, out, *flags):
    return [data, *TINY, "-j", "0", "--device", "cpu", "--save_dir", out, *flags]


# --- measuring their networks -------------------------------------------------------------------


def validated(data, out, *flags):
    # No -b, no -a, no --width: what a network is, its file says.
    argv = [data, "--input_size", "16", "-j", "0", "--device", "cpu", "--save_dir", out, "-e"]
    main_imp_pretrain.main([str(word) for word in (*argv, *flags)])
    return read_json(out / "eval.json")


def test_evaluate_of_a_standard_imp_checkpoint_takes_the_statistics_of_imagenet(
    data, imp, released, tmp_path, capsys
):
    found = validated(data, tmp_path / "out", "--resume", released.search)
    assert found["acc1"] == metrics(imp)[-1]["val_sa"]
    told = "has no mean and std; the data set's are used: 0.485 0.456 0.406, 0.229 0.224 0.225"
    assert any(told in line for line in found["warnings"])
    assert told in capsys.readouterr().err
    assert names(tmp_path / "out") == {"eval.json"}


def test_evaluate_with_weights_alone_validates_that_network(data, imp, tmp_path):
    first = validated(data, tmp_path / "out", "--init", imp / "init.pth.tar")
    assert first["checkpoint"] == str(imp / "init.pth.tar")
    assert first["acc1"] == metrics(imp)[0]["val_sa"]  # state 0 is the dense training
    nested = tmp_path / "nested.pth.tar"
    save_checkpoint(nested, {"best": {"net": load(imp / "init.pth.tar")}, "model": {}})
    again = validated(data, tmp_path / "b", "--init", nested, "--init_key", "best.net")
    assert again["acc1"] == first["acc1"]


def test_evaluate_does_not_test_the_folders_checkpoint_in_place_of_other_weights(
    data, imp, tmp_path, capsys
):
    run = Path(shutil.copytree(imp, tmp_path / "run"))
    argv = imp_argv(data, run, "-e", "--init", imp / "init.pth.tar")
    line = refused(main_imp_pretrain.main, argv, capsys)
    assert f"is about {run / '2-checkpoint.pth.tar'}, of a run with --init none" in line
    found = validated(data, tmp_path / "own", "--init", imp / "init.pth.tar")
    assert found["checkpoint"] == str(imp / "init.pth.tar")
    args = read_json(run / "args.json")
    content = {
        "init": "lay/elsewhere",
        "init_content": fingerprint(sha256_of(imp / "init.pth.tar")),
    }
    write_json(run / "args.json", args | content)
    found = validated(data, run, "--init", imp / "init.pth.tar")
    assert found["checkpoint"] == str(run / "2-checkpoint.pth.tar")


def test_evaluate_frames_images_as_the_run_has_recorded(data, imp, tmp_path, capsys):
    where = ["-j", "0", "--device", "cpu", "--save_dir", str(tmp_path / "out")]
    checkpoint = ["--resume", str(imp / "2-checkpoint.pth.tar")]
    main_imp_pretrain.main([str(data), "-e", *checkpoint, *where])
    assert read_json(tmp_path / "out" / "eval.json")["acc1"] == metrics(imp)[-1]["val_sa"]
    told = f"as {imp / 'args.json'} has recorded: input_size 16, augment rrc"
    assert told in capsys.readouterr().out


def test_evaluate_refuses_a_network_of_other_classes(data, tmp_path, capsys):
    model = build_model("resnet20s", 7, MEAN, STD, "cifar", 4)
    save_checkpoint(tmp_path / "seven.pth.tar", model.state_dict())
    argv = imp_argv(data, tmp_path / "out", "-e", "--init", tmp_path / "seven.pth.tar")
    assert "a network of 7 classes" in refused(main_imp_pretrain.main, argv, capsys)
    assert not (tmp_path / "out").exists()


def test_evaluate_of_a_standard_transfer_takes_the_statistics_of_the_data_set(
    data, transfer, released, tmp_path
):
    flags = [*TRANSFER, "--evaluate", "--resume"]
    run_transfer(data, tmp_path / "a", *flags, str(released.transfer))
    run_transfer(data, tmp_path / "b", *flags, str(transfer / "checkpoint.pth.tar"))
    theirs, ours = (read_json(tmp_path / run / "eval.json") for run in ("a", "b"))
    assert theirs["sa"] == ours["sa"]
    assert any("has no mean and std; the data set's are used" in w for w in theirs["warnings"])
    assert not any("has no mean and std" in line for line in ours["warnings"])
    half = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    run_transfer(data, tmp_path / "c", *flags, str(released.transfer), *half)
    assert not any("mean" in w for w in read_json(tmp_path / "c" / "eval.json")["warnings"])


# --- training does not go on from them ----------------------------------------------------------


def test_resuming_their_imp_checkpoint_says_what_it_is_and_what_to_do(
    data, released, tmp_path, capsys
):
    argv = imp_argv(data, tmp_path / "run", *SEARCH, "--mode", "std", "--resume", released.search)
    line = refused(main_imp_pretrain.main, argv, capsys)
    assert "a checkpoint of the released code, state 2" in line
    assert f"--continue_from {released.search}" in line
    assert not (tmp_path / "run").exists()


def test_resuming_their_transfer_checkpoint_says_what_it_is_and_what_to_do(
    data, released, tmp_path, capsys
):
    where = ["--dataset", "folder", "--data", data, "--save_dir", tmp_path / "run", *TINY]
    argv = [*where, "--device", "cpu", *TRANSFER, "--resume", released.transfer]
    line = refused(main_downstream.main, argv, capsys)
    assert "a transfer checkpoint of the released code" in line
    assert f"--evaluate --resume {released.transfer}" in line
    assert f"--tickets_file {released.transfer}" in line
    assert not (tmp_path / "run").exists()


def test_a_best_network_of_ours_is_not_taken_for_theirs(data, imp, transfer, tmp_path, capsys):
    where = ["--dataset", "folder", "--data", data, "--save_dir", tmp_path / "run", *TINY]
    given = ["--init", imp / "init.pth.tar", "--tickets_file", imp / "2-ticket.safetensors"]
    best = transfer / "model_SA_best.pth.tar"
    argv = [*where, "--device", "cpu", *TRANSFER, *steady(TRANSFER), *given, "--resume", best]
    assert "it lacks 'resume'" in refused(main_downstream.main, argv, capsys)


# --- files for them -----------------------------------------------------------------------------


def read_as_they_do(path, model):
    """Masks as the released transfer reads them from a ticket, put into a network."""
    file = load(path)
    file = file.get("state_dict", file)
    ticket = pruning_utils.extract_mask(file)
    pruning_utils.prune_model_custom(model, ticket)
    return ticket


def network():
    return build_model("resnet20s", 3, MEAN, STD, "cifar", 4)


def exported(folder, state, *flags):
    main_imp_pretrain.main(["--save_dir", str(folder), "--export_released", str(state), *flags])
    return folder / f"{state}-released.pth.tar"


@pytest.mark.parametrize("state", [0, 3])
def test_a_ticket_without_a_checkpoint_is_exported_on_the_initial_weights(imp, tmp_path, state):
    """State 3 comes after the last one; state 0 is dense."""
    folder = shutil.copytree(imp, tmp_path / "run")
    for path in folder.glob("*-checkpoint.pth.tar"):
        path.unlink()
    file = load(exported(folder, state))
    assert set(file) == {"arch", "state_prune", "state_dict", "init"}
    assert (file["arch"], file["state_prune"]) == ("resnet20s", state)
    assert not any(name.startswith("normalize") for name in (*file["state_dict"], *file["init"]))
    ticket = read_as_they_do(folder / f"{state}-released.pth.tar", network())
    assert all(mask.dtype == torch.float32 for mask in ticket.values())
    own = load_ticket(folder / f"{state}-ticket.safetensors")
    assert_same_bits({name: mask.bool() for name, mask in ticket.items()}, own)
    for name, value in file["init"].items():
        pruned = f"{name}_mask" in ticket
        assert torch.equal(file["state_dict"][f"{name}_orig" if pruned else name], value)


def test_a_standard_export_tells_of_a_normalisation_that_the_released_code_does_not_have(
    imp, tmp_path, capsys
):
    folder = Path(shutil.copytree(imp, tmp_path / "run"))
    exported(folder, 3)
    assert "normalised" not in capsys.readouterr().err
    init = load(folder / "init.pth.tar") | {"normalize.mean": torch.tensor(MEAN)}
    save_checkpoint(folder / "init.pth.tar", init)
    path, sha256 = folder / "2-checkpoint.pth.tar", sha256_of(folder / "init.pth.tar")
    origin = {"file": "init.pth.tar", "sha256": sha256}
    save_checkpoint(path, {**load(path), "init": origin})
    exported(folder, 2, "--mean", "0.5,0.5,0.5", "--std", "1,1,1")  # the run's flags again
    told = "2-released.pth.tar: images of this network are normalised by mean and std 0.5 0.5 0.5, "
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["omp", "random"])
def test_one_shot_tickets_are_exported_too(imp, tmp_path, kind):
    folder, init = tmp_path / kind, str(imp / "init.pth.tar")
    flags = ["--ticket", kind, "--init", init, "--epochs", "2", "--prune_epoch", "1"]
    main_imp_pretrain.main([*TINY, *flags, "--save_dir", str(folder)])
    ticket = read_as_they_do(exported(folder, 2), network())
    own = load_ticket(folder / "2-ticket.safetensors")
    assert_same_bits({name: mask.bool() for name, mask in ticket.items()}, own)


def test_a_ticket_beside_other_initial_weights_is_not_exported(imp, tmp_path, capsys):
    folder = shutil.copytree(imp, tmp_path / "run")
    save_checkpoint(folder / "init.pth.tar", network().state_dict())
    argv = ["--save_dir", folder, "--export_released", "3"]
    line = refused(main_imp_pretrain.main, argv, capsys)
    assert "not the initial weights that 3-ticket.safetensors belongs to" in line


def test_a_state_that_is_not_there_is_named(imp, capsys):
    before = contents(imp)
    argv = ["--save_dir", imp, "--export_released", "7"]
    line = refused(main_imp_pretrain.main, argv, capsys)
    assert "7-checkpoint.pth.tar: no such file, nor 7-ticket.safetensors" in line
    assert contents(imp) == before


def test_a_transferred_network_is_exported_as_a_ticket(imp, transfer, tmp_path, capsys):
    folder = shutil.copytree(transfer, tmp_path / "run")
    save_checkpoint(folder / "0.pth.tar", load(folder / "checkpoint.pth.tar")["state_dict"])
    for name in ("checkpoint", "model_SA_best", "0"):  # the last as --save_all keeps it
        resume = ["--resume", str(folder / f"{name}.pth.tar")] if name != "checkpoint" else []
        main_downstream.main(["--save_dir", str(folder), "--export_released", *resume])
        path = folder / f"{name}-released.pth.tar"
        assert f"wrote {path}" in capsys.readouterr().out
        ticket = read_as_they_do(path, network())
        own = load_ticket(imp / "2-ticket.safetensors")
        assert_same_bits({name: mask.bool() for name, mask in ticket.items()}, own)
    weights = load(folder / "checkpoint-released.pth.tar")["state_dict"]
    trained = bare_keys(load(folder / "checkpoint.pth.tar")["state_dict"])
    assert torch.equal(weights["conv1.weight_orig"], trained["conv1.weight_orig"])


def test_a_convolution_that_stayed_dense_has_a_mask_of_ones_for_them(transfer, tmp_path):
    """As conv1 does under a ticket of another stem: their reader asks for every mask."""
    content = load(transfer / "checkpoint.pth.tar")
    weights = dict(content["state_dict"])
    mask = weights.pop("1.conv1.weight_mask")
    weights["1.conv1.weight"] = weights.pop("1.conv1.weight_orig")
    save_checkpoint(tmp_path / "checkpoint.pth.tar", {**content, "state_dict": weights})
    main_downstream.main(["--save_dir", str(tmp_path), "--export_released"])
    path = tmp_path / "checkpoint-released.pth.tar"
    ticket = read_as_they_do(path, network())
    assert torch.equal(ticket["conv1.weight_mask"], torch.ones(mask.shape))
    assert torch.equal(load(path)["state_dict"]["conv1.weight_orig"], weights["1.conv1.weight"])


def test_a_transfer_without_masks_is_no_ticket(data, imp, tmp_path, capsys):
    run_transfer(data, tmp_path / "run", *TRANSFER, "--init", str(imp / "init.pth.tar"))
    argv = ["--save_dir", tmp_path / "run", "--export_released"]
    assert "with masks, so no ticket" in refused(main_downstream.main, argv, capsys)
    argv = ["--save_dir", tmp_path / "none", "--export_released"]
    line = refused(main_downstream.main, argv, capsys)
    assert "--export_released: no checkpoint in" in line


# --- folders, classifiers, stems ----------------------------------------------------------------


def test_data_lie_in_the_released_scripts_folder_where_there_is_no_other(
    data, tmp_path, capsys, monkeypatch
):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    flags = ["--dataset", "folder", *TINY, "--device", "cpu", *TRANSFER, "-j", "0"]
    main_downstream.main([*flags, "--save_dir", "run"])
    assert "data: ../data holds folder, data does not" in capsys.readouterr().err
    assert read_json(tmp_path / "code" / "run" / "args.json")["data"] == "../data"
    shutil.copytree(data, tmp_path / "code" / "data")
    main_downstream.main([*flags, "--save_dir", "own"])
    assert "../data" not in capsys.readouterr().err


def test_without_any_data_the_usual_folder_is_named(tmp_path, capsys):
    argv = ["--dataset", "folder", *TINY, *TRANSFER, "--save_dir", tmp_path / "run"]
    assert refused(main_downstream.main, argv, capsys).startswith("error: data: no such folder")


def test_weights_of_other_classes_name_the_flag_for_a_fresh_classifier(data, tmp_path, capsys):
    model = build_model("resnet20s", 7, MEAN, STD, "cifar", 4)
    save_checkpoint(tmp_path / "seven.pth.tar", model.state_dict())
    argv = imp_argv(data, tmp_path / "run", *SEARCH, "--init", tmp_path / "seven.pth.tar")
    line = refused(main_imp_pretrain.main, argv, capsys)
    assert "--reset_fc" in line
    assert "fc.weight 7x16 where 3x16 is expected" in line


@pytest.mark.parametrize("kind", ["omp", "random"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_one_shot_tickets_take_the_stem_of_the_weights(tmp_path, stem, kind):
    model = build_model("resnet20s", 7, MEAN, STD, stem, 4)
    save_checkpoint(tmp_path / "weights.pth.tar", model.state_dict())
    flags = ["--ticket", kind, "-a", "resnet20s", "--width", "4", "--epochs", "1"]
    flags += ["--prune_epoch", "1", "--init", "weights.pth.tar", "--save_dir", "run"]
    main_imp_pretrain.main(flags)
    ticket = load_ticket(tmp_path / "run" / "2-ticket.safetensors")
    assert ticket["conv1.weight_mask"].shape == model.get_parameter("conv1.weight").shape
    assert read_json(tmp_path / "run" / "args.json")["stem"] == stem
