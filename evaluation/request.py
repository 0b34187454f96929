"""What a run is asked to test, and the tests themselves: SA and RA first, then those beyond."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attack_utils import Perturb, import_autoattack
from engine.data_warnings import compare_classes
from engine.distributed import seed_everything
from engine.log import Warnings, say
from errors import InputError
from evaluation.autoattack import run_autoattack
from evaluation.evaluator import Evaluator
from evaluation.masking import masking_checks
from files.checkpoints import load_checkpoint
from files.class_names import class_names_in
from files.results import Accuracy
from input_pipeline.loader import Loader
from models.export import load_network


@dataclass(frozen=True)
class Request:
    """What a run is asked to test.

    attacked: also measure RA under PGD. asked: --eval_attack was given, not implied by --mode.
    eval_set: ("test" | "cifar10_c" | "adv", path). images: only the first so many of the split, in
    `--evaluate` and in the tests beyond SA and RA.
    """

    attacked: bool
    asked: bool = False
    autoattack: bool = False
    check_masking: bool = False
    masking_source: str | None = None
    images: int | None = None
    restarts: int = 1
    evaluate: bool = False
    eval_set: tuple[str, str] = ("test", "")
    save_adv: str | None = None

    def check_flags(self) -> None:
        """Raise InputError for flags that do not go together."""
        kind = self.eval_set[0]
        crafting = self.restarts > 1 or self.save_adv is not None
        if not self.evaluate and (kind != "test" or self.save_adv is not None):
            raise InputError("--eval_set and --save_adv go with --evaluate")
        if kind != "test" and (self.asked or self.further or crafting):
            raise InputError(
                f"--eval_set {kind} is not attacked: leave out --eval_attack, --restarts, "
                "--check_masking and --save_adv"
            )
        if crafting and not self.attacked:
            raise InputError("--restarts and --save_adv need an attack: add --eval_attack pgd")
        if self.images is not None and not (self.evaluate or self.further):
            raise InputError(
                "--eval_images goes with --evaluate, --eval_attack autoattack or --check_masking"
            )
        if self.masking_source is not None and not self.check_masking:
            raise InputError("--masking_source goes with --check_masking")

    def check_inputs(self) -> None:
        """Raise InputError for what a test would lack, hours from now."""
        if self.masking_source and not Path(self.masking_source).is_file():
            raise InputError(f"--masking_source {self.masking_source}: no such file")
        if self.autoattack:
            import_autoattack()

    @property
    def further(self) -> bool:
        """Whether there is more to test than SA and RA."""
        return self.autoattack or self.check_masking


def sa_and_ra(
    evaluator: Evaluator,
    model: nn.Module,
    loader: Loader,
    role: str,
    request: Request,
    crafted: list[tuple[Tensor, Tensor]] | None = None,
) -> Accuracy:
    """SA and, if asked for, RA on a test split: in percent; `role` says which network's.

    A list `crafted` takes the attack's images and labels, batch by batch, on the CPU.
    """
    network, attack = evaluator.network(model), None
    if request.attacked:
        attack = evaluator.pgd(network, restarts=request.restarts)
        attack = attack if crafted is None else _kept(attack, crafted)
    # Deviation: random starts from the run's seed, so that `--evaluate` gives the same figures.
    seed_everything(evaluator.seed)
    images, ra = request.images if request.evaluate else None, None
    sa = evaluator.accuracy(network, loader, f"test SA ({role})", images=images)
    if attack:
        ra = evaluator.accuracy(network, loader, f"test RA ({role})", attack, images)
    return Accuracy(sa, ra)


def _kept(attack: Perturb, crafted: list[tuple[Tensor, Tensor]]) -> Perturb:
    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        crafted.append((adversarial.cpu().contiguous(), labels.cpu()))
        return adversarial

    return perturb


def further_tests(
    evaluator: Evaluator,
    model: nn.Module,
    loader: Loader,
    role: str,
    request: Request,
    folder: Path,
) -> dict[str, Any]:
    """The tests beyond SA and RA that were asked for: `autoattack`, `masking_checks`."""
    found: dict[str, Any] = {"restarts": request.restarts} if request.restarts > 1 else {}
    network = evaluator.network(model)
    if request.autoattack:
        result = run_autoattack(evaluator, network, loader, folder, request.images).record
        note = f" ({result['note']})" if result["note"] else ""
        say(f"AutoAttack ({role}), {result['images']} images{note}: RA {result['ra']:.2f} %")
        found["autoattack"] = {"network": role, **result}
    if request.check_masking:
        source = None
        if request.masking_source:
            source = evaluator.network(load_network(request.masking_source))
            check_classes(source, loader, request.masking_source)
        checks = masking_checks(evaluator, network, loader, source, request.images)
        found["masking_checks"] = checks
    return found


def check_classes(network: nn.Module, loader: Loader, what: str) -> None:
    """Raise InputError, naming `what`, if a network has other classes than the images."""
    classes = count_classes(network)
    if classes != loader.num_classes:
        raise InputError(
            f"{what}: a network of {classes} classes, the evaluation set has "
            f"{loader.num_classes}; choose by --dataset and --classes"
        )


def check_source_classes(request: Request, loader: Loader, warnings: Warnings) -> None:
    """Compare the classes of --masking_source, which is only read at the end, with the images'."""
    if request.masking_source:
        names = class_names_in(load_checkpoint(request.masking_source))
        compare_classes(names, loader, f"--masking_source {request.masking_source}", warnings)


def count_classes(network: nn.Module) -> int:
    return network.get_parameter("fc.weight").shape[0]
