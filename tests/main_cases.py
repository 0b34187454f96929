"""Small runs for the tests of the mains: generated images, a tiny network, comparison to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import log_utils
import main_downstream
import main_imp_pretrain
from checkpoint_utils import load_ticket, ticket_header

CLASSES = ("red", "green", "blue")
PER_CLASS = {"train": 12, "val": 4, "test": 4}
TINY = ["-a", "resnet20s", "--width", "4", "--input_size", "16", "-b", "12"]
HERE = ["-j", "0", "--device", "cpu", "--threads", "1"]


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
    main_imp_pretrain.main([str(data), *TINY, *HERE, "--save_dir", str(save_dir), *flags])


def run_transfer(data: Path, save_dir: Path, *flags: str) -> None:
    where = ["--dataset", "folder", "--data", str(data), "--save_dir", str(save_dir)]
    main_downstream.main([*where, *TINY, *HERE, *flags])


def skip_pictures(patch: pytest.MonkeyPatch) -> None:
    """Leave an empty file for a figure: drawing takes longer than an epoch of these runs."""

    def draw(path: Path, *_: Any, **__: Any) -> None:
        Path(path).touch()

    patch.setattr(main_imp_pretrain, "plot_curves", draw)
    patch.setattr(main_downstream, "plot_curves", draw)


def copy_after_each_epoch(patch: pytest.MonkeyPatch, run: Any, folder: Path) -> None:
    """Copy the save_dir of a main's `run` class to folder/EPOCHS whenever an epoch is saved."""
    finish: Callable[..., None] = run.finish_epoch

    def finish_and_copy(self: Any, *args: Any) -> None:
        finish(self, *args)
        shutil.copytree(self.save_dir, folder / str(self.epoch))

    patch.setattr(run, "finish_epoch", finish_and_copy)


def load(path: Path) -> dict[str, Any]:
    """Open a file as anybody would, nothing allow-listed."""
    return torch.load(path, weights_only=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
            assert_same_bits(load(path), load(other), path.name)
        elif path.suffix == ".safetensors":
            assert ticket_header(path) == ticket_header(other), path.name
            assert_same_bits(load_ticket(path), load_ticket(other), path.name)
        elif path.name == "results.json":
            assert _without_origin(path) == _without_origin(other)


def _without_origin(path: Path) -> dict[str, Any]:
    origin = set(log_utils.provenance())
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
    """Run a main as its file does when it is executed; it must refuse, in one line, status 2."""
    import cli_utils

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli_utils.exit_on_wrong_input(lambda: main(argv))
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert printed.startswith("error: ")
    assert printed.endswith("\n")
    assert printed.count("\n") == 1, printed
    return printed.strip()
