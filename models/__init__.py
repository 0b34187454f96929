"""Networks, foreign weight files, what a network costs; commands models.convert, models.export.

May import files, pruning_utils and errors.
"""

from models.compiled import compile_passes
from models.download import is_fetched, weights_file
from models.flops import check_input_size, estimate_activations, estimate_flops
from models.fold import bake_masks, fold_for_evaluation
from models.pretrained import (
    Loaded,
    classes_and_stem,
    fit_masks,
    load_network,
    load_pretrained,
)
from models.timm_networks import draws_in_training
from models.zoo import ARCHS, STEMS, build_model, classifier, is_arch, stem_of, synchronised

__all__ = [
    "ARCHS",
    "STEMS",
    "Loaded",
    "bake_masks",
    "build_model",
    "check_input_size",
    "classes_and_stem",
    "classifier",
    "compile_passes",
    "draws_in_training",
    "estimate_activations",
    "estimate_flops",
    "fit_masks",
    "fold_for_evaluation",
    "is_arch",
    "is_fetched",
    "load_network",
    "load_pretrained",
    "stem_of",
    "synchronised",
    "weights_file",
]
