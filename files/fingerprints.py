"""What identifies a network's weights, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def weights_sha256(weights: Mapping[str, Tensor], left_out: Sequence[str] = ()) -> str:
    """SHA-256 of tensors with their names, types and shapes, in the order of the names.

    Args:
        weights: on any device.
        left_out: beginnings of the names that do not count.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if not name.startswith(tuple(left_out)):
            tensor = weights[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
