"""SA, RA and outcomes of each image, whatever the number of processes that share a split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.evaluation_cases import evaluator, images, loader, pgd_accuracy, trained

from engine.distributed import Runtime


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return trained()


def test_restarts_never_raise_ra(model):
    split = loader(64)
    for eps in (8 / 255, 12 / 255):
        tested = evaluator(eps, steps=3)
        network = tested.network(model)
        found = [pgd_accuracy(tested, network, split, restarts=n) for n in (1, 2, 5, 10)]
        assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]  # and at this radius they find more


def test_processes_share_the_first_images_without_counting_one_twice(model):
    split = loader(40, batch_size=4)
    for world, wanted, first in ((1, 30, 0), (2, 30, 0), (3, 40, 0), (3, 38, 4), (4, 5, 1)):
        shares = []
        for rank in range(world):
            runtime = Runtime(torch.device("cpu"), rank, world)
            tested = replace(evaluator(), runtime=runtime)
            batches = list(tested.batches(split.some(wanted), first))
            assert len(batches) == len(tested.steps(split.some(wanted), first))
            shares += [row for _, some, _ in batches for row in some]
        expected = images(40)[0][4 * first : wanted]
        assert sorted(map(hash_of, shares)) == sorted(map(hash_of, expected))


def test_every_process_is_watched_equally_often(model):
    split = loader(40, batch_size=4)
    for world, wanted, rounds in ((1, 40, 10), (3, 40, 3), (4, 40, 2), (2, 5, 1), (4, 5, 0)):
        for rank in range(world):
            runtime, calls = Runtime(torch.device("cpu"), rank, world), list[int]()

            def watch(bar, calls=calls):
                return lambda count, meter: (calls.append(count), bar.step(count, meter))

            tested = replace(evaluator(), runtime=runtime, watch=watch)
            tested.accuracy(tested.network(model), split.some(wanted), "SA")
            assert len(calls) == rounds


def hash_of(image):
    return image.numpy().tobytes()
