"""The CIFAR ResNet-20 of He et al. (2015), section 4.2: three stages, parameter-free shortcuts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.normalize import Normalize
from models.stem import make_stem

BLOCKS_PER_STAGE = 3  # 6 * 3 + 2 = 20 layers


def _conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)


class PlainShortcutBlock(nn.Module):
    """Two 3x3 convolutions and an option-A shortcut: subsampled, zero-padded in the channels."""

    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.channel_pad = ((planes - in_planes) // 2, (planes - in_planes + 1) // 2)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.channel_pad == (0, 0):
            return x
        # a pool of one pixel picks the same ones as a slice; its gradient keeps the memory layout
        x = F.avg_pool2d(x, kernel_size=1, stride=self.stride)
        return F.pad(x, (0, 0, 0, 0, *self.channel_pad))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self._shortcut(x)
        return self.relu(out)


class ResNet20s(nn.Module):
    """ResNet-20 for small images, `width` channels in the first stage; images in [0, 1] -> logits.

    Stem 'cifar' is its own; 'imagenet' puts torchvision's 7x7 stride-2 stem and max-pool before the
    three stages, for large images.
    """

    folds = (("conv1", "bn1"),)

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        stem: str = "cifar",
        width: int = 16,
    ) -> None:
        super().__init__()
        self.arch, self.stem, self.width = "resnet20s", stem, width
        self.normalize = Normalize(mean, std)
        self.conv1, self.maxpool = make_stem(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
        rest = [PlainShortcutBlock(planes, planes, 1) for _ in range(BLOCKS_PER_STAGE - 1)]
        return nn.Sequential(PlainShortcutBlock(in_planes, planes, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalize(images))))
        x = self.layer3(self.layer2(self.layer1(self.maxpool(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))
