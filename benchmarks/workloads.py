"""What `bench.py` measures: the released recipe's work, and ours, made ready to be timed.

Every group returns one `Measured` for each of its rows. Weights and pixels are random.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import baseline
import numpy as np
import torch
from PIL import Image
from timing import DEVICE, Make, Measured, Work, interleaved, own_process
from torch import nn

from attack_utils import PGDConfig, make_pgd
from dataset import DataSpec, Loader, build_loaders, train_transform
from engine.distributed import keep_freed_memory
from engine.steps import Execution, Metrics, evaluate, make_sgd, training_step
from input_pipeline.splits import Split
from models import build_model, compile_passes, fold_for_evaluation
from pruning_utils import prune_by_magnitude, rewind

ROOT = Path(__file__).resolve().parent.parent
FP32 = Execution(DEVICE)
BF16 = replace(FP32, amp=torch.bfloat16)  # where it is not emulated: see `executions`
EPS, STATES = 8 / 255, 19
PGD3 = PGDConfig(EPS, 3, 16 / (3 * 255))
PGD5, PGD10 = (PGDConfig(EPS, steps, 2 / 255) for steps in (5, 10))
Results = dict[str, Any]


def bf16_is_emulated(rows: Results) -> bool:
    return rows["bf16"] < rows["fp32"]


def executions(rows: Results) -> list[Execution]:
    """What a user of this machine has, the fastest last: bf16 is no gain where it is emulated."""
    return [FP32] if bf16_is_emulated(rows) else [FP32, BF16]


# --- networks -------------------------------------------------------------------------------------


def our_network(
    arch: str, classes: int, side: int, execution: Execution, pruned: float = 0.2
) -> nn.Module:
    stem = "cifar" if side < 64 else "imagenet"
    model = build_model(arch, classes, baseline.MEAN, baseline.STD, stem)
    execution.place(model)
    prune_by_magnitude(model, pruned)
    return model.train()


def plain_network(arch: str, classes: int, side: int, pruned: float = 0.2) -> nn.Module:
    model = baseline.network(arch, classes, side).to(DEVICE)
    baseline.prune_globally(model, pruned)
    return model.train()


def random_batch(count: int, side: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, side, side, device=DEVICE)
    return images, torch.randint(0, classes, (count,), device=DEVICE)


class Recipe(NamedTuple):
    arch: str
    side: int
    batch: int
    classes: int
    attack: PGDConfig | None
    pruned: float = 0.2


def plain_training(recipe: Recipe) -> Work:
    arch, side, batch, classes, attack, pruned = recipe
    model = plain_network(arch, classes, side, pruned)
    optimizer, data = baseline.optimizer_of(model), random_batch(batch, side, classes)
    return lambda: baseline.training_step(model, optimizer, *data, attack)


def our_training(recipe: Recipe, execution: Execution) -> Work:
    arch, side, batch, classes, attack, pruned = recipe
    model = our_network(arch, classes, side, execution, pruned)
    if execution.compiled:
        compile_passes(model, execution.layout, execution.cuda_graphs)
    perturb = make_pgd(model, attack, execution.loss_scale) if attack else None
    optimizer = make_sgd(model, 1e-4, 0.9, 1e-4, execution)
    images, labels = random_batch(batch, side, classes)
    images = execution.images(images)
    return lambda: training_step(model, images, labels, optimizer, execution, perturb)


def training(n: int, recipe: Recipe, *executions: Execution) -> list[Measured]:
    ours = [partial(our_training, recipe, execution) for execution in executions]
    return interleaved(partial(plain_training, recipe), *ours, n=n)


RESNET50 = Recipe("resnet50", 224, 16, 1000, PGD3)
EVALUATED = 24  # images per pass, so that a whole run stays within 15 minutes


def train_resnet50(rows: Results) -> list[Measured]:
    return training(3, RESNET50, *executions(rows))


def plain_evaluation(recipe: Recipe) -> Work:
    arch, side, batch, classes, attack, pruned = recipe
    model = plain_network(arch, classes, side, pruned).eval()
    data = random_batch(batch, side, classes)
    baseline.evaluation_step(model, *data, replace(attack, steps=1))
    return lambda: baseline.evaluation_step(model, *data, attack)


def evaluation_under(recipe: Recipe, execution: Execution) -> Callable[[PGDConfig], Metrics]:
    """Our evaluation of a batch under whatever attack it is called with."""
    arch, side, batch, classes, _, pruned = recipe
    model = our_network(arch, classes, side, execution, pruned)
    data = random_batch(batch, side, classes)
    network = execution.place(fold_for_evaluation(model))
    if execution.compiled:
        compile_passes(network, execution.layout)

    def attacked(config: PGDConfig) -> Metrics:
        perturb = make_pgd(network, config, execution.loss_scale)
        return evaluate(network, [data], execution=execution, perturb=perturb)

    return attacked


def our_evaluation(recipe: Recipe, execution: Execution) -> Work:
    attacked, attack = evaluation_under(recipe, execution), recipe.attack
    attacked(replace(attack, steps=1))
    return lambda: attacked(attack)


def eval_resnet50(rows: Results) -> list[Measured]:
    recipe = RESNET50._replace(batch=EVALUATED, attack=PGD5)
    ours = [partial(our_evaluation, recipe, execution) for execution in executions(rows)]
    return interleaved(partial(plain_evaluation, recipe), *ours, n=2, warm=True)


# --- input pipelines ------------------------------------------------------------------------------


def drain(batches: Iterator, execution: Execution | None) -> None:
    for images, _ in batches:
        if execution:
            execution.images(images)
        else:
            images.to(DEVICE)


def random_cifar(count: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return pixels, np.arange(count) % 10


def plain_cifar(side: int, count: int) -> Work:
    loader = baseline.array_loader(*random_cifar(count), side, 128)
    return lambda: drain(iter(loader), None)


def our_cifar(side: int, count: int) -> Work:
    pixels, labels = random_cifar(count)
    spec = DataSpec("cifar10", "", side, "crop" if side == 32 else "rrc", True)
    split = Split(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)
    loader = Loader(split, train_transform(spec), list("0123456789"), batch_size=128, train=True)
    return lambda: drain(loader.epoch(0), FP32)


def cifar(side: int, count: int) -> list[Measured]:
    return interleaved(partial(plain_cifar, side, count), partial(our_cifar, side, count), n=7)


def plain_jpeg(root: Path) -> Work:
    torch.set_num_threads(1)
    loader = baseline.folder_loader(root / "train", 224, 64)
    return lambda: drain(iter(loader), None)


def our_jpeg(root: Path) -> Work:
    torch.set_num_threads(1)
    spec = DataSpec("imagenet", str(root), 224, "rrc", True)
    loader, *_ = build_loaders(spec, batch_size=64, eval_batch_size=64, workers=0, seed=0)
    return lambda: drain(loader.epoch(0), FP32)


def jpeg(_rows: Results) -> list[Measured]:
    with tempfile.TemporaryDirectory() as name:
        root, random = Path(name), np.random.default_rng(0)
        for index in range(128):
            small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            large = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
            noisy = (large + random.normal(0, 16, large.shape)).clip(0, 255).astype(np.uint8)
            for split in ("train", "val"):
                path = root / split / f"class{index % 2}" / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noisy).save(path, quality=80)
        return interleaved(partial(plain_jpeg, root), partial(our_jpeg, root), n=7)


# --- pruning, files, memory -----------------------------------------------------------------------


def plain_round() -> Work:
    model = baseline.network("resnet50", 1000, 224).to(DEVICE)
    init = {name: value.clone() for name, value in model.state_dict().items()}
    return lambda: baseline.prune_and_rewind(model, 0.2, init)


def our_round() -> Work:
    model = FP32.place(build_model("resnet50", 1000, baseline.MEAN, baseline.STD))
    init = {name: value.clone() for name, value in model.state_dict().items()}

    def prune_and_rewind() -> None:
        prune_by_magnitude(model, 0.2)
        rewind(model, init)

    return prune_and_rewind


def prune_rewind(_rows: Results) -> list[Measured]:
    """Every turn is the next state of IMP, on either side."""
    return interleaved(plain_round, our_round, n=7)


def files(_rows: Results) -> list[Measured]:
    """What one state of a real run leaves, its share of the initial weights included."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for index in range(8):
            for split in ("train", "val"):
                path = root / "data" / split / f"class{index % 2}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (index, 0, 0)).save(path)
        command = [sys.executable, "main_imp_pretrain.py", str(root / "data"), "--mode", "std"]
        command += ["-a", "resnet50", "--input_size", "64", "-b", "4", "-j", "0", "--epochs", "1"]
        command += ["--prune_epoch", "1", "--save_dir", str(root / "run")]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (root / "run").iterdir()}
        state = sum(size for file, size in sizes.items() if file.startswith("1-"))
        state -= sum(size for file, size in sizes.items() if "previous" in file)
        ours = state + sizes["init.pth.tar"] / STATES
        plain = baseline.checkpoint_bytes(root, "resnet50", 2, 64) / 1e6
    ticket = sizes["1-ticket.safetensors"]
    return [Measured(plain, ours, ours / plain), Measured(3.0, ticket, ticket / 3.0)]


def memory(_rows: Results) -> list[Measured]:
    (plain,) = peaks(partial(plain_training, RESNET50), 2, ours=False)
    (ours,) = peaks(partial(our_training, RESNET50, BF16), 2)
    return [Measured(plain, ours, ours / plain)]


def growth(_rows: Results) -> list[Measured]:
    """Over 20 rounds, after 60 in which the allocator settles."""
    early, late = peaks(our_round, 60, 80)
    return [Measured(early, late, late / early)]


def peaks(make: Make, *rounds: int, ours: bool = True) -> list[float]:
    """MB at most in use after so many rounds: the process's, less its imports', or CUDA tensors."""
    with own_process() as process:
        return process.submit(_peaks, make, rounds, ours).result()


def _peaks(make: Make, rounds: tuple[int, ...], ours: bool) -> list[float]:
    before, found = peak_of_process(), []
    if ours:
        keep_freed_memory()
    work = make()
    for count in range(1, max(rounds) + 1):
        work()
        if count in rounds:
            cuda = DEVICE.type == "cuda"
            used = torch.cuda.max_memory_allocated() if cuda else peak_of_process() - before
            found.append(used / 1e6)
    return found


def peak_of_process(number: int | str = "self") -> int:
    """Bytes; Linux's `getrusage` would count what the process's parent once had, too.

    Of another process, by its number, on Linux only; 0 when it has ended.
    """
    status = Path(f"/proc/{number}/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        return int(found[1]) * 1024 if found else 0
    if number != "self":
        return 0
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024
