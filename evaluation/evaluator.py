"""One network on one split: SA, RA with restarts, AutoAttack, and whether its gradients are masked.

All accuracies are percent. Every test starts from the run's seed, so that it repeats to the bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack_utils import (
    AutoAttackPlan,
    Perturb,
    PGDConfig,
    checked,
    make_autoattack,
    make_pgd,
    plan_autoattack,
    with_restarts,
)
from dataset import Loader
from engine.distributed import Runtime, is_main, seed_everything, sum_over_ranks
from engine.log import Progress, say, warn
from engine.steps import Execution, Meter, evaluate
from files.atomic import write_json
from models import fold_for_evaluation

PROGRESS_FILE = "autoattack_progress.json"
MASKING_IMAGES = 512
MASKING_STEPS = (1, 2, 5)  # times the attack's own
LARGE_EPS, LARGE_EPS_STEPS = 0.5, 20  # within 0.5 every image can be made plain grey
Report = Callable[[int, Meter], None]
Watch = Callable[[Progress], Report]


@dataclass(frozen=True)
class Bench:
    """Where networks are tested, and by which attack.

    batch_size, workers: of the loaders made for a test. watch: makes of a progress bar what is
    called after every batch, if that is more than the bar's own; it may talk to other processes.
    """

    runtime: Runtime
    execution: Execution
    attack: PGDConfig
    seed: int = 1
    batch_size: int = 128
    workers: int = 0
    print_freq: int | None = None
    watch: Watch | None = None

    def report(self, bar: Progress, rounds: int) -> Report:
        """`watch`, in the first `rounds` batches: those that every process has one of."""
        watched = self.watch(bar) if self.watch else bar.step

        def report(images: int, meter: Meter) -> None:
            (watched if bar.done < rounds else bar.step)(images, meter)

        return report

    def network(self, model: nn.Module) -> nn.Module:
        """The network that passes run on: a copy in eval mode, masks and BatchNorm baked in."""
        return self.execution.place(fold_for_evaluation(model))

    def pgd(
        self, network: nn.Module, config: PGDConfig | None = None, restarts: int = 1
    ) -> Perturb:
        """The test attack (or another one) on a `network`, its output checked."""
        config = config or self.attack
        perturb = make_pgd(network, config, self.execution.loss_scale)
        if restarts > 1:
            perturb = with_restarts(network, perturb, restarts, self.seed)
        return checked(perturb, config.eps)

    def steps(self, loader: Loader, images: int | None = None, first: int = 0) -> range:
        """This process's batches among those of the first `images` images, from `first` on."""
        rank, world = self.runtime.rank, self.runtime.world_size
        return range(first + (rank - first) % world, count_batches(loader, images), world)

    def batches(
        self, loader: Loader, images: int | None = None, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Those batches, images (B, 3, S, S) and labels (B,); the last ends with the last image."""
        epoch = loader.epoch(0, first, self.runtime.rank, self.runtime.world_size)
        for step, (some, labels) in zip(self.steps(loader, images, first), epoch, strict=False):
            left = count_images(loader, images) - step * loader.batch_size
            yield some[:left], labels[:left]

    def accuracy(
        self,
        network: nn.Module,
        loader: Loader,
        label: str,
        perturb: Perturb | None = None,
        images: int | None = None,
    ) -> float:
        """SA of a `network` on a split (or on its first images), or RA under an attack."""
        rounds = count_batches(loader, images) // self.runtime.world_size
        with Progress(len(self.steps(loader, images)), label, self.print_freq) as bar:
            metrics = evaluate(
                network,
                self.batches(loader, images),
                execution=self.execution,
                perturb=perturb,
                report=self.report(bar, rounds),
            )
        return metrics.top1


def count_images(loader: Loader, images: int | None) -> int:
    """How many images the first `images` are: all, if None or more than there are."""
    return min(images or loader.num_images, loader.num_images)


def count_batches(loader: Loader, images: int | None) -> int:
    """How many batches, of all processes together, hold them."""
    return math.ceil(count_images(loader, images) / loader.batch_size)


# --- AutoAttack -----------------------------------------------------------------------------------


def autoattack(
    bench: Bench, network: nn.Module, loader: Loader, folder: Path, images: int | None = None
) -> dict[str, Any]:
    """SA, and RA by AutoAttack standard, on the first images of a split.

    Progress is kept in a file in `folder` after every batch, and taken up by the next call for the
    same network, images and attack; `forget_progress` removes it.
    """
    plan, total = plan_autoattack(loader.num_classes), count_images(loader, images)
    eps, world = bench.attack.eps, bench.runtime.world_size
    perturb = checked(make_autoattack(network, eps, plan, bench.seed), eps)
    steps = count_batches(loader, images)
    task = _task(bench, network, loader, plan, total)
    done, sums = _progress(bench, folder, task)
    if done:
        say(f"AutoAttack: resumed, {done} of {steps} batches done")
    batches = bench.batches(loader, images, done)
    with Progress(math.ceil((steps - done) / world), "AutoAttack", bench.print_freq) as bar:
        report = bench.report(bar, steps)
        while done < steps:  # every process takes part in every round, with or without a batch
            new = sum_over_ranks(_sums(bench, network, perturb, next(batches, None)))
            sums, done = sums + new, min(done + world, steps)
            if is_main():
                progress = {**task, "done": done, "sums": sums.tolist()}
                write_json(folder / PROGRESS_FILE, progress)
            report(int(new[0]), Meter(sums.device, sums.tolist()))
    seen, _, robust, clean = sums.tolist()
    return {
        "sa": 100 * clean / seen,
        "ra": 100 * robust / seen,
        "images": int(seen),
        "eps": eps,
        "attacks": list(plan.attacks),
        "targets": plan.targets,
        "note": plan.note,
        "package": f"pyautoattack {metadata.version('pyautoattack')}",
    }


def forget_progress(folder: Path) -> None:
    """Remove AutoAttack's progress: its result is in a file of its own now."""
    if is_main():
        (folder / PROGRESS_FILE).unlink(missing_ok=True)


def _sums(
    bench: Bench, network: nn.Module, perturb: Perturb, batch: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Images, loss under attack, right under attack, right when clean: (4,), as a Meter's."""
    if batch is None:
        return torch.zeros(4, dtype=torch.float64, device=bench.execution.device)
    images, labels = bench.execution.images(batch[0]), batch[1].to(bench.execution.device)
    adversarial = perturb(images, labels)
    with torch.no_grad():
        logits = network(adversarial)
        clean = network(images).argmax(1) == labels
        robust = clean & (logits.argmax(1) == labels)
        loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([torch.ones_like(clean).sum(), loss, robust.sum(), clean.sum()]).double()


def _task(
    bench: Bench, network: nn.Module, loader: Loader, plan: AutoAttackPlan, total: int
) -> dict[str, Any]:
    """What must be the same for progress to be taken up."""
    first = next(iter(loader.epoch(0)))
    return {
        "network": _fingerprint(network.state_dict().values()),
        "images": _fingerprint(first),
        "count": total,
        "batch": loader.batch_size,
        "eps": bench.attack.eps,
        "seed": bench.seed,
        "attacks": list(plan.attacks),
        "targets": plan.targets,
    }


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _progress(bench: Bench, folder: Path, task: dict[str, Any]) -> tuple[int, Tensor]:
    """Batches done and their `_sums`: rank 0's file, if it is about this task."""
    state = torch.zeros(5, dtype=torch.float64, device=bench.execution.device)
    path = folder / PROGRESS_FILE
    if is_main() and path.is_file():
        try:
            found = json.loads(path.read_text())
            if found == {**task, "done": found["done"], "sums": found["sums"]}:
                state += state.new_tensor([found["done"], *found["sums"]])
            else:
                say(f"AutoAttack: {path} is of another test; starting anew")
        except (ValueError, KeyError, TypeError, RuntimeError):
            warn(f"{path}: unreadable; AutoAttack starts anew")
    state = sum_over_ranks(state)
    return int(state[0]), state[1:]


# --- gradient masking -----------------------------------------------------------------------------


def masking_checks(
    bench: Bench,
    network: nn.Module,
    loader: Loader,
    source: nn.Module | None = None,
    images: int | None = None,
) -> list[dict[str, Any]]:
    """Whether RA can be trusted, by three checks of Carlini et al. (2019).

    A network whose gradients mislead PGD looks more robust than it is. Then more steps need not
    help, images that may become grey stay right, or another network's attack does more harm.

    Args:
        source: the network that the transfer attack is crafted on; without it that check is left
            out.
        images: how many of the split, 512 if left out.

    Returns:
        `{"name", "passed", "detail"}` of each check.
    """
    total = count_images(loader, images or MASKING_IMAGES)

    def robust(attack: PGDConfig, crafted_on: nn.Module = network) -> float:
        seed_everything(bench.seed)
        label = f"masking checks, {attack}"
        return bench.accuracy(network, loader, label, bench.pgd(crafted_on, attack), total)

    own = bench.attack
    steps = [factor * max(own.steps, 1) for factor in MASKING_STEPS]
    by_steps = [robust(replace(own, steps=count)) for count in steps]
    checks = [
        _more_steps(steps, by_steps, total),
        _large_eps(robust(_large_attack(own)), loader.num_classes),
    ]
    if source is None:
        say("masking check transfer: left out; --masking_source names the network to attack from")
    else:
        checks.append(_transfer(robust(own, source), by_steps[0], total))
    for check in checks:
        line = f"masking check {check['name']}: {check['detail']}"
        say(f"{line}: passed") if check["passed"] else warn(f"{line}: FAILED")
    return checks


def _large_attack(attack: PGDConfig) -> PGDConfig:
    steps = max(attack.steps, LARGE_EPS_STEPS)
    return replace(attack, eps=LARGE_EPS, steps=steps, step_size=2.5 * LARGE_EPS / steps)


def _noise(first: float, second: float, images: int) -> float:
    """Two binomial standard errors of the less certain of two accuracies, in points."""
    variance = max(p / 100 * (1 - p / 100) for p in (first, second))
    return 200 * math.sqrt(variance / images)


def _more_steps(steps: list[int], accuracies: list[float], images: int) -> dict[str, Any]:
    passed = all(
        later - earlier <= _noise(later, earlier, images)
        for place, later in enumerate(accuracies)
        for earlier in accuracies[:place]
    )
    found = ", ".join(f"{ra:.2f} % by {n}" for n, ra in zip(steps, accuracies, strict=True))
    detail = f"more steps never raise RA by more than noise; RA {found} steps"
    return {"name": "more_steps", "passed": passed, "detail": f"{detail}, {images} images"}


def _large_eps(accuracy: float, classes: int) -> dict[str, Any]:
    chance = 100 / classes
    detail = f"RA at eps {LARGE_EPS} is below chance ({chance:.2f} %); RA {accuracy:.2f} %"
    return {"name": "large_eps", "passed": accuracy < chance, "detail": detail}


def _transfer(transferred: float, white_box: float, images: int) -> dict[str, Any]:
    passed = white_box - transferred <= _noise(white_box, transferred, images)
    detail = (
        "an attack crafted on another network is not stronger than one crafted on this; "
        f"RA {transferred:.2f} % by transfer, {white_box:.2f} % white-box, {images} images"
    )
    return {"name": "transfer", "passed": passed, "detail": detail}
