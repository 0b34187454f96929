"""Checks that tell masked gradients: plain networks pass, networks that only seem robust fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers.evaluation_cases import Quantised, Scaled, evaluator, loader, trained

from attack_utils import PGDConfig
from engine.steps import Metrics
from evaluation.evaluator import Evaluator
from evaluation.masking import masking_checks
from evaluation.request import Request
from evaluation.split_test import SplitTest


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return trained()


def outcome(model, source, tested=None):
    tested = tested or evaluator(12 / 255, steps=5)
    network = tested.network(model)
    source = tested.network(source) if source is not None else None
    checks = masking_checks(tested, network, loader(64), source)
    assert all(set(check) == {"name", "passed", "detail"} for check in checks)
    assert json.loads(json.dumps(checks)) == checks
    return {check["name"]: check["passed"] for check in checks}


def test_a_plain_network_passes_every_masking_check(model):
    assert outcome(model, trained(eps=0)) == {
        "more_steps": True, "large_eps": True, "transfer": True
    }  # fmt: skip


@pytest.mark.parametrize("masked", [Scaled, Quantised])
def test_a_network_without_useful_gradients_fails(model, masked, capsys):
    passed = outcome(masked(model), trained(eps=0))
    assert (passed["large_eps"], passed["transfer"]) == (False, False)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: masking check ") for line in warnings)


def test_without_a_source_the_transfer_check_is_left_out_and_that_is_said(model, capsys):
    assert set(outcome(model, None)) == {"more_steps", "large_eps"}
    assert "transfer: left out; --masking_source" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        ((50.0, 50.0, 40.0, 0.0, 60.0), (True, True, True)),
        # of 64 images two standard errors at 50 % are 12.5 points
        ((50.0, 62.5, 50.0, 19.0, 38.0), (True, True, True)),
        ((50.0, 62.6, 50.0, 20.0, 37.4), (False, False, False)),
        ((50.0, 40.0, 53.0, 0.0, 50.0), (False, True, True)),
        ((50.0, 57.0, 63.0, 0.0, 50.0), (False, True, True)),  # bit by bit
        ((0.0, 0.0, 0.0, 0.0, 0.0), (True, True, True)),
    ],
)
def test_what_counts_as_more_than_noise(model, monkeypatch, found, passed):
    left = list(found)  # by 5, 10 and 25 steps, at a large radius, by transfer
    monkeypatch.setattr(Evaluator, "measure", lambda *_: Metrics(64, 0.0, left.pop(0), 0.0))
    names = ("more_steps", "large_eps", "transfer")
    assert outcome(model, model) == dict(zip(names, passed, strict=True))


@pytest.mark.parametrize(("steps", "large_steps"), [(0, 20), (5, 20), (40, 40)])
def test_every_check_makes_its_own_attack_from_one_seed(model, monkeypatch, steps, large_steps):
    tested, crafted, starts = evaluator(12 / 255, steps), [], set()

    def measure(self, network, split, label, perturb):
        source, attack = perturb
        crafted.append((attack, source is network))
        starts.add(torch.rand(()).item())
        return Metrics(64, 0.0, 0.0, 0.0)

    monkeypatch.setattr(Evaluator, "pgd", lambda _, *source_and_attack: source_and_attack)
    monkeypatch.setattr(Evaluator, "measure", measure)
    outcome(model, trained(eps=0), tested)
    own, least = tested.attack, max(steps, 1)
    large = PGDConfig(0.5, large_steps, 1.25 / large_steps)
    assert crafted == [
        *((replace(own, steps=factor * least), True) for factor in (1, 2, 5)),
        (large, True),
        (own, False),  # by transfer
    ]
    assert len(starts) == 1


def test_masking_checks_take_512_images_unless_told(model, monkeypatch, tmp_path):
    asked = []

    def measure(self, network, split, label, perturb):
        asked.append(split.num_images)
        return Metrics(split.num_images, 0.0, 0.0, 0.0)

    monkeypatch.setattr(Evaluator, "measure", measure)
    for count in (None, 100, 2000):
        request = Request(attacked=True, check_masking=True, images=count)
        SplitTest(evaluator(), loader(600, batch_size=100), request, tmp_path).further(model, "x")
    assert set(asked) == {512, 100, 600}
