"""`--evaluate`: a checkpoint on an evaluation set -> eval.json.

Evaluation sets: a data set's test split, CIFAR-10-C, a saved adversarial set. Accuracies are
percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dataset import DataSpec
from engine.data_warnings import some_images, warn_of_notes, warn_of_skipped
from engine.log import Warnings, say
from errors import InputError
from evaluation.autoattack import forget_progress
from evaluation.classes import check_source_classes, count_classes
from evaluation.evaluator import Evaluator
from evaluation.request import Request
from evaluation.sets import SEVERITIES, adversarial_loader, cifar10_c_loader, corruptions
from evaluation.split_test import SplitTest
from evaluation.tested import (
    NetworkFile,
    Tested,
    about,
    read_network,
    splits_to_test,
    write_evaluation,
)
from files.checkpoints import save_checkpoint
from files.class_names import CLASSES
from files.names import EVALUATION, EVALUATION_OUTCOMES, EVALUATION_PROGRESS
from files.outcomes import CLEAN
from files.run_args import PROCESSES, read_args
from files.transfer_run import role_of

CIFAR10_C_FOLDER = "CIFAR-10-C"  # as the archive unpacks


def evaluate_checkpoint(
    file: NetworkFile,
    warnings: Warnings,
    evaluator: Evaluator,
    request: Request,
    spec: DataSpec,
    save_dir: Path,
) -> None:
    """Rebuild the network in a checkpoint, test it as `request` says, write eval.json.

    Args:
        warnings: what was told already.
        spec: how images are framed, and the data set whose test split is used, if it is.

    Raises:
        InputError: the file holds no network of ours, or one of other classes; images or an
            evaluation set are missing.
    """
    if request.save_adv and evaluator.runtime.world_size > 1:
        raise InputError("--save_adv works in one process only")
    tested = read_network(file, evaluator, spec, warnings)
    kind, where = request.eval_set
    if kind == "cifar10_c":
        where = where or str(Path(spec.root) / CIFAR10_C_FOLDER)
    said = {
        **about(tested, evaluator, spec, f"{kind}:{where}" if where else kind),
        "asked": request.recorded(),
        "attack": request.ra_by(evaluator.attack) if kind == "test" else None,
    }
    save_outcomes = None
    if kind == "cifar10_c":
        found = _on_cifar10_c(evaluator, tested, request, replace(spec, root=where))
    elif kind == "adv":
        found = _on_adversarial(evaluator, tested, request, spec)
    else:
        found, save_outcomes = _on_test_split(evaluator, tested, request, spec, save_dir)
    write_evaluation(save_dir, said, tested.warnings, found, save_outcomes)
    if request.autoattack:
        forget_progress(save_dir, EVALUATION_PROGRESS)
    measured = [f"{n.upper()} {found[n]:.2f} %" for n in ("sa", "ra") if found[n] is not None]
    say(f"test {', '.join(measured)}, {found['images']} images; in {save_dir / EVALUATION}")


# --- the evaluation sets --------------------------------------------------------------------------


def _on_test_split(
    evaluator: Evaluator,
    tested: Tested,
    request: Request,
    spec: DataSpec,
    save_dir: Path,
) -> tuple[dict[str, Any], Callable[[], None]]:
    """What was found, and what writes the outcomes."""
    model, role = tested.model, role_of(tested.path)
    _, loader = splits_to_test(evaluator, spec)
    assert loader is not None  # only an ImageNet layout has none
    warn_of_notes(tested.warnings, loader)
    tested.compare(loader)
    check_source_classes(request, loader, tested.warnings)
    crafted: list[tuple[Tensor, Tensor]] = []
    keep = crafted if request.save_adv else None
    if request.attacked:
        _compare_processes(tested, evaluator)
    test = SplitTest(evaluator, loader, request, save_dir, tested.warnings)
    test.sa_and_ra(model, role, keep)
    warn_of_skipped(tested.warnings, test.asked)
    if request.save_adv:
        data, label = (torch.cat(parts) for parts in zip(*crafted, strict=True))
        save_checkpoint(
            request.save_adv, {"data": data, "label": label, CLASSES: list(loader.classes)}
        )
        say(f"{request.save_adv}: {len(label)} adversarial images")
    found = {
        **test.accuracy(role)._asdict(),
        "images": len(test.bits[role, CLEAN]),  # that could be read
        **test.further(model, role),
    }
    return found, lambda: test.save(EVALUATION_OUTCOMES)


def _compare_processes(tested: Tested, evaluator: Evaluator) -> None:
    """Warn where RA will differ a little from the run's, as random starts are drawn otherwise."""
    before, now = read_args(tested.path.parent).get(PROCESSES), evaluator.runtime.world_size
    if before not in (None, now):
        tested.warnings.add(
            f"the network's run had {before} processes, this test has {now}: each draws random "
            "starts of its own, so RA may differ a little from the run's"
        )


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
    warn_of_notes(tested.warnings, loader)
    tested.compare(loader)
    some = some_images(loader, request.images, tested.warnings)
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
            some = some_images(loader, request.images, tested.warnings)
            row.append(evaluator.accuracy(network, some, label))
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
