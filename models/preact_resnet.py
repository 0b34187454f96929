"""The pre-activation ResNet-18 of He et al. (2016) for small images, with RobustBench's keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.normalize import Normalize
from models.stem import make_stem

VARIANTS = {"preact_resnet18": (2, 2, 2, 2)}  # arch: blocks per stage
WIDTH = 64  # channels of the first stage


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions; the shortcut branches off after them.

    RobustBench's `PreActBlockV2`, and what fast adversarial training and "Overfitting in
    adversarially robust deep learning" trained.
    """

    folds = (("conv1", "bn2"),)  # bn1 comes before conv1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _stage(blocks: int, in_planes: int, planes: int, stride: int) -> nn.Sequential:
    rest = [PreActBlock(planes, planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(PreActBlock(in_planes, planes, stride), *rest)


class PreActResNet(nn.Module):
    """A pre-activation ResNet with a BatchNorm before the classifier; images in [0, 1] -> logits.

    Its stem is 'cifar'; 'imagenet' puts torchvision's 7x7 stride-2 stem and max-pool in its place.
    """

    folds = ()  # conv1 feeds a shortcut, too
    classifier_name = "linear"

    def __init__(
        self,
        arch: str,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        self.arch, self.stem = arch, stem
        self.normalize = Normalize(mean, std)
        self.conv1, self.maxpool = make_stem(stem, WIDTH)
        planes = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        blocks = VARIANTS[arch]
        self.layer1 = _stage(blocks[0], planes[0], planes[1], stride=1)
        self.layer2 = _stage(blocks[1], planes[1], planes[2], stride=2)
        self.layer3 = _stage(blocks[2], planes[2], planes[3], stride=2)
        self.layer4 = _stage(blocks[3], planes[3], planes[4], stride=2)
        self.bn = nn.BatchNorm2d(planes[-1])
        self.linear = nn.Linear(planes[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(self.normalize(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = F.relu(self.bn(x), inplace=True)
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
