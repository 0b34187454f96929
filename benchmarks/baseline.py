"""The released recipe in plain lines: what `bench.py` measures against.

float32, NCHW, torch's pruning hooks with float masks, advertorch's PGD, PIL and torchvision's
transforms one image at a time, torch's global pruning, complete checkpoints written twice. Written
anew; it runs on a current PyTorch, as the released code does not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from attack_utils import PGDConfig, advertorch_attack, make_advertorch_pgd
from models import build_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NormalizeByChannel(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean[None, :, None, None]) / self.std[None, :, None, None]


def network(arch: str, classes: int, side: int) -> nn.Module:
    """Normalisation and a dense network, float32 and NCHW; the CIFAR stem below 64 pixels."""
    if arch == "resnet20s":
        return build_model(arch, classes, MEAN, STD)
    bare = getattr(torchvision.models, arch)(num_classes=classes)
    if side < 64:
        bare.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        bare.maxpool = nn.Identity()
    return nn.Sequential(NormalizeByChannel(), bare)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def prune_globally(model: nn.Module, rate: float) -> None:
    weights = [(module, "weight") for module in convolutions(model)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=rate)


def prune_and_rewind(model: nn.Module, rate: float, init: Mapping[str, Tensor]) -> None:
    prune_globally(model, rate)
    masks = [module.get_buffer("weight_mask").clone() for module in convolutions(model)]
    for module in convolutions(model):
        prune.remove(module, "weight")
    model.load_state_dict(init)
    for module, mask in zip(convolutions(model), masks, strict=True):
        prune.custom_from_mask(module, "weight", mask)


def optimizer_of(model: nn.Module) -> SGD:
    return SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)


def training_step(
    model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, config: PGDConfig | None
) -> None:
    """One step in train mode; parameters ask for no gradient while the attack runs."""
    if config:
        images = make_advertorch_pgd(model, config)(images, labels)
    loss = nn.CrossEntropyLoss()(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def evaluation_step(model: nn.Module, images: Tensor, labels: Tensor, config: PGDConfig) -> int:
    """Images of a batch right under attack; the released code computes parameter gradients too."""
    images = advertorch_attack(model, config).perturb(images, labels)
    with torch.no_grad():
        return int((model(images).argmax(1) == labels).sum())


# --- input pipelines ------------------------------------------------------------------------------


class Arrays(Dataset):
    """Images (N, H, W, 3) in memory, as torchvision's CIFAR-10."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: T.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def training_transform(side: int) -> T.Compose:
    crop = T.RandomCrop(32, padding=4) if side == 32 else T.RandomResizedCrop(side)
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor()])


def array_loader(images: np.ndarray, labels: np.ndarray, side: int, batch: int) -> DataLoader:
    return DataLoader(Arrays(images, labels, training_transform(side)), batch, shuffle=True)


def folder_loader(root: Path, side: int, batch: int) -> DataLoader:
    return DataLoader(ImageFolder(str(root), training_transform(side)), batch, shuffle=True)


# --- files ----------------------------------------------------------------------------------------


def checkpoint_bytes(folder: Path, arch: str, classes: int, side: int) -> int:
    """Bytes of one IMP state: the checkpoint, and the same again as the best one."""
    model = network(arch, classes, side)
    init = copy.deepcopy(model.state_dict())
    prune_globally(model, 0.2)
    optimizer = optimizer_of(model)
    model(torch.zeros(2, 3, side, side)).sum().backward()
    optimizer.step()
    payload = {
        "epoch": 1,
        "arch": arch,
        "state_dict": model.state_dict(),
        "best_acc1": 0.0,
        "optimizer": optimizer.state_dict(),
        "state_prune": 1,
        "init": init,
    }
    for name in ("1-checkpoint.pth.tar", "1-model_best.pth.tar"):
        torch.save(payload, folder / name)
    return sum(path.stat().st_size for path in folder.glob("*.pth.tar"))
