"""Every fast path against the plain one: layout, folding, prepared weights, memory, partition.

float32 is compared to 1e-4 where rounding may differ, float64 to 1e-9 of the norm; what must be
equal to the bit is.
"""

import contextlib
import copy
import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from helpers.network_cases import enliven
from torch import Tensor, nn
from torch.optim import SGD

import pruning_utils
from attack_utils import PGDConfig, make_advertorch_pgd, make_pgd
from engine import distributed
from engine.steps import Execution, evaluate, training_step
from models import build_model, fold_for_evaluation
from models.prepared import prepared
from models.resnet20s import PlainShortcutBlock
from pruning_utils import _kth_smallest, _prune_lowest, convolutions, masks, prune_by_magnitude

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ATTACK = PGDConfig(8 / 255, 3, 3 / 255)
ARCHS = {"resnet20s": 16, "resnet18": 32}  # and the side of their images
DTYPES = {torch.float32: 1e-4, torch.float64: 1e-9}
PLAIN = Execution(channels_last=False)
BF16 = torch.bfloat16


def network(arch="resnet20s", dtype=torch.float32, pruned=True) -> nn.Module:
    torch.manual_seed(0)
    model = enliven(build_model(arch, 10, MEAN, STD, width=8))
    if pruned:
        prune_by_magnitude(model, 0.5)
    return model.to(dtype)


def batch(arch="resnet20s", dtype=torch.float32, count=8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = ARCHS[arch]
    images = torch.rand(count, 3, side, side, generator=generator).to(dtype)
    return images, torch.randint(0, 10, (count,), generator=generator)


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)


def distance(one: Tensor, two: Tensor) -> float:
    """Of its norm."""
    one, two = one.detach().double(), two.detach().double()
    return float((one - two).norm() / two.norm().clamp_min(1e-300))


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_buffers() if "running" in name}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_step(model, execution, attack=None, arch="resnet20s", dtype=torch.float32):
    """Our step; the loss, and what it leaves."""
    execution.place(model).train()
    images, labels = batch(arch, dtype)
    perturb = make_pgd(model, attack) if attack else None
    torch.manual_seed(2)
    loss, _ = training_step(model, execution.images(images), labels, sgd(model), execution, perturb)
    return loss, {**model.state_dict(), **{f"grad {n}": g for n, g in gradients(model).items()}}


def plain_step(model, execution, attack=None):
    """The same with hooks and casts in every pass, as torch would do it."""
    execution.place(model).train()
    images, labels = batch()
    images = execution.images(images)
    optimizer = sgd(model)
    torch.manual_seed(2)
    with execution.autocast():
        if attack:
            images = make_pgd(model, attack)(images, labels)
        output = model(images)
    loss = F.cross_entropy(output.float(), labels)
    loss.backward()
    optimizer.step()
    left = {**model.state_dict(), **{f"grad {n}": g for n, g in gradients(model).items()}}
    return loss.detach(), left


def assert_same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert list(one) == list(two)
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


# --- memory layout --------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [None, ATTACK], ids=["std", "adv"])
@pytest.mark.parametrize("arch", ARCHS)
def test_channels_last_gives_the_same_step_to_1e_9_in_float64(arch, attack):
    results = []
    for layout in (True, False):
        model = network(arch, torch.float64)
        execution = Execution(channels_last=layout)
        results.append(one_step(model, execution, attack, arch, torch.float64))
    (loss, left), (plain_loss, plain_left) = results
    assert distance(loss, plain_loss) < 1e-9
    assert list(left) == list(plain_left)
    far = {n: distance(left[n], plain_left[n]) for n in left if left[n].is_floating_point()}
    assert max(far.values()) < 1e-9, far


@pytest.mark.parametrize("arch", ARCHS)
def test_channels_last_gives_the_same_loss_and_statistics_to_1e_4_in_float32(arch):
    fast, plain = network(arch), network(arch)
    loss, _ = one_step(fast, Execution(), None, arch)
    plain_loss, _ = one_step(plain, PLAIN, None, arch)
    assert distance(loss, plain_loss) < 1e-4
    expected = statistics(plain)
    assert all(distance(value, expected[name]) < 1e-4 for name, value in statistics(fast).items())


@pytest.mark.parametrize("layout", [True, False], ids=["channels_last", "contiguous"])
def test_pixels_have_the_bits_of_a_division_in_either_layout(layout):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(6).reshape(2, 3, 16, 16)
    images = Execution(channels_last=layout).images(pixels)
    assert torch.equal(images, pixels.float() / 255)
    assert images.is_contiguous(
        memory_format=torch.channels_last if layout else torch.contiguous_format
    )


def test_masks_lie_in_memory_as_their_weights_do():
    model = Execution().place(network(pruned=False))
    prune_by_magnitude(model, 0.5)
    for _, module in convolutions(model):
        assert (
            module.get_buffer("weight_mask").stride()
            == module.get_parameter("weight_orig").stride()
        )


# --- folding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arch", ARCHS)
def test_the_folded_network_gives_the_same_logits(arch, dtype, layout):
    model, (images, _) = network(arch, dtype).eval(), batch(arch, dtype, 16)
    execution = Execution(channels_last=layout)
    folded = execution.place(fold_for_evaluation(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad(), prepared(folded, execution.amp):
        logits = folded(execution.images(images))
    with torch.no_grad():
        expected = model(images)
    assert distance(logits, expected) < DTYPES[dtype]
    assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_the_folded_network_gives_the_attack_the_same_images_in_float64():
    model, (images, labels) = network(dtype=torch.float64).eval(), batch(dtype=torch.float64)
    folded, found = fold_for_evaluation(model), []
    for target in (folded, model):
        torch.manual_seed(3)
        found.append(make_pgd(target, ATTACK)(images, labels))
    assert distance(*found) < 1e-9


# --- prepared weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("amp", [None, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "dense"])
@pytest.mark.parametrize("attack", [None, ATTACK], ids=["std", "adv"])
def test_a_step_on_prepared_weights_has_the_bits_of_one_on_hooks(attack, pruned, amp):
    execution = Execution(channels_last=False, amp=amp)
    loss, left = one_step(network(pruned=pruned), execution, attack)
    plain_loss, plain_left = plain_step(network(pruned=pruned), execution, attack)
    assert torch.equal(loss, plain_loss)
    assert_same_bits(left, plain_left)


@pytest.mark.parametrize("amp", [None, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "hooks"])
def test_evaluation_on_prepared_weights_has_the_bits_of_plain_passes(fold, amp):
    model, data = network().eval(), batch()
    network_used = fold_for_evaluation(model) if fold else model
    execution = Execution(channels_last=False, amp=amp)
    perturb = make_pgd(network_used, ATTACK)
    torch.manual_seed(4)
    found = evaluate(network_used, [data], execution=execution, perturb=perturb)
    torch.manual_seed(4)
    with execution.autocast():
        images = perturb(*data)
        with torch.no_grad():
            logits = network_used(images)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits.float(), data[1])), rel=1e-12)
    assert found.top1 == 100 * float((logits.argmax(1) == data[1]).double().mean())


@pytest.mark.parametrize("amp", [None, BF16], ids=["fp32", "bf16"])
def test_prepared_weights_are_those_of_the_hooks_and_are_gone_afterwards(amp):
    model, images = network().eval(), batch()[0]
    with torch.no_grad():
        before = model(images)
    keys, hooks = list(model.state_dict()), hooks_of(model)
    with contextlib.suppress(KeyError), prepared(model, amp):
        assert not any(hooks_of(model).values())
        weights = {name: module.weight for name, module in convolutions(model)}
        raise KeyError  # as from an attack that fails
    for name, module in convolutions(model):
        product = module.get_parameter("weight_orig") * module.get_buffer("weight_mask")
        assert torch.equal(weights[name], product.to(amp or torch.float32))
        assert weights[name].dtype == (amp or torch.float32)
    assert "weight" not in model.get_submodule("fc").__dict__
    assert (list(model.state_dict()), hooks_of(model)) == (keys, hooks)
    with torch.no_grad():
        assert torch.equal(model(images), before)
        for _, module in convolutions(model):  # and the hooks work
            module.get_parameter("weight_orig").zero_()
        assert not torch.equal(model(images), before)


@pytest.mark.parametrize("amp", [None, BF16], ids=["fp32", "bf16"])
def test_an_attack_asks_for_no_gradient_of_prepared_weights_either(amp):
    model, (images, labels) = network(), batch()
    asked: list[bool] = []
    for _, module in convolutions(model):
        module.register_forward_hook(lambda m, *_: asked.append(m.weight.requires_grad))
    with prepared(model, amp):
        before = [module.weight for _, module in convolutions(model)]
        with torch.autocast("cpu", amp) if amp else contextlib.nullcontext():
            make_pgd(model, ATTACK)(images, labels)
        after = [module.weight for _, module in convolutions(model)]
    assert asked
    assert not any(asked)
    assert all(one is other and one.requires_grad for one, other in zip(before, after, strict=True))


def hooks_of(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(module._forward_pre_hooks) for name, module in convolutions(model)}


def test_without_amp_nothing_is_cast():
    seen: set[torch.dtype] = set()
    model = network()
    for _, module in convolutions(model):
        module.register_forward_hook(
            lambda m, inputs, output: seen.update((m.weight.dtype, inputs[0].dtype, output.dtype))
        )
    one_step(model, PLAIN, ATTACK)
    assert seen == {torch.float32}
    one_step(model, Execution(amp=BF16), ATTACK)
    assert torch.bfloat16 in seen


# --- the attack's element-wise work ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("random_start", [True, False])
def test_in_place_steps_have_advertorchs_bits_and_leave_the_images_alone(dtype, random_start):
    model, (images, labels) = network(dtype=dtype).eval(), batch(dtype=dtype)
    kept, found = images.clone(), []
    config = PGDConfig(8 / 255, 5, 3 / 255, random_start)
    for make in (make_pgd, make_advertorch_pgd):
        torch.manual_seed(5)
        found.append(make(model, config)(images, labels))
    assert torch.equal(*found)
    assert torch.equal(images, kept)


# --- the gradient to the images -------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "resnet20s"])
@pytest.mark.parametrize("side", [64, 65])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_stem_has_the_gradients_of_pytorchs_convolution(arch, side, dtype):
    stem = build_model(arch, 10, MEAN, STD, "imagenet").to(dtype).get_submodule("conv1")
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(3)).to(dtype)
        images = images.contiguous(memory_format=layout).requires_grad_()
        output = stem(images)
        target = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        gradients = torch.autograd.grad((output * target).sum(), [images, stem.weight])
        found.append((output, *gradients))
    for fast, plain in zip(*found, strict=True):
        assert distance(fast, plain) < DTYPES[dtype]


def test_the_stems_own_gradient_is_that_of_finite_differences():
    stem = build_model("resnet20s", 10, MEAN, STD, "imagenet", width=2).double().conv1
    images = torch.rand(2, 3, 10, 11, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert type(stem(images).grad_fn).__name__ == "_FastInputGradientBackward"
    assert torch.autograd.gradcheck(stem, images)
    assert torch.autograd.gradgradcheck(stem, images)


def test_a_folded_stem_adds_its_bias():
    model = network("resnet18", pruned=False).eval()
    stem, alone = fold_for_evaluation(model).conv1, nn.Sequential(model.conv1, model.bn1)
    images = batch("resnet18")[0].contiguous(memory_format=torch.channels_last).requires_grad_()
    assert stem.bias is not None
    assert distance(stem(images), alone(images)) < 1e-5


def test_the_shortcut_of_resnet20s_picks_every_other_pixel_to_the_bit():
    block = PlainShortcutBlock(4, 8, 2)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 4, 9, 9).to(dtype).requires_grad_()
        picked = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        assert torch.equal(block._shortcut(x), picked)
        ones = torch.ones_like(picked)
        ours, plain = (torch.autograd.grad(y, x, ones)[0] for y in (block._shortcut(x), picked))
        assert torch.equal(ours, plain)


# --- pruning --------------------------------------------------------------------------------------


def by_sorting(scores: Tensor, mask: Tensor, rate: float) -> Tensor:
    """The lowest of what is left go, the lowest index first among equals."""
    left = mask.nonzero().flatten()
    order = left[scores[left].sort(stable=True).indices]
    pruned = mask.clone()
    pruned[order[: round(rate * len(left))]] = False
    return pruned


def cases() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    count = 5 * 2**15 + 3
    misleading = torch.rand(count, generator=generator)
    misleading[::5] = 2.0  # all that a sample of every fifth entry sees
    return {
        "normal": torch.randn(count, generator=generator).abs(),
        "ties": torch.randint(0, 4, (count,), generator=generator).float(),
        "equal": torch.ones(count),
        "ascending": torch.arange(count).float(),
        "misleading": misleading,
        "zeros": torch.rand(count, generator=generator).sub_(0.6).clamp_(min=0),
        "small": torch.rand(7, generator=generator),
    }


def as_layers(values: Tensor) -> list[Tensor]:
    """Cut (n,) into convolutions' shapes, one of them in channels_last; the order is kept."""
    ends, shapes = values[:1], [(-1, 1, 1, 1), (4, -1, 1, 3), (1, -1, 1, 1)]
    body = values[1 : 1 + (len(values) - 1) // 12 * 12]
    rest = values[len(ends) + len(body) :]
    parts = [ends, body, rest] if len(rest) else [ends, body]
    layers = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=False) if len(part)]
    return [layer.contiguous(memory_format=torch.channels_last) for layer in layers]


def joined(layers: list[Tensor]) -> Tensor:
    return torch.cat([layer.flatten() for layer in layers])


@pytest.mark.parametrize("name", cases())
def test_partition_prunes_what_sorting_prunes(name, monkeypatch):
    monkeypatch.setattr(pruning_utils, "SAMPLE", 2**15)
    scores = cases()[name]
    mask = torch.ones(len(scores), dtype=torch.bool)
    for rate in (0.2, 0.5, 0.99, 0.0, 0.2):
        pruned = _prune_lowest(as_layers(scores * mask), as_layers(mask), rate)
        assert torch.equal(joined(pruned), by_sorting(scores, mask, rate)), rate
        mask = joined(pruned)


@pytest.mark.parametrize("rank", [0.0, 0.2, 0.99])
@pytest.mark.parametrize("name", cases())
def test_the_bracketed_value_is_the_sorted_one_wherever_the_bracket_lies(name, rank, monkeypatch):
    monkeypatch.setattr(pruning_utils, "SAMPLE", 2**12)
    values = cases()[name]
    ordered = values.sort().values
    for k in {1, 2, len(values) // 5 + 1, len(values) // 2, len(values) - 1, len(values)}:
        value, reached = _kth_smallest(list(values.split(1000)), k, rank)
        assert value == ordered[k - 1]
        assert reached == (values <= value).sum()


def test_pruned_weights_stay_pruned_among_weights_that_are_zero():
    model = network()
    with torch.no_grad():
        for _, module in convolutions(model):
            module.get_parameter("weight_orig")[:, ::2] = 0
    before = copy.deepcopy(masks(model))
    prune_by_magnitude(model, 0.2)
    for name, mask in masks(model).items():
        assert not (mask & ~before[name]).any()
    left = sum(int(mask.sum()) for mask in before.values())
    assert sum(int(m.sum()) for m in masks(model).values()) == left - round(0.2 * left)


# --- memory ---------------------------------------------------------------------------------------

SAME_AFTER = """
import torch
from engine import distributed
torch.set_num_threads(1)
def work():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 32, 3)
    loss = layer(torch.rand(16, 3, 128, 128)).square().sum()  # more than glibc's threshold
    loss.backward()
    return loss, layer.weight.grad
before = work()
for _ in range(2):
    distributed.keep_freed_memory()
    assert all(map(torch.equal, before, work()))
"""


def test_kept_memory_changes_no_bit():
    subprocess.run([sys.executable, "-c", SAME_AFTER], cwd=ROOT, check=True)


M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # as malloc.h has them


@pytest.mark.parametrize(
    ("libc", "wanted"), [("glibc", {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}), ("", {})]
)
def test_memory_is_kept_by_glibc_alone(libc, wanted, monkeypatch):
    asked: dict[int, int] = {}
    monkeypatch.setattr(distributed.platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=asked.__setitem__))
    distributed.keep_freed_memory()
    assert asked == wanted
