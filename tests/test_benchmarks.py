"""The benchmark measures the same work on either side, and writes what was promised."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.insert(1, str(ROOT / "benchmarks"))

import baseline
import bench
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
    optimizer = make_sgd(ours, 1e-4, 0.9, 1e-4)
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
    made = [name for names in workloads.GROUPS.values() for name in names]
    assert sorted(made) == sorted(row.name for row in bench.ROWS)


def sign(path: Path, name: str) -> None:
    with open(path, "a") as file:
        file.write(f"{name} {os.getpid()}\n")


def test_turns_are_taken_in_processes_of_their_own(tmp_path):
    path = tmp_path / "turns"
    sides = [partial(partial, sign, path, name) for name in "ABC"]
    found = timing.interleaved(*sides, n=3)
    turns = path.read_text().splitlines()
    assert "".join(turn[0] for turn in turns) == "ABC" * 4  # the first round is not measured
    assert len(set(turns)) == len({turn[2:] for turn in turns}) == 3
    assert [measured.n for measured in found] == [3, 3]
    assert all(m.spread[0] <= m.ratio <= m.spread[1] for m in found)


def test_the_json_has_the_machine_and_a_row_for_all_that_was_asked(tmp_path, monkeypatch, capsys):
    rows = ("memory-train-resnet50-bf16", "peer-torchattacks-pgd10")
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


@pytest.mark.parametrize(
    ("ratio", "lower", "told"),
    [(0.9, False, "short of must"), (1.5, False, "short of aim"), (2.0, False, "PASS")]
    + [(2.1, True, "short of must"), (1.5, True, "short of aim"), (0.9, True, "PASS")],
)
def test_a_row_short_of_its_must_is_told_as_that(ratio, lower, told):
    must, aim = (2.0, 1.0) if lower else (1.0, 2.0)
    assert bench.verdict(bench.Row("a", "b", must, aim, lower), ratio) == told
