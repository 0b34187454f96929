"""SA, RA and the outcome of each image: one network on one split, by one process or by several.

Accuracies are percent. Several processes take turns with the batches. They find what one would
find, but for an attack's random starts, which each process draws for its own batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attack_utils import Perturb, PGDConfig, checked, make_pgd, with_restarts
from engine.distributed import Runtime, sum_over_ranks
from engine.log import Progress
from engine.steps import Execution, Meter, Metrics, Report, evaluate, is_right
from errors import InputError, RunFailed, memory_advice
from input_pipeline.loader import Loader
from models import compile_passes, fold_for_evaluation

Watch = Callable[[Progress], Report]
WRONG, RIGHT = 1, 2  # codes of an image's outcome; 0 is an image that no process has tested


class OutcomeMeter(Meter):
    """A meter that also keeps whether the network is right, image by image, of each batch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.correct: list[Tensor] = []

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        super().add(logits, labels, loss)
        self.correct.append(is_right(logits, labels))


@dataclass(frozen=True)
class Evaluator:
    """How networks are measured: device, precision, attack, loader settings.

    test_attack: the attack by which RA is measured; a run that measures SA alone has none.
    batch_size, workers, threads: settings of the loaders that a test makes for itself.
    advice: what to try where memory runs out.
    watch: given a progress bar, returns what is called after every batch in the bar's place; since
    it may talk to the other processes, each of them calls it equally often.
    """

    runtime: Runtime
    execution: Execution
    test_attack: PGDConfig | None = None
    seed: int = 1
    batch_size: int = 128
    workers: int | None = 0
    threads: int | None = None
    print_freq: int | None = None
    advice: str = "take fewer at a time"
    watch: Watch | None = None

    @property
    def attack(self) -> PGDConfig:
        """The test attack, which only a run that measures RA has."""
        assert self.test_attack is not None, "this evaluator measures SA alone"
        return self.test_attack

    def loading(self) -> dict[str, Any]:
        """How many processes work a loader that a test makes for itself: its keyword arguments."""
        processes = self.runtime.processes_here
        return {"workers": self.workers, "processes": processes, "threads": self.threads}

    def network(self, model: nn.Module) -> nn.Module:
        """The network that passes run on: a copy in eval mode, masks and BatchNorm baked in."""
        network = self.execution.place(fold_for_evaluation(model))
        if self.execution.compiled:
            compile_passes(network, self.execution.layout)
        return network

    def pgd(
        self, network: nn.Module, config: PGDConfig | None = None, restarts: int = 1
    ) -> Perturb:
        """The test attack (or another one) on a `network`, its output checked."""
        config = config or self.attack
        perturb = make_pgd(network, config, self.execution.loss_scale)
        if restarts > 1:
            perturb = with_restarts(network, perturb, restarts, self.seed)
        return checked(perturb, config.eps)

    def accuracy(
        self,
        network: nn.Module,
        loader: Loader,
        label: str,
        perturb: Perturb | None = None,
    ) -> float:
        """SA of a `network` on a split, or RA under an attack."""
        return self.measure(network, loader, label, perturb).top1

    def measure(
        self,
        network: nn.Module,
        loader: Loader,
        label: str,
        perturb: Perturb | None = None,
    ) -> Metrics:
        """Loss, top-1 and top-5 accuracy of a `network`, over all processes.

        Args:
            network: a network that `network()` returned.
            label: the text before the progress bar.
            perturb: the attack; none if left out.

        Raises RunFailed where an output is NaN or infinite: it says no class.
        """
        meter = Meter(self.execution.device)
        return self._pass(network, loader, label, perturb, meter, [])

    def outcomes(
        self,
        network: nn.Module,
        loader: Loader,
        label: str,
        perturb: Perturb | None = None,
    ) -> Tensor:
        """Which images a `network` gets right; arguments as in `measure`.

        Returns:
            (N,) bool on the CPU, in the order of the split, on every process. `percent` of it is
            the accuracy. Images that could not be read (--skip_bad) are not among the N.
        """
        meter, places = OutcomeMeter(self.execution.device), list[int]()
        self._pass(network, loader, label, perturb, meter, places)
        parts = [
            (place, torch.where(correct, RIGHT, WRONG))
            for place, correct in zip(places, meter.correct, strict=True)
        ]
        codes = gather_in_order(parts, loader.num_images, self.execution.device)
        return codes[codes > 0] == RIGHT

    def _pass(
        self,
        network: nn.Module,
        loader: Loader,
        label: str,
        perturb: Perturb | None,
        meter: Meter,
        places: list[int],
    ) -> Metrics:
        """Evaluate on this process's batches; `places` takes the first image's place of each."""
        rounds = len(loader) // self.runtime.world_size
        memory = memory_advice(loader.batch_size, self.advice)
        with memory, Progress(len(self.steps(loader)), label, self.print_freq) as bar:
            report = self.report(bar, rounds)

            def batches() -> Iterator[tuple[Tensor, Tensor]]:
                for place, some, labels in self.batches(loader):
                    if len(labels):
                        places.append(place)
                        yield some, labels
                    else:  # no image of it could be read, but the other processes count on it
                        report(0, meter)

            metrics = evaluate(
                network,
                batches(),
                execution=self.execution,
                perturb=perturb,
                report=report,
                meter=meter,
            )
        # Where there are several processes, none of them may have met every image of the split.
        if metrics.images == 0 and loader.skipped:
            raise InputError(f"{label}: no image can be read; the last: {max(loader.skipped)}")
        if not math.isfinite(metrics.loss):  # of NaN the first class would be the largest
            raise RunFailed(
                f"{label}: the network's output is not finite (did its training diverge? --amp "
                "fp16 overflows first)"
            )
        return metrics

    def report(self, bar: Progress, rounds: int) -> Report:
        """`watch` in the first `rounds` batches, those that every process has one of."""
        watched = self.watch(bar) if self.watch else bar.step

        def report(images: int, meter: Meter) -> None:
            (watched if bar.done < rounds else bar.step)(images, meter)

        return report

    def steps(self, loader: Loader, first: int = 0) -> range:
        """This process's batches among those from `first` on."""
        rank, world = self.runtime.rank, self.runtime.world_size
        return range(first + (rank - first) % world, len(loader), world)

    def batches(self, loader: Loader, first: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield those batches: the first image's place, images (B, 3, S, S) and labels (B,).

        B is 0 if no image of a batch could be read.
        """
        rank, world = self.runtime.rank, self.runtime.world_size
        epoch = loader.epoch(0, first, rank, world, keep_empty=True)
        for step, (images, labels) in zip(self.steps(loader, first), epoch, strict=False):
            yield step * loader.batch_size, images, labels


def percent(correct: Tensor) -> float:
    """The accuracy, in percent, that outcomes (N,) bool amount to; the bits of `accuracy`."""
    return 100 * int(correct.sum()) / max(len(correct), 1)


def gather_in_order(
    parts: Iterable[tuple[int, Tensor]], count: int, device: torch.device
) -> Tensor:
    """Join the codes of images from all processes, in the order of the split.

    Args:
        parts: for each batch of this process, the first image's place and codes (B,), 1 to 255.
        count: how many images all processes share.
        device: where the processes exchange tensors.

    Returns:
        (count,) uint8 on the CPU, on every process: 0 for an image that has no code.
    """
    codes = torch.zeros(count, dtype=torch.uint8, device=device)
    for place, some in parts:
        codes[place : place + len(some)] = some
    return sum_over_ranks(codes).cpu()
