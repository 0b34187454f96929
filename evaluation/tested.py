"""What `--evaluate` tests, a network and images, and `eval.json`, which says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

import pruning_utils as pruning
from dataset import DataSpec, build_loaders, mean_std
from engine.data_warnings import compare_classes
from engine.distributed import on_main, same_on_all
from engine.log import Warnings, provenance, say, warn
from errors import InputError
from evaluation.classes import check_classes
from evaluation.evaluator import Evaluator
from files.atomic import move, write_json
from files.checkpoints import load_checkpoint
from files.class_names import class_names_in
from files.fingerprints import weights_sha256
from files.names import EVALUATION, EVALUATION_OUTCOMES, former
from input_pipeline.loader import Loader
from models import check_input_size, load_network, stem_of
from models.stem import usual_stem


@dataclass(frozen=True)
class NetworkFile:
    """Where a network lies, and what is to be taken in place of what its file tells.

    arch: the network, where it is not left to the file to tell. key: the file's entry with the
    weights, if not the usual one. mean, std: used in place of the file's own; the data set's where
    it has none. stem: the one that the network is to have, if not just any.
    """

    path: Path
    arch: str | None = None
    key: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    stem: str | None = None


@dataclass(frozen=True)
class Tested:
    """A network, the names of its classes if its file has them, and what its test goes on past."""

    path: Path
    model: nn.Module
    class_names: tuple[str, ...] | None
    warnings: Warnings

    def compare(self, loader: Loader) -> None:
        """Raise InputError, or warn, where the images are of other classes."""
        check_classes(self.model, loader, str(self.path))
        compare_classes(self.class_names, loader, str(self.path), self.warnings)


def read_network(
    file: NetworkFile, evaluator: Evaluator, spec: DataSpec, warnings: Warnings
) -> Tested:
    """Rebuild the network, under its masks, and say which it is and what may be wrong with it.

    Raises InputError for a file without a network of ours, or with one of another stem.
    """
    say(f"testing {file.path}{f', entry {file.key}' if file.key else ''}")
    usual = mean_std(spec.dataset)
    model = load_network(
        str(file.path),
        file.arch,
        file.mean,
        file.std,
        key=file.key,
        otherwise=usual,
        tell=warnings.add,
        note=lambda line: say(f"{file.path.name}: {line}"),
    )
    say(pruning.remain_line(model))
    stem, size = stem_of(model), spec.input_size
    if file.stem not in (None, stem):
        raise InputError(
            f"{file.path}: a network with {f'the {stem}' if stem else 'another'} stem, which "
            f"--stem {file.stem} does not change; leave it out"
        )
    check_input_size(model, size)
    if stem is not None and stem != usual_stem(size):
        warnings.add(f"the {stem} stem on images of {size} pixels: check --input_size")
    class_names = class_names_in(load_checkpoint(file.path))
    return Tested(file.path, evaluator.execution.place(model), class_names, warnings)


def splits_to_test(evaluator: Evaluator, spec: DataSpec) -> tuple[Loader, Loader | None]:
    """A data set's validation and test images; only an ImageNet layout has no test split."""
    _, validation, test = build_loaders(
        spec,
        batch_size=2,  # of the training images, which nobody asks for
        eval_batch_size=evaluator.batch_size,
        **evaluator.loading(),
        seed=evaluator.seed,
        pin_memory=evaluator.execution.device.type == "cuda",
        tell=warn,
    )
    return validation, test


def about(tested: Tested, evaluator: Evaluator, spec: DataSpec, eval_set: str) -> dict[str, Any]:
    """What `eval.json` says of a test, whatever is measured: the network, the images, how.

    Raises InputError where a process has read another network than rank 0.
    """
    constants = {
        name: [round(value, 6) for value in tested.model.get_buffer(f"normalize.{name}").tolist()]
        for name in ("mean", "std")
    }
    return {
        "checkpoint": str(tested.path),
        "weights_sha256": same_on_all(weights_sha256(tested.model.state_dict()), "weights"),
        **constants,
        "eval_set": eval_set,
        "dataset": spec.dataset,
        "data": spec.root,
        "classes": spec.classes,
        "input_size": spec.input_size,
        "augment": spec.augment,
        "eval_batch_size": evaluator.batch_size,
        "amp": evaluator.execution.precision,
        "seed": evaluator.seed,
    }


def write_evaluation(
    folder: Path,
    said: Mapping[str, Any],
    warnings: Warnings,
    found: Mapping[str, Any],
    save_outcomes: Callable[[], None] | None = None,
) -> None:
    """Write `eval.json`, on rank 0; what an evaluation of another kind left gets another name.

    said: what tells this kind of evaluation from another. save_outcomes: writes the outcomes.
    """
    on_main(lambda: _keep_former(folder, said))
    if save_outcomes:
        save_outcomes()
    whole = {**said, "warnings": warnings.lines, **found, **provenance()}
    on_main(lambda: write_json(folder / EVALUATION, whole))


def _keep_former(folder: Path, said: Mapping[str, Any]) -> None:
    path = folder / EVALUATION
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if isinstance(before, dict) and all(before.get(name) == said[name] for name in said):
        return
    number = next(n for n in count(1) if not (folder / former(EVALUATION, n)).exists())
    for name in (EVALUATION, EVALUATION_OUTCOMES):
        if (folder / name).is_file():
            move(folder / name, folder / former(name, number))
    say(f"{path}: of another test; it is {former(EVALUATION, number)} now")
