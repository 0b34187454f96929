"""A faster network of the same function, for evaluation: masks and BatchNorm baked into weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.prune import BasePruningMethod

from pruning_utils import convolutions, effective_weight

Pair = tuple[str, str]  # the names of a convolution and of the BatchNorm that follows it directly
OBSERVED_SIZES = (64, 224)  # of the images with which an unknown network is observed
AGREEMENT = 1e-6  # of the folded network's logits, in double precision


def fold_for_evaluation(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with BatchNorm inside the convolutions; `model` stays.

    The same logits to rounding. Parameters take no gradients, masks (weight_orig x weight_mask) are
    baked in, memory format and device stay. Normalisation stays a layer: folded into a padded
    convolution it would be wrong at the border. Where no BatchNorm follows a convolution, as in
    networks without any, the copy is the same network with its masks baked in.

    Which BatchNorm follows which convolution, the modules' attribute `folds` says (pairs of names);
    in a network without it that is observed.
    """
    folded = bake_masks(model).eval().requires_grad_(False)
    if not hasattr(folded, "folds"):
        _fold_pairs(folded, observe_folds(folded))
    for module in list(folded.modules()):
        _fold_pairs(module, getattr(module, "folds", ()))
    return folded


def bake_masks(model: nn.Module) -> nn.Module:
    """Return a copy of the model whose pruned layers have plain weights, orig x mask."""
    # deepcopy rejects non-leaf tensors, as masked weights are: fill its memo with placeholders,
    # which are replaced below.
    memo: dict[int, Tensor] = {
        id(module.weight): torch.empty(0)
        for module in model.modules()
        if "weight_orig" in module._parameters
    }
    baked = copy.deepcopy(model, memo)
    for _, module in convolutions(baked):
        if "weight_orig" in module._parameters:
            weight = effective_weight(module)
            for key, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, BasePruningMethod):
                    del module._forward_pre_hooks[key]
            del module._parameters["weight_orig"], module._buffers["weight_mask"]
            module.__dict__.pop("weight", None)
            module.register_parameter("weight", nn.Parameter(weight))
    return baked


# --- which BatchNorm follows which convolution ----------------------------------------------------


def observe_folds(model: nn.Module) -> tuple[Pair, ...]:
    """Find the pairs of an unknown network by running it, as dotted names; none where in doubt.

    A pair is a BatchNorm whose input is the very output of a convolution, both used once. Folding
    all of them must give the same logits, with BatchNorms that are not the identity.
    """
    if next(model.parameters()).is_meta:
        return ()
    drawn = torch.Generator().manual_seed(0)  # the run's own generators are left alone
    with torch.no_grad():
        trial = copy.deepcopy(model).cpu().double().eval()
        for module in filter(_has_fixed_statistics, trial.modules()):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if isinstance(tensor, Tensor):
                    tensor.uniform_(low, high, generator=drawn)
        for size in OBSERVED_SIZES:
            images = torch.rand(1, 3, size, size, dtype=torch.float64, generator=drawn)
            try:
                pairs, expected = _run_observed(trial, images)
                break
            except RuntimeError:  # too small for this network
                continue
        else:
            return ()
        _fold_pairs(trial, pairs)
        difference = (trial(images) - expected).norm()
        return pairs if bool(difference <= AGREEMENT * expected.norm()) else ()


def _run_observed(model: nn.Module, images: Tensor) -> tuple[tuple[Pair, ...], Tensor]:
    """The pairs that one pass shows, and its logits."""
    made: dict[int, str] = {}  # by the identity of an output: the convolution's name
    outputs, pairs, calls = [], [], []

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            calls.append(name)
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name
                outputs.append(output)  # kept, so that no other tensor gets its identity
            elif id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])], name))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) or _has_fixed_statistics(module)
    ]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    once = [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)]
    return tuple(once), logits


def _has_fixed_statistics(module: nn.Module) -> bool:
    """Whether it is a BatchNorm that is an affine map in evaluation (an activation may follow)."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


# --- folding --------------------------------------------------------------------------------------


def _fold_pairs(module: nn.Module, pairs: Sequence[Pair]) -> None:
    """Fold pairs of submodules, by their names; what follows inside a BatchNorm layer stays."""
    for conv_name, bn_name in pairs:
        conv, bn = module.get_submodule(conv_name), module.get_submodule(bn_name)
        assert isinstance(conv, nn.Conv2d)
        if isinstance(bn, _BatchNorm) and _has_fixed_statistics(bn):
            _fold(conv, bn)
            outer, _, name = bn_name.rpartition(".")
            rest = list(bn.children())
            left = nn.Sequential(*rest) if rest else nn.Identity()
            setattr(module.get_submodule(outer), name, left)


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
