"""A pre-training task's validation: SA alone, top-1 and top-5, and `--evaluate` of a network on it.

Accuracies are percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dataset import DataSpec, build_loaders, mean_std
from engine.data_warnings import compare_classes, warn_of_notes, warn_of_skipped
from engine.distributed import is_main
from engine.log import Warnings, say
from engine.steps import Metrics
from evaluation.evaluator import Evaluator
from evaluation.split_test import check_classes
from files.atomic import write_json
from files.checkpoints import load_checkpoint
from files.class_names import class_names_in
from files.names import EVALUATION
from input_pipeline.loader import Loader
from models import load_network


def validate(evaluator: Evaluator, model: nn.Module, loader: Loader, label: str) -> Metrics:
    """Clean loss and accuracy on a split, and the line that people's scripts read."""
    metrics = evaluator.measure(evaluator.network(model), loader, label)
    say(f" * Acc@1 {metrics.top1:.3f} Acc@5 {metrics.top5:.3f}")
    return metrics


def validate_file(
    path: Path,
    evaluator: Evaluator,
    spec: DataSpec,
    save_dir: Path,
    *,
    arch: str | None = None,
    key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Rebuild the network in a file, under its masks, measure it and write eval.json.

    Args:
        arch: the network, where it is not left to the file to tell.
        key: the file's entry with the weights, if not the usual one.
        mean, std: used in place of the file's own; the data set's where it has none.

    Raises:
        InputError: the file holds no network, or one of other classes; images are missing.
    """
    say(f"testing {path}")
    warnings = Warnings()
    model = load_network(
        str(path), arch, mean, std, key=key, otherwise=mean_std(spec.dataset), tell=warnings.add
    )
    _, loader, _ = build_loaders(
        spec,
        batch_size=2,  # of the training images, which nobody asks for
        eval_batch_size=evaluator.batch_size,
        **evaluator.loading(),
        seed=evaluator.seed,
        pin_memory=evaluator.execution.device.type == "cuda",
    )
    warn_of_notes(warnings, loader)
    check_classes(model, loader, str(path), "by DATA and --classes")
    compare_classes(class_names_in(load_checkpoint(path)), loader, str(path), warnings)
    metrics = validate(evaluator, evaluator.execution.place(model), loader, "validation")
    warn_of_skipped(warnings, loader)
    found = {
        "checkpoint": str(path),
        "input_size": spec.input_size,
        "augment": spec.augment,
        "eval_batch_size": evaluator.batch_size,
        "amp": evaluator.execution.precision,
        "acc1": metrics.top1,
        "acc5": metrics.top5,
        "warnings": warnings.lines,
    }
    if is_main():
        write_json(save_dir / EVALUATION, found)
