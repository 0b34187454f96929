"""A pre-training task's validation: SA alone, top-1 and top-5, and `--evaluate` of a network on it.

Accuracies are percent.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dataset import DataSpec
from engine.data_warnings import warn_of_notes, warn_of_skipped
from engine.log import Warnings, say
from engine.steps import Metrics
from evaluation.evaluator import Evaluator
from evaluation.tested import (
    NetworkFile,
    about,
    read_network,
    splits_to_test,
    write_evaluation,
)
from files.names import EVALUATION
from input_pipeline.loader import Loader


def validate(evaluator: Evaluator, model: nn.Module, loader: Loader, label: str) -> Metrics:
    """Clean loss and accuracy on a split, and the line that people's scripts read."""
    metrics = evaluator.measure(evaluator.network(model), loader, label)
    say(f" * Acc@1 {metrics.top1:.3f} Acc@5 {metrics.top5:.3f}")
    return metrics


def validate_file(
    file: NetworkFile, warnings: Warnings, evaluator: Evaluator, spec: DataSpec, save_dir: Path
) -> None:
    """Rebuild the network in a file, under its masks, measure it and write eval.json.

    Args:
        warnings: what was told already.

    Raises:
        InputError: the file holds no network, or one of other classes; images are missing.
    """
    tested = read_network(file, evaluator, spec, warnings)
    loader, _ = splits_to_test(evaluator, spec)
    warn_of_notes(tested.warnings, loader)
    tested.compare(loader)
    metrics = validate(evaluator, tested.model, loader, "validation")
    warn_of_skipped(tested.warnings, loader)
    found = {"acc1": metrics.top1, "acc5": metrics.top5, "images": metrics.images}
    said = about(tested, evaluator, spec, "validation")
    write_evaluation(save_dir, said, tested.warnings, found)
    say(f"validation SA {metrics.top1:.2f} %, {metrics.images} images; in {save_dir / EVALUATION}")
