"""PGD: advertorch 0.2.3 is the reference, to the bit; an independent ten lines are a second one."""

import copy
import dataclasses
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.evaluation_cases import images as pictures
from helpers.evaluation_cases import shorten_autoattack, trained
from helpers.network_cases import enliven
from torch import nn

import attack_utils
from attack_utils import (
    PGDConfig,
    check_perturbation,
    checked,
    choose_attacks,
    import_autoattack,
    make_advertorch_pgd,
    make_autoattack,
    make_pgd,
    with_restarts,
)
from engine.steps import Execution
from errors import InputError, RunFailed
from models import build_model
from pruning_utils import prune_by_magnitude

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ATTACK = PGDConfig(8 / 255, 4, 2 / 255)


def network(pruned=False, train=False, arch="resnet20s"):
    torch.manual_seed(0)
    model = enliven(build_model(arch, 10, MEAN, STD, stem="cifar", width=4))
    if pruned:
        prune_by_magnitude(model, 0.6)
    return model.train(train)


def some_images(count=6, size=12):
    """Pixels at both ends of the range among them, where the clamps matter."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, size, size, generator=generator) * 1.2 - 0.1
    return images.clamp_(0, 1), torch.randint(0, 10, (count,), generator=generator)


def call(perturb, images, labels, seed=7):
    torch.manual_seed(seed)
    return perturb(images, labels)


def advertorch_directly(model, config):
    """advertorch as anybody would call it, parameters' gradients and all."""
    attack = attack_utils._import_advertorch().LinfPGDAttack(
        model,
        loss_fn=nn.CrossEntropyLoss(),
        eps=config.eps,
        nb_iter=config.steps,
        eps_iter=config.step_size,
        rand_init=config.random_start,
        clip_min=0.0,
        clip_max=1.0,
        targeted=False,
    )
    return attack.perturb


# --- against advertorch ---------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [make_advertorch_pgd, advertorch_directly])
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("random_start", [True, False], ids=["random", "zero"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_pgd_is_advertorchs_to_the_bit(train, random_start, pruned, reference):
    config = PGDConfig(8 / 255, 4, 2 / 255, random_start)
    ours, theirs = network(pruned, train), network(pruned, train)
    images, labels = some_images()
    for seed in (7, 8):  # the second time from the BatchNorm statistics that the first one left
        adversarial = call(make_pgd(ours, config), images, labels, seed)
        after = torch.get_rng_state()
        assert torch.equal(adversarial, call(reference(theirs, config), images, labels, seed))
        assert torch.equal(after, torch.get_rng_state())
    for (name, ours_now), theirs_now in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(ours_now, theirs_now), name
    fresh = network(pruned, train).get_buffer("bn1.running_mean")
    assert torch.equal(ours.get_buffer("bn1.running_mean"), fresh) != train


@pytest.mark.parametrize(
    "config",
    [
        PGDConfig(8 / 255, 3, 16 / (3 * 255)),  # IMP
        PGDConfig(8 / 255, 1, 10 / 255),  # fast adversarial training
        PGDConfig(8 / 255, 20, 2 / 255),  # test attack
        PGDConfig(0.3, 5, 0.1),
        PGDConfig(0.0, 3, 2 / 255),
        PGDConfig(8 / 255, 0, 2 / 255),
    ],
    ids=str,
)
def test_every_attack_in_use_is_advertorchs_to_the_bit(config):
    model = network(arch="resnet20s")
    images, labels = some_images(4)
    adversarial = call(make_pgd(model, config), images, labels)
    assert torch.equal(adversarial, call(make_advertorch_pgd(model, config), images, labels))


@pytest.mark.parametrize("random_start", [True, False], ids=["random", "zero"])
def test_pgd_in_double_precision_is_advertorchs_to_the_bit(random_start):
    config = PGDConfig(8 / 255, 4, 2 / 255, random_start)
    model, (images, labels) = network().double(), some_images()
    adversarial = call(make_pgd(model, config), images.double(), labels)
    assert adversarial.dtype == torch.float64
    reference = call(make_advertorch_pgd(model, config), images.double(), labels)
    assert torch.equal(adversarial, reference)


# --- against ten plain lines ----------------------------------------------------------------------


def plain_pgd(model, images, labels, config, noise):
    """The attack of Madry et al. (2018) on the image itself, with no delta."""
    low, high = images - config.eps, images + config.eps
    adversarial = (images + config.eps * noise).clamp(0, 1)
    for _ in range(config.steps):
        adversarial = adversarial.detach().requires_grad_()
        loss = F.cross_entropy(model(adversarial), labels)
        (slope,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial + config.step_size * slope.sign()
        adversarial = torch.minimum(torch.maximum(adversarial, low), high).clamp(0, 1)
    return adversarial.detach()


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_pgd_equals_an_independent_implementation(train):
    ours, theirs = network(train=train).double(), network(train=train).double()
    images, labels = some_images()
    adversarial = call(make_pgd(ours, ATTACK), images.double(), labels, seed=3)
    torch.manual_seed(3)
    noise = 2 * torch.rand(images.shape, dtype=torch.float64) - 1
    expected = plain_pgd(theirs, images.double(), labels, ATTACK, noise)
    assert torch.allclose(adversarial, expected, rtol=0, atol=1e-12)


def test_pgd_raises_the_loss():
    model, (images, labels) = network(), some_images(12)
    adversarial = make_pgd(model, PGDConfig(8 / 255, 10, 2 / 255))(images, labels)
    with torch.no_grad():
        clean, attacked = (F.cross_entropy(model(x), labels) for x in (images, adversarial))
    assert attacked > 1.2 * clean


def test_the_last_iterate_is_returned_not_the_worst():
    """One huge step overshoots: the loss falls again, and the attack does not look back."""
    weight = torch.tensor([[1.0, -1.0]])

    class Peak(nn.Module):
        def forward(self, images):  # the loss of class 0 is largest at 0.6
            height = -((images.mean((1, 2, 3)) - 0.6) ** 2)
            return -height[:, None] * 50 * weight

    images, labels = torch.full((1, 3, 2, 2), 0.55), torch.zeros(1, dtype=torch.int64)
    config = PGDConfig(0.4, 1, 0.4, random_start=False)
    assert torch.allclose(make_pgd(Peak(), config)(images, labels), torch.tensor(0.95))


# --- what a caller relies on ----------------------------------------------------------------------


@pytest.mark.parametrize("eps", [8 / 255, 0.3])
def test_the_perturbation_stays_in_the_ball_and_the_image_in_range(eps):
    images, labels = some_images()
    before = images.clone()
    adversarial = make_pgd(network(), PGDConfig(eps, 6, eps / 2))(images, labels)
    distance = (adversarial - images).abs().max()
    assert 0.9 * eps < distance <= eps + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad
    assert torch.equal(images, before)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_model_is_left_as_it_was(train):
    model = network(pruned=True, train=train)
    some_bn = model.get_submodule("layer1.0.bn1")
    some_bn.train(not train)
    model.get_parameter("conv1.weight_orig").requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    modes = {name: module.training for name, module in model.named_modules()}
    asking = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    call(make_pgd(model, ATTACK), *some_images())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {n: parameter.requires_grad for n, parameter in model.named_parameters()} == asking
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full_like(parameter, 0.5))


def test_no_gradient_of_a_parameter_is_computed_while_crafting():
    model = network(pruned=True)
    seen: list[bool] = []
    model.register_forward_hook(
        lambda *_: seen.extend(parameter.requires_grad for parameter in model.parameters())
    )
    call(make_pgd(model, ATTACK), *some_images())
    assert len(seen) == ATTACK.steps * len(list(model.parameters()))
    assert not any(seen)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_goes_on_after_an_attack_on_a_pruned_model():
    """The attack leaves a masked weight without a graph; the next forward pass makes a new one."""
    attacked, other = network(pruned=True), network(pruned=True)
    images, labels = some_images()
    call(make_pgd(attacked, ATTACK), images, labels)
    for model in (attacked, other):
        F.cross_entropy(model(images), labels).backward()
    for one, two in zip(attacked.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, two.grad)


def test_parameters_ask_for_gradients_again_after_an_error():
    def stop(*_):
        raise RuntimeError("out of memory")

    model = network()
    model.register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="out of memory"):
        make_pgd(model, ATTACK)(*some_images())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("make", [make_pgd, make_advertorch_pgd])
def test_the_attack_works_where_gradients_are_off(make):
    model, (images, labels) = network(), some_images()
    expected = call(make(model, ATTACK), images, labels)
    with torch.no_grad():
        assert torch.equal(call(make(model, ATTACK), images, labels), expected)
        assert not torch.is_grad_enabled()


def test_the_random_start_is_drawn_in_nchw_order_whatever_the_layout():
    start = make_pgd(network(), PGDConfig(8 / 255, 0, 2 / 255))
    images, labels = some_images()
    strided = images.to(memory_format=torch.channels_last)
    first, second = call(start, images, labels), call(start, strided, labels)
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
    torch.manual_seed(7)
    noise = torch.empty(images.shape).uniform_(-1, 1)
    assert torch.allclose(first, (images + noise * 8 / 255).clamp(0, 1), rtol=0, atol=1e-7)


def test_images_keep_their_memory_layout():
    model = network().to(memory_format=torch.channels_last)
    images, labels = some_images()
    images = images.to(memory_format=torch.channels_last)
    for steps in (0, 2):
        adversarial = make_pgd(model, PGDConfig(8 / 255, steps, 2 / 255))(images, labels)
        assert adversarial.is_contiguous(memory_format=torch.channels_last)


def test_layouts_agree_on_the_attack_in_double_precision():
    ours = network().double().to(memory_format=torch.channels_last)
    images, labels = some_images()
    strided = images.double().to(memory_format=torch.channels_last)
    expected = call(make_pgd(network().double(), ATTACK), images.double(), labels)
    assert torch.allclose(call(make_pgd(ours, ATTACK), strided, labels), expected, atol=1e-12)


def test_an_attack_of_radius_zero_returns_the_images():
    images, labels = some_images()
    for random_start in (True, False):
        attack = make_pgd(network(), PGDConfig(0.0, 3, 2 / 255, random_start))
        assert torch.equal(attack(images, labels), images)


def test_an_attack_of_no_steps_is_its_start():
    images, labels = some_images()
    model = network(train=True)
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(make_pgd(model, PGDConfig(0.1, 0, 0.1, False))(images, labels), images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_random_start_follows_torchs_generator():
    images, labels = some_images()
    attack = make_pgd(network(), ATTACK)
    assert torch.equal(call(attack, images, labels, 1), call(attack, images, labels, 1))
    assert not torch.equal(call(attack, images, labels, 1), call(attack, images, labels, 2))


def test_the_loss_of_half_precision_logits_is_in_single_precision():
    class Alike(nn.Module):
        def forward(self, images):  # a pixel raises the wrong logit by a trace more
            pixels = images.flatten(1)
            return torch.cat([5 + pixels, 1.005 * pixels], 1).bfloat16()

    images, labels = torch.linspace(0.1, 0.8, 16).reshape(16, 1, 1, 1), torch.zeros(16).long()
    adversarial = make_pgd(Alike(), PGDConfig(0.1, 2, 0.05, False))(images, labels)
    assert torch.allclose(adversarial, images + 0.1)


def test_a_scale_of_the_loss_changes_no_bit():
    """Scaled by a power of two, gradients keep their bits."""
    images, labels = some_images()
    expected = call(make_pgd(network(), ATTACK), images, labels)
    scaled = call(make_pgd(network(), ATTACK, loss_scale=2.0**16), images, labels)
    assert torch.equal(scaled, expected)


@pytest.mark.parametrize("count", [1, 256])
def test_scaled_float16_gradients_neither_vanish_nor_overflow_in_any_batch(count):
    class Faint(nn.Module):
        def forward(self, images):  # unscaled, gradients are below float16's least number
            return images.flatten(1).half() * 2.0**-27

    images, labels = torch.full((count, 3, 1, 1), 0.5), torch.zeros(count).long()
    config, scale = PGDConfig(0.1, 2, 0.05, False), Execution(amp=torch.float16).loss_scale
    assert torch.equal(make_pgd(Faint(), config)(images, labels), images)
    shift = make_pgd(Faint(), config, scale)(images, labels).flatten(1) - 0.5
    assert torch.allclose(shift, torch.tensor([-0.1, 0.1, 0.1]))


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((8.0, 3, 0.01), "eps 8.0"),
        ((-0.1, 3, 0.01), "eps -0.1"),
        ((float("nan"), 3, 0.01), "eps nan"),
        ((0.1, -1, 0.01), "steps -1"),
        ((0.1, 3, 2.0), "step size 2.0"),
    ],
)
def test_wrong_values_are_named(values, named):
    with pytest.raises(InputError, match=named):
        PGDConfig(*values)


@pytest.mark.parametrize("random_start", [True, False])
def test_images_that_are_not_floats_are_refused(random_start):
    perturb = make_pgd(nn.Flatten(), PGDConfig(0.1, 1, 0.1, random_start))
    with pytest.raises(InputError, match="images of type torch.uint8; floats in .0, 1. are needed"):
        perturb(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


def test_an_attack_says_what_it_is():
    assert str(PGDConfig(8 / 255, 10, 2 / 255)) == (
        "Linf PGD-10, eps 8/255, step size 2/255, random start"
    )
    assert str(PGDConfig(8 / 255, 3, 16 / 765, False)).endswith("no random start")


def test_an_image_whose_gradient_is_not_a_number_is_not_passed_off_as_attacked():
    class Steep(nn.Module):
        def forward(self, images):  # logits are finite, their gradients 0 times infinity
            return images.flatten(1) + 0 * (images - images.detach()).flatten(1).sqrt()

    images = torch.full((2, 3, 1, 1), 0.5)
    perturb = make_pgd(Steep(), PGDConfig(0.1, 2, 0.05))
    with pytest.raises(RunFailed, match="its images are not finite"):
        checked(perturb, 0.1)(images, torch.tensor([0, 1]))


# --- testing a finished network -------------------------------------------------------------------


def test_an_attacks_output_within_its_bounds_passes_the_check():
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    for shift in (0.0, 0.1, -0.1, 0.1 + 5e-7):
        check_perturbation((images + shift).clamp(0, 1), images, 0.1)


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        (0.60001, "a perturbation of 0.10001, more than eps 0.1"),
        (-0.01, "pixels from -0.01 to 1, outside"),
        (1.01, "pixels from 0 to 1.01, outside"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_an_attacks_output_out_of_bounds_is_an_error_that_says_which(pixel, message):
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    wrong = images.clone()
    wrong[0, 1] = pixel
    with pytest.raises(RunFailed, match=message):
        checked(lambda *_: wrong, 0.1)(images, torch.tensor([0]))


def test_an_attack_that_goes_wrong_later_is_found_at_the_next_of_its_checks():
    images, labels = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    outputs = iter([images, images + 0.2, images + 0.2, images + 0.2])
    perturb = checked(lambda *_: next(outputs), 0.1, every=3)
    for _ in range(3):
        perturb(images, labels)
    with pytest.raises(RunFailed, match="a perturbation of 0.2"):
        perturb(images, labels)


class TellsPixel(nn.Module):
    """Right (label 1) while an image's pixels are below one half."""

    def forward(self, inputs):
        score = inputs.flatten(1).amax(1)
        return torch.stack([score, 1 - score], 1)


def test_an_image_survives_restarts_only_if_it_survives_them_all():
    # by image: the attack at which it falls, if any
    falls = torch.tensor([0, 1, 2, 3, 9])
    images = torch.arange(5).reshape(5, 1, 1, 1) / 100
    asked = []

    def perturb(some, labels):
        numbers = (some.flatten() * 100).round().long()
        asked.append(numbers.tolist())
        wins = falls[numbers] == len(asked) - 1
        return torch.where(wins[:, None, None, None], 0.9, some)

    repeated = with_restarts(TellsPixel(), perturb, 3, seed=0)
    adversarial = repeated(images, torch.ones(5).long())
    assert asked == [[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4]]  # the fallen are left alone
    assert (adversarial.flatten() > 0.5).tolist() == [True, True, True, False, False]
    asked.clear()
    falls[:] = 0
    repeated(images, torch.ones(5).long())
    assert asked == [[0, 1, 2, 3, 4]]


def test_the_first_of_several_restarts_draws_what_a_single_attack_draws():
    def noise(images, labels):
        return torch.rand_like(images) / 4

    images, labels = torch.zeros(4, 1, 2, 2), torch.ones(4).long()
    torch.manual_seed(3)
    single = [noise(images, labels) for _ in range(3)]
    for restarts in (1, 2, 5):
        starts: list[torch.Tensor] = []

        def first(some, labels, starts=starts):
            starts.append(noise(some, labels))
            return starts[-1]

        torch.manual_seed(3)
        repeated = with_restarts(TellsPixel(), first, restarts, seed=0)
        for _ in range(3):
            repeated(images, labels)
        assert torch.equal(torch.stack(starts[::restarts]), torch.stack(single))
        assert len({start.sum().item() for start in starts}) == 3 * restarts  # no draw twice


@pytest.mark.parametrize(
    ("classes", "attacks", "targets", "said"),
    [
        (2, ("apgd-ce", "square"), 0, "left out"),
        (3, ("apgd-ce", "square"), 0, "3 classes: the targeted attacks"),
        (4, ("apgd-ce", "apgd-t", "fab-t", "square"), 3, "4 classes: 3 targets, not 9"),
        (9, ("apgd-ce", "apgd-t", "fab-t", "square"), 8, "8 targets"),
        (10, ("apgd-ce", "apgd-t", "fab-t", "square"), 9, None),
        (1000, ("apgd-ce", "apgd-t", "fab-t", "square"), 9, None),
    ],
)
def test_autoattack_with_few_classes_aims_at_fewer_and_says_so(classes, attacks, targets, said):
    suite = choose_attacks(classes)
    assert (suite.attacks, suite.targets) == (attacks, targets)
    assert suite.note is None if said is None else said in (suite.note or "")


@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_autoattack_runs_with_any_number_of_classes(classes, monkeypatch):
    shorten_autoattack(monkeypatch)
    model = trained(classes).to(memory_format=torch.channels_last)
    pixels, _ = pictures(20, classes)
    images = (pixels / 255).to(memory_format=torch.channels_last)
    labels = model(images).argmax(1)
    eps = 14 / 255
    perturb = make_autoattack(model, eps, choose_attacks(classes), seed=1)
    state = torch.get_rng_state()
    adversarial = checked(perturb, eps)(images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    fooled = model(adversarial).argmax(1) != labels
    assert fooled.any()
    # where it fails the image stays clean, so that it counts as right
    assert torch.equal((adversarial != images).flatten(1).any(1), fooled)
    for parameter in model.parameters():
        parameter.grad = None
    assert torch.equal(perturb(images, labels), adversarial)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_autoattack_without_its_package_is_an_error_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InputError, match="pip install pyautoattack"):
        import_autoattack()


def test_attacks_that_differ_have_different_words():
    """Results, outcomes and the report tell attacks apart by these words alone."""
    attack = PGDConfig(8 / 255, 10, 2 / 255)
    others = {"eps": 4 / 255, "steps": 20, "step_size": 1 / 255, "random_start": False}
    for field in dataclasses.fields(PGDConfig):
        other = dataclasses.replace(attack, **{field.name: others[field.name]})
        assert str(other) != str(attack), field.name
