"""Weights and masks as the sources write them: wrappers, averages, self-supervised trunks, tickets.

Each file is made from the weights of a small network, under the names that its source gives them.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.network_cases import enliven

from errors import InputError
from files.checkpoints import save_checkpoint
from files.mask_layouts import ticket_masks
from files.weight_names import WRAPPERS, mask_names, strip_wrappers
from models import ARCHS, build_model, fit_masks, load_pretrained
from models.layouts import LAYOUTS
from models.source import read_layout
from pruning_utils import apply_masks, prune_at_random
from pruning_utils import masks as all_masks

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 7
DOCS = Path(__file__).resolve().parent.parent / "docs" / "checkpoints.md"


def network(seed=1, arch="resnet20s", **options):
    torch.manual_seed(seed)
    return enliven(build_model(arch, CLASSES, MEAN, STD, width=4, **options)).eval()


def weights_of(model):
    return {n: v for n, v in model.state_dict().items() if not n.startswith("normalize.")}


WEIGHTS = weights_of(network())
TRUNK = {name: value for name, value in WEIGHTS.items() if not name.startswith("fc.")}
OTHER = {name: value + 1 for name, value in WEIGHTS.items()}


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def mlp(prefix, *parts):
    return {f"{prefix}{part}.weight": torch.ones(4, 4) for part in parts}


def bn(prefix):
    names = ("running_mean", "running_var")
    return {prefix + name: torch.ones(4) for name in names}


def load(payload, tmp_path, model=None, **how):
    path = tmp_path / "weights.pth"
    save_checkpoint(path, payload)
    model = network(seed=2) if model is None else model
    return model, load_pretrained(model, path, **how)


def assert_holds(model, weights):
    own = model.state_dict()
    assert weights
    assert all(torch.equal(own[name], value) for name, value in weights.items())


# --- wrappers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [*WRAPPERS, "model.module.", "module.model.module.backbone.",
                                    "_orig_mod.module.", "net._orig_mod.", "model.network.encoder.",
                                    "module._fsdp_wrapped_module.model.encoder.net."])  # fmt: skip
def test_wrappers_are_removed_in_any_order_and_nesting(prefix, tmp_path):
    model, loaded = load({"state_dict": prefixed(prefix, WEIGHTS)}, tmp_path)
    assert_holds(model, WEIGHTS)
    assert loaded.layout.startswith(prefix)


def test_wrappers_inside_names_are_removed(tmp_path):
    state = {
        "_fsdp_wrapped_module." + re.sub(r"^(layer\d\.\d)\.", r"\1._fsdp_wrapped_module.", name): v
        for name, v in WEIGHTS.items()
    }
    assert "_fsdp_wrapped_module.layer1.0._fsdp_wrapped_module.conv1.weight" in state
    assert_holds(load({"model": state}, tmp_path)[0], WEIGHTS)


def test_two_networks_in_one_file_are_no_silent_choice(tmp_path):
    state = prefixed("model.", WEIGHTS) | prefixed("net.", OTHER)
    with pytest.raises(InputError, match=r"unexpected: net\.conv1\.weight"):
        load({"state_dict": state}, tmp_path)


def test_a_lightning_checkpoint(tmp_path):
    payload = {
        "pytorch-lightning_version": "2.2.0",
        "epoch": 3,
        "global_step": 100,
        "state_dict": prefixed("model.", WEIGHTS),
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    }
    model, loaded = load(payload, tmp_path)
    assert_holds(model, WEIGHTS)
    assert loaded.layout == "Lightning"
    assert any("hyper_parameters" in note for note in loaded.notes)


def test_a_lightning_checkpoint_of_averages_is_told(tmp_path):
    payload = {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": prefixed("model.", OTHER),
        "current_model_state": prefixed("model.", WEIGHTS),
        "averaging_state": {"n_averaged": torch.tensor(9)},
    }
    model, loaded = load(payload, tmp_path)
    assert_holds(model, OTHER)
    assert any(note.startswith("these are averaged weights (state_dict)") for note in loaded.notes)
    model, loaded = load(payload, tmp_path, key="current_model_state")
    assert_holds(model, WEIGHTS)
    assert not any("these are averaged" in note for note in loaded.notes)


def test_entries_that_are_no_weights_are_ignored_with_a_note(tmp_path):
    state = {
        **WEIGHTS,
        "layer1.0.conv1._extra_state": {"scale": 1},
        "bn1.total_ops": torch.zeros(1),
        "n_averaged": torch.tensor(3),
        "epoch": 4,
    }
    model, loaded = load({"model": state}, tmp_path)
    assert_holds(model, WEIGHTS)
    note = next(note for note in loaded.notes if note.startswith("ignored"))
    assert "layer1.0.conv1._extra_state" in note
    assert "4 in all" in note


# --- which of several -----------------------------------------------------------------------------


def timm_training_file():
    return {
        "state_dict": WEIGHTS,
        "state_dict_ema": OTHER,
        "arch": "x",
        "epoch": 1,
    }, "state_dict_ema"


def torchvision_reference_file():
    averaged = {"n_averaged": torch.tensor(9), **prefixed("module.", OTHER)}
    return {"model": WEIGHTS, "model_ema": averaged, "epoch": 1}, "model_ema"


def nested_file():
    return {"state_dict": WEIGHTS, "best": {"ema": prefixed("module.", OTHER)}}, "best.ema"


@pytest.mark.parametrize("file", [timm_training_file, torchvision_reference_file, nested_file])
def test_averaged_weights_are_left_with_a_note_or_chosen(file, tmp_path):
    payload, key = file()
    model, loaded = load(payload, tmp_path)
    assert_holds(model, WEIGHTS)
    if "." not in key:
        assert (
            f"averaged weights (EMA) lie under {key}: --init_key {key} takes them" in loaded.notes
        )
    model, loaded = load(payload, tmp_path, key=key)
    assert_holds(model, OTHER)
    assert not any("EMA" in note for note in loaded.notes)


def test_a_file_that_holds_averages_alone_needs_no_key(tmp_path):
    model, loaded = load({"ema": OTHER, "step": 3}, tmp_path)
    assert_holds(model, OTHER)
    assert "the weights are those under ema" in loaded.notes


@pytest.mark.parametrize("prefix", ["resnet.", "_model.", "module.trunk.base_net."])
def test_a_wrapper_that_nobody_knows_is_left_out_with_a_note(prefix, tmp_path):
    model, loaded = load({"state_dict": prefixed(prefix, WEIGHTS)}, tmp_path)
    assert_holds(model, WEIGHTS)
    left = prefix.removeprefix("module.")
    assert loaded.notes == [f"the network is what lies under {left}*"]


def test_two_networks_side_by_side_are_no_silent_choice(tmp_path):
    two = prefixed("model_q.", WEIGHTS) | prefixed("model_k.", OTHER)
    with pytest.raises(InputError, match=r"unexpected: model_q\.conv1\.weight"):
        load(two, tmp_path)


def test_networks_of_several_epochs_are_asked_for_though_their_entries_have_usual_names(tmp_path):
    two = {"last": {"net": OTHER}, "best": {"net": WEIGHTS}}
    with pytest.raises(InputError, match=r"choose by --init_key, of last\.net, best\.net"):
        load(two, tmp_path)
    model, loaded = load(two, tmp_path, key="best.net")
    assert_holds(model, WEIGHTS)
    assert loaded.notes == ["other weights lie under last.net: --init_key last.net takes them"]


def test_of_one_networks_entries_the_usual_one_is_taken(tmp_path):
    file = {"checkpoint": {"ema": OTHER, "model": WEIGHTS}, "epoch": 3}
    model, loaded = load(file, tmp_path)
    assert_holds(model, WEIGHTS)
    ema = "averaged weights (EMA) lie under checkpoint.ema: --init_key checkpoint.ema takes them"
    assert loaded.notes == ["the weights are those under checkpoint.model", "left out: epoch", ema]


def test_the_momentum_of_an_optimiser_is_no_network(tmp_path):
    file = {"optim_state": {"model": OTHER}, "kept": WEIGHTS}
    model, loaded = load(file, tmp_path)
    assert_holds(model, WEIGHTS)
    assert loaded.notes == ["the weights are those under kept", "left out: optim_state"]


def test_weights_in_several_places_are_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"several places; choose by --init_key, of a, b\.c"):
        load({"a": WEIGHTS, "b": {"c": OTHER}}, tmp_path)


def test_which_of_two_networks_is_meant_is_asked_unless_they_are_the_same(tmp_path):
    for file in ({"teacher": WEIGHTS, "student": OTHER}, {"net": WEIGHTS, "model": OTHER},
                 {"checkpoint": {"net": WEIGHTS, "model": OTHER}, "epoch": 1}):  # fmt: skip
        with pytest.raises(InputError, match="several places; choose by --init_key, of "):
            load(file, tmp_path)
    same = {name: value.clone() for name, value in WEIGHTS.items()}
    model, _ = load({"state_dict": WEIGHTS, "model": same}, tmp_path)
    assert_holds(model, WEIGHTS)


def test_a_key_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(InputError, match=r"under 'ema'; there is model, best\.net"):
        load({"model": WEIGHTS, "best": {"net": OTHER}}, tmp_path, key="ema")


# --- self-supervised trunks -----------------------------------------------------------------------


def simclr():
    state = prefixed("backbone.", TRUNK) | mlp("backbone.fc.", 0, 2)
    return {"epoch": 200, "arch": "resnet20s", "state_dict": state, "optimizer": {}}


def simclr_spijkervet():
    return prefixed("module.encoder.", TRUNK) | mlp("module.projector.", 0, 2)


def byol():
    """Sequential(*resnet.children()[:-1]), whose parts have numbers for names."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}
    numbered = {
        f"encoder.{numbers[name.partition('.')[0]]}.{name.partition('.')[2]}": value
        for name, value in TRUNK.items()
    }
    heads = mlp("projetion.net.", 0, 3) | bn("projetion.net.1.")
    target = {name: value + 1 for name, value in (numbered | heads).items()}
    return {
        "online_network_state_dict": numbered | heads,
        "target_network_state_dict": target,
        "optimizer_state_dict": {"state": {}},
    }


def byol_pytorch():
    """BYOL.state_dict(): the network hangs in it twice."""
    online = prefixed("net.", TRUNK) | prefixed("online_encoder.net.", TRUNK)
    online |= mlp("online_encoder.projector.", 0, 3)
    target = {name: value + 1 for name, value in prefixed("target_encoder.net.", TRUNK).items()}
    return online | target | mlp("online_predictor.", 0, 3)


def byol_pytorch_of_a_whole_network():
    """As its README wraps torchvision's: the classifier stays in it, and is not trained."""
    online = prefixed("net.", WEIGHTS) | prefixed("online_encoder.net.", WEIGHTS)
    return byol_pytorch() | online | prefixed("target_encoder.net.", OTHER)


def solo_learn():
    state = prefixed("backbone.", TRUNK) | prefixed("momentum_backbone.", TRUNK)
    state |= mlp("projector.", 0, 3) | mlp("momentum_projector.", 0) | mlp("predictor.", 0)
    state |= {"classifier.weight": torch.ones(7, 16), "classifier.bias": torch.ones(7)}
    return {"state_dict": state, "pytorch-lightning_version": "1.9.0", "hyper_parameters": {}}


def swav():
    heads = mlp("module.projection_head.", 0, 3) | bn("module.projection_head.1.")
    return prefixed("module.", TRUNK) | heads | mlp("module.", "prototypes")


def dino():
    student = prefixed("module.backbone.", TRUNK) | mlp("module.head.mlp.", 0, 2)
    student |= {"module.head.last_layer.weight_g": torch.ones(4, 1)}
    teacher = {n.removeprefix("module."): v for n, v in student.items()}
    student = {n: v + 1 for n, v in student.items()}
    return {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 99}


def moco_v3():
    state = prefixed("module.base_encoder.", TRUNK) | mlp("module.base_encoder.fc.", 0, 3)
    state |= prefixed("module.momentum_encoder.", TRUNK) | mlp("module.predictor.", 0, 3)
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "scaler": {}}


def barlow_twins():
    state = prefixed("module.backbone.", TRUNK) | mlp("module.projector.", 0, 3)
    return {"epoch": 9, "model": state | bn("module.bn."), "optimizer": {}}


def simsiam():
    state = prefixed("module.encoder.", TRUNK) | mlp("module.encoder.fc.", 0, 3, 6)
    state |= bn("module.encoder.fc.7.") | mlp("module.predictor.", 0, 3)
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}}


def supcon():
    named = {name.replace("downsample", "shortcut"): value for name, value in TRUNK.items()}
    state = prefixed("encoder.module.", named) | mlp("head.", 0, 2)
    return {"model": state, "optimizer": {}, "epoch": 9}


def acl(branches=2):
    """Which lists a BatchNorm of clean images and one of attacked ones, or one of all."""
    state = {"normalize.mean": torch.full((3,), 0.4), "normalize.std": torch.full((3,), 0.2)}
    for name, value in TRUNK.items():
        name = name.replace("downsample.0.", "downsample.conv.")
        name = name.replace("downsample.1.", "downsample.bn.")
        before, norm, entry = re.fullmatch(r"(.*?)(bn\d?\.)?(\w+)", name).groups("")
        if not norm:
            state[name] = value
            continue
        for branch in range(branches):
            own = value if branch == branches - 1 else value + 1
            state[f"{before}{norm}bn_list.{branch}.{entry}"] = own
    for part in (1, 2, 3):
        state |= mlp("fc.", f"fc{part}")
        for branch in range(branches):
            state |= bn(f"fc.bn{part}.bn_list.{branch}.")
    return {"epoch": 1000, "state_dict": state, "optim": {}, "acc": 0.9, "tacc": 0.8}


def acl_of_one_branch():
    return acl(branches=1)


TRUNKS = {
    acl: "ACL, two BatchNorms",
    acl_of_one_branch: "ACL, one BatchNorm",
    simclr: "SimCLR",
    simclr_spijkervet: "SimCLR",
    byol: "BYOL",
    byol_pytorch: "BYOL",
    byol_pytorch_of_a_whole_network: "BYOL",
    solo_learn: "BYOL",
    swav: "SwAV",
    dino: "DINO",
    moco_v3: "MoCo v3",
    barlow_twins: "Barlow Twins",
    simsiam: "SimSiam",
    supcon: "SupCon",
}


@pytest.mark.parametrize("file", TRUNKS, ids=lambda file: file.__name__)
def test_self_supervised_trunks_are_transferred_without_their_heads(file, tmp_path):
    model, loaded = load(file(), tmp_path, fc="drop")
    assert_holds(model, TRUNK)
    assert loaded.layout == TRUNKS[file]
    assert loaded.trunk_only
    assert any(note.startswith("left out: ") and "entries" in note for note in loaded.notes)


@pytest.mark.parametrize("file", TRUNKS, ids=lambda file: file.__name__)
def test_self_supervised_trunks_have_no_classifier_to_keep(file, tmp_path):
    with pytest.raises(InputError, match=f"{TRUNKS[file]} has no classifier"):
        load(file(), tmp_path)


@pytest.mark.parametrize("file", TRUNKS, ids=lambda file: file.__name__)
def test_an_entry_of_the_trunk_that_fits_nowhere_is_still_an_error(file, tmp_path):
    payload: dict[str, Any] = file()
    for value in (payload, *payload.values()):
        if isinstance(value, dict):
            for name in [n for n in value if n.endswith("conv1.weight") and "layer" in n or
                         n.endswith("4.0.conv1.weight")]:  # fmt: skip
                value[name.replace("conv1", "conv9")] = value[name]
    with pytest.raises(InputError, match=r"unexpected: .*conv9\.weight"):
        load(payload, tmp_path, fc="drop")


def test_the_teacher_of_dino_is_taken_and_the_student_can_be_chosen(tmp_path):
    _, loaded = load(dino(), tmp_path, fc="drop")
    assert "other weights lie under student: --init_key student takes them" in loaded.notes
    model, _ = load(dino(), tmp_path, fc="drop", key="student")
    assert_holds(model, {name: value + 1 for name, value in TRUNK.items()})


# --- networks for small images --------------------------------------------------------------------


def test_an_unused_block_of_the_trades_code_is_left_out_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("models").wide_resnet.VARIANTS, "wide_resnet34_10", (10, 1))
    held = network(arch="wide_resnet34_10")
    state = weights_of(held)
    state |= {n.replace("block1.", "sub_block1."): v for n, v in state.items() if "block1." in n}
    model = network(seed=2, arch="wide_resnet34_10")
    _, loaded = load(prefixed("module.", state), tmp_path, model)
    assert_holds(model, weights_of(held))
    assert any("sub_block1.*" in note for note in loaded.notes)


# --- tickets --------------------------------------------------------------------------------------

KEPT = {
    f"{name.removesuffix('.weight')}.weight_mask": torch.rand(value.shape) < 0.5
    for name, value in WEIGHTS.items()
    if value.dim() == 4
}


def floats():
    return {name: mask.float() for name, mask in KEPT.items()}


def by_weight(convert):
    return {name.removesuffix("_mask"): convert(mask) for name, mask in KEPT.items()}


def pruned_state():
    state = {f"{n}_orig" if f"{n}_mask" in KEPT else n: v for n, v in WEIGHTS.items()}
    return state | floats()


TICKETS = {
    "under net": lambda: {"net": pruned_state(), "acc": 90.0, "epoch": 3},
    "under model": lambda: {"model": prefixed("module.", pruned_state())},
    "under model.state_dict": lambda: {"model": {"state_dict": pruned_state()}},
    "under masks": lambda: {"masks": floats()},
    "under mask": lambda: {"state_dict": WEIGHTS, "mask": prefixed("module.", floats())},
    "under mask, by layer": lambda: {"mask": {n[:-12]: m for n, m in KEPT.items()}},
    "with prefixes": lambda: prefixed("_orig_mod.module.model.", floats()),
    "transfer checkpoint": lambda: {"state_dict": prefixed("module.1.", floats())},
    "open_lth": lambda: by_weight(lambda mask: mask.int()),
    "numpy": lambda: by_weight(lambda mask: mask.numpy().astype(np.uint8)),
    "MoCo": lambda: {"state_dict": prefixed("module.encoder_q.", pruned_state())},
    "MoCo v3": lambda: prefixed("base_encoder.", floats()),
    "under a wrapper that nobody knows": lambda: prefixed("module.trunk.", pruned_state()),
    "MadryLab/robustness": lambda: {
        "model": prefixed("module.model.", pruned_state())
        | prefixed("module.attacker.model.", pruned_state())
    },
    "BYOL": lambda: {"masks": prefixed("online_encoder.", floats())},
    "beside numbers": lambda: by_weight(lambda mask: mask.int()) | {"epoch": 3, "arch": "x"},
    "nested where nobody looks": lambda: {"best": {"ticket": floats()}, "last": {"lr": 0.1}},
    "sparse": lambda: {"mask": by_weight(lambda mask: mask.float().to_sparse())},
}


@pytest.mark.parametrize("name", TICKETS)
def test_masks_are_found_wherever_they_lie(name):
    found, notes = ticket_masks(TICKETS[name](), "ticket.pt")
    assert notes == []
    assert found.keys() == KEPT.keys()
    assert all(torch.equal(found[name], mask) for name, mask in KEPT.items())
    assert all(mask.dtype == torch.bool for mask in found.values())


def test_masks_of_numbered_children_are_those_of_the_resnet():
    numbers = {"conv1": "0"} | {f"layer{i}": f"{i + 3}" for i in range(1, 5)}
    model = build_model("resnet18", CLASSES, MEAN, STD, "cifar")
    prune_at_random(model, 0.5)
    masks = all_masks(model)
    numbered = {}
    for name, mask in masks.items():
        first, dot, rest = name.partition(".")
        numbered[f"module.{numbers[first]}{dot}{rest}"] = mask
    found, _ = ticket_masks({"state_dict": numbered}, "ticket.pt")
    assert found.keys() == masks.keys()


def test_masks_in_several_places_are_no_silent_choice():
    payload = {"first": {"ticket": floats()}, "second": {n: 1 - m for n, m in floats().items()}}
    told = r"several places \(first, second\).* python -m models.convert ticket.pt .*--key NAME"
    with pytest.raises(InputError, match=told):
        ticket_masks(payload, "ticket.pt")


def test_other_masks_beside_those_that_are_taken_are_told_of_and_zeros_of_an_optimizer_are_none():
    other = {name: 1 - mask for name, mask in floats().items()}
    state = {index: {"momentum_buffer": torch.zeros(index + 1, 3, 3, 3)} for index in range(2)}
    file = {"state_dict": pruned_state(), "state_dict_ema": other, "optimizer": {"state": state}}
    found, notes = ticket_masks(file, "x.pt")
    assert all(torch.equal(found[name], mask) for name, mask in KEPT.items())
    assert notes == ["state_dict_ema holds other masks, which are not used"]


def test_masks_among_the_weights_and_beside_them_are_taken_if_they_are_equal():
    beside = prefixed("module.", floats())
    found, _ = ticket_masks({"state_dict": pruned_state(), "mask": beside}, "ticket.pt")
    assert all(torch.equal(found[name], mask) for name, mask in KEPT.items())
    beside["module.conv1.weight_mask"] = 1 - beside["module.conv1.weight_mask"]
    with pytest.raises(InputError, match=r"several places \(state_dict, mask\)"):
        ticket_masks({"state_dict": pruned_state(), "mask": beside}, "ticket.pt")


def test_masks_of_a_resnet_with_shortcuts_fit_torchvisions_and_back():
    ours = build_model("resnet18", CLASSES, MEAN, STD, "cifar")
    prune_at_random(ours, 0.5)
    masks = all_masks(ours)
    spelled = {n.replace("downsample", "shortcut"): mask for n, mask in masks.items()}
    assert spelled.keys() != masks.keys()
    found, _ = ticket_masks({"net": spelled}, "ticket.pt")
    assert found.keys() == masks.keys()
    preact = build_model("preact_resnet18", CLASSES, MEAN, STD)
    fitted = fit_masks(preact, found)
    assert apply_masks(preact, fitted) == []
    assert "layer2.0.shortcut.0.weight_mask" in fitted


@pytest.mark.parametrize("name", ["fc", "linear", "module.fc"])
def test_the_mask_of_a_classifier_is_left_out_with_a_note(name):
    payload = {**floats(), f"{name}.weight_mask": torch.ones(3, 16)}
    found, notes = ticket_masks({"state_dict": payload}, "ticket.pt")
    assert found.keys() == KEPT.keys()
    assert len(notes) == 1
    assert f"{name}.weight_mask" in notes[0]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"state_dict": WEIGHTS}, "holds no masks"),
        (WEIGHTS, "holds no masks"),
        ({}, "holds no masks"),
        ({"mask": {"conv1": torch.full((1, 1, 1, 1), 0.5)}}, "conv1 is no mask"),
        ({"mask": {"conv1": torch.full((1, 1, 1, 1), float("nan"))}}, "conv1 is no mask"),
        ({"mask": {"conv1": np.array([["x"]])}}, "conv1 is no mask"),
        ({"conv1.weight_mask": "all"}, "conv1.weight_mask is no mask"),
        ({"fc.weight_mask": torch.ones(2, 2)}, "no mask of a convolution, only of fc.weight_mask"),
        (
            {
                f"{p}conv1.weight_mask": torch.full((1, 1, 1, 1), n)
                for n, p in enumerate(["", "module."])
            },
            "two masks of one layer",
        ),
    ],
)
def test_what_holds_no_masks_is_refused_by_name(payload, text):
    with pytest.raises(InputError, match=rf"ticket\.pt: .*{re.escape(text)}"):
        ticket_masks(payload, "ticket.pt")


def test_a_sparse_mask_that_claims_terabytes_is_refused():
    size = (2**20, 2**20, 1, 1)
    place = torch.zeros(4, 1).long()
    claim = torch.sparse_coo_tensor(place, torch.ones(1), size, check_invariants=True)
    with pytest.raises(InputError, match="conv1 is no mask"):
        ticket_masks({"mask": {"conv1": claim}}, "ticket.pt")


def test_a_pruned_classifier_keeps_its_zeros(tmp_path):
    mask = (torch.arange(CLASSES * 16).reshape(CLASSES, 16) % 2).float()
    state = pruned_state() | {"fc.weight_mask": mask}
    state["fc.weight_orig"] = state.pop("fc.weight")
    model, loaded = load({"state_dict": state}, tmp_path)
    assert torch.equal(model.fc.weight, WEIGHTS["fc.weight"] * mask)
    assert loaded.masks is not None
    assert loaded.masks.keys() == KEPT.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.conv1.mask", "conv1.weight_mask"),
        ("conv1.weight.mask", "conv1.weight_mask"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight_mask"),
        ("net.layer2.0.shortcut.0", "layer2.0.downsample.0.weight_mask"),
    ],
)
def test_masks_are_named_after_their_layers(name, expected):
    assert mask_names([name]) == {name: expected}


def test_a_name_that_only_begins_like_a_wrapper_stays():
    assert strip_wrappers("encoder_q.conv1.weight") == "encoder_q.conv1.weight"
    assert strip_wrappers("networks.0.weight") == "networks.0.weight"


# --- the documentation ----------------------------------------------------------------------------


def test_the_documentation_has_a_row_for_each_layout_in_order():
    table = DOCS.read_text().partition("## Layouts")[2].partition("In every row")[0]
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", table, re.MULTILINE)
    documented = [(name, source) for name, source in rows if name not in ("layout", "---")]
    assert documented == [(row.name, row.source) for row in LAYOUTS]


def test_the_readme_shows_the_documentations_table_of_robust_weights():
    table = DOCS.read_text().partition("## Where to get robust weights\n\n")[2].partition("\n\n")[0]
    assert table.count("\n") >= 5
    assert table in (DOCS.parent.parent / "README.md").read_text()
    names = re.findall(r"`((?:wide_)?resnet\d+(?:_2)?)_l(?:2|inf)_eps[\d.]+\.ckpt`", table)
    assert len(names) >= 4
    assert set(names) <= set(ARCHS)


def test_every_layout_is_recognised_by_some_file():
    seen = {read_layout(file(), "x").layout for file in TRUNKS}
    assert seen == {row.name for row in LAYOUTS if row.trunk_only} - {"MoCo v2"}


def test_two_networks_of_one_name_in_a_file_are_not_chosen_from(tmp_path):
    file = byol_pytorch()
    file["net.conv1.weight"] = file["net.conv1.weight"] + 1
    with pytest.raises(InputError, match=r"unexpected: online_encoder\.net\.conv1\.weight"):
        load(file, tmp_path, fc="drop")
