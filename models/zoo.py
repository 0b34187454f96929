"""The model zoo: one function that builds any network, and one that tells which a file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from errors import InputError
from files.weight_names import torchvision_name
from models.normalize import check_constants
from models.preact_resnet import VARIANTS as PREACT
from models.preact_resnet import PreActResNet, alike
from models.resnet import VARIANTS, ResNet
from models.resnet20s import ResNet20s
from models.timm_networks import PREFIX as TIMM
from models.timm_networks import build_timm, synchronised_timm
from models.wide_resnet import VARIANTS as WIDE
from models.wide_resnet import WideResNet

SMALL_IMAGE_ARCHS = ("resnet20s", *WIDE, *PREACT)
ARCHS: tuple[str, ...] = (*VARIANTS, *SMALL_IMAGE_ARCHS)
STEMS: tuple[str, ...] = ("imagenet", "cifar")


def is_arch(name: str) -> bool:
    """Whether `build_model` may know a network of this name: one of ARCHS, or timm:NAME."""
    return name in ARCHS or name.startswith(TIMM)


def build_model(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    stem: str | None = None,
    width: int = 16,
) -> nn.Module:
    """Build a network with fresh weights: float images (N, 3, H, W) in [0, 1] -> logits.

    Its keys are those of its source, torchvision, TRADES, RobustBench or timm, with
    `normalize.mean` and `normalize.std` beside them. `width` is the channels of the first stage of
    resnet20s; the others have a fixed width. Without `stem` a network has its own: 'cifar' for the
    networks for small images, 'imagenet' for the others; timm's have no choice. Raises InputError
    for an unknown arch or stem, and for constants that cannot normalise three channels.
    """
    if not is_arch(arch):
        known = ", ".join(ARCHS)
        raise InputError(f"unknown architecture {arch!r}; choose from {known}, or {TIMM}NAME")
    stem = stem or ("cifar" if arch in SMALL_IMAGE_ARCHS else "imagenet")
    if stem not in STEMS:
        raise InputError(f"unknown stem {stem!r}; choose from {', '.join(STEMS)}")
    if num_classes < 1 or width < 1:
        raise InputError(f"num_classes and width must be at least 1, not {num_classes} and {width}")
    check_constants(mean, std)
    model = _build(arch, num_classes, mean, std, stem, width)
    head = dict(model.named_modules()).get(classifier(model))
    if not isinstance(head, nn.Linear) or head.out_features != num_classes:
        raise ValueError(
            f"{arch}: {classifier(model)} is no linear layer of {num_classes} outputs; its class "
            "names its classifier by `classifier_name`"
        )
    return model


def _build(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    stem: str,
    width: int,
) -> nn.Module:
    if arch.startswith(TIMM):
        return build_timm(arch, num_classes, mean, std)
    if arch == "resnet20s":
        return ResNet20s(num_classes, mean, std, stem, width)
    if arch in WIDE:
        return WideResNet(arch, num_classes, mean, std, stem)
    if arch in PREACT:
        return PreActResNet(arch, num_classes, mean, std, stem)
    return ResNet(arch, num_classes, mean, std, stem)


def synchronised(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics over all processes (they must train on CUDA)."""
    if getattr(model, "arch", "").startswith(TIMM):
        return synchronised_timm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


# --- the classifier -------------------------------------------------------------------------------


def classifier(model: nn.Module) -> str:
    """The name of a network's classifier, a linear layer: `fc` in most."""
    name = getattr(model, "classifier_name", "fc")
    assert isinstance(name, str)
    return name


@lru_cache(maxsize=64)
def classifier_of_arch(arch: str) -> str:
    """The same of an architecture; raises InputError for an unknown one."""
    # timm may compute with weights as it makes them, which the meta device cannot.
    with torch.device("cpu" if arch.startswith(TIMM) else "meta"):
        return classifier(build_model(arch, 2, (0.0,) * 3, (1.0,) * 3))


def stem_of(model: nn.Module) -> str | None:
    """The stem that a network was built with; None for timm's, which have no choice."""
    stem = getattr(model, "stem", None)  # in some of timm's a layer
    return stem if isinstance(stem, str) else None


# --- which network a file holds -------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """What a state dict looks like.

    `alike`: architectures of the same entries, `arch` the first: they compute something else.
    """

    arch: str
    alike: list[str]
    stem: str | None
    width: int


@lru_cache(maxsize=64)
def _shapes_of(arch: str, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's entries, those that stem and classes decide left out."""
    with torch.device("meta"):
        model = build_model(arch, 2, (0.0,) * 3, (1.0,) * 3, width=width)
    outside = ("conv1.", "fc.", "normalize.")
    shapes = {torchvision_name(n): tuple(value.shape) for n, value in model.state_dict().items()}
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(outside) and not name.endswith("num_batches_tracked")
    }


def guess_arch(weights: Mapping[str, Tensor]) -> Guess | None:
    """Infer a bare state dict's network from its shapes; None where none fits nine tenths of it."""
    stem, width = stem_and_width(weights)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    parts = [n for n in found if n.startswith(("layer", "block"))]
    best, best_share = "", 0.0
    for arch in ARCHS:
        expected = _shapes_of(arch, width)
        same = sum(found.get(name) == shape for name, shape in expected.items())
        inner = sum(name in expected for name in found)
        inner += sum(n not in expected and not n.endswith("num_batches_tracked") for n in parts)
        share = same / max(len(expected), inner, 1)
        if share > best_share:
            best, best_share = arch, share
    if best_share < 0.9:
        return None
    return Guess(best, alike(best), stem, width)


def stem_and_width(weights: Mapping[str, Tensor]) -> tuple[str | None, int]:
    """The stem and the channels of the first stage, as a bare state dict's conv1 shows them."""
    conv1 = weights.get("conv1.weight")
    if conv1 is None or conv1.dim() != 4:
        return None, 16
    return {3: "cifar", 7: "imagenet"}.get(conv1.shape[-1]), conv1.shape[0]
