"""Names of weights and masks, brought to those of the bare network: for weights and tickets alike.

Training tools wrap a network in others, and every wrapper puts its attribute's name before those of
the weights; repositories also spell the parts of a ResNet in two ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pruning_utils import MASK_SUFFIX

# Of data-parallel and compiled networks and checkpointed activations; some lie inside a name, too.
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
WRAPPERS = ("module.", *INNER, "model.", "net.", "network.", "backbone.", "encoder.")
# Entries that are no weights: state of quantisers, counters of averaged models, sizes left by thop.
NO_WEIGHTS = ("_extra_state", "n_averaged", "total_ops", "total_params")
OTHER_MASK_SUFFIXES = ("_mask", ".mask", ".weight", "")
# Of the network in a file that holds more than one, or a part before it (0 is the normalisation);
# MadryLab/robustness saves it a second time under its attacker.
PARTS = ("encoder_q.", "base_encoder.", "online_encoder.", "attacker.", "1.")
# torch.nn.Sequential(*resnet.children()) numbers what torchvision names.
CHILDREN = {"0.": "conv1.", "1.": "bn1."} | {f"{i + 3}.": f"layer{i}." for i in range(1, 5)}


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


def unknown_wrapper(names: Iterable[str]) -> str | None:
    """What stands before all of a ResNet's names without their known prefixes; None if nothing.

    Also None where several networks lie side by side: which one is meant is not guessed.
    """
    bare = {name.removesuffix("_orig") for name in names}
    inner = "layer1.0.conv1.weight"
    wrappers = {name.removesuffix(inner) for name in bare if name.endswith("." + inner)}
    fitting = len(wrappers) == 1 and inner not in bare
    wrapper = next(iter(wrappers), "")
    return wrapper if fitting and f"{wrapper}conv1.weight" in bare else None


def torchvision_name(name: str) -> str:
    """Many CIFAR ResNets call the projection `shortcut` and the classifier `linear`."""
    if name.startswith("linear."):
        return "fc." + name.removeprefix("linear.")
    return name.replace(".shortcut.", ".downsample.") if name.startswith("layer") else name


def named_child(name: str) -> str:
    """The name of a numbered child of a ResNet: `4.0.conv1` is `layer1.0.conv1`."""
    prefix = name.partition(".")[0] + "."
    return CHILDREN.get(prefix, prefix) + name.removeprefix(prefix)


def mask_names(names: Iterable[str]) -> dict[str, str]:
    """Masks' names like `conv1.weight_mask`, by those of the masks, their weights or layers."""
    names = list(names)
    outer = {name: strip_wrappers(name) for name in names}
    parts = tuple(part for part in PARTS if any(n.startswith(part) for n in outer.values()))
    bare = {name: _with_suffix(strip_wrappers(name, parts)) for name in names}
    if {f"0{MASK_SUFFIX}", f"4.0.conv1{MASK_SUFFIX}"} <= set(bare.values()):
        bare = {name: named_child(mask) for name, mask in bare.items()}
    wrapper = unknown_wrapper(mask.removesuffix("_mask") for mask in bare.values()) or ""
    bare = {name: mask.removeprefix(wrapper) for name, mask in bare.items()}
    return {name: torchvision_name(mask) for name, mask in bare.items()}


def _with_suffix(name: str) -> str:
    if name.endswith(MASK_SUFFIX):
        return name
    suffix = next(suffix for suffix in OTHER_MASK_SUFFIXES if name.endswith(suffix))
    return name.removesuffix(suffix).removesuffix(".weight") + MASK_SUFFIX


def is_no_weight(name: str) -> bool:
    """Whether an entry of a state dict is none of the network's, whatever its value."""
    return name.rpartition(".")[2] in NO_WEIGHTS
