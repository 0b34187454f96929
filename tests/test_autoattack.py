"""AutoAttack: what it finds, on which images, and how it goes on where it was cut off."""

from __future__ import annotations

import json
from dataclasses import replace

import pyautoattack
import pytest
import torch
from helpers.evaluation_cases import (
    EPS,
    Short,
    evaluator,
    images,
    loader,
    pgd_accuracy,
    shorten_autoattack,
    trained,
)
from helpers.main_cases import Interrupted

from attack_utils import choose_attacks
from errors import InputError
from evaluation import autoattack
from evaluation.autoattack import forget_progress, run_autoattack
from files.names import AUTOATTACK_PROGRESS


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return trained()


def test_autoattack_is_at_most_pgd_and_pgd_at_most_clean(model, tmp_path):
    tested, split = evaluator(EPS, steps=20), loader(16)
    network = tested.network(model)
    clean = tested.accuracy(network, split, "SA")
    pgd = pgd_accuracy(tested, network, split)
    result = run_autoattack(tested, network, split, tmp_path).record
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
    tested = evaluator(1.0)  # nothing survives the first attack, so the rest takes no time
    network = tested.network(trained(classes=10))
    run_autoattack(tested, network, loader(10, 10), tmp_path)
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
    tested, split = evaluator(), loader(40).some(wanted)
    result = run_autoattack(tested, tested.network(model), split, tmp_path)
    count = 20 if wanted == 20 else 40
    assert (result.record["images"], len(result.clean), len(result.robust)) == (count,) * 3
    seen = list(tested.batches(split))
    assert torch.equal(torch.cat([some for _, some, _ in seen]), images(40)[0][:count])


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
    tested, split = evaluator(), loader(30, batch_size=8)
    network = tested.network(model)
    shown: list[list[float]] = []
    tested = replace(tested, watch=lambda bar: lambda _, meter: shown.append(meter.sums.tolist()))
    whole = run_autoattack(tested, network, split, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_autoattack(replace(tested, watch=stop_after(batches)), network, split, tmp_path)
    attacked = count_attacked(monkeypatch)
    resumed = run_autoattack(tested, network, split, tmp_path)
    assert attacked == [8, 8, 8, 6][batches:]
    assert resumed.record == whole.record
    assert torch.equal(resumed.clean, whole.clean)
    assert torch.equal(resumed.robust, whole.robust)
    assert whole.record["ra"] < whole.record["sa"]
    assert shown[-1] == shown[3]  # the progress bar's figures too
    assert (shown[-1][0], *shown[-1][2:]) == (30, whole.robust.sum(), whole.clean.sum())


def test_autoattacks_outcomes_are_those_of_each_image_and_its_figures_are_their_means(
    model, monkeypatch, tmp_path
):
    shorten_autoattack(monkeypatch)
    tested, (pixels, labels) = evaluator(), images(30)
    network = tested.network(model)
    result = run_autoattack(tested, network, loader(30, batch_size=8), tmp_path)
    assert torch.equal(result.clean, network(pixels / 255).argmax(1) == labels)
    perturb = autoattack.make_autoattack(network, EPS, choose_attacks(5), tested.seed)
    fooled = [
        network(perturb(some / 255, own)).argmax(1) != own
        for some, own in zip(pixels.split(8), labels.split(8), strict=True)
    ]
    assert torch.equal(result.robust, ~torch.cat(fooled))
    assert not (result.robust & ~result.clean).any()
    for figure, bits in (("sa", result.clean), ("ra", result.robust)):
        assert result.record[figure] == 100 * sum(bits.tolist()) / 30


def count_attacked(monkeypatch, make=autoattack.make_autoattack):
    """The sizes of the batches that AutoAttack, or what `make` puts in its place, is given."""
    attacked = []

    def counting(*how):
        perturb = make(*how)

        def perturb_and_count(images, labels):
            attacked.append(len(labels))
            return perturb(images, labels)

        return perturb_and_count

    monkeypatch.setattr(autoattack, "make_autoattack", counting)
    return attacked


def no_attack(*_):
    return lambda images, labels: images


def test_progress_of_another_test_is_not_taken_up(model, monkeypatch, tmp_path):
    attacked = count_attacked(monkeypatch, no_attack)
    tested, split = evaluator(), loader(32)
    network = tested.network(model)
    others = [
        (evaluator(EPS / 2), network, split),
        (replace(tested, seed=2), network, split),
        (tested, tested.network(trained(eps=0)), split),
        (tested, network, loader(32, batch_size=8)),
        (tested, network, split.some(20)),
        (tested, network, loader(32, seed=5)),
    ]
    for own, own_network, own_split in others:
        run_autoattack(tested, network, split, tmp_path)
        attacked.clear()
        run_autoattack(own, own_network, own_split, tmp_path)
        assert sum(attacked) == own_split.num_images
    forget_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []
    forget_progress(tmp_path)
    (tmp_path / AUTOATTACK_PROGRESS).mkdir()  # what cannot be removed ends no run
    forget_progress(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: '{"done": ', "unreadable"),
        (lambda found: "[1]", "unreadable"),
        (lambda found: json.dumps({**found, "outcomes": "fr"}), "unreadable"),
        (lambda found: json.dumps({**found, "outcomes": 16 * "r" + 16 * "?"}), "unreadable"),
        (lambda found: json.dumps({**found, "done": 3}), "unreadable"),
        (lambda found: json.dumps({**found, "done": 0}), "unreadable"),
        (lambda found: json.dumps({**found, "done": None}), "unreadable"),
        # as it was before outcomes were kept
        (lambda found: json.dumps({**without_outcomes(found), "sums": [16, 9, 8, 9]}), "another"),
    ],
)
def test_progress_that_cannot_be_taken_up_is_named_and_the_attack_starts_anew(
    model, monkeypatch, tmp_path, capsys, change, said
):
    attacked = count_attacked(monkeypatch, no_attack)
    tested, split, path = evaluator(), loader(32), tmp_path / AUTOATTACK_PROGRESS
    network = tested.network(model)
    with pytest.raises(Interrupted):
        run_autoattack(replace(tested, watch=stop_after(1)), network, split, tmp_path)
    assert attacked == [16]
    path.write_text(change(json.loads(path.read_text())))
    attacked.clear()
    capsys.readouterr()
    run_autoattack(tested, network, split, tmp_path)
    assert sum(attacked) == 32
    assert said in "".join(capsys.readouterr())


def without_outcomes(found):
    return {name: value for name, value in found.items() if name not in ("outcomes", "loss")}


def test_running_out_of_memory_is_a_line_with_what_helps(model, monkeypatch, tmp_path):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(autoattack, "_attack", run_out)
    tested = evaluator(advice="try that")
    with pytest.raises(InputError, match="out of memory with 16 images per pass: try that"):
        run_autoattack(tested, tested.network(model), loader(32), tmp_path)


def test_progress_is_a_small_file(model, monkeypatch, tmp_path):
    count_attacked(monkeypatch, no_attack)
    tested = evaluator()
    run_autoattack(tested, tested.network(model), loader(32), tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 2000
    assert json.loads(path.read_text())["done"] == 2
