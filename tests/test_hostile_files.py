"""Files from strangers: no code of theirs runs, and what they hold is refused or warned of."""

from __future__ import annotations

import json
import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.hostile_cases import armed_arrays, armed_files, flips, headers
from helpers.main_cases import (
    HERE,
    TINY,
    contents,
    one_error_line,
    skip_pictures,
    steady,
    write_images,
)
from safetensors.torch import save_file
from torch import nn

import main_downstream
import main_imp_pretrain
from dataset import mean_std
from errors import InputError
from files.checkpoints import content_hash, save_checkpoint
from files.tickets import load_ticket, read_ticket, save_ticket
from models import build_model, load_pretrained
from models.export import main as export
from pruning_utils import masks, prune_by_magnitude

SHORT = ["--epochs", "2", "--prune_epoch", "1", "--mode", "std"]
FLIPS = 8  # places of each file here; tests/soak.sh tries many more


def tiny() -> nn.Module:
    return build_model("resnet20s", 3, *mean_std("imagenet"), "cifar", 4)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Data, an IMP run, a transfer run, and an exported network."""
    root = tmp_path_factory.mktemp("good")
    data = write_images(root / "data")
    save_checkpoint(root / "init.pth.tar", tiny().state_dict())
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        main_imp_pretrain.main(imp(root, root / "imp"))
        main_downstream.main(transfer(root, root / "transfer"))
    (root / "imp" / "3-ticket.safetensors").rename(root / "last-ticket.safetensors")
    (root / "transfer" / "results.json").unlink()
    export([str(root / "imp" / "1-model_best.pth.tar"), str(root / "exported.safetensors")])
    assert data.is_dir()
    return root


def imp(root: Path, save: Path, *flags: str) -> list[str]:
    init = ["--init", str(root / "init.pth.tar"), "--save_dir", str(save)]
    return [str(root / "data"), *TINY, *HERE, *SHORT, *init, *flags]


def transfer(root: Path, save: Path, *flags: str) -> list[str]:
    data = ["--dataset", "folder", "--data", str(root / "data"), "--save_dir", str(save)]
    init = ["--init", str(root / "init.pth.tar"), "--epochs", "1", "--mode", "std"]
    return [*data, *TINY, *steady(flags), *HERE, *init, *flags]


# --- code in files --------------------------------------------------------------------------------


def flags_that_take(path: str, root: Path, save: Path) -> list[tuple]:
    checkpoint = ["--evaluate", "--resume", str(root / "transfer" / "checkpoint.pth.tar")]
    return [
        (main_imp_pretrain.main, imp(root, save, "--init", path)),
        (main_imp_pretrain.main, imp(root, save, "--init", path, "--ticket", "omp")),
        (main_imp_pretrain.main, imp(root, save, "--resume", path)),
        (main_imp_pretrain.main, imp(root, save, "--resume", path, "--evaluate")),
        (main_imp_pretrain.main, imp(root, save, "--classes", path)),
        (main_downstream.main, transfer(root, save, "--init", path)),
        (main_downstream.main, transfer(root, save, "--tickets_file", path)),
        (main_downstream.main, transfer(root, save, "--resume", path)),
        (main_downstream.main, transfer(root, save, "--resume", path, "--evaluate")),
        (main_downstream.main, transfer(root, save, *checkpoint, "--eval_set", f"adv:{path}")),
        (
            main_downstream.main,
            transfer(root, save, *checkpoint, "--check_masking", "--masking_source", path),
        ),
    ]


def test_a_pickle_with_code_does_not_run_through_any_flag(good, tmp_path, capsys):
    proof, save = tmp_path / "proof", tmp_path / "save"
    files = list(armed_files(tmp_path, proof))
    tried = 0
    for path in files:
        for main, argv in flags_that_take(str(path), good, save):
            line = one_error_line(argv, main, capsys)
            assert path.name in line
            assert not proof.exists()
            assert not save.exists()
            tried += 1
    assert tried == 11 * 8
    torch.load(files[0], weights_only=False)
    assert proof.exists()  # the payload works


def test_a_pickle_with_code_does_not_run_from_the_folder_of_a_run(good, tmp_path, capsys):
    proof = tmp_path / "proof"
    *_, armed = (path for path in armed_files(tmp_path, proof) if path.suffix == ".tar")
    for name, main, make, file in (
        ("imp", main_imp_pretrain.main, imp, "2-checkpoint.pth.tar"),
        ("imp", main_imp_pretrain.main, imp, "init.pth.tar"),
        ("transfer", main_downstream.main, transfer, "checkpoint.pth.tar"),
    ):
        folder = tmp_path / name
        shutil.copytree(good / name, folder)
        for path in folder.glob("*.previous"):
            path.unlink()
        (folder / "1-checkpoint.pth.tar").unlink(missing_ok=True)
        shutil.copy(armed, folder / file)
        before = contents(folder)
        assert file in one_error_line(make(good, folder, "--resume"), main, capsys)
        assert contents(folder) == before
        assert not proof.exists()
        shutil.rmtree(folder)


def test_arrays_of_objects_are_refused(good, tmp_path, capsys):
    proof = tmp_path / "proof"
    armed_arrays(tmp_path / "arrays", proof)
    checkpoint = ["--evaluate", "--resume", str(good / "transfer" / "checkpoint.pth.tar")]
    where = ["--eval_set", f"cifar10_c:{tmp_path / 'arrays'}"]
    argv = transfer(good, tmp_path / "save", *checkpoint, *where)
    assert "not a .npy array" in one_error_line(argv, main_downstream.main, capsys)
    with zipfile.ZipFile(tmp_path / "arrays" / "fog.npy", "w") as archive:
        archive.writestr("x.npy", b"")
    assert "not a .npy array" in one_error_line(argv, main_downstream.main, capsys)
    assert not proof.exists()


# --- bombs ----------------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_unread(good, tmp_path, capsys):
    bomb = tmp_path / "bomb.pth.tar"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 26))  # 64 MB in 64 KB
    assert bomb.stat().st_size < 1 << 20
    argv = imp(good, tmp_path / "save", "--init", str(bomb))
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "bomb.pth.tar: refused, its record archive/data.pkl is compressed" in line


@pytest.mark.parametrize("kind", ["expanded", "sparse", "meta"])
def test_a_tensor_that_claims_terabytes_is_refused(good, tmp_path, capsys, kind):
    size = (1 << 22, 1 << 20)
    huge = {
        "expanded": lambda: torch.zeros(1).expand(size),
        "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), size),
        "meta": lambda: torch.zeros(size, device="meta"),
    }[kind]()
    path = tmp_path / "huge.pth.tar"
    torch.save({"state_dict": {"conv1.weight_mask": huge}}, path)
    assert path.stat().st_size < 10_000
    for flag in ("--tickets_file", "--init"):
        argv = transfer(good, tmp_path / "save", flag, str(path))
        assert "huge.pth.tar: refused" in one_error_line(argv, main_downstream.main, capsys)


# --- masks ----------------------------------------------------------------------------------------


def ticket_of(folder: Path, **changes) -> str:
    """A bare dictionary of masks of the tiny network, all ones but for `changes`."""
    given = {name: mask.float() for name, mask in masks(tiny()).items()}
    for name, mask in changes.items():
        given[f"{name}.weight_mask"] = mask
    torch.save(given, folder / "ticket.pt")
    return str(folder / "ticket.pt")


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_a_mask_of_other_values_is_refused_by_name(good, tmp_path, capsys, value):
    mask = torch.ones(4, 3, 3, 3)
    mask[0, 0, 0, 0] = value
    argv = transfer(good, tmp_path / "save", "--tickets_file", ticket_of(tmp_path, conv1=mask))
    line = one_error_line(argv, main_downstream.main, capsys)
    assert "conv1.weight_mask is no mask; every entry must be 0 or 1" in line
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layer1.0.conv1": torch.ones(4, 4, 1, 1)}, "layer1.0.conv1.weight_mask is (4, 4, 1, 1)"),
        ({"layer9.0.conv1": torch.ones(4, 4, 3, 3)}, "layer9.0.conv1.weight_mask"),
        ({"module.conv1": torch.zeros(4, 3, 3, 3)}, "two masks of one layer"),
    ],
)
def test_a_mask_of_another_shape_or_name_is_refused_by_name(good, tmp_path, capsys, changes, told):
    argv = transfer(good, tmp_path / "save", "--tickets_file", ticket_of(tmp_path, **changes))
    assert told in one_error_line(argv, main_downstream.main, capsys)
    assert not (tmp_path / "save").exists()


UNTOLD = "warning: ticket: the file does not say how its masks were found; they count as IMP's\n"
NO_STATE = re.compile(
    r"warning: ticket: the file does not say how often its weights were pruned; by its density it "
    r"counts as state (\d+) of --rate 0\.2\n"
)


def test_a_mask_of_the_classifier_is_left_out_and_named(good, tmp_path, capsys):
    ticket = ticket_of(tmp_path, fc=torch.ones(3, 16))
    main_downstream.main(transfer(good, tmp_path / "save", "--tickets_file", ticket))
    told, count = NO_STATE.subn("", capsys.readouterr().err)
    assert count == 1
    left_out = "left out: fc.weight_mask, 2-dimensional; only convolutions have masks"
    assert told == f"warning: ticket: {left_out}\n{UNTOLD}"


def test_a_state_that_the_file_does_not_say_is_told_to_be_of_its_density(good, tmp_path, capsys):
    model = tiny()
    prune_by_magnitude(model, 0.5)
    save_checkpoint(tmp_path / "half.pt", masks(model))
    argv = transfer(good, tmp_path / "save", "--tickets_file", str(tmp_path / "half.pt"))
    main_downstream.main(argv)
    (told,) = NO_STATE.findall(capsys.readouterr().err)
    results = json.loads((tmp_path / "save/results.json").read_text())
    assert results["state"] == int(told) == 3  # 0.8 ** 3 = 0.512


def test_an_all_zero_layer_is_warned_of_by_name(good, tmp_path, capsys):
    ticket = ticket_of(tmp_path, **{"layer2.0.conv1": torch.zeros(8, 4, 3, 3)})
    main_downstream.main(transfer(good, tmp_path / "save", "--tickets_file", ticket))
    told = NO_STATE.sub("", capsys.readouterr().err)
    assert (
        told
        == UNTOLD + "warning: ticket: layer2.0.conv1: its mask is all zero, nothing of it remains\n"
    )


def test_an_all_zero_ticket_is_refused(good, tmp_path, capsys):
    given = {name: torch.zeros_like(mask) for name, mask in masks(tiny()).items()}
    torch.save(given, tmp_path / "zero.pt")
    path = tmp_path / "zero.safetensors"
    save_ticket(path, given, arch="resnet20s", state=9, density=0.1, init_sha256="")
    for name in ("zero.pt", "zero.safetensors"):
        argv = transfer(good, tmp_path / "save", "--tickets_file", str(tmp_path / name))
        assert "all its masks are zero" in one_error_line(argv, main_downstream.main, capsys)
        assert not (tmp_path / "save").exists()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"shapes": "["},
        {"shapes": "3"},
        {"shapes": '{"conv1.weight_mask": [-4, -3, 3, 3]}'},
        {"shapes": '{"conv1.weight_mask": ["x"]}'},
        {"shapes": '{"conv1.weight_mask": [1000000, 1000000]}'},
    ],
    ids=lambda header: header.get("shapes", "no shapes"),
)
def test_a_ticket_with_a_header_made_up_is_refused(good, tmp_path, capsys, header):
    bits = {"conv1.weight_mask": torch.zeros(14, dtype=torch.uint8)}
    about = {"format": "double-win-ticket-1", **header}
    path = tmp_path / "t.safetensors"
    save_file(bits, path, metadata={**about, "sha256": content_hash(about, bits)})
    argv = transfer(good, tmp_path / "save", "--tickets_file", str(path))
    assert "t.safetensors: " in one_error_line(argv, main_downstream.main, capsys)


def test_a_made_up_state_does_not_end_a_run(good, tmp_path):
    given = masks(tiny())
    torch.save({"state_dict": given, "state_prune": "rm -rf"}, tmp_path / "t.pt")
    assert read_ticket(tmp_path / "t.pt").state_at(0.64) == 2


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(good, tmp_path, capsys, value):
    weights = tiny().state_dict()
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    save_checkpoint(tmp_path / "bad.pth.tar", weights)
    argv = imp(good, tmp_path / "save", "--init", str(tmp_path / "bad.pth.tar"))
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "not finite (NaN or Inf): layer1.0.conv1.weight" in line
    checkpoint = torch.load(good / "imp" / "2-checkpoint.pth.tar", weights_only=True)
    checkpoint["state_dict"]["bn1.running_var"][0] = value
    shutil.copy(good / "imp" / "init.pth.tar", tmp_path)
    save_checkpoint(tmp_path / "2-checkpoint.pth.tar", checkpoint)
    argv = imp(good, tmp_path / "save", "--resume", str(tmp_path / "2-checkpoint.pth.tar"))
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "bn1.running_var is not finite" in line
    assert not (tmp_path / "save").exists()


# --- changed bytes --------------------------------------------------------------------------------

KINDS = [
    "imp/2-checkpoint.pth.tar",
    "imp/1-model_best.pth.tar",
    "imp/init.pth.tar",
    "imp/2-ticket.safetensors",
    "transfer/checkpoint.pth.tar",
    "transfer/model_SA_best.pth.tar",
    "exported.safetensors",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_noticed_or_changes_nothing(good, tmp_path, kind):
    random.seed(kind)
    source = good / kind
    size = source.stat().st_size
    places = [(random.randrange(size), random.randrange(8)) for _ in range(FLIPS)]
    places += [(place, random.randrange(8)) for place in (0, 1, 8, size - 1)]
    if kind.endswith("tar"):
        places += [(place, random.randrange(8)) for place in random.sample(headers(source), FLIPS)]
    else:
        end = 8 + int.from_bytes(source.read_bytes()[:8], "little")
        places += [(random.randrange(end), random.randrange(8)) for _ in range(FLIPS)]
    counts = flips(source, tmp_path, iter(places))
    assert sum(counts.values()) == len(places)
    assert counts["refused"] > 0


@pytest.mark.slow
def test_a_changed_bit_in_what_zip_says_of_a_record_is_noticed_or_changes_nothing(tmp_path):
    """Every bit of the central directory, on which zip's readers differ: PyTorch's takes a record
    for a folder and gives random memory, where Python's reads it."""
    path = tmp_path / "small.pth.tar"
    save_checkpoint(path, {"w": torch.rand(9)})
    first = path.read_bytes().index(b"PK\x01\x02")
    places = [(at, bit) for at in headers(path) if at >= first for bit in range(8)]
    (tmp_path / "flipped").mkdir()
    flips(path, tmp_path / "flipped", iter(places))


@pytest.mark.parametrize("kind", ["imp/2-checkpoint.pth.tar", "imp/2-ticket.safetensors"])
def test_a_torn_file_is_refused(good, tmp_path, kind):
    content = (good / kind).read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path = tmp_path / Path(kind).name
        path.write_bytes(content[:length])
        main, argv = (
            (main_imp_pretrain.main, imp(good, tmp_path / "save", "--resume", str(path)))
            if kind.endswith("tar")
            else (main_downstream.main, transfer(good, tmp_path / "s", "--tickets_file", str(path)))
        )
        with pytest.raises(InputError, match=path.name):
            main(argv)


def test_an_export_says_what_it_holds(good):
    """The hash in its header is of this file, so a flipped bit in a dtype or a shape shows too."""
    from safetensors import safe_open

    with safe_open(good / "exported.safetensors", framework="pt") as file:
        header = file.metadata()
    assert len(header["sha256"]) == 64
    assert json.loads(header["mean"])
    load_pretrained(tiny(), good / "exported.safetensors")
    assert load_ticket(good / "imp" / "2-ticket.safetensors")
