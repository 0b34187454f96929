"""The layouts in which pre-trained weights come, each brought to bare torchvision-style keys.

One row of `LAYOUTS` per source. A row tells by which entries a file is recognised, under which
prefix its network lies and what beside it is left out; everything else a file holds must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from errors import InputError

WEIGHT_KEYS = ("state_dict", "model", "model_state_dict", "net")
# Buffers or parameters in which the sources keep mean and std, as named beside the network.
CONSTANTS = (
    ("normalize.mean", "normalize.std"),  # this project, RobustBench
    ("normalizer.new_mean", "normalizer.new_std"),  # MadryLab/robustness
    ("0.mean", "0.std"),  # transfer checkpoints, here and in the released code
    ("mu", "sigma"),  # RobustBench
    ("mean", "std"),  # RobustBench
)
MASK = ".weight_mask"


@dataclass
class Source:
    """A file's content under bare names, and how it was read."""

    layout: str
    weights: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    constants: tuple[Tensor, Tensor] | None = None
    names: dict[str, str] = field(default_factory=dict)  # bare name -> name in the file
    unexpected: list[str] = field(default_factory=list)  # names in the file that fit no place
    unmasked: list[str] = field(default_factory=list)  # read from weight_orig, but without a mask
    notes: list[str] = field(default_factory=list)
    arch: str | None = None  # what the file says it holds


@dataclass(frozen=True)
class Layout:
    """How one source lays out its files; names are meant without a leading `module.`."""

    name: str
    recognise: Callable[[Mapping[str, Any], Mapping[str, Tensor]], bool]
    prefixes: tuple[str, ...] = ("",)  # the network's; the first that fits most of the entries
    ignored: tuple[str, ...] = ()


def _mostly(names: Mapping[str, Tensor], prefix: str) -> bool:
    return 2 * sum(name.startswith(prefix) for name in names) > len(names)


def _any(names: Mapping[str, Tensor], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


# `payload` is the whole file, `names` the state dict in it. The first row that recognises it wins.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "MoCo v2",
        lambda payload, names: _any(names, "encoder_q."),
        ("encoder_q.",),
        ("encoder_q.fc.", "encoder_k.", "queue"),
    ),
    Layout(
        "MadryLab/robustness",
        lambda payload, names: _any(names, "attacker.", "normalizer."),
        ("model.model.", "model."),
        ("attacker.",),
    ),
    Layout(
        "CV_LTH_Pre-training",
        lambda payload, names: "init_weight" in payload or "mask" in payload,
    ),
    Layout(
        "released IMP checkpoint",
        lambda payload, names: "state_prune" in payload and holds_weights(payload.get("init")),
    ),
    Layout("IMP checkpoint", lambda payload, names: "state_prune" in payload),
    Layout("transfer checkpoint", lambda payload, names: _mostly(names, "1."), ("1.",)),
    Layout(
        "transfer checkpoint without 1.",
        lambda payload, names: "result" in payload and "state_dict" in payload,
    ),
    Layout(
        "RobustBench",
        lambda payload, names: _mostly(names, "model.") or ("mu" in names and "sigma" in names),
        ("model.model.", "model.", ""),
    ),
    Layout("plain", lambda payload, names: True),
)


def read_layout(payload: Mapping[str, Any], where: str) -> Source:
    """Bring a file's content to bare names; raises InputError where it holds no weights."""
    state = state_dict_of(payload, where)
    if all(name.endswith("weight_mask") for name in state):
        raise InputError(
            f"{where}: holds masks only, a ticket; weights are needed here "
            "(a ticket goes to --tickets_file)"
        )
    prefix = "module." if _mostly(state, "module.") else ""
    inner = {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
    layout = next(row for row in LAYOUTS if row.recognise(payload, inner))
    data_parallel = bool(prefix) and layout.name == "plain"
    source = Source(layout="module.* (data-parallel)" if data_parallel else layout.name)
    arch = payload.get("arch")
    source.arch = arch if isinstance(arch, str) else None
    source.unexpected += [name for name in state if not name.startswith(prefix)]
    source.constants = _take_constants(inner, source)
    _take_weights(inner, layout, source, prefix)
    _take_masks_beside(payload, layout, source)
    source.unmasked = [n for n in source.unmasked if n + "_mask" not in source.masks]
    _note_other_entries(payload, state, source)
    return source


def state_dict_of(payload: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Find the state dict in a file: under one of WEIGHT_KEYS, or the file itself."""
    candidates = [payload.get(key) for key in WEIGHT_KEYS] + [payload]
    for candidate in candidates:
        if holds_weights(candidate):
            return {str(name): value for name, value in candidate.items()}  # type: ignore[union-attr]
    found = ", ".join(str(key) for key in list(payload)[:8]) or "nothing"
    raise InputError(
        f"{where}: no state dict found; it must be the file itself or lie under "
        f"{', '.join(WEIGHT_KEYS)} (the file holds: {found})"
    )


def holds_weights(value: Any) -> bool:
    """Whether a value is a dictionary of tensors."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(entry, Tensor) for entry in value.values())
    )


def _take_constants(inner: dict[str, Tensor], source: Source) -> tuple[Tensor, Tensor] | None:
    """Remove mean and std from the entries and return them as vectors."""
    for mean_name, std_name in CONSTANTS:
        if mean_name in inner and std_name in inner:
            mean = inner.pop(mean_name).detach().flatten()
            std = inner.pop(std_name).detach().flatten()
            source.names["mean"], source.names["std"] = mean_name, std_name
            return mean, std
    return None


def _take_weights(inner: Mapping[str, Tensor], layout: Layout, source: Source, outer: str) -> None:
    """Sort the entries into weights, masks, those left out (noted), and those that fit nowhere."""
    kept = {name: inner[name] for name in inner if not name.startswith(layout.ignored)}
    prefix = next((p for p in layout.prefixes if _mostly(kept, p)), layout.prefixes[-1])
    for name, value in kept.items():
        bare = _torchvision_name(name.removeprefix(prefix))
        if not name.startswith(prefix) or bare in source.weights:
            source.unexpected.append(outer + name)
            continue
        source.names[bare] = outer + name
        if bare.endswith(MASK):
            source.masks[bare] = value
        else:
            source.weights[bare] = value
    for bare in [name for name in source.weights if name.endswith(".weight_orig")]:
        plain = bare.removesuffix("_orig")
        if plain in source.weights:
            source.unexpected.append(source.names[plain])
        source.weights[plain] = source.weights.pop(bare)
        source.names[plain] = source.names[bare]
        source.unmasked.append(plain)
    for group in layout.ignored:
        count = sum(name.startswith(group) for name in inner)
        if count:
            source.notes.append(f"left out: {count} entries {outer}{group}*")


def _torchvision_name(name: str) -> str:
    """Many CIFAR ResNets call the projection `shortcut` and the classifier `linear`."""
    if name.startswith("linear."):
        return "fc." + name.removeprefix("linear.")
    return name.replace(".shortcut.", ".downsample.") if name.startswith("layer") else name


def _take_masks_beside(payload: Mapping[str, Any], layout: Layout, source: Source) -> None:
    """CV_LTH_Pre-training also keeps masks beside the weights; those in the weights come first."""
    beside = payload.get("mask")
    if not holds_weights(beside):
        return
    if source.masks:
        source.notes.append("left out: the entry mask (the masks among the weights are used)")
        return
    for name, value in beside.items():  # type: ignore[union-attr]
        bare = name.removeprefix("module.").removeprefix(layout.prefixes[0])
        bare = bare if bare.endswith(MASK) else bare.removesuffix(".weight") + MASK
        source.masks[bare], source.names[bare] = value, f"mask/{name}"


def _note_other_entries(
    payload: Mapping[str, Any], state: Mapping[str, Tensor], source: Source
) -> None:
    """Say what of the file was not looked at; initial weights can be had by another way."""
    used = {*WEIGHT_KEYS, *state, "arch", "mask"}
    others = [str(key) for key in payload if key not in used]
    if others:
        source.notes.append(f"left out: {', '.join(others)}")
    for key in ("init_weight", "init"):
        if holds_weights(payload.get(key)):
            source.notes.append(
                "these are the weights as trained (state_dict); the initial ones as a file: "
                f"python -m models.convert IN OUT --key {key}"
            )
