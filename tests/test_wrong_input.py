"""Wrong input: one line that says what, where and what would be right; status 2; nothing written.

One row of CASES per mistake. A row makes its input in a folder of its own and gives the arguments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.main_cases import (
    HERE,
    ROOT,
    TINY,
    contents,
    one_error_line,
    skip_pictures,
    steady,
    write_images,
)
from PIL import Image

import main_downstream
import main_imp_pretrain
from dataset import mean_std
from files.checkpoints import save_checkpoint
from files.tickets import save_ticket
from input_pipeline import sources
from models import build_model
from pruning_utils import masks

SHORT = ["--epochs", "2", "--prune_epoch", "1"]
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
COUNTS = [
    *("--epochs", "--batch_size", "--threads", "--print_freq"),
    *("--save_every_steps", "--nproc", "--prune_epoch"),
]
COUNTS_FROM_0 = ["--workers", "--warmup", "--gpu", "--train_step", "--pretrain_epochs"]
NUMBERS = ["--lr", "--pretrain_lr", "--weight_decay", "--momentum", "--train_eps", "--train_gamma"]
TRANSFER_COUNTS = ["--eval_batch_size", "--eval_images", "--restarts"]
TRANSFER_NUMBERS = ["--data_number", "--test_eps", "--test_gamma"]


@dataclass(frozen=True)
class Place:
    """Where a case works: `root`, with `data` and the run's folder `save`; `good` is only read."""

    root: Path
    data: Path
    save: Path
    good: Path

    def file(self, name: str, content: bytes = b"") -> str:
        path = self.root / name
        path.write_bytes(content)
        return str(path)


Arguments = list[str]
Case = Callable[[Place], Arguments]


def imp(place: Place, *flags: str) -> Arguments:
    init = ["--init", str(place.good / "width4.pth.tar")]
    return [str(place.data), *TINY, *HERE, *SHORT, *init, "--save_dir", str(place.save), *flags]


def transfer(place: Place, *flags: str) -> Arguments:
    data = ["--dataset", "folder", "--data", str(place.data), "--save_dir", str(place.save)]
    init = ["--init", str(place.good / "width4.pth.tar")]
    return [*data, *TINY, *steady(flags), *HERE, "--epochs", "1", *init, *flags]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Data, a finished run, and files of other networks; the cases work on copies of the data."""
    root = tmp_path_factory.mktemp("good")
    write_images(root / "data")
    for width in (4, 8):
        model = build_model("resnet20s", 3, *mean_std("imagenet"), "cifar", width)
        save_checkpoint(root / f"width{width}.pth.tar", model.state_dict())
        save_ticket(
            root / f"width{width}.safetensors",
            masks(model),
            arch="resnet20s",
            state=0,
            density=1.0,
            init_sha256="",
        )
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        place = Place(root, root / "data", root / "run", root)
        main_imp_pretrain.main(imp(place, "--mode", "std"))
    (root / "run" / "3-ticket.safetensors").unlink()  # not finished
    return root


@pytest.fixture
def place(good, tmp_path):
    shutil.copytree(good / "data", tmp_path / "data")
    return Place(tmp_path, tmp_path / "data", tmp_path / "save" / "run", good)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


def refused(main, argv, place, capsys) -> str:
    """The line that a main says; everything must be as it was before."""
    before = contents(place.root)
    line = one_error_line(argv, main, capsys)
    assert contents(place.root) == before
    assert not place.save.exists() or "run" in str(argv)
    return line


# --- flags that are wrong by themselves -----------------------------------------------------------

# (flag, value, what the line must say besides the flag and the value)
FLAGS = [
    *((flag, value, "a whole number of at least 1") for flag in COUNTS for value in ("0", "-1")),
    *(("--micro_batch", value, "a whole number of at least 2") for value in ("0", "1", "x")),
    *((flag, value, "a whole number") for flag in COUNTS for value in ("nan", "1.5", "many")),
    *((flag, "-1", "a whole number of at least 0") for flag in COUNTS_FROM_0),
    *((flag, "nan", "a whole number of at least 0") for flag in COUNTS_FROM_0),
    *(("--world_size", value, "a whole number of at least 1") for value in ("0", "-2", "nan")),
    *(("--rank", value, "a whole number of at least 0") for value in ("-2", "nan")),
    ("--start_epoch", "nan", "a whole number of at least 0"),
    *((flag, value, "number|fraction") for flag in NUMBERS for value in ("-1", "nan", "inf", "x")),
    ("--lr", "0", "a number above 0"),
    ("--momentum", "1", "from 0 to below 1"),
    ("--rate", "0", "between 0 and 1, both excluded"),
    ("--rate", "1", "between 0 and 1, both excluded"),
    ("--rate", "nan", "between 0 and 1, both excluded"),
    ("--train_eps", "8", "like 8/255"),
    ("--train_eps", "256/255", "like 8/255"),
    ("--train_eps", "8/0", "like 8/255"),
    ("--train_gamma", "2", "like 8/255"),
    ("--seed", "-1", "a whole number from 0"),
    ("--seed", "nan", "a whole number from 0"),
    ("--input_size", "0", "8 to 4096"),
    ("--input_size", "nan", "8 to 4096"),
    ("--mean", "nan,0,0", "a number of at least 0"),
    ("--mean", "0.5,0.5", "three numbers"),
    ("--decreasing_lr", "3,1", "must increase"),
    ("--decreasing_lr", "1,1", "must increase"),
    ("--decreasing_lr", "1,nan", "a whole number of at least 0"),
    ("--lr_schedule", "multistep", "there are no milestones; name some by --decreasing_lr"),
    ("--start_epoch", "1", "a run goes on by --resume; to train 1 epochs fewer, --epochs 1 does"),
    ("--dist_url", "env://", "$WORLD_SIZE is not set; set it, or give --world_size N"),
    ("--warmup", "3", "more than the 1 epochs"),
    ("--threads", "100000", "at most 4 per core"),
    ("--workers", "100000", "at most 4 per core"),
    ("--nproc", "2", "goes with --multiprocessing_distributed"),
    ("--world_size", "2", "goes with --multiprocessing_distributed"),
    ("--rank", "1", "below --world_size 1"),
    ("--mode", "both", "choose from"),
    ("--arch", "resnet17", "choose from"),
    ("--lr_schedule", "linear", "choose from"),
    ("--augment", "cutout", "choose from"),
    ("--keep", "some", "choose from"),
    *(("--width", value, "a whole number from 1 to 1024") for value in ("0", "-1", "100000")),
    ("--classes", "4", "2 to 3"),
    ("--classes", "1", "at least 2"),
    ("--classes", "0", "at least 2"),
    ("--classes", "²", "neither a number nor a readable file"),
    ("--classes", "gone.txt", "neither a number nor a readable file"),
    ("--amp", "int8", "choose from"),
    ("--save_dir", "", "names no folder"),
    ("--save_dir", "~/runs", "write your home's path out"),
    *(("--tag", value, "not a printable name") for value in (" ", "adv\a4")),
]  # fmt: skip
TRANSFER_FLAGS = [
    *((flag, value, "of at least 1") for flag in TRANSFER_COUNTS for value in ("0", "nan")),
    *((flag, value, "fraction") for flag in TRANSFER_NUMBERS for value in ("-1", "nan", "1.5")),
    ("--data_number", "0", "above 0 and at most 1"),
    ("--test_step", "-1", "a whole number of at least 0"),
    ("--test_step", "nan", "a whole number of at least 0"),
    ("--eval_from", "-1", "a whole number of at least 0"),
    ("--eval_from", "nan", "a whole number of at least 0"),
    ("--dataset", "mnist", "choose from"),
    ("--eval_set", "cifar10_c:", "cifar10_c:DIR, adv:FILE"),
    ("--eval_set", "train", "adv:FILE"),
    ("--eval_attack", "fgsm", "choose from"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "flag", "value", "told"),
    [*(("imp", *row) for row in FLAGS), *(("transfer", *row) for row in TRANSFER_FLAGS)],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_flag(task, flag, value, told, good, tmp_path, capsys):
    place = Place(tmp_path, good / "data", tmp_path / "save", good)
    main, make = {
        "imp": (main_imp_pretrain.main, imp),
        "transfer": (main_downstream.main, transfer),
    }[task]
    line = refused(main, make(place, flag, value), place, capsys)
    assert any(words in line for words in told.split("|")), line
    assert flag in line or flag.strip("-") in line
    assert value in line or repr(value) in line or ("'nan'" in line and "nan" in value)


# --- data -----------------------------------------------------------------------------------------


def missing_folder(place: Place) -> Arguments:
    return imp(replace(place, data=place.root / "gone"))


def empty_folder(place: Place) -> Arguments:
    (place.root / "empty").mkdir()
    return imp(replace(place, data=place.root / "empty"))


def flat_val(place: Place) -> Arguments:
    shutil.rmtree(place.data / "val")
    (place.data / "val").mkdir()
    for number in range(3):
        image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
        image.save(place.data / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    return imp(place)


def class_without_images(place: Place) -> Arguments:
    for path in (place.data / "train" / "green").iterdir():
        path.unlink()
    return imp(place)


def class_missing_in_val(place: Place) -> Arguments:
    shutil.rmtree(place.data / "val" / "green")
    return imp(place)


def class_too_many_in_val(place: Place) -> Arguments:
    shutil.copytree(place.data / "val" / "green", place.data / "val" / "violet")
    return transfer(place)


def truncated(place: Place, part: str) -> None:
    path = place.data / part / "red" / "00.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-300])


def truncated_training_image(place: Place) -> Arguments:
    truncated(place, "train")
    return imp(place)


def truncated_validation_image(place: Place) -> Arguments:
    truncated(place, "val")
    return imp(place)


def text_as_image(place: Place) -> Arguments:
    (place.data / "train" / "red" / "readme.png").write_text("no picture")
    return transfer(place, "--mode", "std", "-j", "2")


def list_of_visda_with_a_wrong_line(place: Place) -> Arguments:
    for part in ("train", "validation"):
        (place.root / "visda" / part).mkdir(parents=True)
        (place.root / "visda" / part / "image_list.txt").write_text("a.png 0\nb.png twelve\n")
    return transfer(place, "--dataset", "visda", "--data", str(place.root / "visda"))


def no_cifar(place: Place) -> Arguments:
    return transfer(place, "--dataset", "cifar10", "--data", str(place.root / "cifar"))


def no_image_left(place: Place) -> Arguments:
    return transfer(place, "--dataset", "cifar10", "--data_number", "0.0001", "--data", "cifar")


def corruptions_missing(place: Place) -> Arguments:
    run = str(place.root.parent / "run")
    return transfer(place, "--evaluate", "--resume", run, "--eval_set", f"cifar10_c:{place.data}")


DATA = [
    (missing_folder, ["gone", "no such folder", "train/CLASS/*"]),
    (empty_folder, ["empty", "no folder train", "expected train/CLASS/*"]),
    (flat_val, ["val", "loose", "sort them into"]),
    (class_without_images, ["train/green", "no image in it", ".png"]),
    (class_missing_in_val, ["val", "missing: green"]),
    (class_too_many_in_val, ["val", "train has not: violet"]),
    (truncated_training_image, ["train/red/00.jpg", "not a whole image", "replace or remove it"]),
    (truncated_validation_image, ["val/red/00.jpg", "not a whole image", "replace or remove it"]),
    (text_as_image, ["train/red/readme.png", "not a whole image", "replace or remove it"]),
    (list_of_visda_with_a_wrong_line, ["image_list.txt:2", "`path label`", "0 to 11"]),
    (no_cifar, ["cifar", "not there", "cifar-10-batches-py"]),
    (no_image_left, ["data_number 0.0001", "leaves no training image"]),
    (lambda place: imp(place)[1:], ["DATA is missing", "train/CLASS/*"]),
    (lambda place: imp(place, "-b", "37"), ["37", "36 training images", "-b 36 or less"]),
    (lambda place: transfer(place, "-b", "1"), ["batch size 1", "at least 2"]),
    (lambda place: imp(place, "--classes", place.file("c.txt")), ["c.txt", "names no class"]),
    (lambda place: imp(place, "--classes", place.file("c", b"pink")), ["no such class", "pink"]),
    (lambda place: imp(place, "--std", "0,1,1", "--mean", "0,0,0"), ["--std must be above 0"]),
    (lambda place: imp(place, "--std", "1,1,1"), ["--mean and --std go together"]),
]  # fmt: skip


def main_of(argv: Arguments) -> Callable:
    return main_downstream.main if "--dataset" in argv else main_imp_pretrain.main


@pytest.mark.parametrize(("case", "told"), DATA, ids=lambda value: getattr(value, "__name__", ""))
def test_wrong_data(case, told, place, capsys, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network here")

    def few(_):
        pixels = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
        part = sources.Split(pixels, np.arange(50) % 10)
        return sources.CIFAR10_CLASSES, part, part

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    if case is no_image_left:
        monkeypatch.setitem(sources._READERS, "cifar10", few)
        monkeypatch.setitem(sources.INDEX_SPLITS, "cifar10", (45, 50))
    argv = case(place)
    line = refused(main_of(argv), argv, place, capsys)
    assert not place.save.exists()
    for words in told:
        assert words in line


def test_a_truncated_image_is_skipped_with_a_warning_that_names_it(place, capsys):
    truncated(place, "train")
    main_imp_pretrain.main(imp(place, "--skip_bad", "--mode", "std"))
    assert re.search(r"^warning: skipped .*train/red/00\.jpg", capsys.readouterr().err, re.M)
    assert (place.save / "3-ticket.safetensors").is_file()


# --- files ----------------------------------------------------------------------------------------


def damaged(place: Place) -> Arguments:
    content = bytearray((place.good / "run" / "1-checkpoint.pth.tar").read_bytes())
    content[len(content) // 2] ^= 1
    return imp(place, "--resume", place.file("1-checkpoint.pth.tar", bytes(content)))


def unfinished(place: Place, *flags: str) -> Arguments:
    """The arguments to go on with a run, but for `flags`."""
    shutil.copytree(place.good / "run", place.save)
    return imp(place, "--mode", "std", "--resume", *flags)


def foreign(place: Place, **content: object) -> Arguments:
    save_checkpoint(place.root / "foreign.pth.tar", content)
    return imp(place, "--resume", str(place.root / "foreign.pth.tar"))


def other_images(place: Place) -> Arguments:
    (place.data / "train" / "red" / "00.png").rename(place.data / "train" / "red" / "extra.png")
    return unfinished(place)


def other_init(place: Place) -> Arguments:
    argv = transfer(place, "--mode", "std", "--init", str(place.good / "width4.pth.tar"))
    main_downstream.main(argv)
    (place.save / "results.json").unlink()
    shutil.copy(place.good / "width4.pth.tar", place.root / "moved.pth.tar")
    torch.manual_seed(371)  # else the weights may be those of width4.pth.tar
    model = build_model("resnet20s", 3, *mean_std("imagenet"), "cifar", 4)
    save_checkpoint(place.root / "other.pth.tar", model.state_dict())
    return [*argv, "--resume", "--init", str(place.root / "other.pth.tar")]


def masking_source(place: Place, name: str) -> Arguments:
    """The arguments of a run whose source for the masking check does not fit."""
    model = build_model("resnet20s", 10, *mean_std("imagenet"), "cifar", 4).state_dict()
    save_checkpoint(place.root / "ten.pth.tar", model)
    trunk = {key: value for key, value in model.items() if not key.startswith("fc.")}
    save_checkpoint(place.root / "trunk.pth.tar", trunk)
    path = (place.good if name.startswith("width") else place.root) / name
    return transfer(place, "--mode", "std", "--check_masking", "--masking_source", str(path))


def under_a_file(place: Place) -> Arguments:
    return imp(place, "--save_dir", place.file("file") + "/run")


FILES = [
    (lambda p: imp(p, "--init", "gone.pth.tar"), ["gone.pth.tar", "no such file", ".pth.tar"]),
    (lambda p: imp(p, "--init", str(p.data)), ["data is a folder without weights", "pass a file"]),
    (lambda p: transfer(p, "--tickets_file", str(p.data)), ["data: is a folder; name a file in"]),
    (lambda p: transfer(p, "--resume", str(p.data)), ["data: is a folder; name a file in it"]),
    (lambda p: imp(p, "--init", p.file("x.pt", b"words")),
     ["x.pt is a text file", "words", "download it again"]),
    (lambda p: imp(p, "--init", p.file("x.pt")), ["x.pt is an empty file"]),
    (lambda p: imp(p, "--init", str(p.good / "width8.pth.tar")),
     ["width8.pth.tar", "looks like --width 8"]),
    (lambda p: [w for w in imp(p, "-a", "resnet18") if w not in ("--width", "4")],
     ["width4.pth.tar", "does not fit resnet18", "-a resnet20s"]),
    (lambda p: imp(p, "--init", str(p.good / "width4.safetensors")),
     ["masks only", "--tickets_file"]),
    (lambda p: transfer(p, "--tickets_file", str(p.good / "width8.safetensors")),
     ["weight_mask", "another architecture"]),
    (lambda p: [w for w in transfer(p, "--tickets_file", str(p.good / "width4.safetensors"),
                                    "--reinit", "-a", "resnet18") if w not in ("--width", "4")],
     ["fits no convolution", "another architecture"]),
    (lambda p: transfer(p, "--tickets_file", str(p.good / "width4.pth.tar")), ["holds no masks"]),
    (lambda p: transfer(p, "--tickets_file", "gone"), ["gone", "no such file"]),
    (lambda p: transfer(p, "--tickets_file", p.file("t.safetensors", b"1234567")),
     ["t.safetensors is a text file"]),
    (lambda p: imp(p, "--resume", "gone"), ["--resume gone", "no such file", "newest"]),
    (damaged, ["1-checkpoint.pth.tar", "damaged", "checksum"]),
    (lambda p: foreign(p, epoch=1), ["foreign.pth.tar", "lacks 'state_dict'"]),
    (lambda p: foreign(p, state_dict=3, state_prune=1), ["foreign.pth.tar", "this program"]),
    (lambda p: foreign(p, state_dict={}, state_prune="x"), ["foreign.pth.tar", "this program"]),
    (lambda p: transfer(p, "--evaluate"), ["--evaluate", "no checkpoint", "--resume PATH"]),
    (lambda p: imp(p, "--export_released", "7"), ["7-checkpoint.pth.tar", "no such file"]),
    (lambda p: ["--ticket", "omp", "--save_dir", str(p.save)], ["--ticket omp", "--init"]),
    (lambda p: transfer(p, "--check_masking", "--masking_source", "gone"), ["gone", "no such"]),
    (lambda p: masking_source(p, "ten.pth.tar"), ["ten.pth.tar: a network of 10 classes", "has 3"]),
    (lambda p: masking_source(p, "trunk.pth.tar"), ["trunk.pth.tar", "no fc.weight"]),
    (lambda p: masking_source(p, "width4.safetensors"), ["width4.safetensors", "masks"]),
    (lambda p: transfer(p, "--eval_set", "cifar10_c"), ["--eval_set", "--evaluate"]),
    (lambda p: unfinished(p, "--width", "8"), ["--width 4, not 8", "another folder"]),
    (lambda p: unfinished(p, "--mode", "adv"), ["--mode std, not adv", "another folder"]),
    (lambda p: unfinished(p, "--seed", "7"), ["--seed 1, not 7", "another folder"]),
    (lambda p: unfinished(p)[:-1], ["holds a run already", "--resume"]),
    (other_images, ["--data that holds 36 images", "another folder"]),
    (other_init, ["--init that holds sha256", "another folder"]),
    (under_a_file, ["--save_dir", "cannot be written", "another folder"]),
    (lambda p: imp(p, "--save_dir", p.file("file")), ["--save_dir", "cannot be written"]),
    (lambda p: imp(p, "--save_dir", "/proc/run"), ["/proc/run", "cannot be written"]),
]  # fmt: skip


@pytest.mark.parametrize(("case", "told"), FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_wrong_files(case, told, place, good, capsys):
    argv = case(place)
    line = refused(main_of(argv), argv, place, capsys)
    for words in told:
        assert any(word in line for word in words.split("|")), line


def test_the_same_files_elsewhere_are_no_other_run(place, good):
    argv = unfinished(place)
    (place.data).rename(place.root / "moved")
    main_imp_pretrain.main([str(place.root / "moved"), *argv[1:]])
    assert (place.save / "3-ticket.safetensors").is_file()


# --- the machine ----------------------------------------------------------------------------------


@NO_CUDA
@pytest.mark.parametrize("flags", [["--device", "cuda"], ["--gpu", "0"], ["--sync_bn"]])
def test_cuda_where_there_is_none(flags, place, capsys):
    line = refused(main_imp_pretrain.main, imp(place, *flags), place, capsys)
    assert "CUDA" in line


@NO_CUDA
def test_half_precision_where_there_is_no_cuda(place, capsys):
    line = refused(main_imp_pretrain.main, imp(place, "--amp", "fp16"), place, capsys)
    assert "--amp bf16" in line


def two_processes(place: Place, url: str, count: str = "2") -> Arguments:
    spawn = ["--multiprocessing_distributed", "--nproc", count]
    spawn += ["--dist_url", url] if url else []
    return imp(place, *spawn, "--dist_backend", "gloo")


def test_a_port_in_use(place, capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        argv = two_processes(place, f"tcp://127.0.0.1:{port}")
        line = refused(main_imp_pretrain.main, argv, place, capsys)
    assert f"port {port} is in use" in line
    assert "name another" in line


@pytest.mark.parametrize("url", ["127.0.0.1:80", "tcp://host", "tcp://host:99999"])
def test_a_meeting_point_that_is_none(url, place, capsys):
    line = refused(main_imp_pretrain.main, two_processes(place, url), place, capsys)
    assert f"--dist_url {url}: not like tcp://" in line


def test_several_nodes_that_are_not_told_where_to_meet(place, capsys):
    argv = [*two_processes(place, "", "1"), "--world_size", "2", "--rank", "0"]
    line = refused(main_imp_pretrain.main, argv, place, capsys)
    assert "--dist_url is missing: tcp://HOST:PORT" in line


def test_more_processes_than_possible(place, capsys):
    argv = two_processes(place, "tcp://127.0.0.1:23456", "100000")
    line = refused(main_imp_pretrain.main, argv, place, capsys)
    assert "--nproc 100000: at most 4 per core" in line


# --- flags without effect -------------------------------------------------------------------------


def without_init(make: Callable[..., Arguments], place: Place, *flags: str) -> Arguments:
    return [*make(place), "--init", "", *flags]


UNUSED = [
    (lambda p: imp(p, "--time_it"), ["--time_it goes with --dry_run"]),
    (lambda p: imp(p, "--ticket", "omp", "--evaluate"), ["--ticket omp", "leave one out"]),
    (lambda p: imp(p, "--ticket", "random", "--evaluate"), ["--ticket random", "--evaluate"]),
    (lambda p: without_init(imp, p, "--reset_fc"), ["--reset_fc goes with --init"]),
    (lambda p: without_init(imp, p, "--init_key", "ema"), ["--init_key ema: goes with --init"]),
    (lambda p: without_init(transfer, p, "--init_key", "x"), ["--init_key x: goes with --init"]),
    (lambda p: imp(p, "-a", "resnet18"), ["--width 4: goes with -a resnet20s, not resnet18"]),
    (lambda p: transfer(p, "-a", "resnet18"), ["--width 4: goes with -a resnet20s"]),
]  # fmt: skip


@pytest.mark.parametrize(("case", "told"), UNUSED)
def test_a_flag_that_would_have_no_effect(case, told, place, capsys):
    argv = case(place)
    line = refused(main_of(argv), argv, place, capsys)
    for words in told:
        assert words in line
    assert not place.save.exists()


# --- as processes ---------------------------------------------------------------------------------


def as_process(main: str, argv: Arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / f"{main}.py"), *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "case", "told"),
    [
        ("main_downstream", class_too_many_in_val, "train has not: violet"),
        ("main_imp_pretrain", lambda p: two_processes(class_gone(p), free_url()), "missing: green"),
    ],
)
def test_a_process_says_one_line_and_ends_with_status_2(main, case, told, place):
    argv = case(place)
    before = contents(place.root)
    done = as_process(main, argv)
    assert done.returncode == 2
    *before_it, line = done.stderr.splitlines()
    assert all("not used: test/" in warning for warning in before_it), done.stderr
    assert line.startswith("error: ")
    assert told in line
    assert contents(place.root) == before


def class_gone(place: Place) -> Place:
    shutil.rmtree(place.data / "val" / "green")
    return place


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def numeric_flags() -> Iterator[tuple[str, str]]:
    """Every flag with a type that makes numbers."""
    from cli.flags import build_imp_parser, build_transfer_parser
    from cli.parsing import evaluation_set, folder_name, printable
    from dataset import DATASETS
    from models import ARCHS

    parsers = build_imp_parser(ARCHS), build_transfer_parser(ARCHS, DATASETS)
    for task, parser in zip(("imp", "transfer"), parsers, strict=True):
        for action in parser._actions:
            if action.type not in (None, evaluation_set, folder_name, printable):
                yield task, action.option_strings[-1]


def test_nan_is_refused_by_every_numeric_flag(tmp_path, capsys):
    place = Place(tmp_path, tmp_path / "data", tmp_path / "save", tmp_path)
    seen = list(numeric_flags())
    assert len(seen) > 50
    for task, flag in seen:
        main, make = {
            "imp": (main_imp_pretrain.main, imp),
            "transfer": (main_downstream.main, transfer),
        }[task]
        assert "'nan'" in one_error_line(make(place, flag, "nan"), main, capsys)
        assert not place.save.exists()


def test_a_damaged_args_json_is_named(place, good, capsys):
    for content in (b"{", b"[]", b"\xff", json.dumps(3).encode()):
        argv = unfinished(place)
        (place.save / "args.json").write_bytes(content)
        line = refused(main_imp_pretrain.main, argv, place, capsys)
        assert "args.json: damaged" in line
        assert "move it away" in line
        shutil.rmtree(place.save)


def test_a_line_break_in_a_path_stays_one_line(tmp_path, capsys):
    place = Place(tmp_path, tmp_path / "no\nsuch", tmp_path / "save", tmp_path)
    assert "no such: no such folder" in one_error_line(imp(place), main_imp_pretrain.main, capsys)
