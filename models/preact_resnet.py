"""The pre-activation ResNet-18 of He et al. (2016) for small images, with RobustBench's keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.normalize import Normalize
from models.stem import make_stem

BLOCKS = (2, 2, 2, 2)  # per stage
WIDTH = 64  # channels of the first stage


class Variant(NamedTuple):
    """In what implementations of this network differ; the first can be told from no file."""

    shortcut_of_input: bool  # the projection takes the block's input, not what bn1 and ReLU make
    bn_before_linear: bool


VARIANTS = {
    "preact_resnet18": Variant(shortcut_of_input=False, bn_before_linear=True),
    "preact_resnet18_raw": Variant(shortcut_of_input=True, bn_before_linear=True),
    "preact_resnet18_nobn": Variant(shortcut_of_input=False, bn_before_linear=False),
    "preact_resnet18_raw_nobn": Variant(shortcut_of_input=True, bn_before_linear=False),
}


def alike(arch: str) -> list[str]:
    """The archs whose files have the same entries, itself among them: nothing tells them apart."""
    if arch not in VARIANTS:
        return [arch]
    with_bn = VARIANTS[arch].bn_before_linear
    return [name for name, variant in VARIANTS.items() if variant.bn_before_linear == with_bn]


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, and a shortcut around both.

    Where shapes differ the shortcut is a 1x1 convolution: of what the first BatchNorm and ReLU make
    (RobustBench's `PreActBlockV2`; "Overfitting in adversarially robust deep learning"), or of the
    block's input (`PreActBlock`; "Fast is better than free").
    """

    folds = (("conv1", "bn2"),)  # bn1 comes before conv1

    def __init__(self, in_planes: int, planes: int, stride: int, of_input: bool) -> None:
        super().__init__()
        self.of_input = of_input
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
        if self.shortcut is None:
            return out + x
        return out + self.shortcut(x if self.of_input else active)


def _stage(
    blocks: int, in_planes: int, planes: int, stride: int, variant: Variant
) -> nn.Sequential:
    of_input = variant.shortcut_of_input
    rest = [PreActBlock(planes, planes, 1, of_input) for _ in range(blocks - 1)]
    return nn.Sequential(PreActBlock(in_planes, planes, stride, of_input), *rest)


class PreActResNet(nn.Module):
    """A pre-activation ResNet-18 of one of VARIANTS; images in [0, 1] -> logits.

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
        variant = VARIANTS[arch]
        planes = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        self.layer1 = _stage(BLOCKS[0], planes[0], planes[1], 1, variant)
        self.layer2 = _stage(BLOCKS[1], planes[1], planes[2], 2, variant)
        self.layer3 = _stage(BLOCKS[2], planes[2], planes[3], 2, variant)
        self.layer4 = _stage(BLOCKS[3], planes[3], planes[4], 2, variant)
        self.bn = nn.BatchNorm2d(planes[-1]) if variant.bn_before_linear else None
        self.linear = nn.Linear(planes[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(self.normalize(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.bn is not None:
            x = F.relu(self.bn(x), inplace=True)
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
