"""Every foreign layout loads to the logits of the plain weights; whatever does not fit is named."""

import argparse
import functools

import pytest
import torch
from helpers.network_cases import enliven
from safetensors.torch import save_file
from torch.nn.utils import prune

from errors import InputError
from files.checkpoints import save_checkpoint, transfer_keys
from files.tickets import save_ticket
from models import build_model, load_pretrained
from models.source import read_layout

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHER_MEAN, OTHER_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CLASSES = 7


def network(arch="resnet20s", classes=CLASSES, seed=1, mean=MEAN, std=STD, **options):
    """A network with lively BatchNorm statistics, so that no entry can be lost unnoticed."""
    torch.manual_seed(seed)
    options = {"width": 4} | options
    return enliven(build_model(arch, classes, mean, std, **options)).eval()


@functools.cache
def plain_weights(arch="resnet20s", **options):
    state = network(arch, **options).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("normalize.")}


def masks_of(weights):
    generator = torch.Generator().manual_seed(3)
    return {
        f"{name}_mask": (torch.rand(value.shape, generator=generator) < 0.5).float()
        for name, value in weights.items()
        if value.dim() == 4
    }


def pruned(weights, masks):
    state = {f"{n}_orig" if f"{n}_mask" in masks else n: value for n, value in weights.items()}
    return state | masks


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


# Each layout: the file as its source writes it, made from bare weights.


def torchvision_file(weights):
    return dict(weights)


def torchvision_reference_file(weights):
    return {"model": dict(weights), "optimizer": {"state": {}}, "epoch": 3}


def robustness_file(weights):
    constants = {"new_mean": torch.tensor(OTHER_MEAN), "new_std": torch.tensor(OTHER_STD)}
    constants = {name: value[:, None, None] for name, value in constants.items()}
    state = prefixed("module.normalizer.", constants) | prefixed("module.model.", weights)
    state |= prefixed("module.attacker.normalize.", constants)
    state |= prefixed("module.attacker.model.", {n: v + 1 for n, v in weights.items()})
    return {"model": state, "epoch": 89, "schedule": None}


def robustness_older_file(weights):
    return {"state_dict": robustness_file(weights)["model"], "epoch": 1}


def robust_models_transfer_file(weights):
    constants = {"new_mean": torch.tensor(OTHER_MEAN), "new_std": torch.tensor(OTHER_STD)}
    constants = {name: value[:, None, None] for name, value in constants.items()}
    state = prefixed("module.normalizer.", constants) | prefixed("module.model.model.", weights)
    state |= prefixed("module.attacker.model.model.", weights)
    return {"model": state, "optimizer": {}, "epoch": 89}


def fast_adversarial_file(weights):
    state = prefixed("module.", weights)
    return {"epoch": 15, "arch": "x", "state_dict": state, "best_prec1": 53.0, "optimizer": {}}


def robustbench_file(weights):
    constants = {
        "normalize.mean": torch.tensor(OTHER_MEAN).view(1, 3, 1, 1),
        "normalize.std": torch.tensor(OTHER_STD).view(1, 3, 1, 1),
    }
    return constants | prefixed("model.", weights)


def robustbench_mu_file(weights):
    constants = {
        "mu": torch.tensor(OTHER_MEAN).view(1, 3, 1, 1),
        "sigma": torch.tensor(OTHER_STD).view(1, 3, 1, 1),
    }
    return {"state_dict": constants | dict(weights)}


def moco_file(weights):
    trunk = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    head = {"fc.0.weight": torch.ones(8, 8), "fc.0.bias": torch.ones(8)}
    head |= {"fc.2.weight": torch.ones(4, 8), "fc.2.bias": torch.ones(4)}
    state = prefixed("module.encoder_q.", trunk | head)
    state |= prefixed("module.encoder_k.", {n: v + 1 for n, v in (trunk | head).items()})
    state |= {"module.queue": torch.zeros(4, 16), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 200, "arch": "x", "state_dict": state, "optimizer": {}}


def cv_lth_file(weights):
    masks = masks_of(weights)
    del masks["conv1.weight_mask"]
    return {
        "epoch": 9,
        "arch": "x",
        "state_dict": pruned(weights, masks),
        "mask": masks,
        "init_weight": {name: torch.zeros_like(value) for name, value in weights.items()},
        "best_acc1": 70.0,
    }


def our_imp_file(weights):
    constants = {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}
    state = pruned(weights, masks_of(weights)) | constants
    init = {"file": "init.pth.tar", "sha256": "0" * 64}
    return {"epoch": 9, "arch": "x", "state_dict": state, "state_prune": 2, "init": init}


def released_imp_file(weights):
    init = {name: torch.zeros_like(value) for name, value in weights.items()}
    return our_imp_file(weights) | {"init": init, "best_acc1": torch.tensor(3.0), "optimizer": {}}


def our_transfer_file(weights):
    constants = {
        "normalize.mean": torch.tensor(OTHER_MEAN),
        "normalize.std": torch.tensor(OTHER_STD),
    }
    state = transfer_keys(pruned(weights, masks_of(weights)) | constants)
    return {"result": {"ra": [1.0]}, "epoch": 3, "state_dict": state, "best_sa": 1.0}


def released_std_transfer_file(weights):
    return {"result": {}, "epoch": 3, "state_dict": pruned(weights, masks_of(weights))}


def bare_transfer_file(weights):
    return our_transfer_file(weights)["state_dict"]


def kuangliu_file(weights):
    """CIFAR ResNets in many repositories call the classifier `linear`."""
    return {"net": {name.replace("fc.", "linear."): value for name, value in weights.items()}}


# name: (file, layout it must be taken for, prefix of the network's names, has constants of its own)
LAYOUTS = {
    "torchvision": (torchvision_file, "plain", "", False),
    "torchvision reference": (torchvision_reference_file, "plain", "", False),
    "robustness": (robustness_file, "MadryLab/robustness", "module.model.", True),
    "robustness older": (robustness_older_file, "MadryLab/robustness", "module.model.", True),
    "robust-models-transfer": (
        robust_models_transfer_file,
        "MadryLab/robustness",
        "module.model.model.",
        True,
    ),
    "fast adversarial": (fast_adversarial_file, "module.* (data-parallel)", "module.", False),
    "RobustBench": (robustbench_file, "RobustBench", "model.", True),
    "RobustBench mu": (robustbench_mu_file, "RobustBench", "", True),
    "MoCo": (moco_file, "MoCo v2", "module.encoder_q.", False),
    "CV_LTH": (cv_lth_file, "CV_LTH_Pre-training", "", False),
    "our IMP": (our_imp_file, "IMP checkpoint", "", False),
    "released IMP": (released_imp_file, "released IMP checkpoint", "", False),
    "our transfer": (our_transfer_file, "transfer checkpoint", "1.", True),
    "released std transfer": (
        released_std_transfer_file,
        "transfer checkpoint without 1.",
        "",
        False,
    ),
    "bare transfer": (bare_transfer_file, "transfer checkpoint", "1.", True),
    "linear": (kuangliu_file, "plain", "", False),
}
MASKED = {"CV_LTH", "our IMP", "released IMP", "our transfer", "released std transfer"}
MASKED |= {"bare transfer"}


def inner(payload):
    """The dictionary of a file that has the network's entries."""
    for key in ("state_dict", "model", "net"):
        if key in payload:
            return payload[key]
    return payload


def write(tmp_path, payload):
    path = tmp_path / "weights.pth.tar"
    save_checkpoint(path, payload)
    return path


def fc_of(name):
    return "drop" if name == "MoCo" else "strict"


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_loads_to_the_logits_of_the_plain_weights(name, tmp_path):
    build, layout, _, own_constants = LAYOUTS[name]
    weights = plain_weights()
    model = network(seed=2)
    fresh_fc = {n: v.clone() for n, v in model.state_dict().items() if n.startswith("fc.")}
    loaded = load_pretrained(model, write(tmp_path, build(weights)), fc=fc_of(name))

    constants = {"mean": OTHER_MEAN, "std": OTHER_STD} if own_constants else {}
    plain = network(seed=2, **constants)
    plain.load_state_dict(weights | (fresh_fc if name == "MoCo" else {}), strict=False)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), plain(images))
    assert loaded.layout == layout
    assert (loaded.masks is not None) == (name in MASKED)
    assert any("normalisation" in note for note in loaded.notes) == own_constants


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan"])
def test_one_entry_at_fault_is_an_error_that_names_it(name, fault, tmp_path):
    build, layout, prefix, _ = LAYOUTS[name]
    payload = build(plain_weights())
    state = inner(payload)
    key = prefix + "layer2.0.bn1.bias"
    if fault == "missing":
        del state[key]
    elif fault == "extra":
        key = prefix + "layer2.0.bn7.bias"
        state[key] = torch.zeros(3)
    elif fault == "shape":
        state[key] = torch.zeros(3)
    else:
        state[key] = state[key].clone().fill_(float("nan"))
    model = network(seed=2)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_pretrained(model, write(tmp_path, payload), fc=fc_of(name))
    message = str(caught.value)
    assert "\n" not in message
    assert (key.removeprefix(prefix) if fault == "missing" else key) in message
    assert "weights.pth.tar" in message
    assert fault == "nan" or (layout in message and "resnet20s" in message)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_constants_of_images_of_0_to_255_are_refused(tmp_path):
    payload = robustbench_file(plain_weights())
    payload["normalize.mean"] = payload["normalize.mean"] * 255
    told = r"weights.pth.tar: normalize.mean 125.307 122.961 113.857 is of images of 0 to 255"
    told += r".*; or give --mean and --std"
    with pytest.raises(InputError, match=told):
        load_pretrained(network(), write(tmp_path, payload), fc="strict")


@pytest.mark.parametrize("mean", [[123.7, 116.3, 103.5], [0.5]], ids=["0 to 255", "of one channel"])
def test_constants_that_are_not_used_need_not_be_usable(mean, tmp_path):
    path = write(tmp_path, {**bare_transfer_file(plain_weights()), "0.mean": torch.tensor(mean)})
    model = network()
    loaded = load_pretrained(model, path, normalization="keep")
    assert torch.equal(model.normalize.mean, torch.tensor(MEAN))
    assert any(note.startswith("the file was made for mean") for note in loaded.notes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_wrong_architecture_is_an_error_that_names_the_right_one(name, tmp_path):
    path = write(tmp_path, LAYOUTS[name][0](plain_weights()))
    with pytest.raises(InputError, match=r"does not fit resnet18 \(it looks like resnet20s"):
        load_pretrained(network("resnet18", stem="cifar"), path, fc=fc_of(name))


@pytest.mark.parametrize(
    ("held", "asked"),
    [("resnet18", "resnet50"), ("resnet50", "resnet18"), ("wide_resnet50_2", "resnet50")]
    + [("resnet50", "resnext50_32x4d"), ("resnet34", "resnet18")],
)
def test_architectures_are_told_apart_by_shape(held, asked, tmp_path):
    state = build_model(held, 3, MEAN, STD).state_dict()
    with pytest.raises(InputError) as caught:
        load_pretrained(build_model(asked, 3, MEAN, STD), write(tmp_path, state))
    assert f"-a {held})" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_entry_without_the_prefix_of_the_others_is_unexpected_unless_it_is_the_same(tmp_path):
    payload = fast_adversarial_file(plain_weights())
    payload["state_dict"]["conv1.weight"] = payload["state_dict"]["module.conv1.weight"].clone()
    load_pretrained(network(), write(tmp_path, payload))
    payload["state_dict"]["conv1.weight"] += 1
    with pytest.raises(InputError, match=r"unexpected: conv1\.weight$"):
        load_pretrained(network(), write(tmp_path, payload))


@pytest.mark.parametrize("stray", ["layer1.0.bn1.scale", "1.layer1.0.conv9.weight_mask"])
def test_entry_beside_a_wrapped_network_or_mask_without_a_weight_is_unexpected(stray, tmp_path):
    payload = our_transfer_file(plain_weights())
    payload["state_dict"][stray] = torch.ones(4)
    with pytest.raises(InputError, match=f"unexpected: {stray}$"):
        load_pretrained(network(), write(tmp_path, payload))


def test_two_entries_for_one_place_are_told(tmp_path):
    payload = torchvision_file(plain_weights()) | {"linear.weight": torch.ones(CLASSES, 16)}
    with pytest.raises(InputError, match=r"unexpected: linear\.weight$"):
        load_pretrained(network(), write(tmp_path, payload))


def test_masks_are_returned_under_bare_names_and_not_applied(tmp_path):
    weights = plain_weights()
    expected = {name: mask.bool() for name, mask in masks_of(weights).items()}
    for build in (our_imp_file, our_transfer_file):
        model = network(seed=2)
        loaded = load_pretrained(model, write(tmp_path, build(weights)))
        assert loaded.masks is not None
        assert loaded.masks.keys() == expected.keys()
        assert all(torch.equal(loaded.masks[name], expected[name]) for name in expected)
        assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_cv_lth_masks_beside_dense_weights_are_returned(tmp_path):
    payload = cv_lth_file(plain_weights())
    payload["state_dict"] = prefixed("module.", plain_weights())
    payload["mask"] = prefixed("module.", payload["mask"])
    loaded = load_pretrained(network(), write(tmp_path, payload))
    assert loaded.masks is not None
    assert "conv1.weight_mask" not in loaded.masks
    assert "layer1.0.conv1.weight_mask" in loaded.masks


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (None, "missing: layer1.0.conv1.weight_mask"),
        (torch.ones(2), "1.layer1.0.conv1.weight_mask 2 where 4x4x3x3 is expected"),
        (torch.full((4, 4, 3, 3), 0.5), "1.layer1.0.conv1.weight_mask is no mask"),
    ],
)
def test_a_faulty_mask_is_an_error_that_names_it(mask, text, tmp_path):
    payload = our_transfer_file(plain_weights())
    key = "1.layer1.0.conv1.weight_mask"
    del payload["state_dict"][key]
    if mask is not None:
        payload["state_dict"][key] = mask
    with pytest.raises(InputError) as caught:
        load_pretrained(network(), write(tmp_path, payload))
    assert text in str(caught.value)


def test_a_pruned_network_as_torch_saves_it_loads(tmp_path):
    model = network()
    prune.random_unstructured(model.conv1, "weight", amount=0.5)
    path = write(tmp_path, prefixed("module.", model.state_dict()))
    other = network(seed=2)
    loaded = load_pretrained(other, path)
    assert loaded.masks is not None
    other.conv1.weight.data *= loaded.masks["conv1.weight_mask"]
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), other(images))


def test_classifier_of_another_size(tmp_path):
    path = write(tmp_path, torchvision_file(plain_weights()))
    model = network(classes=3, seed=2)
    with pytest.raises(InputError, match=r"fc\.weight 7x16 where 3x16 is expected"):
        load_pretrained(model, path)
    before = model.fc.weight.clone()
    loaded = load_pretrained(model, path, fc="drop")
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.conv1.weight, plain_weights()["conv1.weight"])
    assert loaded.notes == ["left out: the source's classifier of 7 classes (fc.*)"]


def test_moco_has_no_classifier_for_pretraining(tmp_path):
    with pytest.raises(InputError, match="MoCo v2 has no classifier"):
        load_pretrained(network(), write(tmp_path, moco_file(plain_weights())))


def test_other_stem(tmp_path):
    payload = our_imp_file(plain_weights(stem="imagenet"))
    path = write(tmp_path, payload)
    with pytest.raises(InputError, match=r"it looks like --stem imagenet.*4x3x7x7"):
        load_pretrained(network(), path)
    model = network(seed=2)
    before = model.conv1.weight.clone()
    loaded = load_pretrained(model, path, stem="fresh")
    assert torch.equal(model.conv1.weight, before)
    assert torch.equal(model.bn1.weight, payload["state_dict"]["bn1.weight"])
    assert "conv1.weight_mask" not in (loaded.masks or {})
    assert any(note.startswith("left out: conv1.weight 4x3x7x7") for note in loaded.warnings)
    assert loaded.fresh_stem


def test_width_is_told(tmp_path):
    path = write(tmp_path, torchvision_file(plain_weights()))
    with pytest.raises(InputError, match="it looks like --width 4"):
        load_pretrained(network(width=8), path)


def test_normalisation_constants_of_the_file_or_of_the_caller(tmp_path):
    path = write(tmp_path, robustness_file(plain_weights()))
    model = network()
    loaded = load_pretrained(model, path)
    assert torch.equal(model.normalize.mean, torch.tensor(OTHER_MEAN))
    assert any(note.startswith("normalisation from the file: mean 0.4914") for note in loaded.notes)
    model = network()
    loaded = load_pretrained(model, path, normalization="keep")
    assert torch.equal(model.normalize.std, torch.tensor(STD))
    assert any("the model keeps mean 0.485" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "beside",
    [
        {"mean": list(OTHER_MEAN), "std": list(OTHER_STD)},
        {"mean": torch.tensor(OTHER_MEAN), "std": torch.tensor(OTHER_STD).view(1, 3, 1, 1)},
        {"normalize": {"mean": torch.tensor(OTHER_MEAN), "std": OTHER_STD}},
    ],
    ids=["lists", "tensors", "dictionary"],
)
def test_normalisation_constants_beside_the_state_dict_are_the_files(beside, tmp_path):
    path = write(tmp_path, {"state_dict": dict(plain_weights()), **beside})
    model = network()
    loaded = load_pretrained(model, path)
    assert torch.equal(model.normalize.mean, torch.tensor(OTHER_MEAN))
    assert torch.equal(model.normalize.std, torch.tensor(OTHER_STD))
    assert loaded.has_constants
    assert not any("left out" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "settings",
    [
        {"hyper_parameters": {"mean": list(OTHER_MEAN), "std": list(OTHER_STD), "lr": 0.1}},
        {"args": argparse.Namespace(mean=OTHER_MEAN, std=OTHER_STD, model="x")},
    ],
    ids=["Lightning", "timm"],
)
def test_normalisation_constants_among_the_settings_are_the_files(settings):
    source = read_layout({"state_dict": plain_weights(), **settings}, "weights.pth.tar")
    assert source.constants is not None
    mean, std = source.constants
    assert torch.equal(mean, torch.tensor(OTHER_MEAN))
    assert torch.equal(std, torch.tensor(OTHER_STD))
    assert f"left out: {next(iter(settings))}" in source.notes


@pytest.mark.parametrize("module", ["normalize", "normalizer", "normalization"])
def test_normalisation_constants_of_a_module_before_the_network_are_the_files(module, tmp_path):
    constants = {"mean": torch.tensor(OTHER_MEAN), "std": torch.tensor(OTHER_STD)}
    whole = prefixed(f"{module}.", constants) | prefixed("model.", plain_weights())
    model = network()
    loaded = load_pretrained(model, write(tmp_path, {"state_dict": whole}))
    assert torch.equal(model.normalize.mean, torch.tensor(OTHER_MEAN))
    assert torch.equal(model.normalize.std, torch.tensor(OTHER_STD))
    assert loaded.layout != "MadryLab/robustness"


def test_settings_without_mean_and_std_are_no_normalisation_constants():
    settings = {"args": argparse.Namespace(mean=None, std=None), "opt": {"mean": "0.5", "std": 1}}
    source = read_layout({"state_dict": plain_weights(), **settings}, "weights.pth.tar")
    assert source.constants is None


def test_figures_beside_the_state_dict_are_no_normalisation_constants(tmp_path):
    path = write(tmp_path, {"state_dict": dict(plain_weights()), "mean": 91.5, "std": [0.1, 0.2]})
    model = network()
    loaded = load_pretrained(model, path)
    assert torch.equal(model.normalize.mean, torch.tensor(MEAN))
    assert not loaded.has_constants
    assert "left out: mean, std" in loaded.notes


def test_sparse_tensors_are_the_weights_that_they_stand_for(tmp_path):
    weights = plain_weights()
    sparse = {n: v.to_sparse() if v.dim() == 4 else v for n, v in weights.items()}
    model = network()
    load_pretrained(model, write(tmp_path, {"state_dict": sparse}))
    assert torch.equal(model.conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize("value", [[0.2, 0.0, 0.2], [0.2, float("inf"), 0.2], [0.2, 0.2]])
def test_unusable_normalisation_constants_are_named(value, tmp_path):
    payload = our_transfer_file(plain_weights())
    payload["state_dict"]["0.std"] = torch.tensor(value)
    with pytest.raises(InputError, match=r"0\.std must be"):
        load_pretrained(network(), write(tmp_path, payload))


def test_a_mean_without_std_is_unexpected(tmp_path):
    payload = our_transfer_file(plain_weights())
    del payload["state_dict"]["0.std"]
    with pytest.raises(InputError, match=r"unexpected: 0\.mean"):
        load_pretrained(network(), write(tmp_path, payload))


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(prefixed("module.", plain_weights()), path)
    model = network(seed=2)
    load_pretrained(model, path)
    assert torch.equal(model.fc.weight, plain_weights()["fc.weight"])


def test_old_files_without_batch_counters_load_with_a_note(tmp_path):
    counter = "num_batches_tracked"
    state = {n: value for n, value in plain_weights().items() if not n.endswith(counter)}
    loaded = load_pretrained(network(), write(tmp_path, state))
    assert any(counter in note for note in loaded.notes)
    state["bn1." + counter] = torch.tensor(0)
    with pytest.raises(InputError, match=r"missing: layer1\.0\.bn1\.num_batches_tracked"):
        load_pretrained(network(), write(tmp_path, state))


@pytest.mark.parametrize("name", ["head", "classifier", "last_linear", "linear"])
def test_a_transfer_leaves_out_a_classifier_of_another_name(tmp_path, name):
    state = {n.replace("fc.", f"{name}."): value for n, value in plain_weights().items()}
    path = write(tmp_path, state)
    model = network(seed=2, classes=3)
    loaded = load_pretrained(model, path, fc="drop")
    assert torch.equal(model.conv1.weight, plain_weights()["conv1.weight"])
    left = "fc" if name == "linear" else name  # two spellings of one
    assert loaded.notes == [f"left out: the source's classifier of 7 classes ({left}.*)"]


def test_a_transfer_that_fails_names_no_flag_of_the_search(tmp_path):
    path = write(tmp_path, plain_weights() | {"neck.weight": torch.ones(2)})
    with pytest.raises(InputError, match=r"unexpected: neck\.weight") as refused:
        load_pretrained(network(), path, fc="drop")
    assert "--reset_fc" not in str(refused.value)


def test_weights_that_no_network_can_have_are_refused(tmp_path):
    negative = plain_weights() | {"bn1.running_var": torch.full((4,), -0.1)}
    with pytest.raises(InputError, match=r"negative variances: bn1\.running_var"):
        load_pretrained(network(), write(tmp_path, negative))
    whole = dict(plain_weights())
    whole["conv1.weight"] = (50 * whole["conv1.weight"]).to(torch.int8)
    with pytest.raises(InputError, match=r"not floats, quantised perhaps: conv1\.weight \(int8\)"):
        load_pretrained(network(), write(tmp_path, whole))


def test_what_is_left_out_is_noted(tmp_path):
    loaded = load_pretrained(network(), write(tmp_path, released_imp_file(plain_weights())))
    assert any("optimizer" in note and "best_acc1" in note for note in loaded.notes)
    assert any("--key init" in warning for warning in loaded.warnings)
    path = write(tmp_path, robustness_file(plain_weights()))
    notes = load_pretrained(network(), path).notes
    assert any("module.attacker.*" in note for note in notes)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"epoch": 3, "args": "x"}, "no state dict found"),
        ({}, "no state dict found"),
        ({"conv1.weight_mask": torch.ones(2)}, "--tickets_file"),
    ],
)
def test_files_without_weights_are_refused(payload, text, tmp_path):
    with pytest.raises(InputError, match=text):
        load_pretrained(network(), write(tmp_path, payload))


def test_a_ticket_file_is_refused(tmp_path):
    path = tmp_path / "1-ticket.safetensors"
    masks = {name: mask.bool() for name, mask in masks_of(plain_weights()).items()}
    save_ticket(path, masks, arch="resnet20s", state=1, density=0.5, init_sha256="0")
    with pytest.raises(InputError, match="--tickets_file"):
        load_pretrained(network(), path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth\.tar: no such file"):
        load_pretrained(network(), tmp_path / "none.pth.tar")
