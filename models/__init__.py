"""Networks, foreign weight files, and what a network costs; commands models.convert, models.export."""

from models.adapters import Loaded, load_pretrained
from models.flops import estimate_flops
from models.fold import fold_for_evaluation
from models.zoo import ARCHS, STEMS, Guess, build_model, guess_arch

__all__ = [
    "ARCHS",
    "STEMS",
    "Guess",
    "Loaded",
    "build_model",
    "estimate_flops",
    "fold_for_evaluation",
    "guess_arch",
    "load_pretrained",
]
