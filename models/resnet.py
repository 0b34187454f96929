"""ResNets under torchvision's names and keys, the normalisation inside, with a choice of stem."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models import resnet as tv

from models.normalize import Normalize
from models.stem import ImageNetStem, make_stem

# arch: (block, blocks per stage, further arguments of torchvision's ResNet)
VARIANTS: dict[str, tuple[type[tv.BasicBlock | tv.Bottleneck], list[int], dict[str, Any]]] = {
    "resnet18": (tv.BasicBlock, [2, 2, 2, 2], {}),
    "resnet34": (tv.BasicBlock, [3, 4, 6, 3], {}),
    "resnet50": (tv.Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (tv.Bottleneck, [3, 4, 23, 3], {}),
    "resnet152": (tv.Bottleneck, [3, 8, 36, 3], {}),
    "resnext50_32x4d": (tv.Bottleneck, [3, 4, 6, 3], {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": (tv.Bottleneck, [3, 4, 23, 3], {"groups": 32, "width_per_group": 8}),
    "wide_resnet50_2": (tv.Bottleneck, [3, 4, 6, 3], {"width_per_group": 128}),
    "wide_resnet101_2": (tv.Bottleneck, [3, 4, 23, 3], {"width_per_group": 128}),
}


class ResNet(tv.ResNet):
    """torchvision's ResNet with one more child, `normalize`; images in [0, 1] -> logits.

    Stem 'imagenet' is torchvision's 7x7 stride-2 convolution and max-pool; 'cifar' is a 3x3
    stride-1 convolution with PyTorch's default initialisation, and no max-pool (released code).
    """

    folds = (("conv1", "bn1"),)

    def __init__(
        self, arch: str, num_classes: int, mean: Sequence[float], std: Sequence[float], stem: str
    ) -> None:
        block, layers, options = VARIANTS[arch]
        super().__init__(block, layers, num_classes=num_classes, **options)
        self.arch, self.stem = arch, stem
        if stem == "cifar":
            self.conv1, self.maxpool = make_stem("cifar", 64)
        else:  # a second draw would change all that a seed draws after it
            drawn = self.conv1.weight
            self.conv1 = ImageNetStem(64, device="meta")
            self.conv1.weight = drawn
        self.normalize = Normalize(mean, std)
        for module in self.modules():
            if isinstance(module, (tv.BasicBlock, tv.Bottleneck)):
                module.folds = _folds_of(module)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.normalize(images))


def _folds_of(block: tv.BasicBlock | tv.Bottleneck) -> tuple[tuple[str, str], ...]:
    """Which BatchNorm follows which convolution in one of torchvision's blocks."""
    pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(block, f"conv{i}")]
    if block.downsample is not None:
        pairs.append(("downsample.0", "downsample.1"))
    return tuple(pairs)
