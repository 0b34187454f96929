"""Attacks: PGD as advertorch 0.2.3 does it, AutoAttack, and advertorch itself as the reference.

`make_pgd` is what runs use: the same bits as advertorch's `LinfPGDAttack` from the same random
state, but no gradient of a parameter is ever computed. Images are float (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import InputError, RunFailed

Perturb = Callable[[Tensor, Tensor], Tensor]  # (images, labels) -> images, as `make_pgd` says
CHECKED_EVERY = 100  # steps of training: a check waits for the GPU


@dataclass(frozen=True)
class PGDConfig:
    """An L-infinity PGD attack; `eps` and `step_size` are fractions of the pixel range."""

    eps: float
    steps: int
    step_size: float
    random_start: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise InputError(f"eps {self.eps}: a fraction of the pixel range, 0 to 1, is needed")
        if self.steps < 0:
            raise InputError(f"attack steps {self.steps}: 0 or more are needed")
        if not 0 <= self.step_size <= 1:
            raise InputError(
                f"attack step size {self.step_size}: a fraction of the pixel range, 0 to 1"
            )

    def __str__(self) -> str:
        start = "random start" if self.random_start else "no random start"
        return (
            f"Linf PGD-{self.steps}, eps {self.eps * 255:.4g}/255, "
            f"step size {self.step_size * 255:.4g}/255, {start}"
        )


def make_pgd(model: nn.Module, config: PGDConfig, loss_scale: float | None = None) -> Perturb:
    """PGD on the cross-entropy of `model`, as it is given: train or eval mode, layout, precision.

    The random start comes from torch's global generator and is drawn in NCHW order whatever the
    layout of the images. The last iterate is returned, not the worst. In train mode the running
    statistics of BatchNorm see the attack's forward passes (released code). The model's mode, its
    parameters' `requires_grad` and their gradients are afterwards what they were.

    Args:
        loss_scale: of each image's loss, whatever the size of the batch, that float16 gradients
            neither vanish nor overflow; their signs stay.

    Returns:
        `perturb(images, labels)`: (N, 3, H, W) in [0, 1], at most `eps` from `images`; NaN where
        the gradient was, which has no sign. It raises InputError for images that are not floats.
    """
    eps, step_size = config.eps, config.step_size

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise InputError(
                f"attack: images of type {images.dtype}; floats in [0, 1] are needed (uint8 / 255)"
            )
        images = images.detach()
        if config.random_start:
            delta = _random_start(images, eps)
        else:
            delta = torch.zeros_like(images)
        with torch.enable_grad(), frozen(model):
            for _ in range(config.steps):
                adversarial = (images + delta).requires_grad_()
                loss = F.cross_entropy(at_least_float32(model(adversarial)), labels)
                if loss_scale:
                    loss = loss * (loss_scale * len(labels))
                (gradient,) = torch.autograd.grad(loss, adversarial)
                direction = gradient.sign().masked_fill_(gradient.isnan(), math.nan)
                delta.add_(direction, alpha=step_size).clamp_(-eps, eps)
                delta.add_(images).clamp_(0, 1).sub_(images)
        return (images + delta).clamp_(0, 1)

    return perturb


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits as they are, but for those of a half-precision pass: the loss is in float32."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def draw_noise(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """What a random start draws for images of a shape, with the type and the device of a tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-1, 1)


def _random_start(images: Tensor, eps: float) -> Tensor:
    noise = draw_noise(images.shape, images)
    delta = torch.empty_like(images).copy_(noise) * eps
    return (images + delta).clamp_(0, 1) - images


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of `model` asks for a gradient, nor a weight made of one."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    made = {
        module: module.__dict__["weight"]
        for module in model.modules()
        if isinstance(module.__dict__.get("weight"), Tensor)
    }
    for module, weight in made.items():
        module.__dict__["weight"] = weight.detach()
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for module, weight in made.items():
            module.__dict__["weight"] = weight


# --- testing a finished network -------------------------------------------------------------------


def with_restarts(model: nn.Module, perturb: Perturb, restarts: int, seed: int) -> Perturb:
    """Attack again, up to `restarts` times in all, the images that `model` still gets right.

    An image is lost at its first success, so it counts as robust only if it survives all of them.
    The first attack of every batch draws what it would draw alone: more restarts never raise RA.
    """
    seeds = torch.Generator().manual_seed(seed)

    def perturb_again(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = perturb(images, labels)
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=seeds)))
            for _ in range(restarts - 1):
                with torch.no_grad():
                    alive = (model(adversarial).argmax(1) == labels).nonzero().flatten()
                if not len(alive):
                    break
                again = perturb(images[alive], labels[alive])
                adversarial = adversarial.index_copy(0, alive, again)
        return adversarial

    return perturb_again


def checked(perturb: Perturb, eps: float, every: int = 1) -> Perturb:
    """The same attack, with `check_perturbation` on what it gives: the first, then each N-th."""
    calls = itertools.count()

    def perturb_and_check(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = perturb(images, labels)
        if next(calls) % every == 0:
            check_perturbation(adversarial, images, eps)
        return adversarial

    return perturb_and_check


def check_perturbation(adversarial: Tensor, images: Tensor, eps: float) -> None:
    """Check an attack's output as auto-attack does: finite, in [0, 1], within eps + 1e-6.

    Raises:
        RunFailed: naming the first of the three that does not hold.
    """
    low, high = adversarial.aminmax()
    distance = (adversarial - images).abs().max()
    lowest, highest, largest = torch.stack([low, high, distance]).tolist()  # one wait for the GPU
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise RunFailed(
            "attack: its images are not finite, so the network's gradients are not (did its "
            "training diverge?)"
        )
    if lowest < 0 or highest > 1:
        raise RunFailed(f"attack: pixels from {lowest:.6g} to {highest:.6g}, outside [0, 1]")
    if largest > eps + 1e-6:
        raise RunFailed(f"attack: a perturbation of {largest:.6g}, more than eps {eps:.6g}")


@dataclass(frozen=True)
class AutoAttackSuite:
    """The attacks of AutoAttack, in order, that a number of classes allows."""

    attacks: tuple[str, ...]
    targets: int  # classes that each targeted attack aims at
    note: str | None  # what differs from AutoAttack standard


def choose_attacks(classes: int) -> AutoAttackSuite:
    """Choose AutoAttack standard, as far as the classes allow (Croce & Hein 2020: 10 or more).

    The targeted attacks aim at nine classes; their DLR loss needs at least four.
    """
    if classes < 4:
        left_out = f"{classes} classes: the targeted attacks (apgd-t, fab-t) are left out"
        return AutoAttackSuite(("apgd-ce", "square"), 0, left_out)
    targets = min(9, classes - 1)
    note = f"{classes} classes: {targets} targets, not 9" if targets < 9 else None
    return AutoAttackSuite(("apgd-ce", "apgd-t", "fab-t", "square"), targets, note)


def make_autoattack(model: nn.Module, eps: float, suite: AutoAttackSuite, seed: int) -> Perturb:
    """AutoAttack standard, L-infinity, on `model` in eval mode; where it fails images stay clean.

    Call it outside of autocast: the attacks need float32. Every batch starts from `seed`, so its
    outcome depends on nothing but the batch; torch's global generators are left where they were.
    """
    package = import_autoattack()

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        attack = package.AutoAttack(model, eps=eps, seed=seed, device=images.device)
        attack.attacks_to_run = list(suite.attacks)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = suite.targets
        contiguous = images.contiguous()  # it takes views that channels_last does not allow
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices), frozen(model):
            adversarial, _ = attack.run_standard_evaluation(
                contiguous, labels, batch_size=len(labels)
            )
        return adversarial

    return perturb


def import_autoattack():
    """Import the optional package pyautoattack; InputError where it is missing."""
    try:
        import pyautoattack
    except ImportError as error:
        raise InputError(
            "AutoAttack needs an optional package: pip install pyautoattack "
            "(or -r requirements-extra.txt)"
        ) from error
    # Its warnings are about single batches, and repeated for each.
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    return pyautoattack


# --- the reference -------------------------------------------------------------------------------


def make_advertorch_pgd(model: nn.Module, config: PGDConfig) -> Perturb:
    """advertorch's PGD as the released code's training calls it: no gradients of parameters."""
    attack = advertorch_attack(model, config)

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad(), frozen(model):
            return attack.perturb(images, labels)

    return perturb


def advertorch_attack(model: nn.Module, config: PGDConfig):
    """advertorch's own `LinfPGDAttack`, on the mean cross-entropy of `model`."""
    return _import_advertorch().LinfPGDAttack(
        model,
        loss_fn=nn.CrossEntropyLoss(),
        eps=config.eps,
        nb_iter=config.steps,
        eps_iter=config.step_size,
        rand_init=config.random_start,
        clip_min=0.0,
        clip_max=1.0,
        targeted=False,
    )


def _import_advertorch():
    """Import advertorch 0.2.3 on a PyTorch that no longer has `zero_gradients`.

    The module must be taken from `sys.modules`: as an attribute, `torch.autograd.gradcheck` is the
    function of that name.
    """
    gradcheck = sys.modules["torch.autograd.gradcheck"]
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = _zero_gradients  # type: ignore[attr-defined]
    from advertorch import attacks

    return attacks


def _zero_gradients(inputs: Tensor) -> None:
    if inputs.grad is not None:
        inputs.grad.detach_().zero_()
