"""AutoAttack on a split, and the file by which it goes on where it was cut off.

Progress is one character per image beside what must be the same for it to be taken up, so that a
run that is resumed ends with the same outcomes, image by image.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack_utils import AutoAttackSuite, Perturb, checked, choose_attacks, make_autoattack
from engine.distributed import is_main, sum_over_ranks
from engine.log import Progress, say, warn
from engine.steps import Meter, is_right
from errors import memory_advice
from evaluation.evaluator import Evaluator, gather_in_order, percent
from files.atomic import write_json
from files.features import discard
from files.names import AUTOATTACK_PROGRESS
from files.outcomes import NORM
from input_pipeline.loader import Loader

# Codes of an image that was tested: wrong when clean, right when clean but fooled, right in both.
WRONG, FOOLED, ROBUST = 1, 2, 3
SIGNS = "-wfr"  # the codes from 0, not tested, on, in the progress file


@dataclass(frozen=True)
class AutoAttackResult:
    """What AutoAttack finds on N images.

    record: what eval.json and results.json say. clean, robust: (N,) bool on the CPU, in the order
    of the split, whether the network is right without and with the attack.
    """

    record: dict[str, Any]
    clean: Tensor
    robust: Tensor


@dataclass
class _Progress:
    """Batches that are done, and what they gave: the summed loss, and a code (N,) per image."""

    done: int
    loss: float
    codes: Tensor

    def sums(self) -> list[float]:
        """What a `Meter` sums: images, loss, right under attack, right when clean."""
        tested, clean, robust = (int((self.codes >= c).sum()) for c in (WRONG, FOOLED, ROBUST))
        return [tested, self.loss, robust, clean]


def run_autoattack(
    evaluator: Evaluator,
    network: nn.Module,
    loader: Loader,
    folder: Path,
    name: str = AUTOATTACK_PROGRESS,
) -> AutoAttackResult:
    """SA, and RA by AutoAttack standard, on a split.

    Progress is kept in the file `name` in `folder` after every batch, and taken up by the next call
    for the same network, images and attack; `forget_progress` removes it.
    """
    suite, total = choose_attacks(loader.num_classes), loader.num_images
    eps, world = evaluator.attack.eps, evaluator.runtime.world_size
    perturb = checked(make_autoattack(network, eps, suite, evaluator.seed), eps)
    steps = len(loader)
    task = _task(evaluator, network, loader, suite)
    path = folder / name
    progress = _take_up(evaluator, path, task)
    if progress.done:
        say(f"AutoAttack: resumed, {progress.done} of {steps} batches done")
    batches = evaluator.batches(loader, progress.done)
    rounds = math.ceil((steps - progress.done) / world)
    memory = memory_advice(loader.batch_size, evaluator.advice)
    with memory, Progress(rounds, "AutoAttack", evaluator.print_freq) as bar:
        report = evaluator.report(bar, rounds)
        for _ in range(rounds):  # every process takes part in each, with or without a batch
            loss, codes = _attack(evaluator, network, perturb, next(batches, None), total)
            progress.loss += loss
            progress.codes += codes
            progress.done = min(progress.done + world, steps)
            _write(path, task, progress)
            report(int((codes > 0).sum()), Meter(evaluator.execution.device, progress.sums()))
    return _result(progress.codes, eps, suite)


def _result(codes: Tensor, eps: float, suite: AutoAttackSuite) -> AutoAttackResult:
    codes = codes[codes > 0]
    clean, robust = codes >= FOOLED, codes == ROBUST
    record = {
        "sa": percent(clean),
        "ra": percent(robust),
        "images": len(codes),
        "norm": NORM,
        "eps": eps,
        "amp": "off",  # whatever the run's is: the attacks need float32
        "attacks": list(suite.attacks),
        "targets": suite.targets,
        "note": suite.note,
        "package": f"pyautoattack {metadata.version('pyautoattack')}",
    }
    return AutoAttackResult(record, clean, robust)


def _attack(
    evaluator: Evaluator,
    network: nn.Module,
    perturb: Perturb,
    batch: tuple[int, Tensor, Tensor] | None,
    total: int,
) -> tuple[float, Tensor]:
    """One round of all processes: the summed loss under attack, and codes (total,)."""
    device = evaluator.execution.device
    loss, parts = torch.zeros((), dtype=torch.float64, device=device), []
    if batch is not None and len(batch[2]):
        place, images, labels = batch[0], evaluator.execution.images(batch[1]), batch[2].to(device)
        adversarial = perturb(images, labels)
        with torch.no_grad():
            logits = network(adversarial)
            clean = is_right(network(images), labels)
            robust = clean & is_right(logits, labels)
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
        parts = [(place, WRONG + clean.int() + robust.int())]
    return float(sum_over_ranks(loss)), gather_in_order(parts, total, device)


# --- progress -------------------------------------------------------------------------------------


def forget_progress(folder: Path, name: str = AUTOATTACK_PROGRESS) -> None:
    """Remove AutoAttack's progress: its result is in a file of its own now."""
    if is_main():
        discard(folder / name)


def _task(
    evaluator: Evaluator, network: nn.Module, loader: Loader, suite: AutoAttackSuite
) -> dict[str, Any]:
    """What must be the same for progress to be taken up."""
    first = next(iter(loader.epoch(0)))
    return {
        "network": _fingerprint(network.state_dict().values()),
        "images": _fingerprint(first),
        "count": loader.num_images,
        "batch": loader.batch_size,
        "eps": evaluator.attack.eps,
        "seed": evaluator.seed,
        "attacks": list(suite.attacks),
        "targets": suite.targets,
    }


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, task: dict[str, Any], progress: _Progress) -> None:
    """Rank 0 writes; it is small: one character per image."""
    if is_main():
        outcomes = "".join(SIGNS[code] for code in progress.codes.tolist())
        found = {"done": progress.done, "loss": progress.loss, "outcomes": outcomes}
        write_json(path, {**task, **found})


def _take_up(evaluator: Evaluator, path: Path, task: dict[str, Any]) -> _Progress:
    """The progress in rank 0's file, on every process, if the file is about this task."""
    found = _read(path, task) if is_main() and path.is_file() else None
    progress = found or _Progress(0, 0.0, torch.zeros(task["count"], dtype=torch.uint8))
    device = evaluator.execution.device
    scalars = torch.tensor([progress.done, progress.loss], dtype=torch.float64, device=device)
    done, loss = sum_over_ranks(scalars).tolist()  # zeros of all but rank 0
    codes = sum_over_ranks(progress.codes.to(device)).cpu()
    return _Progress(int(done), loss, codes)


def _read(path: Path, task: dict[str, Any]) -> _Progress | None:
    """What the file says of this task; None, with a word, if it is unreadable or of another one."""
    try:
        found = json.loads(path.read_text())
        if {name: found.get(name) for name in task} != task or "outcomes" not in found:
            say(f"AutoAttack: {path} is of another test; starting anew")
            return None
        codes = torch.tensor([SIGNS.index(s) for s in found["outcomes"]], dtype=torch.uint8)
        done, loss = int(found["done"]), float(found["loss"])
        steps = math.ceil(task["count"] / task["batch"])
        beyond = codes[done * task["batch"] :]
        if len(codes) == task["count"] and 0 <= done <= steps and not beyond.any():
            return _Progress(done, loss, codes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    warn(f"{path}: unreadable; AutoAttack starts anew")
    return None
