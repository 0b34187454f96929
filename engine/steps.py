"""Steps of training, one epoch of them, one pass of evaluation; the optimizer, precision, layout.

Nothing here knows an attack or a mask: training and evaluation take `perturb(images, labels)`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Optimizer

from attack_utils import Perturb  # the type alone: nothing here knows an attack
from engine.distributed import processes, sum_gradients, sum_over_ranks
from engine.sharing import passes
from models.prepared import prepared

Batches = Iterable[tuple[Tensor, Tensor]]
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # by the flag's words


@dataclass(frozen=True)
class Execution:
    """How passes run; all but `amp` and `micro_batch` change results by rounding at most.

    micro_batch: images per pass of a process; BatchNorm in training normalises over so many.
    """

    device: torch.device = torch.device("cpu")
    channels_last: bool = True
    amp: torch.dtype | None = None
    micro_batch: int | None = None
    compiled: bool = False  # the networks' passes, as `models.compiled` says
    cuda_graphs: bool = False  # in training; evaluation makes networks anew, and graphs with them

    def pieces(self, batch: int, processes: int = 1) -> int:
        """Into how many nearly equal passes each process cuts its share."""
        return passes(batch, processes, self.micro_batch)

    @property
    def precision(self) -> str:
        """What `amp` is called as a flag."""
        return next(word for word, kind in AMP.items() if kind == self.amp)

    @property
    def loss_scale(self) -> float | None:
        """The factor on an image's loss in attacks: float16 gradients would vanish without it."""
        return 512.0 if self.amp == torch.float16 else None

    @property
    def fused_sgd(self) -> bool:
        """Whether a step of SGD is one kernel: on CUDA, but where a scaler may skip the step.

        If it skips the very first one, PyTorch's kernel leaves the momentum uninitialised.
        """
        return self.device.type == "cuda" and self.amp != torch.float16

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and the memory layout of its convolutions."""
        return model.to(self.device).to(memory_format=self.layout)

    def images(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 in [0, 1] on the device.

        The same bits as ToTensor; but for the last one on CUDA, which multiplies by 1/255.
        """
        if images.dtype == torch.uint8:
            images = images.to(self.device, non_blocking=True).float().div_(255)
        return images.to(self.device, memory_format=self.layout)

    def scaler(self) -> GradScaler | None:
        """The scaler of the training loss, which float16 alone needs."""
        return GradScaler(self.device.type) if self.amp == torch.float16 else None

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)

    @contextlib.contextmanager
    def passes(self, model: nn.Module) -> Iterator[None]:
        """Inside the block `model` runs in `amp`, on weights that are computed once."""
        with self.autocast(), prepared(model, self.amp):
            yield


@dataclass(frozen=True)
class Metrics:
    """Means over `images` images: cross-entropy, and accuracies in percent."""

    images: int
    loss: float
    top1: float
    top5: float


class Meter:
    """Running sums of loss and accuracy, kept on the device so that no step waits for the host."""

    def __init__(
        self, device: torch.device, sums: Sequence[float] = (0.0,) * 4, steps: int = 0
    ) -> None:
        # images, loss, top1, top5
        self.sums = torch.tensor(sums, dtype=torch.float64, device=device)
        self._finite = torch.tensor(steps, device=device)  # steps before the first non-finite loss

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Args: logits (N, classes), labels (N,), loss () the mean over the N images."""
        count = len(labels)
        first = is_right(logits, labels)
        among = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1, top5 = (right.sum().double() for right in (first, first | among.any(1)))
        images = torch.full_like(top1, count)
        self.sums += torch.stack([images, loss.double() * count, top1, top5])
        self._finite += self.sums[1].isfinite()  # once NaN, the sum stays NaN

    def finite_steps(self) -> int:
        """How many steps came before the first non-finite loss; the call waits for a GPU."""
        return int(self._finite)

    def read(self) -> Metrics:
        """Means so far, of this process."""
        return _means(self.sums)

    def read_all(self) -> Metrics:
        """Means over all processes."""
        return _means(sum_over_ranks(self.sums.clone()))


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: whether the label is an image's first choice, of equal logits the first one.

    In half precision logits often are equal, and whatever counts images must choose alike.
    """
    return logits.argmax(1) == labels


def _means(sums: Tensor) -> Metrics:
    images, loss, top1, top5 = sums.tolist()
    count = max(images, 1)
    return Metrics(int(images), loss / count, 100 * top1 / count, 100 * top5 / count)


Report = Callable[[int, Meter], None]  # images of the batch that is done, sums so far


# --- training -----------------------------------------------------------------------------------


def training_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: Optimizer,
    execution: Execution,
    perturb: Perturb | None = None,
    global_batch: int | None = None,
    scaler: GradScaler | None = None,
) -> tuple[Tensor, Tensor]:
    """One optimizer step on the mean cross-entropy of the (perturbed) batch.

    With `execution.micro_batch` the gradients of that many images at a time are accumulated.

    Args:
        images: (N, 3, H, W) float in [0, 1]; labels: (N,) int64.
        global_batch: images of this step on all processes together; N if left out.
        scaler: of the loss, for float16.

    Returns:
        The loss, a scalar, and the logits (N, classes), both detached.
    """
    optimizer.zero_grad(set_to_none=True)
    count, whole = len(labels), global_batch or len(labels)
    pieces = execution.pieces(whole, processes() if global_batch else 1)
    losses, logits = [], []
    for some_images, some_labels in zip(
        images.tensor_split(pieces), labels.tensor_split(pieces), strict=True
    ):
        with execution.passes(model):
            if perturb is not None:
                some_images = perturb(some_images, some_labels)
            output = model(some_images)
        loss = F.cross_entropy(output.float() if execution.amp else output, some_labels)
        # Before the backward pass: through synchronised BatchNorm it mixes the processes' losses.
        weight = len(some_labels) / whole
        part = loss * weight if weight < 1 else loss
        (scaler.scale(part) if scaler else part).backward()
        losses.append(loss.detach() * (len(some_labels) / count))
        logits.append(output.detach())
        if execution.cuda_graphs and pieces > 1:  # the next piece overwrites a graph's results
            logits[-1] = logits[-1].clone()
            if len(losses) == 1:  # later gradients are added to these
                _copy_gradients(model)
    sum_gradients(model.parameters())
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return torch.stack(losses).sum(), torch.cat(logits)


def _copy_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()


def train_one_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: Optimizer,
    *,
    execution: Execution,
    learning_rate: Callable[[int], float],
    perturb: Perturb | None = None,
    global_batch: Callable[[int], int] | None = None,
    report: Report | None = None,
    scaler: GradScaler | None = None,
    first_step: int = 0,
    meter: Meter | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Metrics:
    """Train on every batch once, in train mode.

    Args:
        batches: uint8 images (N, 3, H, W) and labels (N,).
        learning_rate: of the step in this epoch, counted from 0.
        global_batch: images of that step on all processes; only needed where there are several.
        report: called after every step with the number of its images and the meter.
        first_step, meter: of an epoch that goes on: the number of its first batch here, and the
            sums so far.
        after_step: called after every step with the number of steps done in this epoch.

    Returns:
        Loss and accuracy on the images as trained on: perturbed ones, under an attack.
    """
    model.train()
    meter = meter or Meter(execution.device)
    for step, (images, labels) in enumerate(batches, first_step):
        set_learning_rate(optimizer, learning_rate(step))
        labels = labels.to(execution.device, non_blocking=True)
        loss, logits = training_step(
            model,
            execution.images(images),
            labels,
            optimizer,
            execution,
            perturb,
            global_batch(step) if global_batch else None,
            scaler,
        )
        meter.add(logits, labels, loss)
        if report:
            report(len(labels), meter)
        if after_step:
            after_step(step + 1)
    return meter.read_all()


def evaluate(
    model: nn.Module,
    batches: Batches,
    *,
    execution: Execution,
    perturb: Perturb | None = None,
    report: Report | None = None,
    meter: Meter | None = None,
) -> Metrics:
    """Loss and accuracy in eval mode, on clean images or on `perturb`ed ones.

    meter: a fresh one, from a caller that wants more of it than the means.
    """
    model.eval()
    meter = meter or Meter(execution.device)
    for images, labels in batches:
        images, labels = execution.images(images), labels.to(execution.device, non_blocking=True)
        with execution.passes(model):
            if perturb is not None:
                images = perturb(images, labels)
            with torch.no_grad():
                logits = model(images)
        logits = logits.float() if execution.amp else logits
        meter.add(logits, labels, F.cross_entropy(logits, labels))
        if report:
            report(len(labels), meter)
    return meter.read_all()


# --- the optimizer --------------------------------------------------------------------------------


def make_sgd(
    model: nn.Module, lr: float, momentum: float, weight_decay: float, execution: Execution
) -> SGD:
    """SGD as in the released code; where it is one fused kernel it differs by rounding only."""
    fused = execution.fused_sgd or None
    return SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, fused=fused)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take up a saved state, whatever device and memory layout its run had.

    Momentum is laid out as its weight is: fused kernels pair the two by their place in memory. And
    whether kernels are fused is this device's matter, not the saved run's.
    """
    fused = [group.get("fused") for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, fused, strict=True):
        group["fused"] = own
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
