"""No step of training or of an attack makes a tensor on another device than the network's.

PyTorch's device "meta" has shapes and no values, and refuses to work with tensors of other devices
as CUDA does. So these tests see, without any GPU, what would fail on one.
"""

import pytest
import torch
from torch import nn

from attack_utils import PGDConfig, make_pgd
from engine.steps import Execution, Meter, make_sgd, training_step
from models import build_model, fold_for_evaluation
from models.prepared import prepared
from pruning_utils import prune_model_custom

META = torch.device("meta")
ATTACK = PGDConfig(8 / 255, 2, 4 / 255)
ARCHS = {"resnet20s": ("cifar", 16), "resnet18": ("imagenet", 64)}


def network(arch: str, execution: Execution, pruned: bool) -> nn.Module:
    model = build_model(arch, 5, (0.5,) * 3, (0.5,) * 3, ARCHS[arch][0], width=4)
    if pruned:
        convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        prune_model_custom(
            model, {f"{name}.weight_mask": torch.ones(m.weight.shape) for name, m in convolutions}
        )
    return execution.place(model)


def batch(arch: str, execution: Execution, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """As training gets it: bytes from the CPU, put in place, and labels on the device."""
    side = ARCHS[arch][1]
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    return execution.images(images), torch.zeros(count, dtype=torch.long, device=META)


@pytest.fixture(params=[True, False], ids=["channels_last", "contiguous"])
def execution(request) -> Execution:
    return Execution(META, channels_last=request.param)


@pytest.mark.parametrize(("mode", "micro_batch"), [("adv", 4), ("std", None)])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_training_step_stays_on_the_networks_device(execution, arch, mode, micro_batch):
    execution = Execution(META, execution.channels_last, micro_batch=micro_batch)
    model = network(arch, execution, pruned=True).train()
    perturb = make_pgd(model, ATTACK) if mode == "adv" else None
    optimizer, meter = make_sgd(model, 0.1, 0.9, 1e-4, execution), Meter(META)
    images, labels = batch(arch, execution)
    for _ in range(2):  # momentum buffers are made in the first
        loss, logits = training_step(model, images, labels, optimizer, execution, perturb)
        meter.add(logits, labels, loss)
    assert (loss.device, logits.device, logits.shape) == (META, META, (6, 5))
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    assert {value.device for value in [*state, *model.state_dict().values()]} == {META}
    assert meter.sums.device == META


@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "dense"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("arch", ARCHS)
def test_an_attack_stays_on_the_networks_device(execution, arch, random_start, pruned):
    model = network(arch, execution, pruned)
    images, labels = batch(arch, execution)
    for attacked in (model.train(), fold_for_evaluation(model)):
        perturb = make_pgd(attacked, PGDConfig(8 / 255, 2, 4 / 255, random_start))
        with prepared(attacked):
            adversarial = perturb(images, labels)
        assert (adversarial.device, adversarial.shape) == (META, images.shape)
        assert adversarial.stride() == images.stride()


def test_a_tensor_of_another_device_is_found(execution):
    """That these tests can fail: a layer that adds a tensor of the CPU."""

    class Strays(nn.Module):
        def forward(self, x):
            return x + torch.zeros(3, 1, 1)

    model = nn.Sequential(Strays(), network("resnet20s", execution, pruned=False))
    images, labels = batch("resnet20s", execution)
    with pytest.raises(RuntimeError, match=r"device|meta"):
        make_pgd(model, ATTACK)(images, labels)
