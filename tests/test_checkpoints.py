"""Files: whole or not at all, opened without running code, tickets from every source."""

import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.utils import prune
from torch.optim import SGD

from engine.run_folder import RunFolder
from engine.training import random_state, restore_random_state
from errors import InputError, RunFailed
from files import atomic, checkpoints, imp_run, names, transfer_run
from files.atomic import sha256_of, write_json
from files.checkpoints import (
    bare_keys,
    load_checkpoint,
    load_trusted_pickle,
    save_checkpoint,
    to_cpu,
    transfer_keys,
)
from files.imp_run import export_released, load_initial_weights
from files.tickets import load_ticket, read_ticket, save_ticket, ticket_header
from models import build_model
from pruning_utils import convolutions, masks, masks_in, percent_left, prune_by_magnitude

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HASH = "ab" * 32
CPU = torch.device("cpu")


def network(arch="resnet20s"):
    torch.manual_seed(0)
    return build_model(arch, 10, MEAN, STD, width=4)


def pruned(rate=0.4):
    model = network()
    prune_by_magnitude(model, rate)
    return model


def trained(model):
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    F.cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    return optimizer


def same(one, two) -> bool:
    """The same nest of dictionaries, lists, tensors to the bit and values."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return one == two


# --- writing --------------------------------------------------------------------------------------


def test_a_checkpoint_opens_with_plain_weights_only_load(tmp_path):
    model = pruned()
    optimizer = trained(model)
    payload = {
        "epoch": 3,
        "best_acc1": 12.5,
        "result": {"train": [1.0, None], "ta": []},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_state(CPU),
        "init": {"file": "init.pth.tar", "sha256": HASH},
    }
    save_checkpoint(tmp_path / "new" / "c.pth.tar", payload)
    for read in (torch.load(tmp_path / "new" / "c.pth.tar", weights_only=True),
                 load_checkpoint(tmp_path / "new" / "c.pth.tar")):  # fmt: skip
        assert same(read, payload)
    assert os.listdir(tmp_path / "new") == ["c.pth.tar"]


def test_files_get_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "c.pth.tar", {"a": 1})
    finally:
        os.umask(old)
    assert (tmp_path / "c.pth.tar").stat().st_mode & 0o777 == 0o640


def test_equal_payloads_make_equal_files_whatever_their_names(tmp_path):
    hashes = set()
    for name in ("init.pth.tar", "other.pth.tar", "init.pth.tar"):
        save_checkpoint(tmp_path / name, {"epoch": 1, "state_dict": pruned().state_dict()})
        hashes.add(sha256_of(tmp_path / name))
    assert len(hashes) == 1


def failing_save(error):
    def save(payload, file):
        file.write(b"half of a ")
        raise error

    return save


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError("No space left on device"), RunFailed), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, told):
    path = tmp_path / "c.pth.tar"
    save_checkpoint(path, {"epoch": 1})
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints.torch, "save", failing_save(error))
    with pytest.raises(told):
        save_checkpoint(path, {"epoch": 2})
    with pytest.raises(told):
        save_checkpoint(tmp_path / "other.pth.tar", {"epoch": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.pth.tar"]


def test_the_old_file_stays_in_place_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path, seen = tmp_path / "c.pth.tar", []
    save_checkpoint(path, {"epoch": 1})
    replace = os.replace

    def look(source, target):
        seen.append((load_checkpoint(source)["epoch"], load_checkpoint(target)["epoch"]))
        assert Path(source).parent == Path(target).parent  # one file system: the move is atomic
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", look)
    save_checkpoint(path, {"epoch": 2})
    assert seen == [(2, 1)]
    assert load_checkpoint(path)["epoch"] == 2


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "c.pth.tar", {"f": lambda: None})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "r.json", {"sa": float("nan")})
    assert os.listdir(tmp_path) == []


def test_json_is_written_whole_and_reads_back(tmp_path):
    write_json(tmp_path / "r.json", {"sa": 93.5, "ra": None})
    assert json.loads((tmp_path / "r.json").read_text()) == {"sa": 93.5, "ra": None}
    assert os.listdir(tmp_path) == ["r.json"]


def test_copies_on_the_cpu_share_nothing_with_the_model():
    model = pruned().to(memory_format=torch.channels_last)
    copied = to_cpu({"state_dict": model.state_dict(), "list": [1, (2, torch.ones(1))]})
    assert same(copied["state_dict"], dict(model.state_dict()))
    assert copied["list"] == [1, [2, torch.ones(1)]]
    for name, value in model.state_dict().items():
        mine = copied["state_dict"][name]
        assert mine.is_contiguous()
        assert mine.data_ptr() != value.data_ptr()
        assert mine.untyped_storage().nbytes() == mine.numel() * mine.element_size()


# --- reading --------------------------------------------------------------------------------------


class Trap:
    """Unpickling it makes a folder: the harmless form of what a hostile file would do."""

    def __init__(self, sprung):
        self.sprung = str(sprung)

    def __reduce__(self):
        return os.mkdir, (self.sprung,)


@pytest.mark.parametrize("read", [load_checkpoint, load_ticket])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, read, legacy):
    path, sprung = tmp_path / "c.pth.tar", tmp_path / "sprung"
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "x": Trap(sprung)},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(InputError, match=r"models\.convert .*--trust_pickle") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    load_trusted_pickle(path)  # the trap does work
    assert sprung.exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    path, sprung = tmp_path / "c.pth.tar", tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"x": Trap(sprung)}, protocol=2))
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert not sprung.exists()


def write_good(path):
    if path.suffix == ".safetensors":
        save_ticket(path, masks(pruned()), arch="a", state=1, density=0.6, init_sha256=HASH)
    else:
        save_checkpoint(path, {"state_dict": pruned().state_dict()})
    return path.read_bytes()


@pytest.mark.parametrize("read", [load_checkpoint, load_ticket])
@pytest.mark.parametrize("name", ["c.pth.tar", "t.safetensors"])
def test_damaged_files_are_wrong_input_not_crashes(tmp_path, name, read):
    path = tmp_path / name
    whole = write_good(path)
    noise = torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes()
    cut = [whole[:n] for n in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1)]
    for damaged in (*cut, noise, b"PK\x03\x04" + noise, b"\x80\x02" + noise, b"hello\n", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [load_checkpoint, load_ticket])
def test_files_that_are_none_are_wrong_input(tmp_path, read):
    for path in (tmp_path / "nowhere.pth.tar", tmp_path / "nowhere.safetensors"):
        with pytest.raises(InputError, match="no such file"):
            read(path)
    torch.save([torch.ones(1)], tmp_path / "list.pth.tar")
    with pytest.raises(InputError, match="list"):
        read(tmp_path / "list.pth.tar")


def test_the_hash_is_that_of_the_files_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# --- names ----------------------------------------------------------------------------------------


def test_transfer_names_are_the_released_ones_and_come_back():
    state = pruned().state_dict()
    names = transfer_keys(state)
    assert {"0.mean", "0.std", "1.conv1.weight_mask", "1.fc.bias", "1.bn1.running_var"} <= set(
        names
    )
    assert all(name.startswith("1.") or name in ("0.mean", "0.std") for name in names)
    assert same(bare_keys(names), dict(state))
    assert same(bare_keys({f"module.{name}": value for name, value in names.items()}), dict(state))
    assert same(bare_keys(state), dict(state))  # layer1.1.conv1 keeps its 1.


# --- ticket files ---------------------------------------------------------------------------------


def odd_masks():
    """Counts of bits that are no multiples of 8, one of them a single bit."""
    shapes = {"conv1": (4, 3, 3, 3), "layer1.0.conv1": (5, 1, 1, 1), "one": (1, 1, 1, 1)}
    return {f"{name}.weight_mask": torch.rand(shape) < 0.5 for name, shape in shapes.items()}


def test_a_ticket_comes_back_to_the_bit_with_its_origin(tmp_path):
    path, ticket = tmp_path / names.ticket(3), odd_masks()
    density = 0.8**3
    save_ticket(path, ticket, arch="resnet50", state=3, density=density, init_sha256=HASH)
    read = load_ticket(path)
    assert list(read) == list(ticket)
    assert same(read, ticket)
    header = ticket_header(path)
    assert (header["arch"], header["state"], header["init_sha256"]) == ("resnet50", "3", HASH)
    assert float(header["density"]) == density
    assert json.loads(header["shapes"])["conv1.weight_mask"] == [4, 3, 3, 3]
    assert os.listdir(tmp_path) == ["3-ticket.safetensors"]


@pytest.mark.parametrize("fill", [0, 1])
def test_tickets_of_equal_bits_come_back(tmp_path, fill):
    ticket = {name: torch.full_like(mask, bool(fill)) for name, mask in odd_masks().items()}
    save_ticket(tmp_path / "t.safetensors", ticket, arch="a", state=0, density=1, init_sha256=HASH)
    assert same(load_ticket(tmp_path / "t.safetensors"), ticket)


def test_equal_tickets_make_equal_files_whatever_the_layout_or_dtype_of_the_masks(tmp_path):
    ticket = {f"conv{i}.weight_mask": torch.rand(8, 5, 3, 3) < 0.5 for i in range(6)}
    strided = {n: m.to(memory_format=torch.channels_last) for n, m in ticket.items()}
    floats = {n: m.float() for n, m in ticket.items()}
    hashes = set()
    for given in (ticket, strided, floats, ticket):
        path = tmp_path / "t.safetensors"
        save_ticket(path, given, arch="a", state=1, density=0.5, init_sha256=HASH)
        assert same(load_ticket(path), ticket)
        hashes.add(sha256_of(path))
    assert len(hashes) == 1  # results name a ticket by its hash


def test_a_resnet50_ticket_is_at_most_three_megabytes(tmp_path):
    with torch.device("meta"):
        model = build_model("resnet50", 1000, MEAN, STD)
    ticket = {
        f"{name}.weight_mask": torch.randint(0, 2, module.weight.shape, dtype=torch.bool)
        for name, module in convolutions(model)
    }
    path = tmp_path / "t.safetensors"
    save_ticket(path, ticket, arch="resnet50", state=1, density=0.5, init_sha256=HASH)
    assert path.stat().st_size <= 3.0e6
    assert same(load_ticket(path), ticket)


def test_a_ticket_with_missing_bits_is_named(tmp_path):
    path = tmp_path / "t.safetensors"
    shapes = json.dumps({"conv1.weight_mask": [4, 4]})
    header = {"format": "double-win-ticket-1", "shapes": shapes}
    for bits in ({"conv1.weight_mask": torch.zeros(1, dtype=torch.uint8)}, {"x": torch.zeros(1)}):
        hashed = {**header, "sha256": checkpoints.content_hash(header, bits)}
        save_file(bits, path, metadata=hashed)
        with pytest.raises(InputError, match=r"damaged ticket, conv1\.weight_mask"):
            load_ticket(path)


def test_the_origin_of_a_ticket_is_what_results_say(tmp_path):
    path = tmp_path / "t.safetensors"
    save_ticket(path, odd_masks(), arch="a", state=9, density=0.4096, init_sha256=HASH)
    ticket = read_ticket(path)
    assert ticket.state_at(0.41) == 9  # its own, at whatever rate it was pruned
    assert ticket.kind == "imp"
    assert ticket.sha256 == sha256_of(path)
    save_checkpoint(tmp_path / "c.pth.tar", {"state_prune": 3, "state_dict": odd_masks()})
    assert read_ticket(tmp_path / "c.pth.tar").state_at(0.2) == 3
    save_checkpoint(tmp_path / "bare.pth.tar", odd_masks())
    assert read_ticket(tmp_path / "bare.pth.tar").state_at(0.8**5 + 1e-4) == 5
    assert [read_ticket(tmp_path / "bare.pth.tar").state_at(left) for left in (1, 0.995)] == [0, 1]


# --- load_ticket reads every kind of file ---------------------------------------------------------


def as_floats(state):
    return {n: v.float() if n.endswith("weight_mask") else v for n, v in state.items()}


def with_prefix(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def bare(state):
    return {name: value for name, value in state.items() if not name.startswith("normalize.")}


def sources():
    """What each kind of file holds, as its writer lays it out."""
    model = pruned()
    state, ticket = model.state_dict(), masks_in(model.state_dict())
    init = network().state_dict()
    released = as_floats(state)
    imp = {"epoch": 30, "arch": "resnet20s", "best_acc1": 1.0, "state_prune": 1, "optimizer": {}}
    transfer = {"result": {"train": []}, "epoch": 2, "optimizer": {}, "best_sa": 0.0}
    return {
        "IMP, ours": {**imp, "state_dict": state, "init": {"file": "init.pth.tar", "sha256": HASH}},
        "IMP, released adv": {**imp, "state_dict": released, "init": init},
        "IMP, released std": {**imp, "state_dict": bare(released), "init": bare(init)},
        "transfer, ours": {**transfer, "state_dict": transfer_keys(state)},
        "transfer, released adv": {**transfer, "state_dict": transfer_keys(released)},
        "transfer, released std": {"epoch": 2, "result": {}, "state_dict": bare(released)},
        "epoch file, released": transfer_keys(released),
        "with module.": {"state_dict": with_prefix("module.", released)},
        "with module. and 1.": {"state_dict": with_prefix("module.", transfer_keys(released))},
        "bare, with module.": with_prefix("module.", released),
        "bool masks": ticket,
        "float masks": as_floats(ticket),
        "uint8 masks": {name: mask.to(torch.uint8) for name, mask in ticket.items()},
        "masks with module.1.": with_prefix("module.1.", as_floats(ticket)),
        "CV_LTH_Pre-training": {"epoch": 1, "state_dict": init, "mask": as_floats(ticket)},
    }


@pytest.mark.parametrize("kind", sources())
def test_a_ticket_is_read_from(kind, tmp_path):
    save_checkpoint(tmp_path / "c.pth.tar", sources()[kind])
    assert same(load_ticket(tmp_path / "c.pth.tar"), masks_in(pruned().state_dict()))


@pytest.mark.parametrize("kind", ["bool masks", "float masks", "bare, with module."])
def test_a_ticket_is_read_from_a_plain_safetensors_file_of(kind, tmp_path):
    save_file(sources()[kind], tmp_path / "c.safetensors", metadata={"format": "pt"})
    assert ticket_header(tmp_path / "c.safetensors") == {}
    assert same(load_ticket(tmp_path / "c.safetensors"), masks_in(pruned().state_dict()))


def test_a_file_in_the_legacy_format_of_old_torch_is_read(tmp_path):
    path = tmp_path / "c.pth.tar"  # PyTorch 1.5, the released code's, wrote this format
    torch.save(sources()["IMP, released adv"], path, _use_new_zipfile_serialization=False)
    assert same(load_ticket(path), masks_in(pruned().state_dict()))


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("wrap", ["state_dict", "mask", None])
def test_masks_of_other_values_than_0_and_1_are_refused(tmp_path, value, wrap):
    ticket = as_floats(masks_in(pruned().state_dict()))
    ticket["layer1.0.conv1.weight_mask"][0, 0, 0, 0] = value
    save_checkpoint(tmp_path / "c.pth.tar", {wrap: ticket} if wrap else ticket)
    with pytest.raises(InputError, match=r"layer1\.0\.conv1\.weight_mask .*0 or 1"):
        load_ticket(tmp_path / "c.pth.tar")


def test_a_file_without_masks_is_refused(tmp_path):
    path = tmp_path / "c.pth.tar"
    for payload in ({}, {"state_dict": network().state_dict()}, {"conv1.weight_mask": "ones"}):
        save_checkpoint(path, payload)
        with pytest.raises(InputError, match=r"mask"):
            load_ticket(path)


# --- finding checkpoints, random states -----------------------------------------------------------


def test_the_newest_imp_checkpoint_is_that_of_the_highest_state(tmp_path):
    assert imp_run.newest_checkpoint(tmp_path) is None
    assert imp_run.newest_checkpoint(tmp_path / "nowhere") is None
    for name in (
        *map(names.imp_checkpoint, (2, 9, 10)),
        names.imp_best(11),
        "x-checkpoint.pth.tar",
    ):
        save_checkpoint(tmp_path / name, {})
    assert imp_run.newest_checkpoint(tmp_path) == tmp_path / "10-checkpoint.pth.tar"


def test_the_newest_transfer_checkpoint_is_the_one_of_that_name(tmp_path):
    save_checkpoint(tmp_path / names.epoch_checkpoint(3), {})
    assert transfer_run.newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path / "checkpoint.pth.tar", {})
    assert transfer_run.newest_checkpoint(tmp_path) == tmp_path / "checkpoint.pth.tar"


def search_in(folder, resume):
    return RunFolder(folder, {}, (), (), resume, imp_run.newest_checkpoint, "3-ticket.safetensors")


def test_resume_means_nothing_the_newest_or_a_path(tmp_path):
    path = tmp_path / "1-checkpoint.pth.tar"
    assert search_in(tmp_path, "auto").checkpoint() is None
    save_checkpoint(path, {})
    assert search_in(tmp_path, None).checkpoint() is None
    assert search_in(tmp_path, "auto").checkpoint() == path
    assert search_in(tmp_path / "other", str(path)).checkpoint() == path
    with pytest.raises(InputError, match="no such file"):
        search_in(tmp_path, str(tmp_path / "2-checkpoint.pth.tar")).checkpoint()


def test_what_is_tested_is_the_newest_or_a_path_but_never_nothing(tmp_path):
    with pytest.raises(InputError, match="--evaluate: no checkpoint"):
        search_in(tmp_path, None).checkpoint_to_test()
    save_checkpoint(tmp_path / "1-checkpoint.pth.tar", {})
    assert search_in(tmp_path, None).checkpoint_to_test() == tmp_path / "1-checkpoint.pth.tar"


def test_a_random_state_survives_a_file(tmp_path):
    save_checkpoint(tmp_path / "c.pth.tar", {"random": random_state(CPU)})
    expected = torch.rand(5)
    torch.manual_seed(99)
    assert restore_random_state(load_checkpoint(tmp_path / "c.pth.tar")["random"], CPU)
    assert torch.equal(torch.rand(5), expected)


# --- the released code's format -------------------------------------------------------------------


@pytest.fixture
def search_folder(tmp_path):
    """The files of an IMP run after one state."""
    init, model = network().state_dict(), pruned(0.2)
    save_checkpoint(tmp_path / "init.pth.tar", to_cpu(init))
    optimizer = trained(model)
    save_checkpoint(
        tmp_path / names.imp_checkpoint(1),
        {
            "epoch": 30,
            "arch": "resnet20s",
            "state_dict": to_cpu(model.state_dict()),
            "best_acc1": 55.5,
            "state_prune": 1,
            "init": {"file": "init.pth.tar", "sha256": sha256_of(tmp_path / "init.pth.tar")},
            "optimizer": to_cpu(optimizer.state_dict()),
            "resume": {"random": random_state(CPU), "history": [[1, 55.5]]},
        },
    )
    return tmp_path, model, init


def export(save_dir, state, mode):
    return export_released(save_dir, state, mode, (MEAN, STD), pytest.fail)


@pytest.mark.parametrize("mode", ["adv", "std"])
def test_an_exported_state_has_the_released_format(search_folder, mode):
    save_dir, model, init = search_folder
    written = torch.load(export(save_dir, 1, mode), weights_only=True)
    assert set(written) == {
        *("epoch", "arch", "state_dict", "best_acc1", "optimizer", "state_prune", "init")
    }
    assert [written[key] for key in ("epoch", "arch", "best_acc1", "state_prune")] == [
        *(30, "resnet20s", 55.5, 1)
    ]
    expected = as_floats(model.state_dict())
    assert same(written["state_dict"], expected if mode == "adv" else bare(expected))
    assert same(written["init"], dict(init) if mode == "adv" else bare(init))
    assert same(
        written["optimizer"], load_checkpoint(save_dir / "1-checkpoint.pth.tar")["optimizer"]
    )


def test_an_exported_state_loads_as_the_released_code_loads_it(search_folder):
    save_dir, model, _ = search_folder
    path = export(save_dir, 1, "adv")
    state = load_checkpoint(path)["state_dict"]
    theirs = network()
    for name, module in convolutions(theirs):
        prune.custom_from_mask(module, "weight", state[f"{name}.weight_mask"])
    theirs.load_state_dict(state)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(theirs.eval()(images), model.eval()(images))
    assert same(load_ticket(path), masks_in(model.state_dict()))
    assert percent_left(theirs) == percent_left(model)


def test_initial_weights_of_another_run_are_refused(search_folder):
    save_dir, _, init = search_folder
    checkpoint = save_dir / "1-checkpoint.pth.tar"
    origin = load_checkpoint(checkpoint)["init"]
    assert same(load_initial_weights(checkpoint, origin), dict(init))
    assert same(
        load_initial_weights(checkpoint, {**origin, "file": "/gone/init.pth.tar"}), dict(init)
    )
    save_checkpoint(save_dir / "init.pth.tar", pruned().state_dict())
    with pytest.raises(InputError, match="not the initial weights"):
        load_initial_weights(checkpoint, origin)
    with pytest.raises(InputError, match="not the initial weights"):
        export(save_dir, 1, "adv")
    (save_dir / "init.pth.tar").unlink()
    with pytest.raises(InputError, match="no such file"):
        export(save_dir, 1, "adv")


def test_exporting_a_state_that_is_not_there_is_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"5-checkpoint\.pth\.tar: no such file"):
        export(tmp_path, 5, "adv")


def test_a_file_is_flushed_before_it_is_renamed_and_its_directory_after(tmp_path, monkeypatch):
    order, flush, rename = [], os.fsync, os.replace

    def flushed(handle):
        order.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def renamed(old, new):
        order.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    save_checkpoint(tmp_path / "c.pth.tar", {"epoch": 1})
    assert order == ["file", "rename", "directory"]


@pytest.mark.parametrize(
    ("beside", "told"), [({}, True), ({"state_prune": 1}, False), ({"ticket_kind": "omp"}, False)]
)
def test_masks_of_unknown_origin_are_told_to_count_as_imp(tmp_path, beside, told):
    masks = {"conv1.weight_mask": torch.tensor([[[[1.0, 0.0]]]])}
    torch.save({"state_dict": masks, **beside}, tmp_path / "masks.pt")
    ticket = read_ticket(tmp_path / "masks.pt")
    assert ticket.kind == beside.get("ticket_kind", "imp")
    assert any("they count as IMP's" in note for note in ticket.notes) == told
