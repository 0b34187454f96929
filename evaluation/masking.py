"""Whether RA can be trusted: three checks for masked gradients, after Carlini et al. (2019)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import nn

from attack_utils import PGDConfig
from engine.distributed import seed_everything
from engine.log import say, warn
from engine.steps import Metrics
from evaluation.evaluator import Evaluator
from input_pipeline.loader import Loader
from models import load_network

MASKING_IMAGES = 512
MASKING_STEPS = (1, 2, 5)  # times the attack's own
LARGE_EPS, LARGE_EPS_STEPS = 0.5, 20  # within 0.5 every image can be made plain grey


def masking_checks(
    evaluator: Evaluator,
    network: nn.Module,
    loader: Loader,
    source: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Check RA in three ways, and say what each check finds.

    A network whose gradients mislead PGD looks more robust than it is. Then more steps need not
    help, images that may become grey stay right, or another network's attack does more harm.

    Args:
        source: the network that the transfer attack is crafted on; without it that check is left
            out.

    Returns:
        `{"name", "passed", "detail"}` of each check.
    """

    def robust(attack: PGDConfig, crafted_on: nn.Module = network) -> Metrics:
        seed_everything(evaluator.seed)
        label = f"masking checks, {attack}"
        return evaluator.measure(network, loader, label, evaluator.pgd(crafted_on, attack))

    own = evaluator.attack
    steps = [factor * max(own.steps, 1) for factor in MASKING_STEPS]
    found = [robust(replace(own, steps=count)) for count in steps]
    by_steps, images = [metrics.top1 for metrics in found], found[0].images  # that can be read
    checks = [
        _more_steps(steps, by_steps, images),
        _large_eps(robust(_large_attack(own)).top1, loader.num_classes),
    ]
    if source is None:
        say("masking check transfer: left out; --masking_source names the network to attack from")
    else:
        checks.append(_transfer(robust(own, source).top1, by_steps[0], images))
    for check in checks:
        line = f"masking check {check['name']}: {check['detail']}"
        say(f"{line}: passed") if check["passed"] else warn(f"{line}: FAILED")
    return checks


def load_source(path: str, model: nn.Module | None = None) -> nn.Module:
    """The network of --masking_source; where the file has no mean and std, `model`'s are used.

    Without a `model` it is only to be looked at.
    """
    advice = "name a checkpoint of a run, which tells"
    if model is None:
        return load_network(path, otherwise=((0.0,) * 3, (1.0,) * 3), advice=advice)
    mean, std = (model.get_buffer(f"normalize.{n}").tolist() for n in ("mean", "std"))
    return load_network(path, otherwise=(mean, std), tell=warn, advice=advice)


def _large_attack(attack: PGDConfig) -> PGDConfig:
    steps = max(attack.steps, LARGE_EPS_STEPS)
    return replace(attack, eps=LARGE_EPS, steps=steps, step_size=2.5 * LARGE_EPS / steps)


def _noise(first: float, second: float, images: int) -> float:
    """Two binomial standard errors of the less certain of two accuracies, in points."""
    variance = max(p / 100 * (1 - p / 100) for p in (first, second))
    return 200 * math.sqrt(variance / images)


def _more_steps(steps: list[int], accuracies: list[float], images: int) -> dict[str, Any]:
    passed = all(
        later - earlier <= _noise(later, earlier, images)
        for place, later in enumerate(accuracies)
        for earlier in accuracies[:place]
    )
    found = ", ".join(f"{ra:.2f} % by {n}" for n, ra in zip(steps, accuracies, strict=True))
    detail = f"more steps never raise RA by more than noise; RA {found} steps"
    return {"name": "more_steps", "passed": passed, "detail": f"{detail}, {images} images"}


def _large_eps(accuracy: float, classes: int) -> dict[str, Any]:
    chance = 100 / classes
    detail = f"RA at eps {LARGE_EPS} is below chance ({chance:.2f} %); RA {accuracy:.2f} %"
    return {"name": "large_eps", "passed": accuracy < chance, "detail": detail}


def _transfer(transferred: float, white_box: float, images: int) -> dict[str, Any]:
    passed = white_box - transferred <= _noise(white_box, transferred, images)
    detail = (
        "an attack crafted on another network is not stronger than one crafted on this; "
        f"RA {transferred:.2f} % by transfer, {white_box:.2f} % white-box, {images} images"
    )
    return {"name": "transfer", "passed": passed, "detail": detail}
