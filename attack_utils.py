"""Attacks: PGD as advertorch 0.2.3 does it, and advertorch itself as the reference.

`make_pgd` is what runs use: the same bits as advertorch's `LinfPGDAttack` from the same random
state, but no gradient of a parameter is ever computed. Images are float (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import InputError

Perturb = Callable[[Tensor, Tensor], Tensor]


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
            f"PGD-{self.steps}, eps {self.eps * 255:.4g}/255, "
            f"step size {self.step_size * 255:.4g}/255, {start}"
        )


def make_pgd(model: nn.Module, config: PGDConfig, loss_scale: float = 1.0) -> Perturb:
    """PGD on the cross-entropy of `model`, as it is given: train or eval mode, layout, precision.

    The random start comes from torch's global generator and is drawn in NCHW order whatever the
    layout of the images. The last iterate is returned, not the worst. In train mode the running
    statistics of BatchNorm see the attack's forward passes (released code). The model's mode, its
    parameters' `requires_grad` and their gradients are afterwards what they were.

    Args:
        loss_scale: a factor that keeps float16 gradients from vanishing; their signs stay.

    Returns:
        `perturb(images, labels)`: (N, 3, H, W) in [0, 1], at most `eps` from `images`.
    """
    eps, step_size = config.eps, config.step_size

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach()
        if config.random_start:
            delta = _random_start(images, eps)
        else:
            delta = torch.zeros_like(images)
        with torch.enable_grad(), frozen(model):
            for _ in range(config.steps):
                adversarial = (images + delta).requires_grad_()
                loss = F.cross_entropy(at_least_float32(model(adversarial)), labels)
                loss = loss * loss_scale
                (gradient,) = torch.autograd.grad(loss, adversarial)
                delta = (delta + step_size * gradient.sign()).clamp_(-eps, eps)
                delta = (images + delta).clamp_(0, 1) - images
        return (images + delta).clamp_(0, 1)

    return perturb


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits as they are, but for those of a half-precision pass: the loss is in float32."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _random_start(images: Tensor, eps: float) -> Tensor:
    noise = torch.empty(images.shape, dtype=images.dtype, device=images.device).uniform_(-1, 1)
    delta = torch.empty_like(images).copy_(noise) * eps
    return (images + delta).clamp_(0, 1) - images


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of `model` asks for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


# --- the reference -------------------------------------------------------------------------------


def make_advertorch_pgd(model: nn.Module, config: PGDConfig) -> Perturb:
    """advertorch's `LinfPGDAttack` with mean cross-entropy, as the released code calls it."""
    attacks = _import_advertorch()
    attack = attacks.LinfPGDAttack(
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

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        # What the released code wraps around the attack: no gradients of parameters.
        with torch.enable_grad(), frozen(model):
            return attack.perturb(images, labels)

    return perturb


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
