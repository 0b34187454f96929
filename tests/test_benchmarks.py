"""The benchmark measures the same work on either side, and writes what was promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.insert(1, str(ROOT / "benchmarks"))

import baseline
import bench
import gpu_trial
import roofline
import timing
import workloads
from workloads import PGD3, Recipe

from attack_utils import make_pgd
from engine.steps import Execution, evaluate, make_sgd, training_step
from models import build_model, fold_for_evaluation
from pruning_utils import masks, prune_by_magnitude, rewind

TINY = Recipe("resnet20s", 32, 8, 10, PGD3)
PLAIN = Execution(channels_last=False)


def both(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """The baseline's network and ours, with the same weights and masks."""
    plain = baseline.network("resnet20s", 10, 32).to(dtype)
    ours = build_model("resnet20s", 10, baseline.MEAN, baseline.STD).to(dtype)
    ours.load_state_dict(plain.state_dict())
    baseline.prune_globally(plain, 0.2)
    prune_by_magnitude(ours, 0.2)
    return plain, ours


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = workloads.random_batch(8, 32, 10)
    return images.double(), labels


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return bool((one - two).norm() <= 1e-9 * two.norm())


@pytest.mark.parametrize("attack", [None, PGD3], ids=["std", "adv"])
def test_both_sides_take_the_same_training_step(attack):
    (plain, ours), (images, labels) = both(), batch()
    torch.manual_seed(1)
    baseline.training_step(plain.train(), baseline.optimizer_of(plain), images, labels, attack)
    torch.manual_seed(1)
    perturb = make_pgd(ours, attack) if attack else None
    optimizer = make_sgd(ours, 1e-4, 0.9, 1e-4, PLAIN)
    training_step(ours.train(), images, labels, optimizer, PLAIN, perturb)
    for name, value in plain.state_dict().items():
        if value.is_floating_point() and "mask" not in name:
            assert close(ours.state_dict()[name], value), name


def test_both_sides_evaluate_to_the_same_accuracy():
    (plain, ours), data = both(), batch()
    torch.manual_seed(1)
    hits = baseline.evaluation_step(plain.eval(), *data, PGD3)
    torch.manual_seed(1)
    network = fold_for_evaluation(ours)
    found = evaluate(network, [data], execution=PLAIN, perturb=make_pgd(network, PGD3))
    assert found.top1 == 100 * hits / 8


def test_both_sides_prune_and_rewind_to_the_same_masks_and_weights():
    plain = baseline.network("resnet20s", 10, 32)
    ours = build_model("resnet20s", 10, baseline.MEAN, baseline.STD)
    ours.load_state_dict(plain.state_dict())
    init = {name: value.clone() for name, value in plain.state_dict().items()}
    for _ in range(3):
        baseline.prune_and_rewind(plain, 0.2, init)
        prune_by_magnitude(ours, 0.2)
        rewind(ours, init)
    for name, mask in masks(ours).items():
        assert torch.equal(plain.state_dict()[name].bool(), mask)
    assert torch.equal(plain.state_dict()["conv1.weight_orig"], ours.conv1.weight_orig)


def test_every_row_comes_from_one_group():
    made = [name for names in bench.GROUPS.values() for name in names]
    assert sorted(made) == sorted(row.name for row in bench.ROWS)


# --- the roofline ---------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A 3x3 convolution of 2 to 3 channels and a classifier of 5 classes, for images of 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.fc = nn.Linear(48, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).relu().flatten(1))


CONV, FC = 2 * 16 * 3 * 2 * 9, 2 * 48 * 5  # FLOP of one pass of one image
IMAGE, KERNEL, MAP, MATRIX = 4 * 2 * 16, 4 * 3 * 2 * 9, 4 * 3 * 16, 4 * 48 * 5  # bytes


def test_flop_of_both_passes_are_those_computed_by_hand():
    model, images = Tiny(), torch.rand(7, 2, 4, 4)

    def flop(work) -> float:
        return sum(done.flop for done in roofline.count(work))

    def attack() -> None:
        adversarial = images.clone().requires_grad_()
        torch.autograd.grad(model.requires_grad_(False)(adversarial).sum(), adversarial)

    with torch.no_grad():
        assert flop(lambda: model(images)) == 7 * (CONV + FC)
    # to the weights of both, and to what comes into the classifier
    assert flop(lambda: model(images).sum().backward()) == 7 * (2 * CONV + 3 * FC)
    assert flop(attack) == 7 * (2 * CONV + 2 * FC)


def test_bytes_are_those_of_what_goes_in_and_comes_out():
    model, images = Tiny(), torch.rand(7, 2, 4, 4)
    operations = roofline.count(lambda: model(images).sum().backward())
    moved = {done.name: done.bytes for done in operations if done.bytes}
    assert moved["convolution"] == 7 * IMAGE + KERNEL + 7 * MAP
    assert moved["relu"] == 7 * 2 * MAP
    assert moved["addmm"] == 7 * MAP + MATRIX + 4 * 5 + 7 * 4 * 5
    assert moved["threshold_backward"] == 7 * 3 * MAP
    assert moved["convolution_backward"] == 7 * (MAP + IMAGE) + 2 * KERNEL
    assert not {"view", "t", "detach", "expand"} & set(moved)


def test_an_expanded_tensor_lies_in_memory_once_and_one_in_place_is_read_and_written():
    row, rows = torch.rand(1, 8), torch.zeros(16, 8)
    (done,) = roofline.count(lambda: rows.add_(row.expand(16, 8)))
    assert done.bytes == 2 * rows.nbytes + row.nbytes
    (done,) = roofline.count(lambda: torch.empty(16, 8).copy_(rows))
    assert done.bytes == 2 * rows.nbytes


def test_an_operation_takes_as_long_as_the_slower_of_arithmetic_and_memory():
    def operation(dtype: torch.dtype, flop: float, moved: float) -> roofline.Operation:
        return roofline.Operation("", dtype, flop, moved)

    operations = [
        operation(torch.bfloat16, 800.0, 10.0),  # 2 s of arithmetic, 1 s of memory
        operation(torch.float32, 800.0, 10.0),  # 8 s and 1 s
        operation(torch.float32, 100.0, 200.0),  # 1 s and 10 s, where copies are faster
    ]
    rate = {torch.bfloat16: 400.0, torch.float32: 100.0}.__getitem__
    seconds = roofline.least_seconds(operations, rate, lambda moved: 20.0 if moved > 50 else 10.0)
    assert seconds == 2 + 8 + 10


def dot_product() -> Callable[[], torch.Tensor]:
    a = torch.ones(1000)
    return lambda: torch.dot(a, a)  # 4,000 bytes read, 4 written; PyTorch counts no FLOP of it


def test_rooflines_take_the_best_of_all_turns(monkeypatch, capsys):
    """A machine that others use is slow now and then: in no turn may that lower the limit."""
    rates = iter([1.0, 9.0, 5.0, 2.0, 3.0, 3.0, 1.0, 1.0])  # fp32, bf16, fp32, ...
    bandwidths = iter([{13: 1e6}, {13: 4e6}, {13: 2e6}, {13: 1e6}])
    monkeypatch.setattr(roofline, "TURNS", 4)
    monkeypatch.setattr(roofline, "ENOUGH", 0.0)
    monkeypatch.setattr(roofline, "SMALLEST", 13)
    monkeypatch.setattr(roofline, "LARGEST", 13)
    monkeypatch.setattr(roofline, "machine_rate", lambda kind: next(rates))
    monkeypatch.setattr(roofline, "copy_bandwidths", lambda: next(bandwidths))
    monkeypatch.setattr(roofline, "cases", lambda execution: [("tiny", dot_product)])
    monkeypatch.setattr(
        roofline, "own_process", lambda start, *args: ThreadPoolExecutor(1, "", start, args)
    )
    rows = {"fp32": 2.0, "bf16": 3.0}
    (found,) = roofline.rooflines(rows)
    assert rows == {"fp32": 5.0, "bf16": 9.0}
    assert found.n == 4
    assert found.baseline == pytest.approx(4004 / 4e6)
    assert found.ratio == found.baseline / found.ours == found.spread[1]
    assert "tiny: 0 TFLOP" in capsys.readouterr().out


def sign(path: Path, name: str) -> None:
    with open(path, "a") as file:
        file.write(f"{name} {os.getpid()}\n")


def test_turns_are_taken_in_processes_of_their_own(tmp_path):
    path = tmp_path / "turns"
    sides = [partial(partial, sign, path, name) for name in "AB"]
    found = timing.interleaved(*sides, n=3)
    turns = path.read_text().splitlines()
    assert "".join(turn[0] for turn in turns) == "AB" * 4  # the first round is not measured
    assert len(set(turns)) == len({turn[2:] for turn in turns}) == 2
    assert [measured.n for measured in found] == [3]
    assert all(m.spread[0] <= m.ratio <= m.spread[1] for m in found)


def test_the_json_has_the_machine_and_a_row_for_all_that_was_asked(tmp_path, monkeypatch, capsys):
    rows = ("memory-train-resnet50-bf16", "peer-foolbox-loop")
    found = [timing.Measured(3.0, 1.5, ratio, 4) for ratio in (0.5, 2.0)]
    monkeypatch.setattr(bench, "GROUPS", {lambda _: found: rows})
    monkeypatch.setattr(bench, "machine_rate", lambda dtype: {torch.bfloat16: 2.0}.get(dtype, 1.0))
    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", *rows, "--json", str(path)])
    bench.main()
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "rows"}
    assert (written["machine"]["bf16_tflops"], written["machine"]["fp32_tflops"]) == (2.0, 1.0)
    assert written["rows"][0] == {
        "name": rows[0], "baseline": 3.0, "ours": 1.5, "ratio": 0.5, "n": 4,
        "must": 0.7, "aim": 0.7, "lower_is_better": True,
    }  # fmt: skip
    assert written["rows"][1]["must"] is None
    assert "PASS" in capsys.readouterr().out


@pytest.mark.parametrize(("bf16", "kinds"), [(2.0, ["fp32", "bf16"]), (0.5, ["fp32"])])
def test_bf16_is_not_measured_where_it_is_emulated(bf16, kinds, monkeypatch, capsys):
    def training(n, recipe, *executions):
        return [timing.Measured(1.0, 1.0, 1.0) for _ in executions]

    monkeypatch.setattr(workloads, "training", training)
    monkeypatch.setattr(bench, "machine_rate", lambda dtype: {torch.bfloat16: bf16}.get(dtype, 1.0))
    rows = [f"train-pgd3-resnet50-{kind}" for kind in ("fp32", "bf16")]
    memory = "memory-train-resnet50-bf16"
    monkeypatch.setattr(
        bench, "GROUPS", {workloads.train_resnet50: tuple(rows), lambda _: [None]: (memory,)}
    )
    found = bench.measure([*rows, memory])
    measured = {name for name in found if "-" in name}
    assert measured == {f"train-pgd3-resnet50-{kind}" for kind in kinds} | (
        {memory} if bf16 > 1 else set()
    )
    assert ("bf16 is emulated here" in capsys.readouterr().out) == (bf16 < 1)


@pytest.mark.parametrize(
    ("ratio", "lower", "told"),
    [(0.9, False, "short of must"), (1.5, False, "short of aim"), (2.0, False, "PASS")]
    + [(2.1, True, "short of must"), (1.5, True, "short of aim"), (0.9, True, "PASS")],
)
def test_a_row_short_of_its_must_is_told_as_that(ratio, lower, told):
    must, aim = (2.0, 1.0) if lower else (1.0, 2.0)
    assert bench.verdict(bench.Row("a", "b", must, aim, lower), ratio) == told


# --- the trial on a GPU ---------------------------------------------------------------------------


def test_what_a_gpu_trial_has_measured_is_written_before_it_is_killed(tmp_path, monkeypatch):
    pages = []

    def timed(_):
        pages.append((tmp_path / "gpu.md").read_text())
        if len(pages) == 3:
            raise KeyboardInterrupt
        return gpu_trial.Timed(2.0, 2.0)

    monkeypatch.setattr(gpu_trial, "timed", timed)
    monkeypatch.setattr(gpu_trial, "configure_torch", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_trial, "machine", lambda: "a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu_trial.py", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        gpu_trial.main()
    assert [page.count("| 2 s, ") for page in pages] == [0, 1, 2]
    assert [page.count("no time") for page in pages] == [30, 29, 28]
    assert (tmp_path / "gpu.md").read_text() == pages[-1]


TIMEOUT = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
"""


def test_a_gpu_trial_begins_without_an_earlier_ones_files_and_ends_what_hangs(tmp_path):
    (tmp_path / "timeout").write_text(TIMEOUT)
    (tmp_path / "timeout").chmod(0o755)
    out, calls = tmp_path / "out", tmp_path / "calls"
    out.mkdir()
    for name in ("tests.xml", "tests.log", "gpu.md"):
        (out / name).write_text("of yesterday")
    subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu_trial.sh"), str(out)], check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)},
    )  # fmt: skip
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("tests.log", "")]
    tests, trial = calls.read_text().splitlines()
    assert tests.startswith("--signal=INT --kill-after=20 300 ")
    assert trial.startswith("--kill-after=20 5")
    assert f" benchmarks/gpu_trial.py {out} --seconds 4" in trial
