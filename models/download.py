"""Weights that are fetched by name, only when they are asked for by name."""

from pathlib import Path
from urllib.error import URLError

import torch
from torchvision.models import get_model_weights

from errors import InputError


def torchvision_file(arch: str) -> Path:
    """Give the file of torchvision's V1 weights (the released code's), downloaded if need be.

    Raises InputError for an architecture that torchvision has no weights of, or without network.
    """
    try:
        weights = get_model_weights(arch)["IMAGENET1K_V1"]
    except (ValueError, KeyError) as error:
        raise InputError(f"--init torchvision: torchvision has no V1 weights of {arch}") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        raise InputError(
            f"--init torchvision: download failed ({error}); fetch {weights.url} elsewhere, put it "
            f"at {path}, or pass its path to --init"
        ) from error
    return path
