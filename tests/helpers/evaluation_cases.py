"""Small images, and small networks that are robust, or only seem to be, for tests of evaluation."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pyautoattack
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attack_utils
from attack_utils import PGDConfig, make_pgd
from engine.distributed import Runtime, seed_everything
from engine.steps import Execution
from evaluation.evaluator import Evaluator
from input_pipeline.loader import Loader
from input_pipeline.splits import Split
from input_pipeline.transforms import Transform

SIDE, EPS = 8, 10 / 255


def images(count: int, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, 8, 8): each class's own pattern, faint, under noise."""
    noise = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % classes
    pixels = 0.5 + 0.25 * (patterns[labels] - 0.5)
    pixels += 0.12 * torch.randn(pixels.shape, generator=noise)
    return (pixels.clamp(0, 1) * 255).to(torch.uint8), labels


def loader(count: int, classes: int = 5, batch_size: int = 16, seed: int = 0) -> Loader:
    pixels, labels = images(count, classes, seed)
    names = [str(label) for label in range(classes)]
    split = Split(pixels, labels.numpy())
    return Loader(split, Transform(SIDE, "stretch"), names, batch_size=batch_size)


def trained(classes: int = 5, eps: float = 6 / 255) -> nn.Module:
    """The same network again and again, and torch's generator as training left it."""
    model, state = _trained(classes, eps)
    torch.set_rng_state(state)
    return copy.deepcopy(model)


@functools.lru_cache
def _trained(classes: int, eps: float) -> tuple[nn.Module, Tensor]:
    """A convolution and a linear layer, trained against PGD-2 for a second."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (SIDE // 2) ** 2, classes),
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    pixels, labels = images(200, classes, seed=1)
    attack = make_pgd(model, PGDConfig(eps, 2, eps))
    for _ in range(60):
        loss = F.cross_entropy(model(attack(pixels / 255, labels)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), torch.get_rng_state()


class Scaled(nn.Module):
    """The same predictions with logits so large that the softmax has no gradient in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return 1e6 * self.model(inputs)


class Quantised(nn.Module):
    """Rounds its images to nine levels: almost the same predictions, and no gradient at all."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(torch.round(inputs * 8) / 8)


def evaluator(eps: float = EPS, steps: int = 20, **more: Any) -> Evaluator:
    attack = PGDConfig(eps, steps, eps / 4)
    return Evaluator(Runtime(torch.device("cpu")), Execution(), attack, **more)


def pgd_accuracy(tested: Evaluator, network: nn.Module, split: Loader, restarts: int = 1) -> float:
    seed_everything(tested.seed)
    return tested.accuracy(network, split, "RA", tested.pgd(network, restarts=restarts))


class Short(pyautoattack.AutoAttack):
    """AutoAttack standard with fewer steps, where its strength does not matter."""

    def _set_version(self, version: str = "standard") -> None:
        super()._set_version(version)
        self.square.n_queries = 20
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 4


def shorten_autoattack(patch: pytest.MonkeyPatch) -> None:
    attack_utils.import_autoattack()
    patch.setattr(pyautoattack, "AutoAttack", Short)
