"""Small runs for tests of the mains: generated images, a tiny network, comparison to the bit."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import errors
import main_downstream
import main_imp_pretrain
from engine import log
from files import checkpoints
from files.tickets import load_ticket, ticket_header

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = {ROOT, *(init.parent for init in ROOT.glob("*/__init__.py"))}

CLASSES = ("red", "green", "blue")
PER_CLASS = {"train": 12, "val": 4, "test": 4}
NETWORK = ["-a", "resnet20s", "--width", "4"]
TINY = [*NETWORK, "--input_size", "16", "-b", "12"]
HERE = ["-j", "0", "--device", "cpu", "--threads", "1"]

draw_curves = log.plot_curves


class Interrupted(Exception):
    """Stands for whatever ends a process: power, a time limit, Ctrl-C."""


def write_images(root: Path, side: int = 16, scale: int = 1, seed: int = 0) -> Path:
    """Class folders of noise that leans to the class's colour; train, val and test."""
    random = np.random.default_rng(seed)
    for split, count in PER_CLASS.items():
        for channel, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(scale * count):
                pixels = random.integers(0, 190, (side, side, 3))
                pixels[..., channel] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02d}.png")
    return root


def run_imp(data: Path, save_dir: Path, *flags: str) -> None:
    main_imp_pretrain.main([str(data), *_tiny(flags), *HERE, "--save_dir", str(save_dir), *flags])


def run_transfer(data: Path, save_dir: Path, *flags: str) -> None:
    where = ["--dataset", "folder", "--data", str(data), "--save_dir", str(save_dir)]
    main_downstream.main([*where, *_tiny(flags), *steady(flags), *HERE, *flags])


def steady(flags: Sequence[str]) -> list[str]:
    """A rate that never drops, for the few epochs of a test: the recipe's drops come later."""
    asked = {"--lr_schedule", "--decreasing_lr"} & {*flags}
    return [] if asked else ["--lr_schedule", "constant"]


def _tiny(flags: Sequence[str]) -> list[str]:
    return TINY[len(NETWORK) :] if "-a" in flags else TINY


def skip_pictures(patch: pytest.MonkeyPatch) -> None:
    """Leave an empty file for a figure: drawing takes longer than an epoch of these runs."""

    def draw(path: Path, *_: Any, **__: Any) -> None:
        Path(path).touch()

    replace(patch, log.plot_curves, draw)


def replace(patch: pytest.MonkeyPatch, original: Any, new: Any) -> None:
    """Put `new` in the place of a function, under every name that a module has for it."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if Path(file).parent in ROOMS:
            for name, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, name, new)


def copy_after_each_epoch(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Copy the run's folder to folder/EPOCHS when the checkpoint of an epoch's end is written."""
    save = checkpoints.save_checkpoint

    def save_and_copy(path: Path, payload: Mapping[str, Any], **rest: Any) -> None:
        save(path, payload, **rest)
        if is_newest(path):
            shutil.copytree(Path(path).parent, folder / str(payload["epoch"]))

    replace(patch, save, save_and_copy)


def is_newest(path: Path) -> bool:
    """Whether a file is what a run is resumed from."""
    return Path(path).name.endswith("checkpoint.pth.tar")


def die(
    patch: pytest.MonkeyPatch,
    original: Callable[..., Any],
    call: int = 1,
    where: Callable[..., bool] = lambda *_, **__: True,
) -> None:
    """End the run at the `call`-th call of a function with arguments for which `where` holds."""
    calls = 0

    def dying(*args: Any, **rest: Any) -> Any:
        nonlocal calls
        calls += where(*args, **rest)
        if calls == call:
            raise Interrupted
        return original(*args, **rest)

    replace(patch, original, dying)


def die_saving(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """End the run when it is about to write the checkpoint after `epoch` epochs."""

    def where(path: Path, payload: Mapping[str, Any], **_: Any) -> bool:
        return is_newest(path) and payload["epoch"] == epoch

    die(patch, checkpoints.save_checkpoint, where=where)


def load(path: Path) -> dict[str, Any]:
    """Open a file as anybody would, nothing allow-listed."""
    return torch.load(path, weights_only=True)


def names(folder: Path) -> set[str]:
    """What lies in a run's folder: no half-written file; its lock and last file but one aside."""
    found = {path.name for path in folder.iterdir()}
    assert not [name for name in found if name.endswith(".tmp")]
    return {name for name in found if name != ".lock" and not name.endswith(".previous")}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without the seconds."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def documented_fields() -> dict[str, str]:
    """The fields of results.json, and what the page about them says of each."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def assert_same_bits(a: Any, b: Any, where: str = "") -> None:
    """Compare two nests of dictionaries, lists, tensors and plain values to the bit."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), where
    elif isinstance(a, Mapping):
        assert list(a) == list(b), where
        for key in a:
            assert_same_bits(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(one, other, f"{where}[{index}]")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    """Two folders hold the same run: files, weights, masks, metrics; times aside."""
    assert names(a) == names(b)
    assert metrics(a) == metrics(b)
    for path in sorted(a.iterdir()):
        other = b / path.name
        if path.name.endswith(".pth.tar"):
            one, two = load(path), load(other)
            if ("classes" in one) != ("classes" in two):  # one is of an earlier version
                one, two = (
                    {k: v for k, v in file.items() if k != "classes"} for file in (one, two)
                )
            assert_same_bits(one, two, path.name)
        elif path.name.endswith("outcomes.safetensors"):
            assert path.read_bytes() == other.read_bytes(), path.name
        elif path.suffix == ".safetensors":
            assert ticket_header(path) == ticket_header(other), path.name
            assert_same_bits(load_ticket(path), load_ticket(other), path.name)
        elif path.name == "results.json":
            assert _without_origin(path) == _without_origin(other)


def _without_origin(path: Path) -> dict[str, Any]:
    origin = set(log.provenance())
    return {key: value for key, value in read_json(path).items() if key not in origin}


def effective_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the network uses them, under the names of a dense network."""
    plain = {}
    for name, value in state_dict.items():
        if name.endswith("weight_orig"):
            plain[name.removesuffix("_orig")] = value * state_dict[f"{name[:-5]}_mask"]
        elif not name.endswith("weight_mask"):
            plain[name] = value
    return plain


def one_error_line(argv: Sequence[str], main: Callable[[Sequence[str]], None], capsys) -> str:
    """Run a main as its file does when it is executed; it must refuse, in one line, status 2.

    Before that line it may have warned of something else.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        errors.run_main(lambda: main(argv))
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert printed.endswith("\n")
    *before, line = printed.splitlines()
    assert all(other.startswith("warning: ") for other in before), printed
    assert line.startswith("error: ")
    return line


def flat_files(text: str) -> set[str]:
    """The names behind a plan's line: `{1..2}-a, …-b` is 1-a, 1-b, 2-a, 2-b; `tb/` is tb."""
    parts = [part.removeprefix("…") for part in text.rstrip("/").split(", ")]
    span = re.match(r"\{(\d+)\.\.(\d+)\}", parts[0])
    if span is None:
        return set(parts)
    ends = [parts[0][span.end() :], *parts[1:]]
    return {f"{n}{end}" for n in range(int(span[1]), int(span[2]) + 1) for end in ends}
