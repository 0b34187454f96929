"""RA one can trust: AutoAttack, restarts, resuming, and checks that tell masked gradients."""

from __future__ import annotations

import json
from dataclasses import replace

import pyautoattack
import pytest
import torch
from helpers.evaluation_cases import (
    EPS,
    Quantised,
    Scaled,
    Short,
    bench,
    images,
    loader,
    shorten_autoattack,
    trained,
)
from helpers.main_cases import Interrupted

from engine.distributed import Runtime, seed_everything
from evaluation import evaluator
from evaluation.evaluator import Bench, autoattack, forget_progress, masking_checks


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return trained()


def accuracies(tested, network, split, **attack):
    seed_everything(tested.seed)
    return tested.accuracy(network, split, "RA", tested.pgd(network, **attack))


# --- SA, PGD, AutoAttack ------------------------------------------------------------------------


def test_autoattack_is_at_most_pgd_and_pgd_at_most_clean(model, tmp_path):
    tested, split = bench(EPS, steps=20), loader(16)
    network = tested.network(model)
    clean = tested.accuracy(network, split, "SA")
    pgd = accuracies(tested, network, split)
    result = autoattack(tested, network, split, tmp_path)
    assert result["sa"] == clean
    assert 0 < result["ra"] <= pgd < clean  # robust in part: each of them has something to do
    assert result["images"] == 16
    assert result["attacks"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (result["targets"], result["note"]) == (4, "5 classes: 4 targets, not 9")


def test_with_ten_classes_it_is_the_packages_own_standard_version(monkeypatch, tmp_path):
    made = []

    class Spy(Short):
        def run_standard_evaluation(self, images, labels, **how):
            made.append(self)
            return super().run_standard_evaluation(images, labels, **how)

        def _set_version(self, version="standard"):
            pyautoattack_standard(self, version)

    pyautoattack_standard = pyautoattack.AutoAttack._set_version
    monkeypatch.setattr(pyautoattack, "AutoAttack", Spy)
    tested = bench(1.0)  # nothing survives the first attack, so the rest takes no time
    network = tested.network(trained(classes=10))
    autoattack(tested, network, loader(10, 10), tmp_path)
    reference = pyautoattack_standard_of(network)
    (attack,) = made
    assert attack.attacks_to_run == reference.attacks_to_run
    for part in ("apgd", "apgd_targeted", "fab", "square"):
        own, other = vars(getattr(attack, part)), vars(getattr(reference, part))
        for name in ("n_iter", "n_restarts", "n_queries", "n_target_classes", "eps", "norm"):
            assert own.get(name) == other.get(name), (part, name)


def pyautoattack_standard_of(network):
    return pyautoattack.autoattack.AutoAttack(network, norm="Linf", eps=1.0, version="standard")


@pytest.mark.parametrize("wanted", [None, 20, 99])
def test_only_the_first_images_are_attacked(model, monkeypatch, tmp_path, wanted):
    count_attacked(monkeypatch, no_attack)
    tested, split = bench(), loader(40)
    result = autoattack(tested, tested.network(model), split, tmp_path, wanted)
    assert result["images"] == (20 if wanted == 20 else 40)
    seen = list(tested.batches(split, wanted))
    assert torch.equal(torch.cat([some for some, _ in seen]), images(40)[0][: result["images"]])


def test_restarts_never_raise_ra(model):
    split = loader(64)
    for eps in (8 / 255, 12 / 255):
        tested = bench(eps, steps=3)
        network = tested.network(model)
        found = [accuracies(tested, network, split, restarts=n) for n in (1, 2, 5, 10)]
        assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]  # and at this radius they find more


def test_processes_share_the_first_images_without_counting_one_twice(model):
    split = loader(40, batch_size=4)
    for world, wanted, first in ((1, 30, 0), (2, 30, 0), (3, 40, 0), (3, 38, 4), (4, 5, 1)):
        shares = []
        for rank in range(world):
            runtime = Runtime(torch.device("cpu"), rank, world)
            tested = replace(bench(), runtime=runtime)
            batches = list(tested.batches(split, wanted, first))
            assert len(batches) == len(tested.steps(split, wanted, first))
            shares += [row for some, _ in batches for row in some]
        expected = images(40)[0][4 * first : wanted]
        assert sorted(map(hash_of, shares)) == sorted(map(hash_of, expected))


def test_every_process_is_watched_equally_often(model):
    split = loader(40, batch_size=4)
    for world, wanted, rounds in ((1, 40, 10), (3, 40, 3), (4, 40, 2), (2, 5, 1), (4, 5, 0)):
        for rank in range(world):
            runtime, calls = Runtime(torch.device("cpu"), rank, world), list[int]()

            def watch(bar, calls=calls):
                return lambda count, meter: (calls.append(count), bar.step(count, meter))

            tested = replace(bench(), runtime=runtime, watch=watch)
            tested.accuracy(tested.network(model), split, "SA", images=wanted)
            assert len(calls) == rounds


def hash_of(image):
    return image.numpy().tobytes()


# --- resuming -----------------------------------------------------------------------------------


def stop_after(batches):
    def watch(bar):
        def report(count, meter):
            bar.step(count, meter)
            if bar.done == batches:
                raise Interrupted

        return report

    return watch


@pytest.mark.parametrize("batches", [1, 3])
def test_autoattack_cut_off_and_taken_up_gives_the_same_figures(
    model, monkeypatch, tmp_path, batches
):
    shorten_autoattack(monkeypatch)
    tested, split = bench(), loader(30, batch_size=8)
    network = tested.network(model)
    whole = autoattack(tested, network, split, tmp_path / "whole")
    with pytest.raises(Interrupted):
        autoattack(replace(tested, watch=stop_after(batches)), network, split, tmp_path)
    attacked = count_attacked(monkeypatch)
    assert autoattack(tested, network, split, tmp_path) == whole
    assert attacked == [8, 8, 8, 6][batches:]
    assert whole["ra"] < whole["sa"]


def count_attacked(monkeypatch, make=evaluator.make_autoattack):
    """The sizes of the batches that AutoAttack, or what `make` puts in its place, is given."""
    attacked = []

    def counting(*how):
        perturb = make(*how)

        def perturb_and_count(images, labels):
            attacked.append(len(labels))
            return perturb(images, labels)

        return perturb_and_count

    monkeypatch.setattr(evaluator, "make_autoattack", counting)
    return attacked


def no_attack(*_):
    return lambda images, labels: images


def test_progress_of_another_test_is_not_taken_up(model, monkeypatch, tmp_path, capsys):
    attacked = count_attacked(monkeypatch, no_attack)
    tested, split = bench(), loader(32)
    network = tested.network(model)
    others = [
        (bench(EPS / 2), network, split, None),
        (replace(tested, seed=2), network, split, None),
        (tested, tested.network(trained(eps=0)), split, None),
        (tested, network, loader(32, batch_size=8), None),
        (tested, network, split, 20),
        (tested, network, loader(32, seed=5), None),
    ]
    for own_bench, own_network, own_split, wanted in others:
        autoattack(tested, network, split, tmp_path)
        attacked.clear()
        autoattack(own_bench, own_network, own_split, tmp_path, wanted)
        assert sum(attacked) == (wanted or 32)
    (tmp_path / evaluator.PROGRESS_FILE).write_text('{"done": ')
    attacked.clear()
    autoattack(tested, network, split, tmp_path)
    assert sum(attacked) == 32
    assert "unreadable" in capsys.readouterr().err
    forget_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []
    forget_progress(tmp_path)


def test_progress_is_a_small_file(model, monkeypatch, tmp_path):
    count_attacked(monkeypatch, no_attack)
    tested = bench()
    autoattack(tested, tested.network(model), loader(32), tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 2000
    assert json.loads(path.read_text())["done"] == 2


# --- gradient masking ---------------------------------------------------------------------------


def outcome(model, source, tested=None):
    tested = tested or bench(12 / 255, steps=5)
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
        ((0.0, 0.0, 0.0, 0.0, 0.0), (True, True, True)),
    ],
)
def test_what_counts_as_more_than_noise(model, monkeypatch, found, passed):
    left = list(found)  # by 5, 10 and 25 steps, at a large radius, by transfer
    monkeypatch.setattr(Bench, "accuracy", lambda *_: left.pop(0))
    names = ("more_steps", "large_eps", "transfer")
    assert outcome(model, model) == dict(zip(names, passed, strict=True))


def test_masking_checks_take_512_images_unless_told(model, monkeypatch):
    asked = []

    def accuracy(self, network, split, label, perturb, count):
        asked.append(count)
        return 0.0

    monkeypatch.setattr(Bench, "accuracy", accuracy)
    for count in (None, 100, 2000):
        masking_checks(bench(), model, loader(600, batch_size=100), None, count)
    assert set(asked) == {512, 100, 600}
