"""The model zoo: one function that builds any network, and one that tells which a file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from errors import InputError
from models.resnet import VARIANTS, ResNet
from models.resnet20s import ResNet20s

ARCHS: tuple[str, ...] = (*VARIANTS, "resnet20s")
STEMS: tuple[str, ...] = ("imagenet", "cifar")


def build_model(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    stem: str | None = None,
    width: int = 16,
) -> nn.Module:
    """Build a network with fresh weights: float images (N, 3, H, W) in [0, 1] -> logits.

    Its keys are torchvision's, with `normalize.mean` and `normalize.std` beside them. `width` is
    the channels of the first stage of resnet20s; the others have a fixed width. Without `stem` a
    network has its own: 'cifar' for resnet20s, 'imagenet' for the others. Raises InputError for an
    unknown arch or stem, and for constants that cannot normalise three channels.
    """
    if arch not in ARCHS:
        raise InputError(f"unknown architecture {arch!r}; choose from {', '.join(ARCHS)}")
    stem = stem or ("cifar" if arch == "resnet20s" else "imagenet")
    if stem not in STEMS:
        raise InputError(f"unknown stem {stem!r}; choose from {', '.join(STEMS)}")
    if num_classes < 1 or width < 1:
        raise InputError(f"num_classes and width must be at least 1, not {num_classes} and {width}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(
            "mean and std must be three numbers each, std above 0, "
            f"not {tuple(mean)} and {tuple(std)}"
        )
    if arch == "resnet20s":
        return ResNet20s(num_classes, mean, std, stem, width)
    return ResNet(arch, num_classes, mean, std, stem)


@dataclass(frozen=True)
class Guess:
    """What a state dict looks like; `share` is the part of its entries that fit `arch`."""

    arch: str
    stem: str | None
    num_classes: int | None
    width: int
    share: float


@lru_cache(maxsize=64)
def _shapes_of(arch: str, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's entries, those that stem and classes decide left out."""
    with torch.device("meta"):
        model = build_model(arch, 2, (0.0,) * 3, (1.0,) * 3, width=width)
    outside = ("conv1.", "fc.", "normalize.")
    return {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.startswith(outside) and not name.endswith("num_batches_tracked")
    }


def guess_arch(weights: Mapping[str, Tensor]) -> Guess | None:
    """Tell a bare state dict's network from its shapes; None where none fits nine tenths of it."""
    conv1, fc = weights.get("conv1.weight"), weights.get("fc.weight")
    width = conv1.shape[0] if conv1 is not None and conv1.dim() == 4 else 16
    found = {name: tuple(value.shape) for name, value in weights.items()}
    best, best_share = "", 0.0
    for arch in ARCHS:
        expected = _shapes_of(arch, width if arch == "resnet20s" else 16)
        same = sum(found.get(name) == shape for name, shape in expected.items())
        inner = sum(name in expected or name.startswith("layer") for name in found)
        inner -= sum(n.startswith("layer") and n.endswith("num_batches_tracked") for n in found)
        share = same / max(len(expected), inner, 1)
        if share > best_share:
            best, best_share = arch, share
    if best_share < 0.9:
        return None
    stem = None
    if conv1 is not None and conv1.dim() == 4:
        stem = {3: "cifar", 7: "imagenet"}.get(conv1.shape[-1])
    return Guess(best, stem, fc.shape[0] if fc is not None else None, width, best_share)
