"""Input normalisation as a layer, so that attacks and clients see images in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
