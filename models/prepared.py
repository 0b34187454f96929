"""Weights that are computed once for many passes: masked by pruning's hooks, cast for autocast."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from models.compiled import CompiledPasses, compiled_passes

Hooks = Any  # torch keeps them in an ordered dictionary, by handle


@contextlib.contextmanager
def prepared(model: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Compute masked, cast weights once for the block, bit-identical to doing so in every pass.

    Gradients reach the parameters. No parameter may change before the block ends. Graphs of a
    compiled network find the weights there too: they are the same graphs with and without masks.

    Args:
        dtype: what autocast casts float32 weights to; None without autocast.
    """
    compiled = compiled_passes(model)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    before = [_prepare(layer, dtype, compiled) for layer in layers]
    try:
        yield
    finally:
        for layer, (hooks, weight) in zip(layers, before, strict=True):
            layer._forward_pre_hooks = hooks
            del layer.__dict__["weight"]
            if weight is not None:
                layer.__dict__["weight"] = weight


def _prepare(
    layer: nn.Module, dtype: torch.dtype | None, compiled: CompiledPasses | None
) -> tuple[Hooks, Tensor | None]:
    """Give a layer its weight as a plain attribute, which hides the parameter of that name.

    Returns:
        Its forward pre-hooks before, and the attribute as the hooks alone leave it, if at all.
    """
    hooks = layer._forward_pre_hooks
    for hook in hooks.values():
        if isinstance(hook, BasePruningMethod):
            hook(layer, ())
    others = [(key, hook) for key, hook in hooks.items() if not isinstance(hook, BasePruningMethod)]
    layer._forward_pre_hooks = OrderedDict(others)
    hooked = layer.__dict__.get("weight")
    weight = layer.get_parameter("weight") if hooked is None else hooked
    cast = dtype is not None and weight.dtype == torch.float32
    used = weight.to(dtype) if cast else weight
    layer.__dict__["weight"] = compiled.settle(layer, used) if compiled else used
    return hooks, hooked
