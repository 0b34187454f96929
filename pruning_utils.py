"""Masks over convolution weights: global magnitude, random, apply, rewind, count.

Only `nn.Conv2d.weight` is ever pruned, conv1 and downsample included (paper section 3, released
code). A mask lives where `torch.nn.utils.prune` keeps it: the parameter is `weight_orig`, the
buffer `weight_mask` (bool here), and a forward pre-hook computes `weight`. The last part has the
released code's functions, for code written against it; nothing here calls them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from errors import InputError

MASK_SUFFIX = ".weight_mask"
SAMPLE = 2**17  # entries that bracket a threshold


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The prunable layers, `(name, module)`, in the order in which the model lists them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def _is_pruned(module: nn.Conv2d) -> bool:
    return "weight_orig" in module._parameters


# --- choosing masks -----------------------------------------------------------------------------


def _prune_lowest(scores: list[Tensor], left: list[Tensor], rate: float) -> list[Tensor]:
    """Remove the fraction `rate` of the entries that are left, those with the lowest scores.

    Args:
        scores: of each layer, at least 0, and 0 where an entry is pruned already.
        left: of each layer, bool, the entries still there; in the same shape and memory layout.

    Returns:
        Of each layer, bool, the entries that remain. `round(rate * left)` entries fewer, as torch's
        pruning counts. Among entries that are exactly equal at the threshold the lowest index goes
        first, in the order of the layers and of NCHW, on every device and in every layout.
    """
    total, present = sum(m.numel() for m in left), sum(int(m.count_nonzero()) for m in left)
    count = round(rate * present)
    if count == 0:
        return [mask.clone() for mask in left]
    removed = total - present + count  # what is pruned already goes first
    flat = [_in_memory_order(score) for score in scores]
    threshold, reached = _kth_smallest(flat, removed, count / present)
    kept = [~_compared(torch.le, score, threshold) for score in scores]
    spared = reached - removed
    for score, mask, keep in zip(reversed(scores), reversed(left), reversed(kept), strict=True):
        if spared:
            tied = ((score == threshold) & mask).nonzero()[-spared:]
            keep[tuple(tied.T)] = True
            spared -= len(tied)
    return kept


def _kth_smallest(parts: list[Tensor], k: int, rank: float) -> tuple[Tensor, int]:
    """The k-th smallest of all values of `parts` (n,), at least 0, and how many do not exceed it.

    The same as `kthvalue` over all, several times faster: a sample of the values above 0 brackets
    the one at about the fraction `rank` of them, so that few entries are partitioned. If that fails
    (few are left, or many are equal), all above 0 are.
    """
    stride = max(1, sum(part.numel() for part in parts) // SAMPLE)
    sample = torch.cat([part[::stride] for part in parts])
    sample = sample[sample > 0].sort().values
    if len(sample):
        place = int(rank * len(sample))
        margin = int(3 * len(sample) ** 0.5)  # six standard errors of a rank, or more
        low, high = sample[max(0, place - margin)], sample[min(len(sample) - 1, place + margin)]
        reach = [_compared(torch.ge, part, low) for part in parts]
        below = sum(mask.numel() - int(mask.count_nonzero()) for mask in reach)
        some = [
            part[mask & _compared(torch.le, part, high)]
            for part, mask in zip(parts, reach, strict=True)
        ]
        inside = torch.cat(some)
        if below < k <= below + len(inside):
            value = inside.kthvalue(k - below).values
            return value, below + int((inside <= value).sum())
    above = torch.cat([part[~(part <= 0)] for part in parts])
    zeros = sum(part.numel() for part in parts) - len(above)
    value = above.kthvalue(k - zeros).values if k > zeros else above.new_zeros(())
    return value, zeros + int((above <= value).sum())


def _compared(compare: Callable[..., Tensor], values: Tensor, bound: Tensor) -> Tensor:
    """The same bools as `compare(values, bound)`, which torch is slow to write on the CPU."""
    return compare(values, bound, out=torch.empty_like(values)).bool()


def _in_memory_order(values: Tensor) -> Tensor:
    """The entries (n,) of a dense (O, I, H, W) tensor, as they lie in memory and without a copy."""
    if values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1)


def _prune_globally(model: nn.Module, scores: list[Tensor], rate: float) -> None:
    """Prune the fraction `rate` of the weights that are left, the lowest scores first.

    Args:
        scores: of the weights of each convolution, at least 0; they are overwritten.
    """
    if not 0 <= rate < 1:
        raise InputError(f"pruning rate {rate}: a fraction in [0, 1) is needed")
    left = list(masks(model).values())
    for score, mask in zip(scores, left, strict=True):
        score.mul_(mask.view(torch.uint8))  # as by the bool mask, which torch would first convert
    kept = _prune_lowest(scores, left, rate)
    for (_, module), mask in zip(convolutions(model), kept, strict=True):
        _set_mask(module, mask)


def prune_by_magnitude(model: nn.Module, rate: float) -> None:
    """Prune the fraction `rate` of the convolution weights that are left, globally by magnitude.

    What is measured is the effective weight, mask times parameter. Equals
    `prune.global_unstructured(…, L1Unstructured, amount=rate)`, ties aside.
    """
    _prune_globally(model, [_parameter(m).detach().abs() for _, m in convolutions(model)], rate)


def prune_at_random(model: nn.Module, rate: float) -> None:
    """Prune the fraction `rate` of the weights that are left, at random, by torch's generator."""
    weights = [_parameter(module).detach() for _, module in convolutions(model)]
    # drawn in NCHW order whatever the memory layout, so that a seed gives one mask
    draws = [torch.rand(w.shape, dtype=w.dtype, device=w.device) for w in weights]
    scores = [torch.empty_like(w).copy_(1 - draw) for w, draw in zip(weights, draws, strict=True)]
    _prune_globally(model, scores, rate)


# --- applying and reading masks -----------------------------------------------------------------


def _set_mask(module: nn.Conv2d, mask: Tensor) -> None:
    if not _is_pruned(module):
        prune.identity(module, "weight")  # registers weight_orig, weight_mask and the hook
    # A copy: loading a state dict into the model must not write into the masks that were given.
    # In the parameter's memory layout: their product is computed in every step.
    own = torch.empty_like(_parameter(module), dtype=torch.bool)
    module._buffers["weight_mask"] = own.copy_(mask)
    _refresh(module)


def _mask_of(module: nn.Conv2d) -> Tensor:
    """The mask, bool, in the weight's shape; ones where nothing is pruned."""
    mask = module._buffers.get("weight_mask")  # float where torch's own pruning made it
    return torch.ones_like(module.weight, dtype=torch.bool) if mask is None else mask.bool()


def _parameter(module: nn.Conv2d) -> Tensor:
    parameter = module._parameters["weight_orig" if _is_pruned(module) else "weight"]
    assert parameter is not None
    return parameter


def effective_weight(module: nn.Conv2d) -> Tensor:
    """Mask times parameter as they are now: `weight` is as old as the last forward pass."""
    return _parameter(module).detach() * _mask_of(module)


def _refresh(module: nn.Conv2d) -> None:
    """Compute `weight` anew, as the hook does before a forward pass."""
    module.__dict__.pop("weight", None)  # its memory takes the new one, round after round
    module.weight = _parameter(module) * _mask_of(module).view(torch.uint8)  # type: ignore[assignment]


def apply_masks(model: nn.Module, ticket: Mapping[str, Tensor]) -> list[str]:
    """Put masks, `{module name + '.weight_mask': mask}`, in the place of those that are there.

    A convolution without a mask stays dense (tickets of other work leave conv1 out). A mask of the
    stem, `conv1`, in another shape is left out as well.

    Returns:
        One line for each convolution that stays dense, or of which nothing remains.

    Raises:
        InputError: a mask of no convolution of this model, or of another shape than its weight; or
            no mask keeps anything.
    """
    layers = dict(convolutions(model))
    given = {name.removesuffix(MASK_SUFFIX): mask for name, mask in ticket.items()}
    unknown = [name for name in given if name not in layers]
    if unknown:
        raise InputError(
            f"ticket: {len(unknown)} of its {len(given)} masks, such as {unknown[0]}{MASK_SUFFIX}, "
            "fits no convolution of this network by its name: another architecture (-a), or names "
            f"in another spelling than {next(iter(layers), 'conv1')}{MASK_SUFFIX}"
        )
    left_dense = []
    for name, module in layers.items():
        if name not in given:
            left_dense.append(f"{name} has no mask in the ticket and stays dense")
        elif given[name].shape == module.weight.shape:
            continue
        elif name == "conv1":  # Deviation: the released code fails on a ticket of another stem
            left_dense.append(
                f"conv1 stays dense: its mask is {tuple(given[name].shape)}, "
                f"the stem {tuple(module.weight.shape)}"
            )
            del given[name]
        else:
            raise InputError(
                f"ticket: {name}{MASK_SUFFIX} is {tuple(given[name].shape)}, the weight "
                f"{tuple(module.weight.shape)}; it fits another architecture (-a) or --width"
            )
    empty = [name for name, mask in given.items() if not bool(mask.any())]
    if given and len(empty) == len(given):
        raise InputError(
            "ticket: all its masks are zero everywhere; one that keeps weights is needed"
        )
    for name, mask in given.items():
        _set_mask(layers[name], mask)
    return left_dense + [f"{name}: its mask is all zero, nothing of it remains" for name in empty]


def masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model, `{module name + '.weight_mask': bool tensor}`; ones where unpruned."""
    return {f"{name}{MASK_SUFFIX}": _mask_of(module) for name, module in convolutions(model)}


def masks_in(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict that are masks, as copies."""
    return {
        name: mask.detach().clone()
        for name, mask in state_dict.items()
        if name.endswith(MASK_SUFFIX)
    }


def has_other_masks(model: nn.Module, state_dict: Mapping[str, Tensor]) -> bool:
    """Whether masks in a state dict differ from the model's; one that it lacks leaves all."""
    found = masks_in(state_dict)
    return any(
        not torch.equal(found.get(name, torch.ones_like(mask)).to(mask), mask)
        for name, mask in masks(model).items()
    )


# --- rewinding ----------------------------------------------------------------------------------


def rewind(model: nn.Module, init: Mapping[str, Tensor]) -> None:
    """Put *everything* back to the initial state but the masks (paper section 3, released code).

    Args:
        init: a plain state dict (no masks) of the same network: convolutions, BatchNorm weights
            and running statistics, classifier.
    """
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if not name.endswith(MASK_SUFFIX):
                value.copy_(init[name.removesuffix("_orig")])
    for _, module in convolutions(model):
        if _is_pruned(module):
            _refresh(module)


# --- counting -----------------------------------------------------------------------------------


def percent_left(model: nn.Module) -> float:
    """Percent of the convolution weights that remain: unmasked, or nonzero if never masked."""
    kept = total = 0
    for _, module in convolutions(model):
        mask = _mask_of(module) if _is_pruned(module) else module.weight != 0
        kept += int(mask.sum())
        total += mask.numel()
    return 100.0 * kept / total


def percent_left_in(ticket: Mapping[str, Tensor]) -> float:
    """Percent of the entries of all masks that remain."""
    kept = sum(int(mask.sum()) for mask in ticket.values())
    return 100.0 * kept / sum(mask.numel() for mask in ticket.values())


def empty_layers(model: nn.Module) -> list[str]:
    """The names of the convolutions of which no weight remains."""
    return [name for name, module in convolutions(model) if not bool(_mask_of(module).any())]


def remain_line(model: nn.Module) -> str:
    """The line that people's scripts read from the logs (released code)."""
    return f"* remain weight =  {percent_left(model)} %"


# --- the released code's functions --------------------------------------------------------------
# For code that was written against its `utils_pruning`: masks as floats, put into the model,
# combined with those that are there; a line printed where it prints one that scripts read.


def pruning_model(model: nn.Module, px: float) -> None:
    """Prune the fraction `px` of the convolution weights that are left, globally by magnitude."""
    prune_by_magnitude(model, px)
    for _, module in convolutions(model):
        module._buffers["weight_mask"] = module.get_buffer("weight_mask").to(module.weight.dtype)


def pruning_model_random(model: nn.Module, px: float) -> None:
    """Prune the fraction `px` of the weights that are left at random, drawn as torch draws it."""
    layers = [(module, "weight") for _, module in convolutions(model)]
    prune.global_unstructured(layers, pruning_method=prune.RandomUnstructured, amount=px)


def prune_model_custom(model: nn.Module, mask_dict: Mapping[str, Tensor]) -> None:
    """Prune what the masks prune, beside what is pruned already; each convolution needs a mask."""
    for name, module in convolutions(model):
        prune.custom_from_mask(module, "weight", mask_dict[f"{name}{MASK_SUFFIX}"])


def generate_mask(model: nn.Module) -> None:
    """Prune the convolution weights that are zero: for networks saved without their masks."""
    for _, module in convolutions(model):
        prune.custom_from_mask(module, "weight", (effective_weight(module) != 0).float())


def remove_prune(model: nn.Module) -> None:
    """Make the masks permanent: `weight` is a parameter again, with zeros where it was pruned."""
    for _, module in convolutions(model):
        if _is_pruned(module):
            prune.remove(module, "weight")


def extract_mask(model_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict that have `mask` in their names, as copies."""
    return {name: copy.deepcopy(value) for name, value in model_dict.items() if "mask" in name}


def pruning_with_rewind(model: nn.Module, px: float, init: Mapping[str, Tensor]) -> None:
    """One round of IMP: prune the trained weights by magnitude, rewind, print what remains."""
    pruning_model(model, px)
    rewind(model, init)
    check_sparsity(model)


def check_sparsity(model: nn.Module) -> float:
    """Print and return the percent of the convolution weights that are not zero."""
    return check_sparsity_mask({name: effective_weight(m) for name, m in convolutions(model)})


def check_sparsity_mask(mask_dict: Mapping[str, Tensor]) -> float:
    """Print and return the percent of the masks' entries that are not zero."""
    total = sum(mask.numel() for mask in mask_dict.values())
    zeros = sum(int((mask == 0).sum()) for mask in mask_dict.values())
    percent = 100 * (1 - zeros / total)
    print("* remain weight = ", percent, "%", flush=True)
    return percent
