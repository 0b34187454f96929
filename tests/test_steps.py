"""Training steps, evaluation, learning rates: against plain loops and the released recipe."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers.network_cases import enliven
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR
from torchvision.transforms import ToTensor

import attack_utils
from attack_utils import PGDConfig, make_pgd
from cli.recipes import recipe
from engine.schedules import Schedule
from engine.steps import (
    Execution,
    Meter,
    evaluate,
    is_right,
    load_optimizer,
    make_sgd,
    train_one_epoch,
    training_step,
)
from files.checkpoints import to_cpu
from models import build_model, fold_for_evaluation
from pruning_utils import convolutions, masks, prune_by_magnitude

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Execution(channels_last=False)
SEED = 11


def network(arch="resnet20s", pruned=False, classes=10):
    torch.manual_seed(0)
    stem = "cifar" if arch == "resnet20s" else "imagenet"
    model = enliven(build_model(arch, classes, MEAN, STD, stem=stem, width=4))
    if pruned:
        prune_by_magnitude(model, 0.5)
    return model


def batches(*sizes, side=12, classes=10, seed=1) -> list[tuple[Tensor, Tensor]]:
    """What a loader gives: uint8 images and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator),
            torch.randint(0, classes, (n,), generator=generator),
        )
        for n in sizes
    ]


def as_floats(some_batches):
    return [(images.float() / 255, labels) for images, labels in some_batches]


def sgd(model, lr=0.1, weight_decay=5e-4):
    return SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)


def momenta(model, optimizer) -> dict[str, Tensor]:
    return {
        f"momentum of {name}": optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
    }


def everything(model, optimizer) -> dict[str, Tensor]:
    """Weights, BatchNorm's statistics, the last gradients, the momentum buffers."""
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {**model.state_dict(), **gradients, **momenta(model, optimizer)}


def distance(one: Tensor, two: Tensor) -> float:
    """Of its norm."""
    return float((one.double() - two.double()).norm() / two.double().norm().clamp_min(1e-300))


# --- the released recipe, restated ----------------------------------------------------------------


class ByChannel(nn.Module):
    def forward(self, images):
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        return (images - mean[None, :, None, None]) / std[None, :, None, None]


def released_training(start, some_batches, config, lr, weight_decay):
    """torchvision's network under torch's own pruning hooks with float masks, advertorch, SGD."""
    network = torchvision.models.resnet18(num_classes=10)
    bare = {n.replace("_orig", ""): v for n, v in start.items() if "weight_mask" not in n}
    network.load_state_dict({n: v for n, v in bare.items() if not n.startswith("normalize")})
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            prune.custom_from_mask(module, "weight", start[f"{name}.weight_mask"].float())
    model: Any = nn.Sequential(ByChannel(), network)
    attacks = attack_utils._import_advertorch()
    from advertorch.context import ctx_noparamgrad

    criterion = nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    model.train()
    torch.manual_seed(SEED)
    for images, labels in some_batches:
        images = torch.stack([ToTensor()(image.permute(1, 2, 0).numpy()) for image in images])
        if config is not None:
            attack = attacks.LinfPGDAttack(
                model, loss_fn=criterion, eps=config.eps, nb_iter=config.steps,
                eps_iter=config.step_size, rand_init=True, clip_min=0.0, clip_max=1.0,
                targeted=False,
            )  # fmt: skip
            with ctx_noparamgrad(model):
                images = attack.perturb(images, labels)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {**network.state_dict(), **momenta(network, optimizer)}


@pytest.mark.parametrize(
    ("config", "lr", "weight_decay"),
    [
        (PGDConfig(8 / 255, 3, 16 / 765), 5e-4, 1e-4),
        (PGDConfig(8 / 255, 10, 2 / 255), 0.1, 5e-4),
        (None, 0.001, 5e-4),
    ],
    ids=["imp", "adversarial transfer", "standard transfer"],
)
def test_training_steps_equal_the_released_recipe(config, lr, weight_decay):
    model = network("resnet18", pruned=True)
    start = copy.deepcopy(model.state_dict())
    some_batches = batches(3, 3, side=32)
    expected = released_training(start, some_batches, config, lr, weight_decay)

    torch.manual_seed(SEED)
    optimizer = sgd(model, lr=1.0, weight_decay=weight_decay)
    modes = []
    model.register_forward_hook(lambda *_: modes.append(model.training))
    train_one_epoch(
        model,
        some_batches,
        optimizer,
        execution=PLAIN,
        learning_rate=lambda step: lr,
        perturb=make_pgd(model, config) if config else None,
    )
    assert len(modes) == 2 * ((config.steps if config else 0) + 1)
    assert all(modes)  # every pass in train mode
    ours = {**model.state_dict(), **momenta(model, optimizer)}
    assert expected.keys() == {name for name in ours if not name.startswith("normalize.")}
    for name, value in expected.items():
        assert torch.allclose(ours[name].float(), value.float(), rtol=0, atol=1e-6), name
    moved = "layer4.1.bn2.running_mean", "layer1.0.conv1.weight_orig", "bn1.num_batches_tracked"
    assert not any(torch.equal(expected[name], start[name]) for name in moved)


# --- one epoch against a plain loop ---------------------------------------------------------------


def plain_figures(outputs):
    """Mean loss, top-1 and top-5 from all logits and labels, image by image."""
    logits = torch.cat([logits for logits, _ in outputs]).double()
    labels = torch.cat([labels for _, labels in outputs])
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    loss = -logits.log_softmax(1).gather(1, labels[:, None]).mean()
    top1, top5 = (100 * (ranks < k).double().mean() for k in (1, 5))
    return [len(labels), loss.item(), top1.item(), top5.item()]


def figures(metrics):
    return [metrics.images, metrics.loss, metrics.top1, metrics.top5]


def test_training_equals_a_plain_loop():
    model, other = network(), network()
    some_batches, rates = batches(8, 8, 3), [0.1, 0.05, 0.2]
    optimizer, other_optimizer = sgd(model), sgd(other)
    metrics = train_one_epoch(
        model.eval(), some_batches, optimizer, execution=PLAIN, learning_rate=rates.__getitem__
    )
    outputs = []
    other.train()
    for (images, labels), lr in zip(as_floats(some_batches), rates, strict=True):
        other_optimizer.param_groups[0]["lr"] = lr
        logits = other(images)
        other_optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        other_optimizer.step()
        outputs.append((logits.detach(), labels))
    assert model.training
    assert figures(metrics) == pytest.approx(plain_figures(outputs), rel=1e-6)
    expected = everything(other, other_optimizer)
    for name, value in everything(model, optimizer).items():
        assert torch.equal(value, expected[name]), name


def test_training_reports_every_step_and_figures_of_perturbed_images():
    model, seen = network(), []
    metrics = train_one_epoch(
        model,
        batches(4, 2),
        sgd(model),
        execution=PLAIN,
        learning_rate=lambda step: 0.0,
        perturb=lambda images, labels: torch.zeros_like(images),
        report=lambda count, meter: seen.append((count, meter.read().images)),
    )
    assert seen == [(4, 4), (2, 6)]
    logits = model.train()(torch.zeros(1, 3, 12, 12)).detach()
    loss = sum(
        F.cross_entropy(logits.repeat(n, 1), y) * n
        for n, (_, y) in zip((4, 2), batches(4, 2), strict=True)
    )
    assert metrics.loss == pytest.approx(float(loss) / 6, rel=1e-4)


def test_evaluation_equals_a_plain_loop():
    model, some_batches = network(pruned=True), batches(8, 8, 3)
    metrics = evaluate(model.train(), some_batches, execution=PLAIN)
    model.eval()
    with torch.no_grad():
        outputs = [(model(images), labels) for images, labels in as_floats(some_batches)]
    assert figures(metrics) == pytest.approx(plain_figures(outputs), rel=1e-6)
    assert metrics.images == 19


def test_evaluation_under_attack_equals_a_plain_loop_with_advertorch():
    model, some_batches = network(pruned=True), batches(6, 3)
    config = PGDConfig(8 / 255, 5, 2 / 255)
    torch.manual_seed(5)
    metrics = evaluate(model, some_batches, execution=PLAIN, perturb=make_pgd(model, config))
    reference, outputs = attack_utils.make_advertorch_pgd(model, config), []
    torch.manual_seed(5)
    for images, labels in as_floats(some_batches):
        adversarial = reference(images, labels)
        outputs.append((model(adversarial).detach(), labels))
    assert figures(metrics) == pytest.approx(plain_figures(outputs), rel=1e-6)
    clean = evaluate(model, some_batches, execution=PLAIN)
    assert metrics.loss > clean.loss


def test_evaluation_changes_nothing_and_computes_no_parameter_gradient():
    model = network(pruned=True)
    before = copy.deepcopy(model.state_dict())
    modes = []
    model.register_forward_hook(lambda *_: modes.append(model.training))
    attack = make_pgd(model, PGDConfig(8 / 255, 2, 2 / 255))
    evaluate(model, batches(4), execution=PLAIN, perturb=attack)
    assert modes == [False] * 3
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 6])
def test_top5_of_fewer_than_five_classes_is_over_all_of_them(classes):
    meter = Meter(torch.device("cpu"))
    logits, labels = torch.randn(64, classes), torch.randint(0, classes, (64,))
    meter.add(logits, labels, F.cross_entropy(logits, labels))
    metrics = meter.read()
    assert (metrics.top5 == 100) == (classes <= 5)
    assert metrics.top1 == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())


def test_equal_logits_are_decided_as_argmax_does_by_whatever_counts():
    """In half precision they often are equal, and topk takes any of them."""
    logits = torch.randn(4096, 100).mul(2).round()
    labels = logits.argmax(1)
    assert (logits.topk(5).indices[:, 0] != labels).any()
    meter = Meter(torch.device("cpu"))
    meter.add(logits, labels, F.cross_entropy(logits, labels))
    assert (meter.read().top1, meter.read().top5) == (100, 100)
    assert is_right(logits, labels).all()


def test_a_meter_without_images_reads_zero():
    assert figures(Meter(torch.device("cpu")).read()) == [0, 0, 0, 0]


# --- accumulated gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-6)],
    ids=["double", "single"],
)
def test_accumulated_gradients_equal_the_whole_batch(dtype, tolerance, micro_batch):
    """With BatchNorm in eval mode, which alone looks at a whole pass."""
    (images, labels), results = as_floats(batches(8))[0], []
    for size in (None, micro_batch):
        model = network(pruned=True).to(dtype).eval()
        optimizer = sgd(model)
        execution = Execution(channels_last=False, micro_batch=size)
        loss, logits = training_step(model, images.to(dtype), labels, optimizer, execution)
        results.append({**everything(model, optimizer), "loss": loss, "logits": logits})
        assert not loss.requires_grad
        assert not logits.requires_grad
    for name, value in results[0].items():
        assert distance(results[1][name], value) < tolerance, name


def test_each_micro_batch_is_perturbed_by_itself_and_seen_once():
    model, seen = network(), []

    def perturb(images, labels):
        seen.append((images, labels))
        return images

    (images, labels) = as_floats(batches(7))[0]
    training_step(model, images, labels, sgd(model), Execution(micro_batch=3), perturb)
    assert [len(labels) for _, labels in seen] == [3, 2, 2]
    assert torch.equal(torch.cat([images for images, _ in seen]), images)
    assert torch.equal(torch.cat([labels for _, labels in seen]), labels)


@pytest.mark.parametrize(("count", "micro_batch"), [(5, 4), (3, 2), (9, 4), (2, 100)])
def test_no_pass_is_a_single_image_where_maps_are_one_pixel(count, micro_batch):
    """A ResNet-18 with the ImageNet stem ends in 1x1 maps at 32 pixels, as users run it."""
    model = build_model("resnet18", 3, MEAN, STD, "imagenet").train()
    images, labels = torch.rand(count, 3, 32, 32), torch.arange(count) % 3
    execution = Execution(channels_last=False, micro_batch=micro_batch)
    loss, logits = training_step(model, images, labels, sgd(model), execution)
    assert bool(loss.isfinite())
    assert len(logits) == count


@pytest.mark.parametrize(
    ("batch", "processes", "micro_batch"),
    [(513, 2, 256), (1026, 4, 256), (514, 8, 64), (1000, 3, 333), (5, 2, 2), (7, 2, None)],
)
def test_all_processes_make_as_many_passes_and_none_of_a_single_image(
    batch, processes, micro_batch
):
    pieces = Execution(micro_batch=micro_batch).pieces(batch, processes)
    for share in np.array_split(np.arange(batch), processes):
        sizes = [len(part) for part in np.array_split(share, pieces)]
        assert min(sizes) >= 2
        assert max(sizes) <= (micro_batch or batch) + 1


def test_gradients_of_an_earlier_step_are_forgotten():
    (images, labels), results = as_floats(batches(4))[0], []
    for stale in (False, True):
        model = network()
        optimizer = sgd(model)
        if stale:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        training_step(model, images, labels, optimizer, PLAIN)
        results.append(everything(model, optimizer))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


# --- memory layout, folding, mixed precision ------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_have_the_bits_of_to_tensor(channels_last):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    images = torch.stack([levels, levels.flip(1)])
    expected = torch.stack([ToTensor()(image.permute(1, 2, 0).numpy()) for image in images])
    ours = Execution(channels_last=channels_last).images(images)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert images.dtype == torch.uint8


def test_placing_a_model_sets_the_layout_and_keeps_masks_and_values():
    model, execution = network(pruned=True), Execution()
    before = copy.deepcopy(model.state_dict())
    assert execution.place(model) is model
    weight = model.get_parameter("layer1.0.conv1.weight_orig")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("channels_last", [True, False])
def test_folded_evaluation_agrees(channels_last):
    execution = Execution(channels_last=channels_last)
    model = execution.place(network(pruned=True)).eval()
    folded = execution.place(fold_for_evaluation(model))
    some_batches = batches(256, 256, 256, 256, side=8)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    agree = 0
    with torch.no_grad():
        for images, _ in as_floats(some_batches):
            images = execution.images(images)
            agree += int((model(images).argmax(1) == folded(images).argmax(1)).sum())
    assert agree >= 0.999 * 1024
    one, two = (evaluate(m, some_batches, execution=execution) for m in (model, folded))
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    assert one.top1 == pytest.approx(two.top1, abs=0.1)


def test_folded_evaluation_under_attack_agrees():
    model, config = network(pruned=True).eval(), PGDConfig(8 / 255, 4, 2 / 255)
    losses = []
    for version in (model, fold_for_evaluation(model)):
        torch.manual_seed(2)
        attack = make_pgd(version, config)
        losses.append(evaluate(version, batches(64), execution=PLAIN, perturb=attack).loss)
    clean = evaluate(model, batches(64), execution=PLAIN).loss
    assert losses[1] - losses[0] == pytest.approx(0, abs=0.02 * (losses[0] - clean))


def test_mixed_precision_keeps_weights_and_figures_in_single_precision():
    execution = Execution(amp=torch.bfloat16)
    model, other = network(), network()
    dtypes = set()
    model.register_forward_hook(lambda module, inputs, logits: dtypes.add(logits.dtype))
    metrics = train_one_epoch(
        model, batches(8), sgd(model), execution=execution, learning_rate=lambda step: 0.1
    )
    expected = train_one_epoch(
        other, batches(8), sgd(other), execution=PLAIN, learning_rate=lambda step: 0.1
    )
    assert metrics.loss == pytest.approx(expected.loss, rel=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    attack = make_pgd(model, PGDConfig(8 / 255, 2, 2 / 255))
    attacked = evaluate(model, batches(8), execution=execution, perturb=attack)
    assert attacked.loss > 0
    assert dtypes == {torch.bfloat16}  # in training, in the attack and in evaluation


def test_the_loss_of_a_mixed_precision_pass_is_taken_in_single_precision():
    execution, model, some_batches = Execution(amp=torch.bfloat16), network(), batches(8, 8)
    training = partial(train_one_epoch, optimizer=sgd(model), learning_rate=lambda step: 0.1)
    outputs = []
    model.register_forward_hook(lambda *call: outputs.append(call[-1].detach().float()))
    labels = torch.cat([labels for _, labels in some_batches])
    for run in (evaluate, training):
        outputs.clear()
        metrics = run(model, some_batches, execution=execution)
        expected = F.cross_entropy(torch.cat(outputs), labels)
        assert metrics.loss == pytest.approx(float(expected), rel=1e-6)


def test_training_keeps_masks_that_the_loop_knows_nothing_of():
    model = network(pruned=True)
    before = {name: mask.clone() for name, mask in masks(model).items()}
    train_one_epoch(
        model, batches(4, 4), sgd(model), execution=Execution(), learning_rate=lambda step: 0.1
    )
    assert all(torch.equal(mask, before[name]) for name, mask in masks(model).items())
    for name, module in convolutions(model):
        assert not module.weight[~before[f"{name}.weight_mask"]].any()


def test_momentum_is_sound_where_the_scaler_skips_the_very_first_step():
    """A fused kernel that skips it leaves the momentum as memory was."""
    on_cuda = Execution(torch.device("cuda"), amp=torch.float16)
    values = []
    for optimizer_of in (lambda p: make_sgd(p, 0.1, 0.9, 0, on_cuda),
                         lambda p: SGD(p.parameters(), 0.1, momentum=0.9)):  # fmt: skip
        model = nn.Linear(1000, 1)
        nn.init.ones_(model.weight)
        optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu", init_scale=2.0)
        for gradient in (float("inf"), 2.0, 2.0):
            scaler.scale(torch.ones(()))  # the loss: its scale is made with the first one
            model.weight.grad = torch.full_like(model.weight, gradient)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        values.append(model.weight.detach().clone())
    assert torch.equal(*values)
    assert [Execution(torch.device("cuda"), amp=amp).fused_sgd
            for amp in (None, torch.bfloat16, torch.float16)] == [True, True, False]  # fmt: skip


@pytest.mark.parametrize("fused", [True, None])
def test_a_state_that_is_taken_up_goes_on_to_the_bit_whatever_its_layout(fused):
    """Files hold momentum in NCHW; fused kernels pair it with a weight by its place in memory."""
    execution, results = Execution(), []
    for resumed in (False, True):
        model = execution.place(network())
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
        for step, (images, labels) in enumerate(batches(8, 8, 8)):
            if resumed and step == 1:
                kept = to_cpu(optimizer.state_dict())
                optimizer = SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
                load_optimizer(optimizer, kept)
                for parameter in model.parameters():
                    buffer = optimizer.state[parameter]["momentum_buffer"]
                    assert buffer.stride() == parameter.stride()
            training_step(model, execution.images(images), labels, optimizer, execution)
        results.append(everything(model, optimizer))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


@pytest.mark.parametrize("fused", [True, None])
def test_whether_kernels_are_fused_is_not_the_saved_runs_matter(fused):
    model = network()
    there = SGD(model.parameters(), 0.1, fused=fused)
    here = SGD(model.parameters(), 0.1, fused=None if fused else True)
    load_optimizer(here, there.state_dict())
    assert here.param_groups[0]["fused"] is (None if fused else True)


# --- learning rates -------------------------------------------------------------------------------


def schedule_of(task, mode, dataset):
    values = recipe(task, mode, dataset)
    return Schedule(
        values["lr_schedule"], values["lr"], values["epochs"], values["decreasing_lr"],
        values["warmup"],
    )  # fmt: skip


def of_torch(lr, epochs, make) -> list[float]:
    """The rate that every epoch trains with under a scheduler of torch, stepped per epoch."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr)
    scheduler, rates = make(optimizer), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def steps(lr, *ends) -> list[float]:
    """A tenth from each end on: the released recipes, written out."""
    lengths = [b - a for a, b in zip((0, *ends), ends, strict=False)]
    return [lr / 10**k for k, length in enumerate(lengths) for _ in range(length)]


@pytest.mark.parametrize(
    ("mode", "dataset", "lr", "ends"),
    [
        ("adv", "cifar10", 0.1, (50, 75, 100)),
        ("adv", "cifar100", 0.1, (50, 75, 100)),
        ("adv", "folder", 0.1, (50, 75, 100)),
        ("std", "cifar10", 0.001, (50, 100, 150)),
        ("std", "cifar100", 0.001, (50, 100, 150)),
        ("std", "svhn", 0.001, (50, 100, 150)),
        ("std", "visda", 0.001, (50, 100, 150)),
    ],
)
def test_learning_rates_by_milestones_equal_the_table_and_torch(mode, dataset, lr, ends):
    schedule = schedule_of("transfer", mode, dataset)
    assert schedule.epochs == ends[-1]
    ours = [schedule.at(epoch, step, 7) for epoch in range(ends[-1]) for step in (0, 3, 6)][::3]
    assert ours == pytest.approx(steps(lr, *ends), rel=1e-12)
    torchs = of_torch(lr, ends[-1], lambda optimizer: MultiStepLR(optimizer, ends[:-1]))
    assert ours == pytest.approx(torchs, rel=1e-12)


def test_adversarial_svhn_follows_torchs_cosine_over_all_epochs():
    schedule = schedule_of("transfer", "adv", "svhn")
    assert schedule.epochs == 80
    ours = [schedule.at(epoch) for epoch in range(80)]
    assert ours[0] == 0.01
    torchs = of_torch(0.01, 80, lambda optimizer: CosineAnnealingLR(optimizer, 80))
    assert ours == pytest.approx(torchs, rel=1e-9, abs=1e-15)
    assert schedule.at(80) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("mode", ["adv", "std"])
def test_ticket_search_trains_every_epoch_at_one_rate(mode):
    schedule = schedule_of("imp", mode, "*")
    assert {schedule.at(epoch, step, 5) for epoch in range(30) for step in range(5)} == {5e-4}


def test_within_an_epoch_the_rate_stands_still():
    schedule = schedule_of("transfer", "adv", "svhn")
    for epoch in (0, 40, 79):
        assert len({schedule.at(epoch, step, 10) for step in range(10)}) == 1


@pytest.mark.parametrize("kind", ["constant", "multistep", "cosine"])
def test_warm_up_is_linear_by_step_and_the_schedule_goes_on_where_it_is(kind):
    plain = Schedule(kind, 0.1, 20, (4, 10))
    warm = Schedule(kind, 0.1, 20, (4, 10), warmup=3)
    ours = [warm.at(epoch, step, 5) for epoch in range(3) for step in range(5)]
    assert ours == pytest.approx([0.1 * (i + 1) / 15 for i in range(15)], rel=1e-12)
    for epoch in range(3, 20):
        assert warm.at(epoch, 2, 5) == plain.at(epoch, 2, 5)


def test_a_schedule_that_there_is_not_is_no_constant_rate():
    with pytest.raises(ValueError, match="no schedule of learning rates: 'cosin'"):
        Schedule("cosin", 0.1, 20)
