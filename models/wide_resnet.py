"""The wide ResNets of Zagoruyko & Komodakis (2016) for small images, with TRADES' keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.normalize import Normalize
from models.stem import make_stem

# arch: (depth, how many times 16, 32 and 64 channels the three stages have)
VARIANTS = {"wide_resnet28_10": (28, 10), "wide_resnet34_10": (34, 10)}
STEM_CHANNELS = 16


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, and a shortcut around them."""

    folds = (("conv1", "bn2"),)  # bn1 comes before conv1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)
            if in_planes != planes
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """Blocks one after the other, under the key `layer`."""

    def __init__(self, blocks: int, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(planes, planes, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(in_planes, planes, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide ResNet; images in [0, 1] -> logits. Its stem is 'cifar'.

    Stem 'imagenet' puts torchvision's 7x7 stride-2 stem and max-pool in its place, for large
    images.
    """

    folds = ()  # conv1 feeds a shortcut, too; bn1 follows the last stage
    classifier_name = "fc"

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
        depth, factor = VARIANTS[arch]
        blocks = (depth - 4) // 6
        planes = [channels * factor for channels in (16, 32, 64)]
        self.normalize = Normalize(mean, std)
        self.conv1, self.maxpool = make_stem(stem, STEM_CHANNELS)
        self.block1 = WideStage(blocks, STEM_CHANNELS, planes[0], stride=1)
        self.block2 = WideStage(blocks, planes[0], planes[1], stride=2)
        self.block3 = WideStage(blocks, planes[1], planes[2], stride=2)
        self.bn1 = nn.BatchNorm2d(planes[2])
        self.fc = nn.Linear(planes[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(self.normalize(images)))
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(x)))), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
