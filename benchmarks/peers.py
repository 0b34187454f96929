"""The same PGD-5 attack by other libraries and by this project: what a user gains by switching.

The first ratio of a library is of the loops alone: one network, fp32, the same memory layout but
for the images. The second is of what its user has, torchvision's network in fp32, over ours as an
evaluation runs it: bf16 unless the machine emulates it, channels_last, BatchNorm folded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from timing import Measured, Work, interleaved
from torch import Tensor, nn
from workloads import (
    EPS,
    FP32,
    PGD5,
    Recipe,
    Results,
    executions,
    our_evaluation,
    our_network,
    plain_network,
    random_batch,
)

from attack_utils import make_pgd

RESNET18 = Recipe("resnet18", 32, 32, 10, PGD5)


def shared_network() -> nn.Module:
    return our_network(RESNET18.arch, RESNET18.classes, RESNET18.side, FP32).eval()


def users_network() -> nn.Module:
    return plain_network(RESNET18.arch, RESNET18.classes, RESNET18.side).eval()


def batch() -> tuple[Tensor, Tensor]:
    return random_batch(RESNET18.batch, RESNET18.side, RESNET18.classes)


def torchattacks(network: Callable[[], nn.Module]) -> Work:
    import torchattacks as package

    images, labels = batch()
    attack = package.PGD(network(), EPS, PGD5.step_size, PGD5.steps, random_start=True)
    return lambda: attack(images, labels)


def foolbox(network: Callable[[], nn.Module]) -> Work:
    import foolbox as package

    images, labels = batch()
    model = package.PyTorchModel(network(), bounds=(0, 1), device=images.device)
    attack = package.attacks.LinfPGD(abs_stepsize=PGD5.step_size, steps=PGD5.steps)
    return lambda: attack.run(model, images, labels, epsilon=EPS)


def our_loop() -> Work:
    perturb, (images, labels) = make_pgd(shared_network(), PGD5), batch()
    placed = FP32.images(images)
    return lambda: perturb(placed, labels)


def peer(library: Callable[[Callable[[], nn.Module]], Work], rows: Results) -> list[Measured]:
    # with its pass over the finished images
    whole = partial(our_evaluation, RESNET18, executions(rows)[-1])
    return [
        *interleaved(partial(library, shared_network), our_loop, n=3),
        *interleaved(partial(library, users_network), whole, n=3),
    ]


PEERS = {"torchattacks": torchattacks, "foolbox": foolbox}
