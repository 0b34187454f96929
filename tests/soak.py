"""What tests/soak.sh runs: the trials of the test suite, many more of them, and their counts."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_hostile_files as hostile  # noqa: E402
from helpers.hostile_cases import armed_arrays, armed_files, flips, headers  # noqa: E402
from helpers.main_cases import load, names, skip_pictures, write_images  # noqa: E402
from test_interruptions import failing_writes  # noqa: E402

import errors  # noqa: E402
import main_downstream  # noqa: E402
import main_imp_pretrain  # noqa: E402
from errors import RunFailed  # noqa: E402
from files.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from models.export import main as export  # noqa: E402

FLIPS = 500  # random places of each file, besides every byte of its headers (at most as many)
LIMITS = 200  # sizes at which the disk is full


def make_files(root: Path) -> None:
    write_images(root / "data")
    save_checkpoint(root / "init.pth.tar", hostile.tiny().state_dict())
    main_imp_pretrain.main(hostile.imp(root, root / "imp"))
    main_downstream.main(hostile.transfer(root, root / "transfer", "--mode", "adv"))
    export([str(root / "imp" / "1-model_best.pth.tar"), str(root / "exported.safetensors")])


def flip_bytes(root: Path, folder: Path) -> None:
    for kind in [*hostile.KINDS, "transfer/model_RA_best.pth.tar"]:
        source = root / kind
        random.seed(kind)
        size = source.stat().st_size
        places = [random.randrange(size) for _ in range(FLIPS)]
        if kind.endswith("tar"):
            outside = headers(source)
        else:
            outside = list(range(8 + int.from_bytes(source.read_bytes()[:8], "little")))
        places += random.sample(outside, min(FLIPS, len(outside)))
        counts = flips(source, folder, iter([(place, random.randrange(8)) for place in places]))
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"bytes flipped: {kind}: {len(places)} places: {told}, 0 unseen", flush=True)


def flip_every_bit(root: Path, folder: Path) -> None:
    """Of the headers of a small checkpoint: where zip's readers differ in what they look at."""
    path = folder / "small.pth.tar"
    save_checkpoint(path, {"epoch": 1, "state_dict": {"a": torch.rand(9), "b": torch.ones(2)}})
    places = [(place, bit) for place in headers(path) for bit in range(8)]
    (folder / "flipped").mkdir()
    counts = flips(path, folder / "flipped", iter(places))
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"every bit of an archive's headers: {len(places)}: {told}, 0 unseen", flush=True)


def fill_disk(root: Path, folder: Path) -> None:
    """In a child, since a limit on the size of files cannot be taken back."""
    payload = load_checkpoint(root / "imp" / "2-checkpoint.pth.tar")
    path = folder / "c.pth.tar"
    save_checkpoint(path, payload)
    size = path.stat().st_size
    save_checkpoint(path, {"epoch": 0})
    limits = sorted(random.sample(range(size), LIMITS - 2)) + [0, size - 1]
    for limit in limits:
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save_checkpoint(path, payload, keep_previous=True)
            except RunFailed as error:
                os._exit(0 if "cannot be written (File too large)" in str(error) else 3)
            except BaseException:
                os._exit(4)
            os._exit(5)
        _, status = os.wait()
        assert status == 0, f"limit {limit}: {os.waitstatus_to_exitcode(status)}"
        assert load(path) == {"epoch": 0}
        assert names(folder) == {path.name}
    print(f"disk full: {LIMITS} sizes of 0 to {size - 1} bytes: every time a clear error, the file "
          "before whole, nothing else left", flush=True)  # fmt: skip


def fail_writes(root: Path, folder: Path) -> None:
    payload = load_checkpoint(root / "imp" / "2-checkpoint.pth.tar")
    with pytest.MonkeyPatch.context() as patch:
        count = failing_writes(patch, folder / "c.pth.tar", payload)
    print(f"writes of a checkpoint failing, each in turn, and flush, link, rename: {count}: every "
          "time a clear error, the file before whole", flush=True)  # fmt: skip


def run_payloads(root: Path, folder: Path) -> None:
    proof, tried = folder / "proof", 0
    cases = [
        case
        for path in armed_files(folder, proof)
        for case in hostile.flags_that_take(str(path), root, folder / "save")
    ]
    armed_arrays(folder / "arrays", proof)
    checkpoint = ["--evaluate", "--resume", str(root / "transfer" / "checkpoint.pth.tar")]
    where = ["--eval_set", f"cifar10_c:{folder / 'arrays'}"]
    cases += [(main_downstream.main, hostile.transfer(root, folder / "save", *checkpoint, *where))]
    for main, argv in cases:
        told, status = io.StringIO(), None
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                errors.run_main(lambda main=main, argv=argv: main(argv))  # type: ignore[misc]
            except SystemExit as stop:
                status = stop.code
        assert status == 2
        assert told.getvalue().count("\n") == 1, told.getvalue()
        assert not proof.exists()
        assert not (folder / "save").exists()
        tried += 1
    print(f"pickles with code: {tried} times through a flag: refused, never run", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        root = Path(folder) / "good"
        with contextlib.redirect_stdout(io.StringIO()):
            make_files(root)
        for trial in (run_payloads, flip_every_bit, flip_bytes, fail_writes, fill_disk):
            place = Path(folder) / trial.__name__
            place.mkdir()
            trial(root, place)
    print(f"all of it in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
