"""Input normalisation as a layer, so that attacks and clients see images in [0, 1]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errors import InputError


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel: (N, C, H, W) -> the same.

    The constants are 1-D buffers `mean` and `std`, the keys the released code saves.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.get_default_dtype()))

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name} {' '.join(f'{value:.4g}' for value in values.tolist())}"
            for name, values in (("mean", self.mean), ("std", self.std))
        )

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def check_constants(
    mean: Sequence[float], std: Sequence[float], names: tuple[str, str] = ("mean", "std")
) -> None:
    """Raise InputError, calling them by `names`, for constants that cannot normalise images."""
    for name, values in zip(names, (mean, std), strict=True):
        shown = " ".join(f"{value:.6g}" for value in values)
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise InputError(f"{name} must be three finite numbers, not {shown}")
        if max(values) > 1:
            inverted = values is std and max(mean) <= 1 and max(std) < 10
            how = (
                "larger than the range of images, [0, 1] here: 1 divided by the std, perhaps"
                if inverted
                else "of images of 0 to 255, and images are in [0, 1] here: divide it by 255"
            )
            raise InputError(f"{name} {shown} is {how}")
    if min(std) <= 0:
        raise InputError(f"{names[1]} must be above 0, not {' '.join(f'{v:.6g}' for v in std)}")
