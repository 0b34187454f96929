"""Networks beyond torchvision's ResNets: what they compute; each through search and transfer."""

import importlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.main_cases import (
    CLASSES,
    HERE,
    Interrupted,
    assert_same_run,
    die_saving,
    load,
    one_error_line,
    read_json,
    skip_pictures,
    write_images,
)
from helpers.network_cases import enliven
from safetensors import safe_open
from torch import nn

import main_downstream
import main_imp_pretrain
import models
from errors import InputError
from files.checkpoints import save_checkpoint
from files.tickets import load_ticket, save_ticket
from models import (
    classifier,
    export,
    fold_for_evaluation,
    load_network,
    load_pretrained,
    preact_resnet,
    timm_networks,
    wide_resnet,
    zoo,
)
from pruning_utils import prune_at_random, remove_prune
from report.tickets import inspect_ticket

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
build_model: Any = models.build_model
try:
    timm: Any = importlib.import_module("timm")
except ImportError:
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm is not installed (an optional extra)")
PREACT = [*preact_resnet.VARIANTS]
SMALL = ["wide_resnet28_10", "preact_resnet18"]
OF_TIMM = ["timm:test_resnet", "timm:test_efficientnet"]
ALL = [*SMALL, *(pytest.param(arch, marks=needs_timm) for arch in OF_TIMM)]


def shrink(patch):
    """The same networks, with few and narrow layers."""
    patch.setitem(wide_resnet.VARIANTS, "wide_resnet28_10", (10, 1))
    patch.setattr(preact_resnet, "BLOCKS", (1, 1, 1, 1))
    patch.setattr(preact_resnet, "WIDTH", 4)
    zoo._shapes_of.cache_clear()


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)
    yield
    zoo._shapes_of.cache_clear()


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        # RobustBench's networks of these names have as many.
        ("wide_resnet28_10", 36_479_194),
        ("wide_resnet34_10", 46_160_474),
        ("preact_resnet18", 11_172_170),
        ("preact_resnet18_raw_nobn", 11_171_146),
    ],
)
def test_networks_have_the_published_number_of_parameters(arch, parameters):
    with torch.device("meta"):
        model = build_model(arch, 10, MEAN, STD)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.stem == "cifar"


def test_networks_have_the_keys_of_trades_and_robustbench():
    with torch.device("meta"):
        wide = build_model("wide_resnet28_10", 10, MEAN, STD).state_dict()
        preact = build_model("preact_resnet18", 10, MEAN, STD).state_dict()
    block = ["bn1", "conv1", "bn2", "conv2"]
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    def entries(layers):
        return {f"{n}.{e}" for n in layers for e in (norm if "bn" in n else ["weight"])}

    layers = [f"block{b}.layer.{i}.{n}" for b in (1, 2, 3) for i in range(4) for n in block]
    layers += ["conv1", "bn1", "fc", *(f"block{b}.layer.0.convShortcut" for b in (1, 2, 3))]
    assert set(wide) == entries(layers) | {"fc.bias", "normalize.mean", "normalize.std"}
    layers = [f"layer{s}.{i}.{n}" for s in (1, 2, 3, 4) for i in (0, 1) for n in block]
    layers += ["conv1", "bn", "linear", *(f"layer{s}.0.shortcut.0" for s in (2, 3, 4))]
    assert set(preact) == entries(layers) | {"linear.bias", "normalize.mean", "normalize.std"}


def activated(state, name, x):
    entries = [state[f"{name}.{e}"] for e in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *entries))


def reference(state, x, blocks, shortcut, last, head, of_input=False):
    """A pre-activation ResNet as a formula; `blocks` are (name, stride), `last` its BatchNorm."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for name, stride in blocks:
        active = activated(state, f"{name}.bn1", x)
        inner = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = activated(state, f"{name}.bn2", inner)
        inner = F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1)
        around = state.get(f"{name}.{shortcut}.weight")
        taken = x if of_input else active
        x = inner + (x if around is None else F.conv2d(taken, around, stride=stride))
    x = (activated(state, last, x) if last else x).mean((2, 3))
    return F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"])


def test_wide_resnet_computes_its_formula(small):
    model = enliven(build_model("wide_resnet28_10", 5, (0,) * 3, (1,) * 3)).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    blocks = [("block1.layer.0", 1), ("block2.layer.0", 2), ("block3.layer.0", 2)]
    state = model.state_dict()
    expected = reference(state, images, blocks, "convShortcut", "bn1", "fc")
    assert torch.allclose(model(images), expected)


@pytest.mark.parametrize(
    ("arch", "of_input", "last"),
    [
        ("preact_resnet18", False, "bn"),
        ("preact_resnet18_raw", True, "bn"),
        ("preact_resnet18_nobn", False, None),
        ("preact_resnet18_raw_nobn", True, None),
    ],
)
def test_preact_resnets_compute_their_formulas(arch, of_input, last, small):
    model = enliven(build_model(arch, 5, (0,) * 3, (1,) * 3)).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    blocks = [(f"layer{stage}.0", 1 if stage == 1 else 2) for stage in (1, 2, 3, 4)]
    state = model.state_dict()
    expected = reference(state, images, blocks, "shortcut.0", last, "linear", of_input)
    assert torch.allclose(model(images), expected)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("arch", [*ALL, *PREACT[1:]])
def test_folded_network_gives_the_same_logits(arch, stem, small):
    model = enliven(build_model(arch, 5, MEAN, STD, stem))
    prune_at_random(model, 0.5)
    model.double().eval()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    folded = fold_for_evaluation(model)
    with torch.no_grad():
        expected = model(images)
        assert (folded(images) - expected).norm() <= 1e-9 * expected.norm()
    layers = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, folded)]
    assert layers[1] < layers[0]


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18", "fc"),
        ("preact_resnet18", "linear"),
        pytest.param("timm:test_efficientnet", "classifier", marks=needs_timm),
    ],
)
def test_the_classifier_is_known_by_its_name(arch, name):
    model = build_model(arch, 5, MEAN, STD)
    assert classifier(model) == name
    assert model.get_submodule(name).out_features == 5


@pytest.mark.parametrize("arch", [*SMALL, *PREACT[1:]])
def test_files_of_their_sources_load_strictly_and_without_their_classifier(arch, small, tmp_path):
    held = enliven(build_model(arch, 5, MEAN, STD))
    state = {n: v for n, v in held.state_dict().items() if not n.startswith("normalize.")}
    save_checkpoint(tmp_path / "w.pt", {"state_dict": {f"module.{n}": v for n, v in state.items()}})
    model = build_model(arch, 5, MEAN, STD)
    load_pretrained(model, tmp_path / "w.pt")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    fresh = build_model(arch, 3, MEAN, STD)
    head = classifier(fresh)
    before = fresh.get_parameter(f"{head}.weight").clone()
    load_pretrained(fresh, tmp_path / "w.pt", fc="drop")
    assert torch.equal(fresh.get_parameter(f"{head}.weight"), before)
    assert torch.equal(fresh.conv1.weight, held.conv1.weight)


def preact_file(name, path, **more):
    held = build_model(name, 3, MEAN, STD).state_dict()
    state = {n: v for n, v in held.items() if not n.startswith("normalize.")}
    save_checkpoint(path, {"state_dict": state, **more})
    return str(path)


def test_a_preact_file_is_told_from_a_resnet(small, tmp_path):
    path = preact_file("preact_resnet18", tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"it looks like preact_resnet18 or preact_resnet18_raw: "):
        load_pretrained(build_model("resnet18", 3, MEAN, STD, "cifar"), path)


@pytest.mark.parametrize("arch", PREACT)
def test_a_preact_file_that_fits_two_networks_is_guessed_as_neither_and_loaded_with_a_warning(
    arch, small, tmp_path
):
    path = preact_file(arch, tmp_path / "w.pt")
    twins = preact_resnet.alike(arch)
    with pytest.raises(InputError, match=rf"it could be {' or '.join(twins)}; add --arch"):
        load_network(path, mean=MEAN, std=STD)
    told = []
    assert load_network(path, arch, MEAN, STD, tell=told.append).arch == arch
    assert len(told) == 1
    assert f"those of {' and of '.join(twins)}, which compute different logits" in told[0]


def test_a_file_that_names_its_network_is_taken_at_its_word_or_warned_of(small, tmp_path):
    path = preact_file("preact_resnet18_raw", tmp_path / "w.pt", arch="preact_resnet18_raw")
    told = []
    assert load_network(path, None, MEAN, STD, tell=told.append).arch == "preact_resnet18_raw"
    assert told == []
    load_network(path, "preact_resnet18", MEAN, STD, tell=told.append)
    assert told == [
        f"{path}: the file says it is preact_resnet18_raw; it is read as preact_resnet18"
    ]


# --- timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [main_downstream.main, main_imp_pretrain.main])
def test_a_network_of_timms_keeps_its_own_stem(tmp_path, capsys, main):
    argv = ["-a", "timm:test_resnet", "--stem", "cifar", "--save_dir", str(tmp_path / "run")]
    argv += ["--data", "x"] if main is main_downstream.main else ["x"]
    line = one_error_line(argv, main, capsys)
    assert "--stem cifar: timm:test_resnet has its own; leave it out" in line


@needs_timm
def test_timms_weights_round_trip_with_the_normalisation_inside(tmp_path):
    theirs = enliven(timm.create_model("test_resnet", num_classes=5)).eval()
    save_checkpoint(tmp_path / "w.pt", theirs.state_dict())
    ours = build_model("timm:test_resnet", 5, MEAN, STD).eval()
    load_pretrained(ours, tmp_path / "w.pt")
    own = ours.state_dict()
    assert set(own) - set(theirs.state_dict()) == {"normalize.mean", "normalize.std"}
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - own["normalize.mean"].view(3, 1, 1)) / own["normalize.std"].view(3, 1, 1)
    assert torch.equal(ours(images), theirs(normalised))
    back = timm.create_model("test_resnet", num_classes=5).eval()
    back.load_state_dict({n: v for n, v in own.items() if not n.startswith("normalize.")})
    assert torch.equal(back(normalised), theirs(normalised))


@needs_timm
@pytest.mark.parametrize(
    ("name", "how", "told"),
    [
        ("test_resnet", {}, ["add --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"]),
        ("test_resnet", {"normalization": "keep"}, []),  # a transfer, or --mean and --std
        ("test_efficientnet", {}, []),  # ImageNet's, which are assumed
    ],
)
def test_weights_that_timm_normalises_otherwise_than_assumed_are_warned_of(
    name, how, told, tmp_path
):
    save_checkpoint(tmp_path / "w.pt", timm.create_model(name, num_classes=5).state_dict())
    model = build_model(f"timm:{name}", 5, MEAN, STD)
    warnings = load_pretrained(model, tmp_path / "w.pt", **how).warnings
    assert len(warnings) == len(told)
    assert all(line.endswith(end) for line, end in zip(warnings, told, strict=True))
    constants = {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}
    save_checkpoint(tmp_path / "own.pt", model.state_dict() | constants)
    assert load_pretrained(model, tmp_path / "own.pt", **how).warnings == []


@pytest.mark.parametrize("arch", ["resnet20s", *ALL])
def test_statistics_over_all_processes_change_no_logit_and_no_key(arch):
    model = enliven(build_model(arch, 5, MEAN, STD)).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    keys, before = list(model.state_dict()), model(images)
    joined = models.synchronised(model)
    assert [type(m) for m in joined.modules() if type(m) is nn.BatchNorm2d] == []
    assert any(isinstance(m, nn.SyncBatchNorm) for m in joined.modules())
    assert list(joined.state_dict()) == keys
    assert torch.equal(joined(images), before)
    torch.testing.assert_close(models.fold_for_evaluation(joined)(images), before)


@needs_timm
def test_networks_with_dropout_are_known_by_what_a_training_pass_draws():
    model: Any = enliven(build_model("timm:test_efficientnet", 5, MEAN, STD))
    prune_at_random(model, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert not models.draws_in_training(model, 32)
    model.drop_rate = 0.5
    assert models.draws_in_training(model, 32)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@needs_timm
def test_building_one_of_timms_networks_draws_its_weights_alone():
    torch.manual_seed(3)
    theirs = timm.create_model("test_resnet", num_classes=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    ours = build_model("timm:test_resnet", 5, MEAN, STD).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert torch.equal(torch.rand(1), after)


@needs_timm
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("test_vit", r"convolutions hold \d+\.\d % of the weights"),
        ("test_convnext", r"convolutions hold \d+\.\d % of the weights"),
        ("test_nfnet", r"stem\.conv1 \(ScaledStdConv2d\w*\) transforms its weight in forward"),
        ("resnetv2_18", "its classifier is no single linear layer but a Conv2d"),
        ("resnet19", "has no network resnet19; there is resnet18"),
        ("hf_hub:timm/resnet18", "has no network"),
    ],
)
def test_networks_that_cannot_be_pruned_are_refused_in_one_line(name, told):
    with pytest.raises(InputError, match=rf"-a timm:{name}: .*{told}") as caught:
        build_model(f"timm:{name}", 5, MEAN, STD)
    assert "\n" not in str(caught.value)


@needs_timm
def test_a_spectral_norm_is_found_and_a_plain_subclass_is_not():
    class Padded(nn.Conv2d):
        def forward(self, input):
            return super().forward(F.pad(input, (1, 1, 1, 1)))

    assert not timm_networks._transforms_weight(Padded(3, 4, 3))
    assert not timm_networks._transforms_weight(nn.Conv2d(3, 4, 3))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    assert timm_networks._transforms_weight(spectral)


def test_without_timm_the_package_is_named(monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        build_model("timm:resnet18", 5, MEAN, STD)


class Residual(nn.Module):
    """A convolution whose output is used twice, before and after its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv1(x)
        return (x + self.bn1(x)).mean((2, 3))


class Straight(Residual):
    def forward(self, x):
        return self.bn1(self.conv1(x)).mean((2, 3))


def test_what_seems_to_fold_but_changes_the_logits_is_not_folded():
    assert models.fold.observe_folds(Straight()) == (("conv1", "bn1"),)
    assert models.fold.observe_folds(Residual()) == ()


class ByHand(nn.Module):
    """A user's network: its names say nothing of what follows what, and its stem is no `conv1`."""

    def __init__(self, classes=3):
        super().__init__()
        self.arch, self.stem = "by_hand", None
        self.normalize = models.normalize.Normalize(MEAN, STD)
        self.start = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, classes)

    def forward(self, images):
        x = self.bn1(F.relu(self.conv1(self.start(self.normalize(images)))))
        return self.fc(F.relu(self.body(x)).mean((2, 3)))


def test_a_users_network_is_folded_by_what_it_computes_not_by_its_names():
    network = enliven(ByHand()).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_for_evaluation(network)
    assert torch.allclose(folded(images), network(images))
    assert isinstance(folded.bn1, nn.BatchNorm2d)
    assert isinstance(folded.body[1], nn.Identity)


def test_a_users_network_without_conv1_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ARCHS", (*zoo.ARCHS, "by_hand"))
    monkeypatch.setattr(zoo, "ResNet", lambda arch, classes, *_: ByHand(classes))
    held = enliven(ByHand())
    save_checkpoint(tmp_path / "w.pt", {"state_dict": held.state_dict(), "arch": "by_hand"})
    zoo.classifier_of_arch.cache_clear()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(load_network(str(tmp_path / "w.pt"))(images), held.eval()(images))


def test_looking_for_what_folds_leaves_all_generators_alone(monkeypatch):
    network, seeded = Straight(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    models.fold.observe_folds(network)
    assert seeded == []
    assert torch.equal(torch.get_rng_state(), before)


# --- through search, transfer and what comes after ------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "data")


def flags(arch):
    return ["-a", arch, "--input_size", "32", "-b", "12", *HERE]


SEARCH = ["--mode", "std", "--pretrain_epochs", "1", "--epochs", "2", "--prune_epoch", "1"]
TRANSFER = ["--mode", "adv", "--epochs", "2", "--train_step", "1", "--test_step", "1"]


def search(arch, data, folder, *more):
    main_imp_pretrain.main([str(data), *flags(arch), *SEARCH, "--save_dir", str(folder), *more])


def transfer(arch, data, runs, folder, *more):
    where = ["--dataset", "folder", "--data", str(data), "--save_dir", str(folder)]
    from_search = ["--init", str(runs / "init.pth.tar")]
    from_search += ["--tickets_file", str(runs / "2-ticket.safetensors")]
    main_downstream.main([*where, *flags(arch), *TRANSFER, *from_search, *more])


@pytest.fixture(scope="module", params=ALL)
def run(request, data, tmp_path_factory):
    """A ticket search and the transfer of its second ticket."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        skip_pictures(patch)
        search(request.param, data, root / "imp")
        transfer(request.param, data, root / "imp", root / "transfer")
        yield SimpleNamespace(arch=request.param, imp=root / "imp", transfer=root / "transfer")
    zoo._shapes_of.cache_clear()


def test_it_trains_prunes_and_transfers(run):
    masks = load_ticket(run.imp / "2-ticket.safetensors")
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    assert kept / total == pytest.approx(0.64, abs=0.001)
    results = read_json(run.transfer / "results.json")
    assert results["arch"] == run.arch
    assert results["density"] == pytest.approx(kept / total)
    state = load(run.transfer / "checkpoint.pth.tar")["state_dict"]
    for name, mask in masks.items():
        assert torch.equal(state[f"1.{name}"].bool(), mask)
    with torch.device("cpu"):
        model = build_model(run.arch, 3, MEAN, STD, "cifar")
    initial = load(run.imp / "init.pth.tar")
    head = f"{classifier(model)}.weight"
    assert initial[head].shape[0] == state[f"1.{head}"].shape[0] == len(CLASSES)


def test_a_resumed_search_and_a_resumed_transfer_are_the_same_runs(run, data, tmp_path):
    for epoch, begin, whole in (
        (2, search, run.imp),
        (1, lambda *a: transfer(*a[:2], run.imp, *a[2:]), run.transfer),
    ):
        folder = tmp_path / whole.name
        with pytest.MonkeyPatch.context() as patch:
            die_saving(patch, epoch)
            with pytest.raises(Interrupted):
                begin(run.arch, data, folder)
        begin(run.arch, data, folder, "--resume")
        assert_same_run(whole, folder)


def test_its_checkpoint_is_evaluated_as_it_was_tested(run, data, tmp_path):
    where = ["--dataset", "folder", "--data", str(data), "--input_size", "32", *HERE]
    checkpoint = str(run.transfer / "model_SA_best.pth.tar")
    main_downstream.main(
        ["--evaluate", "--resume", checkpoint, *where, "--save_dir", str(tmp_path), "-b", "12"]
    )
    expected = read_json(run.transfer / "results.json")["sa_best"]["sa"]
    assert read_json(tmp_path / "eval.json")["sa"] == pytest.approx(expected)


def test_it_is_exported_with_its_masks_and_loads_back(run, tmp_path):
    target = tmp_path / "net.safetensors"
    source = run.transfer / "checkpoint.pth.tar"
    export.main([str(source), str(target), "--input_size", "32"])
    with safe_open(target, framework="pt") as file:
        header = file.metadata()
    assert header["arch"] == run.arch
    assert header["num_classes"] == "3"
    assert len(json.loads(header["mean"])) == 3
    images = torch.rand(2, 3, 32, 32)
    back = load_network(str(target), run.arch)
    assert torch.equal(back(images), load_network(str(source))(images))
    weights = [m.weight for m in back.modules() if isinstance(m, nn.Conv2d)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros >= 0.35 * sum(weight.numel() for weight in weights)


@pytest.mark.parametrize("name", ["2-ticket.safetensors", "2-checkpoint.pth.tar"])
def test_its_ticket_is_inspected_with_flops(run, name):
    told = inspect_ticket(run.imp / name)
    assert f"convolutions of {run.arch} at" in told


def test_without_timm_its_ticket_is_inspected_without_flops(tmp_path, monkeypatch):
    mask = torch.arange(108).reshape(4, 3, 3, 3) < 27
    origin: Any = {"arch": "timm:test_resnet", "state": 6, "density": 0.25, "init_sha256": "0" * 64}
    save_ticket(tmp_path / "6-ticket.safetensors", {"stem.conv.weight_mask": mask}, **origin)
    monkeypatch.setitem(importlib.import_module("sys").modules, "timm", None)
    told = inspect_ticket(tmp_path / "6-ticket.safetensors")
    assert "FLOPs    unknown: timm:test_resnet needs the package timm: pip install timm" in told
    assert "density 0.250000" in told


def test_its_plan_has_costs(run, data, tmp_path, capsys):
    of_transfer = ["--dataset", "folder", "--data", str(data)]
    mains = {main_imp_pretrain.main: [str(data), *SEARCH], main_downstream.main: of_transfer}
    for main, more in mains.items():
        main([*more, *flags(run.arch), "--save_dir", str(tmp_path / "x"), "--dry_run"])
        told = capsys.readouterr().out
        assert "cost (estimate from FLOPs)" in told
        assert run.arch in told
    assert not (tmp_path / "x").exists()


def test_one_shot_tickets_are_made_of_its_weights(run, tmp_path):
    weights = ["--init", str(run.imp / "init.pth.tar"), "--ticket", "omp", "--save_dir"]
    main_imp_pretrain.main([*flags(run.arch), *SEARCH[2:], *weights, str(tmp_path / "omp")])
    masks = load_ticket(tmp_path / "omp" / "2-ticket.safetensors")
    assert masks.keys() == load_ticket(run.imp / "2-ticket.safetensors").keys()


@needs_timm
def test_a_network_that_cannot_be_pruned_ends_a_run_in_one_line(data, tmp_path, capsys):
    argv = [str(data), *flags("timm:test_vit"), *SEARCH, "--save_dir", str(tmp_path / "x")]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "% of the weights" in line
    assert not (tmp_path / "x").exists()


@needs_timm
@pytest.mark.parametrize("planned", [[], ["--dry_run"]], ids=["run", "plan"])
def test_images_that_a_network_cannot_take_end_a_run_in_one_line(planned, data, tmp_path, capsys):
    size = ["--input_size", "8", *planned, "--save_dir", str(tmp_path / "x")]
    argv = [str(data), *flags("timm:vgg11_bn"), *SEARCH, *size]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "-a timm:vgg11_bn: takes no images of 8x8 pixels; another --input_size" in line
    assert not (tmp_path / "x").exists()


@needs_timm
def test_images_that_a_file_s_network_cannot_take_end_its_test_and_export_in_one_line(
    tmp_path, capsys
):
    model = build_model("timm:vgg11_bn", 10, (0.5,) * 3, (0.2,) * 3)
    path = tmp_path / "vgg.pth.tar"
    save_checkpoint(path, {"arch": "timm:vgg11_bn", "state_dict": model.state_dict()})
    size = ["--input_size", "8"]
    test = ["--evaluate", "--resume", str(path), "--dataset", "digits", "--save_dir", str(tmp_path)]
    for main, argv in (
        (main_downstream.main, [*test, *size]),
        (export.main, [str(path), str(tmp_path / "out.safetensors"), *size]),
    ):
        line = one_error_line(argv, main, capsys)
        assert "takes no images of 8x8 pixels" in line


def test_remove_prune_leaves_a_plain_network(small):
    model = build_model("preact_resnet18", 5, MEAN, STD)
    names = list(model.state_dict())
    prune_at_random(model, 0.5)
    remove_prune(model)
    assert sorted(model.state_dict()) == sorted(names)
