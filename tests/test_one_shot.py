"""OMP and random tickets: IMP's counts without data or training."""

import pytest
import torch

import main_imp_pretrain
from errors import InputError
from files import names
from files.checkpoints import load_checkpoint, save_checkpoint
from files.results import UNTRAINED
from files.run_args import read_args
from files.tickets import KIND, load_ticket, read_ticket, save_ticket, ticket_header
from models import build_model
from one_shot import PRUNE

MEAN = STD = (0.5, 0.5, 0.5)
FLAGS = ["-a", "resnet20s", "--width", "4", "--input_size", "16", "--epochs", "3"]
FLAGS += ["--prune_epoch", "1"]


@pytest.fixture
def weights(tmp_path):
    model = build_model("resnet20s", 7, MEAN, STD, "cifar", 4)
    save_checkpoint(tmp_path / "weights.pth.tar", model.state_dict())
    return tmp_path / "weights.pth.tar"


def run(weights, save_dir, kind, *flags):
    arguments = ["--ticket", kind, "--init", str(weights), "--save_dir", str(save_dir)]
    main_imp_pretrain.main([*arguments, *FLAGS, *flags])
    return [load_ticket(save_dir / names.ticket(state)) for state in range(5)]


def count(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def test_every_kind_that_needs_no_training_has_its_way_to_prune():
    assert set(PRUNE) == set(UNTRAINED)


@pytest.mark.parametrize("name", ["1-ticket.safetensors", "network.pth.tar"])
def test_a_ticket_that_was_found_in_an_unknown_way_is_refused(tmp_path, name):
    masks = {"conv1.weight_mask": torch.ones(4, 3, 3, 3, dtype=torch.bool)}
    path = tmp_path / name
    if name.endswith("safetensors"):
        origin = {"arch": "resnet20s", "state": 1, "density": 0.8, "init_sha256": "0" * 64}
        save_ticket(path, masks, **origin, kind="lamp")
    else:
        save_checkpoint(path, {"state_dict": masks, KIND: "lamp"})
    with pytest.raises(InputError, match="found by 'lamp', which is none of imp, omp, random"):
        read_ticket(path)


def test_constants_are_the_flags_else_the_files(weights, tmp_path, capsys):
    constants = {}
    for name, flags in {"file": (), "flags": ("--mean", ".1,.2,.3", "--std", ".4,.4,.4")}.items():
        run(weights, tmp_path / name, "omp", *flags)
        init = load_checkpoint(tmp_path / name / names.INIT)
        constants[name] = [init[f"normalize.{of}"].flatten().tolist() for of in ("mean", "std")]
    assert constants["file"] == [[0.5] * 3] * 2
    assert constants["flags"] == [pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.4] * 3)]
    assert "the file was made for mean 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("kind", UNTRAINED)
def test_tickets_have_imps_counts(weights, tmp_path, kind):
    tickets = run(weights, tmp_path / kind, kind)
    expected = [count(tickets[0])]
    assert all(bool(mask.all()) for mask in tickets[0].values())
    for _ in range(4):
        expected.append(expected[-1] - round(0.2 * expected[-1]))
    assert [count(ticket) for ticket in tickets] == expected
    header = ticket_header(tmp_path / kind / names.ticket(2))
    assert (header["kind"], header["state"], header["arch"]) == (kind, "2", "resnet20s")


def test_omp_keeps_the_largest_pretrained_weights(weights, tmp_path):
    tickets = run(weights, tmp_path / "omp", "omp")
    state = torch.load(weights, weights_only=True)
    magnitudes = torch.cat([state[n.removesuffix("_mask")].abs().flatten() for n in tickets[3]])
    mask = torch.cat([mask.flatten() for mask in tickets[3].values()])
    assert magnitudes[mask].min() >= magnitudes[~mask].max()


def test_random_masks_depend_on_the_seed_alone(weights, tmp_path):
    first = run(weights, tmp_path / "a", "random", "--seed", "3")
    again = run(weights, tmp_path / "b", "random", "--seed", "3")
    other = run(weights, tmp_path / "c", "random", "--seed", "4")
    same = [torch.equal(first[2][name], again[2][name]) for name in first[2]]
    different = [not torch.equal(first[2][name], other[2][name]) for name in first[2]]
    assert all(same)
    assert any(different)


@pytest.mark.parametrize("finished", [True, False])
def test_tickets_of_other_weights_are_not_resumed(weights, tmp_path, finished):
    run(weights, tmp_path / "omp", "omp")
    if not finished:
        (tmp_path / "omp" / names.ticket(4)).unlink()
    other = build_model("resnet20s", 7, MEAN, STD, "cifar", 4)
    save_checkpoint(tmp_path / "other.pth.tar", other.state_dict())
    with pytest.raises(InputError, match="holds a run with --init that holds sha256"):
        run(tmp_path / "other.pth.tar", tmp_path / "omp", "omp", "--resume")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_torchruns_processes_one_prunes(weights, tmp_path, monkeypatch, rank):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    argv = ["--ticket", "omp", "--init", str(weights), "--save_dir", str(tmp_path / "omp"), *FLAGS]
    main_imp_pretrain.main(argv)
    assert (tmp_path / "omp" / names.ticket(4)).exists() == (rank == "0")


def test_without_weights_there_is_nothing_to_prune(tmp_path):
    with pytest.raises(InputError, match="--init"):
        main_imp_pretrain.main(["--ticket", "omp", "--save_dir", str(tmp_path / "x"), *FLAGS])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", UNTRAINED)
def test_prunes_that_leave_no_weight_are_refused(weights, tmp_path, kind):
    told = r"--rate 0\.95: 4 prunes, .* less than one of the 16812 convolution weights"
    with pytest.raises(InputError, match=told):
        run(weights, tmp_path / kind, kind, "--rate", "0.95")
    assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", UNTRAINED)
def test_layers_of_which_nothing_remains_are_told_and_recorded(weights, tmp_path, kind):
    tickets = run(weights, tmp_path / kind, kind, "--rate", "0.9")
    warnings = read_args(tmp_path / kind)["warnings"]
    for state, masks in enumerate(tickets):
        empty = sum(not bool(mask.any()) for mask in masks.values())
        told = f"state {state}: nothing remains of {empty} of the {len(masks)} convolutions: "
        assert sum(line.startswith(told) for line in warnings) == (empty > 0)
    assert any(line.startswith("state 4: ") for line in warnings)
