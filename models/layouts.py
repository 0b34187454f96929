"""The layouts in which pre-trained weights come: one row of `LAYOUTS` per source.

A row tells by which entries a file is recognised, which prefixes its network has beside those of
wrappers (files.weight_names), and what else is left out; all else that a file holds must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from files.state_dicts import holds_weights

# Buffers or parameters in which the sources keep mean and std, as named beside the network.
CONSTANTS = (
    ("normalize.mean", "normalize.std"),  # this project, RobustBench
    ("normalizer.mean", "normalizer.std"),  # wrappers of many scripts, as the next
    ("normalization.mean", "normalization.std"),
    ("normalizer.new_mean", "normalizer.new_std"),  # MadryLab/robustness
    ("0.mean", "0.std"),  # transfer checkpoints, here and in the released code
    ("mu", "sigma"),  # RobustBench
    ("mean", "std"),  # RobustBench
)
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
class Layout:
    """How one source lays out its files.

    `recognise` gets the whole file and the names of its state dict, with all their wrappers, with
    fewer, and without.
    """

    name: str
    recognise: Callable[[Mapping[str, Any], Collection[str]], bool]
    prefixes: tuple[str, ...] = ()  # of the network, further to those of wrappers
    ignored: tuple[str, ...] = ()  # by the beginning of the name
    ignored_inside: tuple[str, ...] = ()  # wherever it stands in the name
    respelled: tuple[tuple[str, str], ...] = ()  # parts of names, and what they are here
    trunk_only: bool = False  # a self-supervised trunk; what lies on it is no classifier
    source: str = ""  # where files of this layout come from, for docs/checkpoints.md


def _any(names: Collection[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


def _trunk(
    name: str,
    *markers: str,
    prefixes: tuple[str, ...] = (),
    untrained: tuple[str, ...] = (),
    source: str = "",
) -> Layout:
    """A row of a self-supervised method, recognised by entries that only it has.

    They are left out, as `HEADS` and what is `untrained` are, but for a prefix of the network.
    """
    beside = (*(marker for marker in markers if marker not in prefixes), *untrained)

    def recognise(payload: Mapping[str, Any], names: Collection[str]) -> bool:
        return _any(names, *markers)

    return Layout(
        name, recognise, prefixes, (*HEADS, *beside), trunk_only=True, source=source or name
    )


def _contrastive(name: str, branch: int, source: str, other: tuple[str, ...] = ()) -> Layout:
    """A row of adversarial contrastive learning, whose networks list their BatchNorms.

    branch: the number of the BatchNorm that is taken; `other`: of those that are left out.
    """
    norms = f".bn_list.{branch}."
    return Layout(
        name,
        lambda payload, names: _any(names, f"bn1{norms}"),
        ignored=("fc.fc", "fc.bn"),  # the projection head
        ignored_inside=other,
        respelled=(
            (norms, "."),
            (".downsample.conv.", ".downsample.0."),
            (".downsample.bn.", ".downsample.1."),
        ),
        trunk_only=True,
        source=source,
    )


# The first row that recognises a file wins.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "MoCo v2",
        lambda payload, names: _any(names, "encoder_q."),
        ("encoder_q.",),
        ("encoder_q.fc.", "encoder_k.", "queue"),
        trunk_only=True,
        source="facebookresearch/moco (v1, v2)",
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
        untrained=("fc.",),  # byol-pytorch wraps a whole ResNet and trains what lies below it
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
    _contrastive(
        "ACL, two BatchNorms",
        1,
        "VITA-Group/Adversarial-Contrastive-Learning with --ACL_DS, and what is made of it "
        "(DynACL, AIR)",
        other=(".bn_list.0.",),
    ),
    _contrastive(
        "ACL, one BatchNorm", 0, "VITA-Group/Adversarial-Contrastive-Learning without --ACL_DS"
    ),
    _trunk("SimCLR", "fc.0.", "projector.", source="sthalles/SimCLR, Spijkervet/SimCLR"),
    Layout(
        "MadryLab/robustness",
        lambda payload, names: _any(names, "attacker.", "normalizer.new_"),
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
