"""The tests of a test split: SA and RA image by image, and the tests beyond them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attack_utils import Perturb
from engine.data_warnings import some_images
from engine.distributed import on_main, seed_everything
from engine.log import Warnings, say
from evaluation.autoattack import run_autoattack
from evaluation.evaluator import Evaluator, percent
from evaluation.masking import MASKING_IMAGES, load_source, masking_checks
from evaluation.request import Request
from files.features import discard
from files.names import AUTOATTACK_PROGRESS, EVALUATION_PROGRESS
from files.outcomes import AUTOATTACK, CLEAN, NORM, PGD, RESTARTS, Key, Outcomes, save_outcomes
from files.results import Accuracy
from input_pipeline.loader import Loader


class SplitTest:
    """Networks on one test split: which images each gets right, and what that amounts to.

    `bits` holds (N,) bool on the CPU, in the order of the split, for each network and measure.
    `asked` gives the images that `--eval_images` leaves of the split.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        loader: Loader,
        request: Request,
        folder: Path,
        warnings: Warnings | None = None,
    ) -> None:
        self.warnings = warnings or Warnings()
        self.evaluator, self.loader, self.request = evaluator, loader, request
        self.folder, self.asked = folder, some_images(loader, request.images, self.warnings)
        self.bits: dict[Key, Tensor] = {}
        self.attacks: dict[str, str] = {}

    @property
    def measure(self) -> str:
        """What RA is measured by: PGD, or the worst of several runs of it."""
        return PGD if self.request.restarts == 1 else RESTARTS

    def sa_and_ra(
        self, model: nn.Module, role: str, crafted: list[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        """Measure SA and, if it is asked for, RA; `role` is the network's name in the outcomes.

        A list `crafted` takes the attack's images and labels, batch by batch, on the CPU.
        """
        request, evaluator = self.request, self.evaluator
        network, attack = evaluator.network(model), None
        if request.attacked:
            attack = evaluator.pgd(network, restarts=request.restarts)
            attack = attack if crafted is None else _kept(attack, crafted)
        # Deviation: random starts from the run's seed, so that `--evaluate` gives the same figures.
        seed_everything(evaluator.seed)
        loader = self.asked if request.evaluate else self.loader
        clean = evaluator.outcomes(network, loader, f"test SA ({role})")
        self.bits[role, CLEAN] = clean
        ra_by = request.ra_by(evaluator.attack)
        if attack and ra_by:
            label = f"test RA ({role})"
            robust = evaluator.outcomes(network, loader, label, attack)
            self.bits[role, self.measure] = robust
            self.attacks[self.measure] = ra_by

    def same_network(self, role: str, other: str) -> None:
        """Give `role` what was found for `other`, which is the same network."""
        for (name, measure), bits in list(self.bits.items()):
            if name == other:
                self.bits[role, measure] = bits

    def accuracy(self, role: str) -> Accuracy:
        """SA and RA in percent: exactly the means of the bits."""
        attacked = self.bits.get((role, self.measure))
        return Accuracy(
            percent(self.bits[role, CLEAN]), None if attacked is None else percent(attacked)
        )

    def further(self, model: nn.Module, role: str) -> dict[str, Any]:
        """Run the tests beyond SA and RA that were asked for.

        Returns what results say of them: `restarts` if there are several, `autoattack`,
        `masking_checks`. AutoAttack's outcomes go into `bits`, its description into `attacks`.
        """
        request, evaluator = self.request, self.evaluator
        found: dict[str, Any] = {"restarts": request.restarts} if request.restarts > 1 else {}
        network = evaluator.network(model)
        if request.autoattack:
            progress = EVALUATION_PROGRESS if request.evaluate else AUTOATTACK_PROGRESS
            result = run_autoattack(evaluator, network, self.asked, self.folder, progress)
            record = result.record
            note = f" ({record['note']})" if record["note"] else ""
            say(f"AutoAttack ({role}), {record['images']} images{note}: RA {record['ra']:.2f} %")
            if evaluator.execution.precision != record["amp"]:
                self.warnings.add(
                    f"AutoAttack ({role}): in float32, which its attacks need; the other "
                    f"accuracies are with --amp {evaluator.execution.precision}"
                )
            found["autoattack"] = {"network": role, **record}
            self.bits[role, AUTOATTACK] = result.robust
            words = f"{', '.join(record['attacks'])}, eps {record['eps']:.6g}"
            self.attacks[AUTOATTACK] = f"{NORM} {words}"
        if request.check_masking:
            path = request.masking_source
            source = evaluator.network(load_source(path, model)) if path else None
            some = self.loader.some(request.images or MASKING_IMAGES)
            found["masking_checks"] = masking_checks(evaluator, network, some, source)
        return found

    def save(self, name: str, **run: str | None) -> None:
        """Write the outcomes of all networks into the folder, on rank 0.

        Args:
            run: what tells the run from others, as `results.json` says it.
        """
        total = self.loader.num_images
        if self.loader.skipped or any(
            len(bits) not in (total, self.asked.num_images) for bits in self.bits.values()
        ):
            self.warnings.add(
                f"no {name}: some test images could not be read, so outcomes have no place"
            )
            on_main(lambda: discard(self.folder / name))  # those of an earlier test
            return
        outcomes = Outcomes(
            split=self.loader.fingerprint(),
            images=total,
            seed=self.evaluator.seed,
            attacks=self.attacks,
            bits={key: bits.numpy() for key, bits in self.bits.items()},
            run={key: value for key, value in run.items() if value is not None},
        )
        on_main(lambda: save_outcomes(self.folder / name, outcomes))


def _kept(attack: Perturb, crafted: list[tuple[Tensor, Tensor]]) -> Perturb:
    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        crafted.append((adversarial.cpu().contiguous(), labels.cpu()))
        return adversarial

    return perturb
