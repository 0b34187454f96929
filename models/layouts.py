"""The layouts in which pre-trained weights come, each brought to bare torchvision-style keys.

One row of `LAYOUTS` per source. A row tells by which entries a file is recognised, which prefixes
its network has beside those of wrappers (files.weight_names), and what else is left out; everything
else that a file holds must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from errors import InputError
from files.mask_layouts import ticket_masks
from files.state_dicts import WEIGHT_KEYS, averaged_weights, holds_weights, take_state_dict
from files.weight_names import is_no_weight, strip_wrappers, strippings, torchvision_name
from pruning_utils import MASK_SUFFIX

# Buffers or parameters in which the sources keep mean and std, as named beside the network.
CONSTANTS = (
    ("normalize.mean", "normalize.std"),  # this project, RobustBench
    ("normalizer.new_mean", "normalizer.new_std"),  # MadryLab/robustness
    ("0.mean", "0.std"),  # transfer checkpoints, here and in the released code
    ("mu", "sigma"),  # RobustBench
    ("mean", "std"),  # RobustBench
)
# torch.nn.Sequential(*resnet.children()) numbers what torchvision names.
CHILDREN = {"0.": "conv1.", "1.": "bn1."} | {f"{i + 3}.": f"layer{i}." for i in range(1, 5)}
# What self-supervised training puts behind or beside the trunk. A classifier with numbered parts is
# an MLP, a projection head.
HEADS = (
    *("projector.", "projection_head.", "projection.", "projetion.", "predictor.", "prototypes"),
    *(
        "online_predictor.",
        "target_encoder.",
        "momentum_",
        "queue",
        "head.",
        "lambd",
        "classifier.",
    ),
    *(f"fc.{part}." for part in range(10)),
)


@dataclass(frozen=True)
class Source:
    """A file's content under bare names, and how it was read."""

    layout: str
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    constants: tuple[Tensor, Tensor] | None  # mean and std, each a vector
    names: dict[str, str]  # bare name -> name in the file
    unexpected: list[str]  # names in the file that fit no place
    unmasked: list[str]  # read from weight_orig, but without a mask
    notes: list[str]
    arch: str | None  # what the file says it holds
    trunk_only: bool


@dataclass(frozen=True)
class Layout:
    """How one source lays out its files.

    `recognise` gets the whole file and the names of its state dict, with all their wrappers, with
    fewer, and without.
    """

    name: str
    recognise: Callable[[Mapping[str, Any], Collection[str]], bool]
    prefixes: tuple[str, ...] = ()  # of the network, further to those of wrappers
    ignored: tuple[str, ...] = ()
    trunk_only: bool = False  # a self-supervised trunk; what lies on it is no classifier
    source: str = ""  # where files of this layout come from, for docs/checkpoints.md


def _any(names: Collection[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


def _trunk(name: str, *markers: str, prefixes: tuple[str, ...] = (), source: str = "") -> Layout:
    """A row of a self-supervised method, recognised by entries that only it has."""
    return Layout(
        name, lambda payload, names: _any(names, *markers), prefixes, HEADS, True, source or name
    )


# The first row that recognises a file wins.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "MoCo v2",
        lambda payload, names: _any(names, "encoder_q."),
        ("encoder_q.",),
        ("encoder_q.fc.", "encoder_k.", "queue"),
        True,
        "facebookresearch/moco (v1, v2)",
    ),
    _trunk(
        "MoCo v3", "base_encoder.", prefixes=("base_encoder.",), source="facebookresearch/moco-v3"
    ),
    _trunk("SwAV", "projection_head.", "prototypes.", source="facebookresearch/swav"),
    _trunk("DINO", "head.mlp.", "head.last_layer.", source="facebookresearch/dino"),
    _trunk(
        "BYOL",
        *("online_encoder.", "target_encoder.", "projetion.", "momentum_backbone."),
        prefixes=("online_encoder.",),
        source="byol-pytorch, PyTorch-BYOL, solo-learn",
    ),
    Layout(
        "Barlow Twins",
        lambda payload, names: _any(names, "projector.") and "bn.running_mean" in names,
        ignored=(*HEADS, "bn."),
        trunk_only=True,
        source="facebookresearch/barlowtwins",
    ),
    Layout(
        "SimSiam",
        lambda payload, names: _any(names, "predictor.") and _any(names, "encoder.fc.0."),
        ignored=HEADS,
        trunk_only=True,
        source="facebookresearch/simsiam",
    ),
    Layout(
        "SupCon",
        lambda payload, names: _any(names, "encoder.") and _any(names, "head.0.", "head.weight"),
        ignored=HEADS,
        trunk_only=True,
        source="HobbitLong/SupContrast",
    ),
    _trunk("SimCLR", "fc.0.", "projector.", source="sthalles/SimCLR, Spijkervet/SimCLR"),
    Layout(
        "MadryLab/robustness",
        lambda payload, names: _any(names, "attacker.", "normalizer."),
        ignored=("attacker.",),
        source="MadryLab/robustness, robust-imagenet-models, microsoft/robust-models-transfer",
    ),
    Layout(
        "CV_LTH_Pre-training",
        lambda payload, names: "init_weight" in payload or "mask" in payload,
        source="VITA-Group/CV_LTH_Pre-training",
    ),
    Layout(
        "released IMP checkpoint",
        lambda payload, names: "state_prune" in payload and holds_weights(payload.get("init")),
        source="the released code's IMP",
    ),
    Layout(
        "IMP checkpoint",
        lambda payload, names: "state_prune" in payload,
        source="main_imp_pretrain.py",
    ),
    Layout(
        "transfer checkpoint",
        lambda payload, names: _any(names, "1.") and not _any(names, "0.weight", "2."),
        ("1.",),
        source="main_downstream.py, the released code's transfer",
    ),
    Layout(
        "transfer checkpoint without 1.",
        lambda payload, names: "result" in payload and "state_dict" in payload,
        source="the released code's standard transfer",
    ),
    Layout(
        "RobustBench",
        lambda payload, names: (
            ("mu" in names and "sigma" in names)
            or ("normalize.mean" in names and _any(names, "model."))
        ),
        source="RobustBench, with the normalisation inside",
    ),
    Layout(
        "Lightning",
        lambda payload, names: "pytorch-lightning_version" in payload,
        source="PyTorch Lightning",
    ),
    Layout("plain", lambda payload, names: True, source="torchvision, timm, TRADES, any other"),
)


def read_layout(payload: Mapping[str, Any], where: str, key: str | None = None) -> Source:
    """Bring a file's content to bare names.

    `key` names the entry with the weights, `outer.inner` for a nested one; else it is found. Raises
    InputError where the file holds no weights.
    """
    taken = take_state_dict(payload, where, key)
    _refuse_masks_alone(taken.state, where)
    stripped = {name: strip_wrappers(name) for name in taken.state}
    names = {stage for name in taken.state for stage in strippings(name)}
    row = next(row for row in LAYOUTS if row.recognise(payload, names))
    network, constants, constant_names = _split_constants(taken.state, stripped)
    kept, left_out = _split_ignored(network, stripped, row)
    weights, full, unexpected = _bare(kept, row)
    weights, full, orig, doubled = _plain_names(weights, full)
    masks = {name: weights.pop(name) for name in [*weights] if name.endswith(MASK_SUFFIX)}
    beside, beside_names, beside_notes = _masks_beside(payload, masks, where)
    masks |= beside
    unmasked = [name for name in orig if name + "_mask" not in masks]
    weights, masks = _with_classifier_pruned(weights, masks)
    other_notes = _other_entries(payload, taken.key, taken.state)
    arch = payload.get("arch")
    return Source(
        layout=_layout_name(row, stripped),
        weights=weights,
        masks=masks,
        constants=constants,
        names=full | beside_names | constant_names,
        unexpected=unexpected + doubled,
        unmasked=unmasked,
        notes=[*taken.notes, *left_out, *beside_notes, *other_notes],
        arch=arch if isinstance(arch, str) else None,
        trunk_only=row.trunk_only,
    )


def _refuse_masks_alone(state: Mapping[str, Tensor], where: str) -> None:
    if all(name.endswith("weight_mask") for name in state):
        raise InputError(
            f"{where}: holds masks only, a ticket; weights are needed here "
            "(a ticket goes to --tickets_file)"
        )


def _layout_name(row: Layout, stripped: Mapping[str, str]) -> str:
    """The row's name; of a plain file the wrappers around it, too."""
    first, bare = next(iter(stripped.items()))
    prefix = first.removesuffix(bare)
    if row.name != "plain" or not prefix or prefix == first:
        return row.name
    return f"{prefix}* ({'data-parallel' if prefix == 'module.' else 'wrapped'})"


def _split_constants(
    state: Mapping[str, Tensor], stripped: Mapping[str, str]
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None, dict[str, str]]:
    """The entries without mean and std, those two as vectors, and their names in the file."""
    by_bare = {bare: name for name, bare in reversed(list(stripped.items()))}
    for mean, std in CONSTANTS:
        if mean in by_bare and std in by_bare:
            names = {"mean": by_bare[mean], "std": by_bare[std]}
            rest = {name: value for name, value in state.items() if name not in names.values()}
            vectors = [state[name].detach().flatten() for name in names.values()]
            return rest, (vectors[0], vectors[1]), names
    return dict(state), None, {}


def _split_ignored(
    network: Mapping[str, Tensor], stripped: Mapping[str, str], row: Layout
) -> tuple[dict[str, Tensor], list[str]]:
    """The entries that must fit, and a note on each group of those that are left out."""
    kept, groups = {}, dict[str, int]()
    for name, value in network.items():
        candidates = (stripped[name], strip_wrappers(name, row.prefixes))
        group = next((p for p in (*row.ignored, "sub_block1.") for c in candidates
                      if c.startswith(p)), None)  # fmt: skip
        if group is None:
            kept[name] = value
        else:
            outer = name[: name.index(group)]
            groups[outer + group] = groups.get(outer + group, 0) + 1
    return kept, [f"left out: {count} entries {group}*" for group, count in groups.items()]


def _bare(
    entries: Mapping[str, Tensor], row: Layout
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Entries and their names in the file by bare name; and those whose place is taken."""
    weights: dict[str, Tensor] = {}
    full: dict[str, str] = {}
    unexpected = []
    bare_names = {name: strip_wrappers(name, row.prefixes) for name in entries}
    numbered = {"0.weight", "1.weight"} <= set(bare_names.values())
    for name, value in entries.items():
        bare = _named_child(bare_names[name]) if numbered else bare_names[name]
        bare = torchvision_name(bare)
        if bare in weights:
            unexpected.append(name)
        else:
            weights[bare], full[bare] = value, name
    return weights, full, unexpected


def _named_child(name: str) -> str:
    prefix = name.partition(".")[0] + "."
    return CHILDREN.get(prefix, prefix) + name.removeprefix(prefix)


def _plain_names(
    weights: Mapping[str, Tensor], full: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str], list[str], list[str]]:
    """Put `weight_orig` under the name of the weight.

    Returns:
        Weights and names so; which they were; names in the file of weights that lie beside them.
    """
    renamed, names = dict(weights), dict(full)
    orig, doubled = [], []
    for name in weights:
        if name.endswith(".weight_orig"):
            plain = name.removesuffix("_orig")
            if plain in weights:
                doubled.append(full[plain])
            renamed[plain], names[plain] = renamed.pop(name), full[name]
            orig.append(plain)
    return renamed, names, orig, doubled


def _masks_beside(
    payload: Mapping[str, Any], masks: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """CV_LTH_Pre-training also keeps masks beside the weights; those in the weights come first."""
    beside = payload.get("mask")
    if not isinstance(beside, Mapping) or not beside:
        return {}, {}, []
    if masks:
        return {}, {}, ["left out: the entry mask (the masks among the weights are used)"]
    found, notes = ticket_masks({"mask": beside}, where)
    return found, {name: f"mask/{name}" for name in found}, notes


def _with_classifier_pruned(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A pruned classifier gets its zeros for good: masks are of convolutions only."""
    weights, masks = dict(weights), dict(masks)
    for name in [name for name, mask in masks.items() if mask.dim() == 2]:
        weight = weights.get(name.removesuffix("_mask"))
        if weight is not None and weight.shape == masks[name].shape:
            weights[name.removesuffix("_mask")] = weight * masks.pop(name).to(weight.dtype)
    return weights, masks


def _other_entries(
    payload: Mapping[str, Any], key: str | None, state: Mapping[str, Tensor]
) -> Iterator[str]:
    """Say what of the file was not looked at; other weights in it can be had by another way."""
    used = {*WEIGHT_KEYS, *state, "arch", "mask"}
    others = [str(name) for name in payload if name not in used and not is_no_weight(str(name))]
    if others:
        yield f"left out: {', '.join(others)}"
    for name in ("init_weight", "init"):
        if holds_weights(payload.get(name)) and key != name:
            yield (
                "these are the weights as trained (state_dict); the initial ones as a file: "
                f"python -m models.convert IN OUT --key {name}"
            )
    for name in WEIGHT_KEYS:  # as in DINO's student beside the teacher
        if key is not None and key != name and holds_weights(payload.get(name)):
            yield f"other weights lie under {name}: --init_key {name} takes them"
    for name in averaged_weights(payload):
        if key != name:
            yield f"averaged weights (EMA) lie under {name}: --init_key {name} takes them"
