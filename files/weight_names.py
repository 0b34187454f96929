"""Names of weights and masks, brought to those of the bare network: for weights and tickets alike.

Training tools wrap a network in others, and every wrapper puts its attribute's name before those of
the weights; repositories also spell the parts of a ResNet in two ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pruning_utils import MASK_SUFFIX

# Of data-parallel and compiled networks and checkpointed activations; some lie inside a name, too.
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
WRAPPERS = ("module.", *INNER, "model.", "net.", "network.", "backbone.", "encoder.")
# Entries that are no weights: state of quantisers, counters of averaged models, sizes left by thop.
NO_WEIGHTS = ("_extra_state", "n_averaged", "total_ops", "total_params")
OTHER_MASK_SUFFIXES = ("_mask", ".mask", ".weight", "")


def strip_wrappers(name: str, further: Sequence[str] = ()) -> str:
    """A name without wrappers' prefixes (and the `further` ones), in any order and nesting."""
    *_, bare = strippings(name, further)
    return bare


def strippings(name: str, further: Sequence[str] = ()) -> Iterator[str]:
    """A name, and what is left of it as one prefix after the other is removed."""
    yield name
    for inner in INNER:
        name = name.replace(inner, "")
    yield name
    prefixes = (*WRAPPERS, *further)
    while name.startswith(prefixes):
        name = name[len(next(prefix for prefix in prefixes if name.startswith(prefix))) :]
        yield name


def torchvision_name(name: str) -> str:
    """Many CIFAR ResNets call the projection `shortcut` and the classifier `linear`."""
    if name.startswith("linear."):
        return "fc." + name.removeprefix("linear.")
    return name.replace(".shortcut.", ".downsample.") if name.startswith("layer") else name


def mask_name(name: str, further: Sequence[str] = ()) -> str:
    """A mask's name like `conv1.weight_mask`, from that of the mask, its weight or its layer."""
    name = torchvision_name(strip_wrappers(name, further))
    if name.endswith(MASK_SUFFIX):
        return name
    suffix = next(suffix for suffix in OTHER_MASK_SUFFIXES if name.endswith(suffix))
    return name.removesuffix(suffix).removesuffix(".weight") + MASK_SUFFIX


def is_no_weight(name: str) -> bool:
    """Whether an entry of a state dict is none of the network's, whatever its value."""
    return name.rpartition(".")[2] in NO_WEIGHTS
