"""What a run is asked to test, and `--evaluate`: a checkpoint on an evaluation set -> eval.json.

Evaluation sets: a data set's test split, CIFAR-10-C, a saved adversarial set. Accuracies are
percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import pruning_utils as pruning
from attack_utils import Perturb, import_autoattack
from dataset import DataSpec, Loader, build_loaders
from engine.distributed import is_main, seed_everything
from engine.log import provenance, say, warn
from errors import InputError
from evaluation.evaluator import Bench, autoattack, count_images, forget_progress, masking_checks
from evaluation.sets import adversarial_loader, cifar10_c_loader, corruptions
from files import checkpoints as files
from files.atomic import write_json
from models import classifier, load_network, stem_of

EVAL_FILE = "eval.json"
CIFAR10_C_FOLDER = "CIFAR-10-C"  # as the archive unpacks
SEVERITIES = range(1, 6)
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Request:
    """What a run is asked to test.

    attacked: RA by PGD too; asked: because a flag says so, not the mode. eval_set: ("test" |
    "cifar10_c" | "adv", path). images: only the first so many of the split, in `--evaluate` and in
    the tests beyond SA and RA.
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
        kind, further = self.eval_set[0], self.further
        crafting = self.restarts > 1 or self.save_adv is not None
        wrong = {
            "--eval_set and --save_adv go with --evaluate": not self.evaluate
            and (kind != "test" or self.save_adv is not None),
            f"--eval_set {kind} is not attacked: leave out --eval_attack, --restarts, "
            "--check_masking and --save_adv": kind != "test"
            and (self.asked or further or crafting),
            "--restarts and --save_adv need an attack: add --eval_attack pgd": not self.attacked
            and crafting,
            "--eval_images goes with --evaluate, --eval_attack autoattack or --check_masking": (
                self.images is not None and not (self.evaluate or further)
            ),
            "--masking_source goes with --check_masking": self.masking_source is not None
            and not self.check_masking,
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise InputError(message)

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
    bench: Bench,
    model: nn.Module,
    loader: Loader,
    role: str,
    request: Request,
    crafted: list[tuple[Tensor, Tensor]] | None = None,
) -> Scores:
    """SA and, if asked for, RA on a test split: `{"sa", "ra"}`; `role` says which network's.

    A list `crafted` takes the attack's images and labels, batch by batch, on the CPU.
    """
    network, attack = bench.network(model), None
    if request.attacked:
        attack = bench.pgd(network, restarts=request.restarts)
        attack = attack if crafted is None else _kept(attack, crafted)
    # Deviation: random starts from the run's seed, so that `--evaluate` gives the same figures.
    seed_everything(bench.seed)
    images, ra = request.images if request.evaluate else None, None
    sa = bench.accuracy(network, loader, f"test SA ({role})", images=images)
    if attack:
        ra = bench.accuracy(network, loader, f"test RA ({role})", attack, images)
    return {"sa": sa, "ra": ra}


def _kept(attack: Perturb, crafted: list[tuple[Tensor, Tensor]]) -> Perturb:
    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        crafted.append((adversarial.cpu().contiguous(), labels.cpu()))
        return adversarial

    return perturb


def further_tests(
    bench: Bench, model: nn.Module, loader: Loader, role: str, request: Request, folder: Path
) -> dict[str, Any]:
    """The tests beyond SA and RA that were asked for: `autoattack`, `masking_checks`."""
    found: dict[str, Any] = {"restarts": request.restarts} if request.restarts > 1 else {}
    network = bench.network(model)
    if request.autoattack:
        result = autoattack(bench, network, loader, folder, request.images)
        note = f" ({result['note']})" if result["note"] else ""
        say(f"AutoAttack ({role}), {result['images']} images{note}: RA {result['ra']:.2f} %")
        found["autoattack"] = {"network": role, **result}
    if request.check_masking:
        source = None
        if request.masking_source:
            source = bench.network(load_network(request.masking_source))
            _check_classes(source, loader, request.masking_source)
        found["masking_checks"] = masking_checks(bench, network, loader, source, request.images)
    return found


def evaluate_checkpoint(
    path: Path,
    bench: Bench,
    request: Request,
    spec: DataSpec,
    save_dir: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Test a checkpoint's network, which is told from the file, and write eval.json.

    `spec` frames the images and names the data set whose test split is used, if it is; `mean` and
    `std` are used in place of the file's own.
    """
    if request.save_adv and bench.runtime.world_size > 1:
        raise InputError("--save_adv works in one process only")
    model = bench.execution.place(load_network(str(path), mean=mean, std=std))
    if is_main():
        pruning.print_remaining(model)
    kind, where = request.eval_set
    stem = stem_of(model)
    if stem is not None and (stem == "cifar") != (spec.input_size < 64):
        warn(f"the {stem} stem on images of {spec.input_size} pixels: check --input_size")
    if kind == "cifar10_c":
        where = where or str(Path(spec.root) / CIFAR10_C_FOLDER)
        found = _on_cifar10_c(bench, model, request, replace(spec, root=where))
    elif kind == "adv":
        found = _on_adversarial(bench, model, request, spec)
    else:
        found = _on_test_split(bench, model, path.name, request, spec, save_dir)
    about = {
        "checkpoint": str(path),
        "eval_set": f"{kind}:{where}" if where else kind,
        "dataset": spec.dataset,
        "seed": bench.seed,
    }
    if is_main():
        write_json(save_dir / EVAL_FILE, {**about, **found, **provenance()})
    if request.autoattack:
        forget_progress(save_dir)
    measured = [f"{n.upper()} {found[n]:.2f} %" for n in ("sa", "ra") if found[n] is not None]
    say(f"test {', '.join(measured)}, {found['images']} images; in {save_dir / EVAL_FILE}")


def _check_classes(network: nn.Module, loader: Loader, what: str) -> None:
    if _classes(network) != loader.num_classes:
        raise InputError(
            f"{what}: a network of {_classes(network)} classes, the evaluation set has "
            f"{loader.num_classes}; choose by --dataset and --classes"
        )


def _classes(network: nn.Module) -> int:
    return network.get_parameter(f"{classifier(network)}.weight").shape[0]


# --- the evaluation sets --------------------------------------------------------------------------


def _on_test_split(
    bench: Bench, model: nn.Module, role: str, request: Request, spec: DataSpec, save_dir: Path
) -> dict[str, Any]:
    _, _, loader = build_loaders(
        spec,
        batch_size=2,  # of the training images, which nobody asks for
        eval_batch_size=bench.batch_size,
        workers=bench.workers,
        seed=bench.seed,
        pin_memory=bench.execution.device.type == "cuda",
    )
    assert loader is not None  # only an ImageNet layout has none
    _check_classes(model, loader, "--resume")
    crafted: list[tuple[Tensor, Tensor]] = []
    keep = crafted if request.save_adv else None
    scores = sa_and_ra(bench, model, loader, role, request, keep)
    if request.save_adv:
        data, label = (torch.cat(parts) for parts in zip(*crafted, strict=True))
        files.save_checkpoint(request.save_adv, {"data": data, "label": label})
        say(f"{request.save_adv}: {len(label)} adversarial images")
    return {
        **scores,
        "images": count_images(loader, request.images),
        "attack": str(bench.attack) if request.attacked else None,
        **further_tests(bench, model, loader, role, request, save_dir),
    }


def _on_adversarial(
    bench: Bench, model: nn.Module, request: Request, spec: DataSpec
) -> dict[str, Any]:
    """RA on images that were made adversarial before, for this network or for another."""
    path = request.eval_set[1]
    names = [str(label) for label in range(_classes(model))]
    loader = adversarial_loader(
        path, spec, names, batch_size=bench.batch_size, workers=bench.workers
    )
    ra = bench.accuracy(bench.network(model), loader, f"RA on {path}", images=request.images)
    return {"sa": None, "ra": ra, "images": count_images(loader, request.images)}


def _on_cifar10_c(
    bench: Bench, model: nn.Module, request: Request, spec: DataSpec
) -> dict[str, Any]:
    """SA under every corruption at each severity; `sa` is the mean over all of them."""
    network, names = bench.network(model), corruptions(spec.root)
    width = max(map(len, names))
    say(f"{'SA by severity':{width}}" + "".join(f"{s:8}" for s in SEVERITIES) + "    mean")
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        row = []
        for severity in SEVERITIES:
            loader = cifar10_c_loader(
                spec, name, severity, batch_size=bench.batch_size, workers=bench.workers
            )
            _check_classes(model, loader, "--resume")
            label = f"{name}, severity {severity}"
            row.append(bench.accuracy(network, loader, label, images=request.images))
        table[name] = {"severities": row, "mean": fmean(row)}
        say(f"{name:{width}}" + "".join(f"{sa:8.2f}" for sa in (*row, fmean(row))))
    sa = fmean(row["mean"] for row in table.values())
    say(f"mean over {len(names)} corruptions: {sa:.2f} %")
    return {
        "sa": sa,
        "ra": None,
        "images": count_images(loader, request.images),  # of each corruption and severity
        "corruptions": table,
    }
