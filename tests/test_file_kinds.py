"""What a file is that should hold weights: said before anything is opened, with what to do."""

import argparse
import gzip
import io
import json
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from errors import InputError
from files import kinds
from files.checkpoints import load_checkpoint
from files.kinds import describe, foreign_objects, is_safetensors
from models import convert

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 97\n"
WEIGHTS = {"conv1.weight": torch.ones(2, 3, 3, 3)}


def torch_bytes(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zip_bytes(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("run/model.pth")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return buffer.getvalue()


def tar_of_a_checkpoint():
    """Its end is that of a zip archive, the checkpoint."""
    buffer, content = io.BytesIO(), torch_bytes(WEIGHTS)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("run/model.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def very_old_bytes():
    """What PyTorch wrote before 0.1.10: a tar archive of three files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def npz_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def script_bytes():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 2, 1)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "a web page"),
        (LFS.encode(), "a Git LFS pointer"),
        (gzip.compress(b"x" * 999, mtime=0), "a gzip archive"),
        (
            tar_bytes(),
            "a tar archive: unpack it (tar -xf) and pass the file in it, of run/model.pth",
        ),
        (tar_of_a_checkpoint(), "a tar archive: unpack it (tar -xf) and pass the file in it"),
        (very_old_bytes(), "PyTorch before 0.1.10; if you trust it, as a newer one: python -m"),
        (torch_bytes(WEIGHTS)[:200], "torn, its end is missing: download or copy it again"),
        (zip_bytes(**{"run/model.pth": "abc"}), "a zip archive"),
        (npz_bytes(), "NumPy arrays"),
        (npy_bytes(), "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"", "an empty file"),
        (b'{"error": "Not Found"}', "a text file that begins with"),
        (torch_bytes(nn.Conv2d(3, 2, 1)), "a whole network"),
        (torch_bytes({**WEIGHTS, "args": pathlib.PurePosixPath("a")}), "pathlib.PurePosixPath"),
        (bytes(4096), "zeros to its beginning, as of a download that did not finish"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        ("\ufeffweights".encode("utf-16"), "a text file in UTF-16"),
        (b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(range(256)), "an ONNX graph"),
    ],
)
def test_what_is_no_checkpoint_is_told_with_what_to_do(content, told, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    text = describe(path)
    assert text is not None
    assert told in text
    assert "\n" not in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_torchscript_and_whole_networks_name_the_command(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (script_bytes(), torch_bytes(nn.Conv2d(3, 2, 1))):
        path.write_bytes(content)
        text = describe(path)
        assert text is not None
        assert f"python -m models.convert {path} OUT.pth.tar --trust_pickle" in text


@pytest.mark.parametrize(
    "content",
    [
        torch_bytes({"state_dict": WEIGHTS, "epoch": 3, "arch": "x"}),
        torch_bytes(
            {"state_dict": nn.BatchNorm2d(3).state_dict(), "half": torch.ones(2).bfloat16()}
        ),
        torch_bytes(WEIGHTS, _use_new_zipfile_serialization=False),
        to_safetensors(WEIGHTS),
        np.random.default_rng(0).bytes(999),
    ],
    ids=["checkpoint", "more kinds", "old format", "safetensors", "noise"],
)
def test_nothing_is_said_of_a_checkpoint_or_of_what_nobody_knows(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert describe(path) is None


def test_a_folder_of_shards_names_the_command_that_makes_one_file(tmp_path):
    """As Lightning saves a network under FSDP; meta.pt has no weights."""
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"):
        (tmp_path / name).touch()
    told = describe(tmp_path)
    assert told is not None
    assert told.startswith("a folder of torch.distributed.checkpoint")
    assert told.endswith(f"format_utils dcp_to_torch {tmp_path} OUT.pt")


def test_of_folders_of_shards_that_of_the_network_is_named(tmp_path):
    """As accelerate saves a state: the command takes the folder in which shards lie."""
    for name in ("optimizer_0", "pytorch_model_fsdp_0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__0_0.distcp").touch()
    told = describe(tmp_path)
    assert told is not None
    assert told.endswith(f"dcp_to_torch {tmp_path}/pytorch_model_fsdp_0 OUT.pt")


def test_a_folder_lists_what_could_be_meant(tmp_path):
    assert describe(tmp_path) == "a folder without weights in it; pass a file"
    (tmp_path / "a").mkdir()
    for name in ("a/best.pt", "notes.txt", "last.safetensors"):
        (tmp_path / name).touch()
    assert describe(tmp_path) == "a folder; pass a file in it: a/best.pt, last.safetensors"
    assert describe(tmp_path / "none.pt") is None


def test_safetensors_are_known_by_content(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(to_safetensors(WEIGHTS))
    assert is_safetensors(path)
    path.write_bytes(torch_bytes(WEIGHTS))
    assert not is_safetensors(path)
    path.write_bytes(b"ab")
    assert not is_safetensors(path)


def test_a_safetensors_file_may_begin_with_the_bytes_of_another_kind(tmp_path):
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode().ljust(0xFEFF)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert describe(tmp_path / "w.safetensors") is None


@pytest.mark.parametrize("content", [b"\x08", b"\x08\x08\x12", b"\x08\x08\x12\x07"])
def test_the_first_bytes_of_a_graph_are_none(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    assert describe(tmp_path / "w.pth") is None


def test_foreign_objects_are_named_without_opening_the_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({**WEIGHTS, "args": pathlib.PurePosixPath("a"), "kept": nn.ReLU()}, path)
    found = foreign_objects(path)
    assert "pathlib.PurePosixPath" in found
    assert "torch.nn.modules.activation.ReLU" in found
    torch.save(WEIGHTS, path)
    assert foreign_objects(path) == []


@pytest.mark.skipif(torch.__version__ < kinds.TELLS_HARMLESS, reason="of PyTorch from 2.6 on")
def test_settings_and_numbers_of_common_scripts_are_no_code(tmp_path):
    path = tmp_path / "weights.pth"
    args = argparse.Namespace(lr=0.1, data=pathlib.PosixPath("data"), seen={1, 2})
    beside = {"args": args, "best": np.float64(93.5), "epoch": np.int64(9)}
    torch.save({"model": WEIGHTS, **beside}, path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["conv1.weight"], WEIGHTS["conv1.weight"])
    assert (loaded["best"], loaded["args"]) == (93.5, args)


def test_a_pytorch_that_cannot_be_told_what_is_harmless_refuses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "TELLS_HARMLESS", (99,))
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"argparse\.Namespace.*--trust_pickle"):
        load_checkpoint(tmp_path / "weights.pth")


def test_objects_as_numbers_of_numpy_stay_closed(tmp_path):
    torch.save({**WEIGHTS, "x": Scalar()}, tmp_path / "weights.pth")
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "weights.pth")


class Scalar:
    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (np.dtype("O"), b"x")


# --- what models.convert makes of them ------------------------------------------------------------


class Gone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(2)


def converted(tmp_path, content, **how):
    source, target = tmp_path / "in.pt", tmp_path / "out.pth.tar"
    source.write_bytes(content)
    convert.convert(str(source), str(target), trust_pickle=True, **how)
    return torch.load(target, weights_only=True)


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"net": net, "acc": 9.0},
                                  lambda net: nn.DataParallel(net)])  # fmt: skip
def test_a_whole_network_is_converted_even_without_its_code(wrap, tmp_path, monkeypatch):
    network = Gone()
    content = torch_bytes(wrap(network))
    monkeypatch.delattr(f"{__name__}.Gone")
    state = converted(tmp_path, content)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


class ByAttributes(nn.Module):
    """Normalises as transforms.Normalize does, by attributes that no state dict holds."""

    mean = std = (9.0, 9.0, 9.0)  # a class's are not the network's

    def __init__(self):
        super().__init__()
        self.mean, self.std = [0.5, 0.4, 0.3], torch.tensor([0.25, 0.25, 0.125])


@pytest.mark.parametrize("nested", [False, True])
def test_the_constants_of_a_whole_network_are_told_where_no_state_dict_holds_them(tmp_path, nested):
    network = nn.Sequential(ByAttributes(), nn.Conv2d(3, 2, 1))
    source = tmp_path / "in.pt"
    torch.save({"net": network} if nested else network, source)
    told = []
    convert.convert(str(source), str(tmp_path / "o.pt"), trust_pickle=True, tell=told.append)
    by = "mean 0.5,0.4,0.3 and std 0.25,0.25,0.125 (0)"
    assert f"{source}: the network normalises its images by {by}, which OUT does not tell" in told


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_torchscript_is_converted(tmp_path):
    assert set(converted(tmp_path, script_bytes())) == {"weight", "bias"}


class Schedule:
    """Settings of a stranger's, without anything of a network."""

    def __init__(self):
        self.steps = [1, 2]


class Settings(dict):
    pass


class Names(list):
    pass


def test_a_checkpoint_is_converted_though_the_code_of_what_lies_beside_is_gone(
    tmp_path, monkeypatch
):
    beside = {"schedule": Schedule(), "args": Settings(lr=1), "classes": Names("ab")}
    content = torch_bytes({"model": WEIGHTS, **beside})
    for name in ("Schedule", "Settings", "Names"):
        monkeypatch.delattr(f"{__name__}.{name}")
    assert set(converted(tmp_path, content)) == {"conv1.weight"}


def test_paths_of_windows_and_other_dictionaries_are_converted(tmp_path, monkeypatch):
    weights = Settings(WEIGHTS)
    content = torch_bytes({"model": weights, "data": OfWindows()})
    monkeypatch.delattr(f"{__name__}.Settings")
    assert set(converted(tmp_path, content)) == {"conv1.weight"}


class OfWindows:
    def __reduce__(self):
        return pathlib.WindowsPath, ("C:\\", "data")


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"conv1.weight": np.ones((2, 3, 3, 3), np.float32)}),
        torch_bytes({"conv1.weight": np.ones((2, 3, 3, 3), np.float32)}),
        torch_bytes(
            {"model": WEIGHTS, "args": argparse.Namespace()}, _use_new_zipfile_serialization=False
        ),
        to_safetensors(WEIGHTS),
        torch_bytes(WEIGHTS),
    ],
    ids=["pickle", "arrays", "old format", "safetensors", "no need"],
)
def test_what_trust_opens_is_converted(content, tmp_path):
    assert torch.equal(converted(tmp_path, content)["conv1.weight"], WEIGHTS["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (npz_bytes(), "NumPy arrays"),
        (tar_of_a_checkpoint(), "a tar archive"),
        (torch_bytes(WEIGHTS)[:200], "torn, its end is missing"),
        (pickle.dumps({"a": np.ones(3)})[:-20], "not a readable checkpoint|no file of PyTorch"),
        (b"\x09\x08\x12\x07unknown" + bytes(range(256)), "no file of PyTorch, nor another pickle"),
    ],
)
def test_what_trust_does_not_open_is_not_sent_to_the_same_command_again(content, told, tmp_path):
    with pytest.raises(InputError, match=told) as caught:
        converted(tmp_path, content)
    assert "--trust_pickle" not in str(caught.value)


def test_numpy_masks_are_converted_and_nested_entries_named(tmp_path):
    masks = {"conv1.weight": np.ones((2, 3, 3, 3), np.uint8)}
    state = converted(tmp_path, torch_bytes({"best": {"masks": masks}}), key="best.masks")
    assert torch.equal(state["conv1.weight"], torch.ones(2, 3, 3, 3, dtype=torch.uint8))
