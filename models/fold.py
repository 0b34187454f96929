"""A faster network of the same function, for evaluation: masks and BatchNorm baked into weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.prune import BasePruningMethod


def fold_for_evaluation(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with BatchNorm inside the convolutions; `model` stays.

    The same logits to rounding. Parameters take no gradients, masks (weight_orig x weight_mask) are
    baked in, memory format and device stay. Normalisation stays a layer: folded into a padded
    convolution it would be wrong at the border.
    """
    folded = bake_masks(model).eval().requires_grad_(False)
    for module in list(folded.modules()):
        for conv_name, bn_name in _conv_bn_pairs(module):
            conv, bn = getattr(module, conv_name), getattr(module, bn_name)
            if isinstance(bn, _BatchNorm) and bn.running_mean is not None:
                _fold(conv, bn)
                setattr(module, bn_name, nn.Identity())
    return folded


def bake_masks(model: nn.Module) -> nn.Module:
    """Return a copy of the model whose pruned layers have plain weights, orig x mask."""
    # The masked weight is an attribute made by a differentiable product. copy.deepcopy refuses such
    # tensors, so it is told beforehand what their copies are: anything, they are replaced below.
    memo: dict[int, Tensor] = {
        id(module.weight): torch.empty(0)
        for module in model.modules()
        if "weight_orig" in module._parameters
    }
    baked = copy.deepcopy(model, memo)
    for module in baked.modules():
        if "weight_orig" in module._parameters:
            weight = _effective_weight(module)
            for key, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, BasePruningMethod):
                    del module._forward_pre_hooks[key]
            del module._parameters["weight_orig"], module._buffers["weight_mask"]
            module.__dict__.pop("weight", None)
            module.register_parameter("weight", nn.Parameter(weight))
    return baked


def _effective_weight(module: nn.Module) -> Tensor:
    orig, mask = module._parameters["weight_orig"], module._buffers["weight_mask"]
    assert orig is not None
    assert mask is not None
    return orig.detach() * mask.to(orig.dtype)


def _conv_bn_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """The names of a module's convolutions and the BatchNorms that follow them directly.

    In ResNets these are convN and bnN of the stem and the blocks, and 0 and 1 of a downsample.
    """
    children = dict(module.named_children())
    pairs = [(name, f"bn{name[4:]}") for name in children if name.startswith("conv")]
    if isinstance(module, nn.Sequential) and len(children) == 2:
        pairs.append(("0", "1"))
    return [
        (conv, bn)
        for conv, bn in pairs
        if isinstance(children.get(conv), nn.Conv2d) and isinstance(children.get(bn), _BatchNorm)
    ]


def _fold(conv: nn.Conv2d, bn: _BatchNorm) -> None:
    """Scale and shift a convolution as BatchNorm in evaluation mode would its output."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = (bn.running_var.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
