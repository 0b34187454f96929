"""Convolutional networks of timm (an optional extra), by its names: `timm:NAME`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from errors import InputError, first_line
from models.fold import bake_masks, observe_folds
from models.normalize import Normalize

PREFIX = "timm:"
ADDED = ("normalize", "arch", "classifier_name", "folds")  # attributes that a network gets here
LEAST_SHARE = 0.5  # of the weights that must lie in convolutions; only they are pruned


def build_timm(
    arch: str, num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """Build timm's network with fresh weights and one more child, `normalize`.

    Its keys are timm's own. Raises InputError without timm, for a name that timm does not know, and
    for networks that cannot be pruned as this project does it.
    """
    network = _create(arch, num_classes)
    head = _classifier_name(network, arch)
    _check_convolutions(network, head, arch)
    base: Any = type(network)
    network.__class__ = _normalised(base)
    network.normalize = Normalize(mean, std)
    network.arch, network.classifier_name = arch, head
    for module in network.modules():
        module.folds = ()  # one of timm's may have an attribute of this name
    network.folds = observe_folds(network)
    return network


def constants_of_timm(network: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Mean and std, three numbers each, of the images of timm's own weights of this network.

    Of the weights that a tag in its name means (`resnet34.ra4_e3600_r224_in1k`), else of those that
    timm takes without one. None for networks that are not timm's.
    """
    told = getattr(network, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(told.get(name) or ()) for name in ("mean", "std"))
    return (mean, std) if mean.shape == std.shape == (3,) else None


def synchronised_timm(network: nn.Module) -> nn.Module:
    """Its BatchNorm with statistics over all processes, and the activation that may lie inside.

    PyTorch's own conversion keeps such an activation among the modules and does not call it.
    """
    layers: Any = importlib.import_module("timm.layers")
    found: nn.Module = layers.convert_sync_batchnorm(network)
    return found


def draws_in_training(network: nn.Module, size: int) -> bool:
    """Whether passes of training draw random numbers, as with dropout; images of `size` pixels."""
    trial = bake_masks(network).train()
    images = torch.zeros(2, 3, size, size, device=next(trial.parameters()).device)
    generator = torch.cuda if images.is_cuda else torch.random
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad():
        before = generator.get_rng_state()
        trial(images)
        return not torch.equal(before, generator.get_rng_state())


@cache
def _normalised(base: type[nn.Module]) -> type[nn.Module]:
    """The same network, of images in [0, 1]."""

    def forward(self: Any, images: Tensor) -> Tensor:
        return base.forward(self, self.normalize(images))

    return type(f"Normalised{base.__name__}", (base,), {"forward": forward})


def _create(arch: str, num_classes: int) -> Any:
    name = arch.removeprefix(PREFIX)
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"-a {arch}: needs the package timm: pip install timm") from error
    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = f"; there is {', '.join(near)}" if near else ""
        raise InputError(f"-a {arch}: timm {timm.__version__} has no network {base}{hint}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"-a {arch}: timm cannot build it ({first_line(error)})") from error


def _classifier_name(network: Any, arch: str) -> str:
    head = network.get_classifier() if hasattr(network, "get_classifier") else None
    names = [name for name, module in network.named_modules() if module is head]
    if not isinstance(head, nn.Linear) or not names:
        kind = type(head).__name__
        raise InputError(f"-a {arch}: its classifier is no single linear layer but a {kind}")
    taken = [name for name in ADDED if hasattr(network, name)]
    if taken:
        raise InputError(f"-a {arch}: has a part `{taken[0]}` of its own")
    return names[0]


def _check_convolutions(network: nn.Module, head: str, arch: str) -> None:
    """Refuse a network whose convolutions hold too little of it, or whose zeros would not stay."""
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    prunable = sum(module.weight.numel() for module in convolutions.values())
    total = sum(p.numel() for n, p in network.named_parameters() if not n.startswith(head + "."))
    share = prunable / max(total, 1)
    if share < LEAST_SHARE:
        raise InputError(
            f"-a {arch}: its convolutions hold {100 * share:.1f} % of the weights before the "
            f"classifier; only they are pruned, so at least {100 * LEAST_SHARE:.0f} % is needed"
        )
    for name, module in convolutions.items():
        if _transforms_weight(module):
            raise InputError(
                f"-a {arch}: {name} ({type(module).__name__}) transforms its weight in forward, "
                "so that pruned zeros would not stay zeros"
            )


def _transforms_weight(module: nn.Conv2d) -> bool:
    """Whether a convolution's output is not linear in its parameter, as with standardisation."""
    if nn.utils.parametrize.is_parametrized(module) or module._forward_pre_hooks:
        return True
    if type(module).forward is nn.Conv2d.forward:
        return False
    size = [
        max(8, d * (k - 1) + 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, module.in_channels, *size, generator=generator)
    weight = torch.rand(module.weight.shape, generator=generator)
    bias = None if module.bias is None else torch.zeros(module.out_channels)

    def output(scale: float) -> Tensor:
        given = {"weight": scale * weight} | ({} if bias is None else {"bias": bias})
        return torch.func.functional_call(module, given, (images,))

    with torch.no_grad():
        return not torch.allclose(output(2.0), 2 * output(1.0), rtol=1e-4, atol=1e-5)
