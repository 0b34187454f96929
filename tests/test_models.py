"""The zoo, folding, the FLOP count, and the commands models.convert and models.export."""

import collections
import copy
import importlib.util
import pathlib
import runpy
import sys
from typing import Any

import pytest
import torch
import torchvision
from helpers.network_cases import enliven
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

import models
import pruning_utils
from errors import InputError, run_main
from files.checkpoints import load_checkpoint, save_checkpoint, transfer_keys
from files.tickets import read_ticket, save_ticket
from files.weight_names import torchvision_name
from models import (
    ARCHS,
    STEMS,
    bake_masks,
    convert,
    estimate_flops,
    export,
    fold_for_evaluation,
    load_network,
    load_pretrained,
    zoo,
)
from models.resnet import VARIANTS
from models.zoo import classifier, stem_and_width

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"width": 4}
build_model: Any = models.build_model  # tests reach for layers that nn.Module does not declare
fold: Any = fold_for_evaluation
bake: Any = bake_masks


def prune_half(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.custom_from_mask(module, "weight", torch.rand_like(module.weight) < 0.5)
    return model


@pytest.fixture
def command(monkeypatch):
    """Do what `python -m models.NAME` does, in this process, which has PyTorch already."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["prog", *map(str, arguments)])
        runpy.run_path(str(ROOT / "models" / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run a command that must fail; give its one line."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["prog", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_main(module.main)
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        return line

    return run


# --- build_model ----------------------------------------------------------------------------------


OF_TORCHVISION = [arch for arch in VARIANTS if arch in torchvision.models.list_models()]


@pytest.mark.parametrize("arch", OF_TORCHVISION)
def test_networks_have_the_entries_of_torchvision(arch):
    with torch.device("meta"):
        ours = build_model(arch, 5, MEAN, STD).state_dict()
        theirs = torchvision.models.get_model(arch, weights=None, num_classes=5).state_dict()
    assert [n for n in ours if not n.startswith("normalize.")] == list(theirs)
    assert all(ours[name].shape == value.shape for name, value in theirs.items())
    assert set(ours) - set(theirs) == {"normalize.mean", "normalize.std"}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_file_of_any_network_tells_its_stem_and_classes(arch, stem):
    """--evaluate and exports build the network of a file anew: by its first convolution."""
    with torch.device("meta"):
        model = build_model(arch, 7, MEAN, STD, stem, width=8)
    weights = {torchvision_name(name): value for name, value in model.state_dict().items()}
    assert stem_and_width(weights)[0] == stem
    assert weights[torchvision_name(f"{classifier(model)}.") + "weight"].shape[0] == 7


def test_a_network_whose_classifier_is_called_otherwise_must_name_it(monkeypatch):
    """Else its pre-trained classifier would be taken for a part of the trunk."""
    network = nn.Module()
    network.arch, network.classifier = "mine", nn.Linear(4, 7)
    monkeypatch.setattr(zoo, "_build", lambda *_: network)
    monkeypatch.setattr(zoo, "ARCHS", ("mine",))
    with pytest.raises(ValueError, match="mine: fc is no linear layer of 7 outputs"):
        build_model("mine", 7, MEAN, STD)
    network.classifier_name = "classifier"
    assert build_model("mine", 7, MEAN, STD) is network
    with pytest.raises(ValueError, match="classifier is no linear layer of 8 outputs"):
        build_model("mine", 8, MEAN, STD)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_logits_equal_those_of_torchvision_on_normalised_images(arch):
    theirs = enliven(torchvision.models.get_model(arch, weights=None, num_classes=5)).eval()
    ours = build_model(arch, 5, MEAN, STD).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(images, MEAN, STD)
    assert torch.equal(ours(images), theirs(normalised))


def test_same_seed_gives_the_weights_of_torchvision():
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(num_classes=5).state_dict()
    torch.manual_seed(5)
    ours = build_model("resnet18", 5, MEAN, STD).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_normalisation_buffers_are_vectors_and_not_trained():
    model = build_model("resnet20s", 5, MEAN, STD, **SMALL)
    assert model.normalize.mean.shape == model.normalize.std.shape == (3,)
    assert not any(name.startswith("normalize") for name, _ in model.named_parameters())


def test_cifar_stem_keeps_the_resolution():
    model = build_model("resnet18", 5, MEAN, STD, stem="cifar")
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    sizes = []
    model.layer1.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert sizes == [32]


def test_resnet20s_is_the_network_of_the_paper():
    model = build_model("resnet20s", 10, MEAN, STD)
    assert model.stem == "cifar"
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    # He et al. (2015), table 6: 0.27 M parameters.
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert build_model("resnet20s", 10, MEAN, STD, width=5).fc.weight.shape == (10, 20)


def test_resnet20s_shortcut_subsamples_and_pads():
    block = build_model("resnet20s", 10, MEAN, STD, **SMALL).layer2[0]
    x = torch.rand(1, 4, 8, 8)
    shortcut = block._shortcut(x)
    assert shortcut.shape == (1, 8, 4, 4)
    assert torch.equal(shortcut[:, 2:6], x[:, :, ::2, ::2])
    assert not shortcut[:, :2].any()
    assert not shortcut[:, 6:].any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"arch": "resnet19"},
            "unknown architecture 'resnet19'; choose from resnet18, .*resnet20s",
        ),
        ({"stem": "tiny"}, "unknown stem 'tiny'; choose from imagenet, cifar"),
        ({"num_classes": 0}, "num_classes"),
        ({"width": 0}, "width"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (0.5,)}, "mean must be three finite numbers, not 0.5"),
    ],
)
def test_wrong_arguments_are_told(change, text):
    arguments = {"arch": "resnet20s", "num_classes": 5, "mean": MEAN, "std": STD}
    with pytest.raises(InputError, match=text):
        build_model(**(arguments | change))


# --- folding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "resnet20s"])
def test_folded_network_gives_the_same_logits_in_double_precision(arch, stem):
    model = prune_half(enliven(build_model(arch, 5, MEAN, STD, stem, width=4))).double()
    images = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    folded = fold(model)
    with torch.no_grad():
        expected = model.eval()(images)
        assert (folded(images) - expected).norm() <= 1e-9 * expected.norm()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_folded_network_gives_the_same_logits_in_single_precision_and_channels_last():
    model = prune_half(enliven(build_model("resnet18", 5, MEAN, STD, "cifar")))
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    folded = fold(model)
    assert folded.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    expected = model.eval()(images)
    assert (folded(images) - expected).norm() <= 1e-4 * expected.norm()


def test_folding_leaves_the_model_as_it_was():
    model = prune_half(enliven(build_model("resnet20s", 5, MEAN, STD, **SMALL))).train()
    model(torch.rand(4, 3, 32, 32)).sum().backward()  # masked weights now carry a graph
    before = copy.deepcopy(dict(model.state_dict()))
    folded = fold(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.conv1.weight_orig.requires_grad
    assert len(model.conv1._forward_pre_hooks) == 1
    assert not folded.training
    assert not any(p.requires_grad for p in folded.parameters())
    assert not any("orig" in name or "mask" in name for name in folded.state_dict())
    own = {p.data_ptr() for p in model.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in folded.parameters())


def test_folded_network_hands_gradients_to_the_images():
    model = enliven(build_model("resnet20s", 5, MEAN, STD, **SMALL)).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(model(images).sum(), images)[0]
    found = torch.autograd.grad(fold(model)(images).sum(), images)[0]
    assert (found - expected).norm() <= 1e-9 * expected.norm()


def test_folding_reaches_a_wrapped_network():
    model = enliven(build_model("resnet20s", 5, MEAN, STD, **SMALL)).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    folded = fold(nn.Sequential(nn.Identity(), model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert (folded(images) - model(images)).norm() <= 1e-9 * model(images).norm()


def test_baked_masks_are_zeros_in_plain_weights():
    model = prune_half(build_model("resnet20s", 5, MEAN, STD, **SMALL)).eval()
    baked = bake(model)
    mask = model.conv1.weight_mask.bool()
    assert not baked.conv1.weight[~mask].any()
    assert torch.equal(baked.conv1.weight[mask], model.conv1.weight_orig[mask])
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(baked(images), model(images))
    assert "conv1.weight" in baked.state_dict()


# --- FLOPs ----------------------------------------------------------------------------------------


class HandCounted(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 4, 3, stride=2, groups=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.grouped(self.wide(x)).mean((2, 3)))


def test_flops_of_a_network_counted_by_hand():
    model = HandCounted()
    wide = 3 * 8 * 9 * (9 * 7)
    grouped = 4 * 4 * 9 * (4 * 3)  # 4 input channels per group
    assert estimate_flops(model, (9, 7)) == 2 * (wide + grouped + 4 * 5)
    mask = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
    mask[0, 0] = True
    masks = {"wide.weight_mask": mask}
    assert estimate_flops(model, (9, 7), masks) == 2 * (9 * 9 * 7 + grouped + 4 * 5)


def test_flops_of_a_linear_layer_are_counted_at_every_token():
    class OnTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.mix = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 6)

        def forward(self, x):
            return self.mix(self.patches(x).flatten(2).transpose(1, 2))

    assert estimate_flops(OnTokens(), (16, 8)) == 2 * (4 * 2) * (3 * 4 * 4 * 8 + 8 * 6)


def test_flops_of_resnet50_at_224():
    # torchvision's published count: 4.09 G multiply-adds.
    flops = estimate_flops(build_model("resnet50", 1000, MEAN, STD), 224)
    assert flops == pytest.approx(2 * 4.09e9, rel=1e-3)


def test_counting_flops_leaves_the_model_as_it_was():
    model = prune_half(build_model("resnet20s", 5, MEAN, STD, **SMALL)).train()
    model.bn1.eval()
    before = copy.deepcopy(dict(model.state_dict()))
    estimate_flops(model, 32)
    assert model.training
    assert model.layer1[0].bn1.training
    assert not model.bn1.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- models.convert -------------------------------------------------------------------------------


def pickled_file(tmp_path):
    """A checkpoint with an object beside its weights that weights_only refuses."""
    state = build_model("resnet20s", 5, MEAN, STD, **SMALL).state_dict()
    payload = {"model": state, "schedule": pathlib.PurePosixPath("x"), "counts": {"a": 1}}
    payload["args"] = collections.Counter("ab")
    path = tmp_path / "in.ckpt"
    torch.save(payload, path)
    return path, state


def test_convert_makes_a_file_that_opens_without_running_code(tmp_path, refusal, command):
    path, state = pickled_file(tmp_path)
    target = tmp_path / "out.pth.tar"
    assert "--trust_pickle" in refusal(convert, path, target)
    assert not target.exists()
    command("convert", path, target, "--trust_pickle")
    converted = load_checkpoint(target)
    assert all(torch.equal(converted[name], value) for name, value in state.items())
    load_pretrained(build_model("resnet20s", 5, MEAN, STD, **SMALL), target)


@pytest.mark.parametrize("name", ["convert", "export"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, name, command, capsys):
    path, _ = pickled_file(tmp_path) if name == "convert" else transfer_checkpoint(tmp_path)
    target = path / f"out.{'pth.tar' if name == 'convert' else 'safetensors'}"  # below a file
    flags = ["--trust_pickle"] if name == "convert" else []
    with pytest.raises(SystemExit) as ended:
        command(name, path, target, *flags)
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.startswith(f"error: {target}: cannot be written (")
    assert told.count("\n") == 1


def test_convert_takes_one_entry_of_a_file(tmp_path):
    path, target = tmp_path / "in.pth.tar", tmp_path / "out.pth.tar"
    save_checkpoint(path, {"state_dict": {"a": torch.zeros(2)}, "init": {"a": torch.ones(2)}})
    convert.convert(str(path), str(target), key="init")
    assert torch.equal(load_checkpoint(target)["a"], torch.ones(2))
    with pytest.raises(InputError, match=r"no dictionary of tensors under 'x'.*state_dict.*init"):
        convert.convert(str(path), str(target), key="x")
    with pytest.raises(InputError, match="same file"):
        convert.convert(str(path), str(path))
    with pytest.raises(InputError, match="PyTorch file"):
        convert.convert(str(path), str(tmp_path / "out.safetensors"))
    with pytest.raises(InputError, match="OUT is empty"):
        convert.convert(str(path), "")


@pytest.mark.parametrize(
    ("tool", "name"), [(export, "2-ticket.safetensors"), (convert, "init.pth.tar")]
)
def test_a_file_of_a_run_is_not_written_over(tmp_path, tool, name):
    path, target = tmp_path / "in.pth.tar", tmp_path / name
    save_checkpoint(path, {"state_dict": {"a": torch.zeros(2)}})
    target.write_bytes(b"found in days")
    with pytest.raises(InputError, match="OUT: .* is a file of a run, which would be lost"):
        tool.main([str(path), str(target)])
    assert target.read_bytes() == b"found in days"


def test_convert_makes_a_ticket_of_the_zeros_of_a_network_that_was_saved_pruned(tmp_path, capsys):
    model = build_model("resnet20s", 5, MEAN, STD, **SMALL)
    whole, path, target = tmp_path / "whole.pt", tmp_path / "pruned.pt", tmp_path / "out.pth.tar"
    torch.save(model.state_dict(), whole)
    pruning_utils.prune_by_magnitude(model, 0.3)
    masks = pruning_utils.masks(model)
    pruning_utils.remove_prune(model)
    names = ("module.model.", "module.attacker.model.")  # robustness keeps the network twice
    state = {head + name: value for head in names for name, value in model.state_dict().items()}
    torch.save({"model": state}, path)
    convert.main([str(path), str(target), "--masks_from_zeros"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{path}: masks keep 70.00 % of the convolution weights",
        f"{target}: {len(masks)} tensors; opens with weights_only=True and as --tickets_file",
    ]
    ticket = read_ticket(str(target)).masks
    assert ticket.keys() == masks.keys()
    assert all(torch.equal(ticket[name], mask.bool()) for name, mask in masks.items())
    masked = tmp_path / "masked.pt"
    torch.save({**model.state_dict(), **masks}, masked)
    for unfit, said in (
        (whole, "is exactly 0; it is not pruned"),
        (target, "holds masks only"),
        (masked, "has masks already"),
    ):
        with pytest.raises(InputError, match=said):
            convert.convert(str(unfit), str(tmp_path / "no.pt"), masks_from_zeros=True)
    assert not (tmp_path / "no.pt").exists()


def test_a_ticket_needs_no_conversion(tmp_path):
    model = build_model("resnet20s", 5, MEAN, STD, **SMALL)
    pruning_utils.prune_by_magnitude(model, 0.3)
    path = tmp_path / "1-ticket.safetensors"
    save_ticket(path, pruning_utils.masks(model), arch="resnet20s", state=1, density=0.7,
                init_sha256="0" * 64)  # fmt: skip
    with pytest.raises(InputError, match="is a ticket, which --tickets_file takes as it is"):
        convert.convert(str(path), str(tmp_path / "out.pth"))
    assert not (tmp_path / "out.pth").exists()


def test_convert_says_what_it_leaves_behind(tmp_path, capsys):
    weights, masks = {"conv1.weight": torch.ones(2, 3, 3, 3)}, {"conv1": torch.ones(2, 3, 3, 3)}
    path, target = tmp_path / "in.pt", tmp_path / "out.pth.tar"
    save_checkpoint(path, {"model": weights, "ema": {"shadow": weights}, "mask": masks, "lr": 0.1})
    convert.main([str(path), str(target)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{path}: left out: lr",
        f"{path}: averaged weights (EMA) lie under ema.shadow: --key ema.shadow takes them",
        f"{path}: masks lie beside the weights: --key mask takes them, as a ticket",
        f"{target}: 1 tensors; opens with weights_only=True and as --init",
    ]
    convert.main([str(path), str(target), "--key", "mask"])
    assert capsys.readouterr().out.endswith("opens with weights_only=True and as --tickets_file\n")


def test_convert_names_the_package_a_file_needs(tmp_path, monkeypatch):
    def needs_dill(path):
        raise ModuleNotFoundError("No module named 'dill'", name="dill._dill")

    monkeypatch.setattr(convert, "load_trusted_pickle", needs_dill)
    with pytest.raises(InputError, match="pip install dill"):
        convert.convert("in.ckpt", str(tmp_path / "out.pth.tar"), trust_pickle=True)


def test_convert_writes_only_what_a_view_shows(tmp_path):
    path, target = tmp_path / "in.pth.tar", tmp_path / "out.pth.tar"
    save_checkpoint(path, {"state_dict": {"a": torch.zeros(1_000_000)[:10]}})
    convert.convert(str(path), str(target))
    assert target.stat().st_size < 10_000


# --- models.export --------------------------------------------------------------------------------


def transfer_checkpoint(tmp_path, arch="resnet20s", **options):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    model = prune_half(enliven(build_model(arch, 5, mean, std, **options))).eval()
    path = tmp_path / "model_RA_best.pth.tar"
    save_checkpoint(path, {"state_dict": transfer_keys(model.state_dict()), "result": {}})
    return path, model


def test_exported_safetensors_is_a_torchvision_state_dict(tmp_path, command):
    path, model = transfer_checkpoint(tmp_path, "resnet18")
    target = tmp_path / "net.safetensors"
    command("export", path, target, "--input_size", 64)
    theirs = torchvision.models.resnet18(num_classes=5)
    theirs.load_state_dict(load_file(target))
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["arch"] == "resnet18"
    images = torch.rand(2, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(
        images, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    )
    assert torch.allclose(theirs.eval()(normalised), model(images), rtol=1e-5, atol=1e-5)


def test_exported_safetensors_loads_back_with_its_constants(tmp_path):
    path, model = transfer_checkpoint(tmp_path, **SMALL)
    target = tmp_path / "net.safetensors"
    export.main([str(path), str(target)])
    back = build_model("resnet20s", 5, MEAN, STD, **SMALL).eval()
    load_pretrained(back, target)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(back(images), model(images))


def test_exported_safetensors_says_what_network_it_is(tmp_path):
    """Its entries are those of another network, which computes something else."""
    model = build_model("preact_resnet18_raw", 3, MEAN, STD)
    path, target = tmp_path / "network.pt", tmp_path / "network.safetensors"
    save_checkpoint(path, {"arch": "preact_resnet18_raw", "state_dict": model.state_dict()})
    export.main([str(path), str(target)])
    assert load_network(str(target)).arch == "preact_resnet18_raw"
    told = []
    load_network(str(target), "preact_resnet18", tell=told.append)
    (line,) = told
    assert "the file says it is preact_resnet18_raw; it is read as preact_resnet18" in line


def test_constants_that_a_file_has_are_not_exported_otherwise(tmp_path, capsys):
    path, _ = transfer_checkpoint(tmp_path, **SMALL)
    argv = [str(path), str(tmp_path / "net.safetensors"), "--mean", "0,0,0", "--std", "1,1,1"]
    with pytest.raises(InputError, match="has its own mean and std; leave out --mean and --std"):
        export.main(argv)
    assert not (tmp_path / "net.safetensors").exists()


def test_export_says_what_else_a_file_holds_and_takes_it_by_its_key(tmp_path, capsys):
    path, model = transfer_checkpoint(tmp_path, **SMALL)
    weights = torch.load(path, weights_only=True)["state_dict"]
    averaged = {name: value + 1 if "fc.bias" in name else value for name, value in weights.items()}
    save_checkpoint(path, {"state_dict": weights, "model_ema": averaged})
    export.main([str(path), str(tmp_path / "net.safetensors")])
    told = "averaged weights (EMA) lie under model_ema: --key model_ema takes them"
    assert told in capsys.readouterr().out
    export.main([str(path), str(tmp_path / "ema.safetensors"), "--key", "model_ema"])
    written = load_file(tmp_path / "ema.safetensors")["fc.bias"]
    assert torch.equal(written, model.fc.bias + 1)


def test_export_takes_one_of_several_networks_with_constants_of_its_own(tmp_path):
    held = build_model("resnet20s", 5, MEAN, STD, **SMALL).state_dict()
    bare = {name: value for name, value in held.items() if not name.startswith("normalize.")}
    path, target = tmp_path / "in.pth.tar", tmp_path / "net.safetensors"
    save_checkpoint(path, {"best": {"net": bare}, "last": {"net": bare}})
    constants = ["--mean", "0,0,0", "--std", "1,1,1"]
    with pytest.raises(InputError, match=r"choose by --key, of best\.net, last\.net"):
        export.main([str(path), str(target), *constants])
    export.main([str(path), str(target), *constants, "--key", "last.net"])
    assert torch.equal(load_file(target)["fc.bias"], held["fc.bias"])


def test_exported_onnx_gives_the_same_logits(tmp_path):
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        pytest.skip("onnx and onnxscript are not installed (an optional extra)")
    path, model = transfer_checkpoint(tmp_path, **SMALL)
    target = tmp_path / "net.onnx"
    export.main([str(path), str(target)])
    images = torch.rand(3, 3, 32, 32)
    assert torch.allclose(export._run_onnx(target, images), model(images), rtol=1e-3, atol=1e-4)
    assert [file.name for file in tmp_path.glob("*.onnx*")] == ["net.onnx"]


def test_export_without_onnx_says_what_to_install(tmp_path, monkeypatch):
    path, _ = transfer_checkpoint(tmp_path, **SMALL)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        export.main([str(path), str(tmp_path / "net.onnx")])


def test_export_that_does_not_compare_leaves_no_file(tmp_path, monkeypatch):
    path, _ = transfer_checkpoint(tmp_path, **SMALL)
    monkeypatch.setattr(export, "_run_safetensors", lambda path, images: torch.zeros(2, 5))
    with pytest.raises(RuntimeError, match="logits differ"):
        export.main([str(path), str(tmp_path / "net.safetensors")])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_export_without_constants_asks_for_them(tmp_path):
    state = build_model("resnet20s", 5, MEAN, STD, **SMALL).state_dict()
    bare = {name: value for name, value in state.items() if not name.startswith("normalize.")}
    path = tmp_path / "in.pth.tar"
    save_checkpoint(path, bare)
    with pytest.raises(InputError, match="--mean R,G,B --std R,G,B"):
        export.main([str(path), str(tmp_path / "net.safetensors")])
    constants = ["--mean", "0.4", "0.5", "0.6", "--std", "0.2,0.3,0.25"]
    export.main([str(path), str(tmp_path / "net.safetensors"), *constants])
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert file.metadata()["mean"].startswith("[0.4")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.pth.tar", "net.safetensors"], "no such file"),
        (["none.pth.tar", "net.txt"], ".safetensors or .onnx"),
        (["none.pth.tar"], "OUT"),
        (["a.safetensors", "b.safetensors", "--mean", "1", "1", "1"], "--std"),
        (["a.safetensors", "b.safetensors", "--mean", "1,1", "--std", "1,1,1"], "three numbers"),
        (["a.safetensors", "b.safetensors", "--mean", "1,x,1", "--std", "1,1,1"], "three numbers"),
    ],
)
def test_export_answers_bad_usage_in_one_line(arguments, text, refusal):
    assert text in refusal(export, *arguments)
