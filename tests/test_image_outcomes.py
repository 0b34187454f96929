"""Outcomes: one bit per image in the order of the split, by one process or by two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_cases import (
    EPS,
    SIDE,
    evaluator,
    images,
    shorten_autoattack,
    trained,
)
from helpers.gloo_cases import WORLD, fork_ranks, two_gloo_processes
from helpers.main_cases import Interrupted
from PIL import Image

from attack_utils import PGDConfig
from dataset import Loader
from engine.distributed import Runtime, seed_everything
from engine.launching import Launch, launch
from evaluation.autoattack import run_autoattack
from evaluation.evaluator import Evaluator, percent
from files.checkpoints import load_checkpoint, save_checkpoint
from input_pipeline.sources import Split
from input_pipeline.transforms import Transform

COUNT, BATCH = 38, 4  # ten batches, the last of two images
BROKEN = (5, 16, 17, 18, 19, 37)  # image 5, all of the fifth batch, the last image
READABLE = [place for place in range(COUNT) if place not in BROKEN]
PLAIN = PGDConfig(EPS, 3, EPS / 2, random_start=False)  # whose images depend on nothing drawn
RANDOM = replace(PLAIN, random_start=True)


def some_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which every third has a wrong label, so that the network is right in part."""
    pixels, labels = images(COUNT)
    return pixels, (labels + (torch.arange(COUNT) % 3 == 1)) % 5


def in_memory() -> Loader:
    return loader_of(some_images()[0])


def image_files(folder: Path) -> Loader:
    """The same images as files, some of them broken, which are left out."""
    pixels, _ = some_images()
    paths = [folder / f"{place:02d}.png" for place in range(COUNT)]
    for place, path in enumerate(paths):
        Image.fromarray(pixels[place].permute(1, 2, 0).numpy()).save(path)
        if place in BROKEN:
            path.write_bytes(path.read_bytes()[:40])
    return loader_of(np.array([str(path).encode() for path in paths]))


def loader_of(stored: torch.Tensor | np.ndarray) -> Loader:
    split, names = Split(stored, some_images()[1].numpy()), [str(label) for label in range(5)]
    return Loader(split, Transform(SIDE, "stretch"), names, batch_size=BATCH, skip_bad=True)


def measured(tested: Evaluator, split: Loader) -> dict[str, dict]:
    """Outcomes and figures of a network: clean, attacked, attacked again and again."""
    network = tested.network(trained())
    found: dict[str, dict] = {}
    for name, config, restarts in (
        ("clean", None, 1),
        ("plain", PLAIN, 1),
        ("random", RANDOM, 1),
        ("restarts", RANDOM, 4),
    ):

        def again(measure, name=name, config=config, restarts=restarts):
            attack = tested.pgd(network, config, restarts) if config else None
            seed_everything(1)
            return measure(network, split, name, attack)

        found[name] = {"bits": again(tested.outcomes), **vars(again(tested.measure))}
    return found


def by_hand(attack: PGDConfig | None = None) -> torch.Tensor:
    """What `outcomes` should be of all images, from the network and the images alone."""
    tested, (pixels, labels) = evaluator(), some_images()
    network = tested.network(trained())
    inputs = pixels / 255
    if attack:
        inputs = tested.pgd(network, attack)(inputs, labels)
    with torch.no_grad():
        return network(inputs).argmax(1) == labels


def work(runtime: Runtime, folder: str) -> None:
    torch.set_num_threads(1)
    root, rank = Path(folder), runtime.rank
    found: dict = {"calls": []}

    def watch(bar):
        def report(count, meter):
            found["calls"].append(bar.done)
            bar.step(count, meter)

        return report

    tested = replace(evaluator(), runtime=runtime, watch=watch)
    found["all"] = measured(tested, in_memory())
    found["first"] = measured(tested, in_memory().some(30))
    found["calls"].clear()
    split = image_files(root / str(rank))
    with pytest.warns(UserWarning, match="skipped"):
        found["files"] = measured(tested, split)
    with pytest.MonkeyPatch.context() as patch:
        shorten_autoattack(patch)
        network = tested.network(trained())
        for name, files in (("autoattack", in_memory()), ("broken", split)):
            result = run_autoattack(tested, network, files, root / name / str(runtime.world_size))
            found[name] = {"clean": result.clean, "robust": result.robust, **result.record}
    save_checkpoint(root / f"of{runtime.world_size}" / f"{rank}.pth.tar", found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process finds, and what each of two finds."""
    threads, root = torch.get_num_threads(), tmp_path_factory.mktemp("outcomes")
    for rank in range(WORLD):
        (root / str(rank)).mkdir()
    launch(work, str(root), Launch("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        fork_ranks(patch)
        launch(work, str(root), two_gloo_processes())
    torch.set_num_threads(threads)
    one = load_checkpoint(root / "of1" / "0.pth.tar")
    return one, [load_checkpoint(root / "of2" / f"{rank}.pth.tar") for rank in range(WORLD)]


MEASURES = ("clean", "plain", "random", "restarts")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["all", "first", "files"])
def test_an_accuracy_is_the_mean_of_its_outcomes_exactly(runs, split):
    one, two = runs
    for run in (one, *two):
        for measure in MEASURES:
            found = run[split][measure]
            bits = found["bits"]
            assert bits.dtype == torch.bool
            assert len(bits) == found["images"] == {"all": 38, "first": 30, "files": 32}[split]
            assert percent(bits) == found["top1"] == 100 * sum(bits.tolist()) / len(bits)


@pytest.mark.slow
def test_outcomes_are_in_the_order_of_the_split_whatever_the_number_of_processes(runs):
    one, two = runs
    for measure, attack in (("clean", None), ("plain", PLAIN)):
        expected = by_hand(attack)
        assert 0 < expected.sum() < COUNT
        for run in (one, *two):
            assert torch.equal(run["all"][measure]["bits"], expected)
            assert torch.equal(run["first"][measure]["bits"], expected[:30])


@pytest.mark.slow
def test_outcomes_leave_out_images_that_cannot_be_read_and_keep_the_order(runs):
    one, two = runs
    for run in (one, *two):
        for measure, attack in (("clean", None), ("plain", PLAIN)):
            assert torch.equal(run["files"][measure]["bits"], by_hand(attack)[READABLE])
        assert run["broken"]["images"] == len(READABLE)
        assert torch.equal(run["broken"]["clean"], by_hand()[READABLE])


@pytest.mark.slow
def test_every_process_has_the_same_outcomes(runs):
    first, second = runs[1]
    for split in ("all", "first", "files"):
        for measure in MEASURES:
            bits = [run[split][measure]["bits"] for run in (first, second)]
            assert torch.equal(*bits)


@pytest.mark.slow
def test_restarts_only_take_images_away_from_those_that_survive_one_attack(runs):
    for run in (runs[0], *runs[1]):
        once, often = (run["all"][measure]["bits"] for measure in ("random", "restarts"))
        assert not (often & ~once).any()


@pytest.mark.slow
def test_processes_are_watched_equally_often_where_a_whole_batch_cannot_be_read(runs):
    one, (first, second) = runs
    assert len(first["calls"]) == len(second["calls"]) > 0


@pytest.mark.slow
def test_autoattacks_outcomes_are_those_of_one_process(runs):
    one, two = runs
    for name in ("autoattack", "broken"):
        for run in two:
            assert run[name].keys() == one[name].keys()
            for key, value in one[name].items():
                same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
                assert same(run[name][key], value), (name, key)


def test_autoattack_is_taken_up_to_the_bit_where_a_whole_batch_cannot_be_read(
    monkeypatch, tmp_path
):
    shorten_autoattack(monkeypatch)

    def watch(bar):
        def report(count, meter):
            bar.step(count, meter)
            if bar.done == 6:  # after the batch that is all broken
                raise Interrupted

        return report

    (tmp_path / "images").mkdir()
    tested, split = evaluator(), image_files(tmp_path / "images")
    network = tested.network(trained())
    with pytest.warns(UserWarning, match="skipped"):
        whole = run_autoattack(tested, network, split, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_autoattack(replace(tested, watch=watch), network, split, tmp_path)
    resumed = run_autoattack(tested, network, split, tmp_path)
    assert resumed.record == whole.record
    assert torch.equal(resumed.robust, whole.robust)
