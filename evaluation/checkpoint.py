"""`--evaluate`: a checkpoint on an evaluation set -> eval.json.

Evaluation sets: a data set's test split, CIFAR-10-C, a saved adversarial set. Accuracies are
percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import pruning_utils as pruning
from dataset import DataSpec, build_loaders, mean_std
from engine.data_warnings import compare_classes, warn_of_notes, warn_of_skipped
from engine.distributed import is_main, on_main
from engine.log import Warnings, provenance, say
from errors import InputError
from evaluation.autoattack import forget_progress
from evaluation.evaluator import Evaluator
from evaluation.request import Request
from evaluation.sets import SEVERITIES, adversarial_loader, cifar10_c_loader, corruptions
from evaluation.split_test import (
    SplitTest,
    check_classes,
    check_source_classes,
    count_classes,
)
from files import checkpoints as files
from files.atomic import move, write_json
from files.class_names import CLASSES, class_names_in
from files.names import EVALUATION, EVALUATION_OUTCOMES, EVALUATION_PROGRESS, former
from files.transfer_run import role_of
from input_pipeline.loader import Loader
from models import load_network, stem_of

CIFAR10_C_FOLDER = "CIFAR-10-C"  # as the archive unpacks


@dataclass(frozen=True)
class Tested:
    """A network, the names of its classes if its file has them, and what its test goes on past."""

    path: Path
    model: nn.Module
    class_names: tuple[str, ...] | None
    warnings: Warnings

    def compare(self, loader: Loader) -> None:
        """Raise InputError, or warn, where the images are of other classes."""
        check_classes(self.model, loader, "--resume")
        compare_classes(self.class_names, loader, f"--resume {self.path}", self.warnings)


def evaluate_checkpoint(
    path: Path,
    evaluator: Evaluator,
    request: Request,
    spec: DataSpec,
    save_dir: Path,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Rebuild the network from the checkpoint, test it, write eval.json.

    Args:
        spec: how images are framed, and the data set whose test split is used, if it is.
        arch: the network, where it is not left to the file to tell.
        mean, std: used in place of the file's own; the data set's where it has none.

    Raises:
        InputError: the file holds no network of ours, or one of other classes; images or an
            evaluation set are missing.
    """
    if request.save_adv and evaluator.runtime.world_size > 1:
        raise InputError("--save_adv works in one process only")
    tested = _read_network(path, evaluator, spec, arch, mean, std)
    kind, where = request.eval_set
    if kind == "cifar10_c":
        where = where or str(Path(spec.root) / CIFAR10_C_FOLDER)
    about = {
        "checkpoint": str(path),
        "eval_set": f"{kind}:{where}" if where else kind,
        "asked": request.recorded(),
        "dataset": spec.dataset,
        "input_size": spec.input_size,
        "augment": spec.augment,
        "eval_batch_size": evaluator.batch_size,
        "amp": evaluator.execution.precision,
        "seed": evaluator.seed,
    }
    attack = {"attack": str(evaluator.attack) if request.attacked else None}
    on_main(lambda: keep_former(save_dir, about | (attack if kind == "test" else {})))
    if kind == "cifar10_c":
        found = _on_cifar10_c(evaluator, tested, request, replace(spec, root=where))
    elif kind == "adv":
        found = _on_adversarial(evaluator, tested, request, spec)
    else:
        found = _on_test_split(evaluator, tested, request, spec, save_dir)
    if is_main():
        write_json(
            save_dir / EVALUATION,
            {**about, "warnings": tested.warnings.lines, **found, **provenance()},
        )
    if request.autoattack:
        forget_progress(save_dir, EVALUATION_PROGRESS)
    measured = [f"{n.upper()} {found[n]:.2f} %" for n in ("sa", "ra") if found[n] is not None]
    say(f"test {', '.join(measured)}, {found['images']} images; in {save_dir / EVALUATION}")


def _read_network(
    path: Path,
    evaluator: Evaluator,
    spec: DataSpec,
    arch: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Tested:
    """Rebuild the network, and say which it is and what may be wrong with it."""
    warnings, usual = Warnings(), mean_std(spec.dataset)
    model = load_network(str(path), arch, mean, std, otherwise=usual, tell=warnings.add)
    class_names = class_names_in(files.load_checkpoint(path))
    say(f"testing {path}")
    say(pruning.remain_line(model))
    stem, size = stem_of(model), spec.input_size
    if stem is not None and (stem == "cifar") != (size < 64):
        warnings.add(f"the {stem} stem on images of {size} pixels: check --input_size")
    return Tested(path, evaluator.execution.place(model), class_names, warnings)


def keep_former(folder: Path, about: Mapping[str, Any]) -> None:
    """Give what an evaluation of another kind has left in the folder another name.

    about: what the new `eval.json` will say of itself.
    """
    path = folder / EVALUATION
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if isinstance(before, dict) and all(before.get(name) == about[name] for name in about):
        return
    number = next(n for n in count(1) if not (folder / former(EVALUATION, n)).exists())
    for name in (EVALUATION, EVALUATION_OUTCOMES):
        if (folder / name).is_file():
            move(folder / name, folder / former(name, number))
    say(f"{path}: of another test; it is {former(EVALUATION, number)} now")


# --- the evaluation sets --------------------------------------------------------------------------


def _on_test_split(
    evaluator: Evaluator,
    tested: Tested,
    request: Request,
    spec: DataSpec,
    save_dir: Path,
) -> dict[str, Any]:
    model, role = tested.model, role_of(tested.path)
    _, _, loader = build_loaders(
        spec,
        batch_size=2,  # of the training images, which nobody asks for
        eval_batch_size=evaluator.batch_size,
        **evaluator.loading(),
        seed=evaluator.seed,
        pin_memory=evaluator.execution.device.type == "cuda",
    )
    assert loader is not None  # only an ImageNet layout has none
    warn_of_notes(tested.warnings, loader)
    tested.compare(loader)
    check_source_classes(request, loader, tested.warnings)
    crafted: list[tuple[Tensor, Tensor]] = []
    keep = crafted if request.save_adv else None
    test = SplitTest(evaluator, loader, request, save_dir)
    test.sa_and_ra(model, role, keep)
    warn_of_skipped(tested.warnings, loader)
    if request.save_adv:
        data, label = (torch.cat(parts) for parts in zip(*crafted, strict=True))
        files.save_checkpoint(
            request.save_adv, {"data": data, "label": label, CLASSES: list(loader.classes)}
        )
        say(f"{request.save_adv}: {len(label)} adversarial images")
    further = test.further(model, role)
    test.save(EVALUATION_OUTCOMES)
    return {
        **test.accuracy(role)._asdict(),
        "images": test.asked.num_images,
        "attack": str(evaluator.attack) if request.attacked else None,
        **further,
    }


def _on_adversarial(
    evaluator: Evaluator, tested: Tested, request: Request, spec: DataSpec
) -> dict[str, Any]:
    """RA on images that were made adversarial before, for this network or for another."""
    path = request.eval_set[1]
    names = tested.class_names or [str(n) for n in range(count_classes(tested.model))]
    loader = adversarial_loader(
        path,
        spec,
        names,
        batch_size=evaluator.batch_size,
        **evaluator.loading(),
    )
    tested.compare(loader)
    some = loader.some(request.images)
    ra = evaluator.accuracy(evaluator.network(tested.model), some, f"RA on {path}")
    return {"sa": None, "ra": ra, "images": some.num_images}


def _on_cifar10_c(
    evaluator: Evaluator, tested: Tested, request: Request, spec: DataSpec
) -> dict[str, Any]:
    """SA under every corruption at each severity; `sa` is the mean over the benchmark's."""
    network, found = evaluator.network(tested.model), corruptions(spec.root)
    first = cifar10_c_loader(spec, found.benchmark[0], 1, batch_size=1)
    tested.compare(first)
    for note in found.notes:
        tested.warnings.add(note)
    width = max(map(len, (*found.benchmark, *found.extra)))
    say(f"{'SA by severity':{width}}" + "".join(f"{s:8}" for s in SEVERITIES) + "    mean")

    def measured(name: str) -> dict[str, Any]:
        row = []
        for severity in SEVERITIES:
            loader = cifar10_c_loader(
                spec,
                name,
                severity,
                batch_size=evaluator.batch_size,
                **evaluator.loading(),
            )
            label = f"{name}, severity {severity}"
            row.append(evaluator.accuracy(network, loader.some(request.images), label))
        say(f"{name:{width}}" + "".join(f"{sa:8.2f}" for sa in (*row, fmean(row))))
        return {"severities": row, "mean": fmean(row)}

    table = {name: measured(name) for name in found.benchmark}
    sa = fmean(row["mean"] for row in table.values())
    of = f" of 15, without {', '.join(found.missing)}" if found.missing else ""
    say(f"mean over {len(table)} corruptions{of}: {sa:.2f} %")
    if found.extra:
        say("not in that mean:")
    extra = {name: measured(name) for name in found.extra}
    return {
        "sa": sa,
        "ra": None,
        "images": first.some(request.images).num_images,  # of each corruption and severity
        "corruptions": table,
        **({"corruptions_missing": list(found.missing)} if found.missing else {}),
        **({"corruptions_extra": extra} if extra else {}),
    }
