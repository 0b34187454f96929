"""What `bench.py` measures: the released recipe's work, and ours, made ready to be timed.

Every group returns one `Measured` for each of its rows. Weights and pixels are random.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import baseline
import numpy as np
import torch
from PIL import Image
from timing import DEVICE, Measured, Work, interleaved
from torch import nn

from attack_utils import PGDConfig, make_pgd
from cli_utils import keep_freed_memory
from data_sources import Split
from dataset import DataSpec, Loader, build_loaders, train_transform
from models import build_model, fold_for_evaluation
from models.flops import estimate_flops
from pruning_utils import pruning_model, rewind
from train_utils import Execution, evaluate, make_sgd, training_step

ROOT = Path(__file__).resolve().parent.parent
FP32 = Execution(DEVICE)
BF16 = replace(FP32, amp=torch.bfloat16)
EPS, STATES = 8 / 255, 19
PGD3 = PGDConfig(EPS, 3, 16 / (3 * 255))
PGD10, PGD20 = PGDConfig(EPS, 10, 2 / 255), PGDConfig(EPS, 20, 2 / 255)
Results = dict[str, Any]


# --- networks -------------------------------------------------------------------------------------


def our_network(arch: str, classes: int, side: int, execution: Execution) -> nn.Module:
    stem = "cifar" if side < 64 else "imagenet"
    model = build_model(arch, classes, baseline.MEAN, baseline.STD, stem)
    execution.place(model)
    pruning_model(model, 0.2)
    return model.train()


def plain_network(arch: str, classes: int, side: int) -> nn.Module:
    model = baseline.network(arch, classes, side).to(DEVICE)
    baseline.prune_globally(model, 0.2)
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


def plain_training(recipe: Recipe) -> Work:
    arch, side, batch, classes, attack = recipe
    model = plain_network(arch, classes, side)
    optimizer, data = baseline.optimizer_of(model), random_batch(batch, side, classes)
    return lambda: baseline.training_step(model, optimizer, *data, attack)


def our_training(recipe: Recipe, execution: Execution) -> Work:
    arch, side, batch, classes, attack = recipe
    model = our_network(arch, classes, side, execution)
    perturb = make_pgd(model, attack, execution.loss_scale) if attack else None
    optimizer = make_sgd(model, 1e-4, 0.9, 1e-4)
    images, labels = random_batch(batch, side, classes)
    images = execution.images(images)
    return lambda: training_step(model, images, labels, optimizer, execution, perturb)


def training(n: int, recipe: Recipe, *executions: Execution) -> list[Measured]:
    ours = [our_training(recipe, execution) for execution in executions]
    return interleaved(plain_training(recipe), *ours, n=n)


RESNET50 = Recipe("resnet50", 224, 16, 1000, PGD3)


def train_resnet50(_rows: Results) -> list[Measured]:
    return training(4, RESNET50, FP32, BF16)


def eval_resnet50(_rows: Results) -> list[Measured]:
    data = random_batch(8, 224, 1000)

    def ours(execution: Execution) -> Work:
        model = our_network("resnet50", 1000, 224, execution)
        network = execution.place(fold_for_evaluation(model))
        perturb = make_pgd(network, PGD20, execution.loss_scale)
        return lambda: evaluate(network, [data], execution=execution, perturb=perturb)

    plain = plain_network("resnet50", 1000, 224).eval()
    step = lambda: baseline.evaluation_step(plain, *data, PGD20)  # noqa: E731
    return interleaved(step, ours(FP32), ours(BF16), n=3)


def shares(rows: Results) -> list[Measured]:
    """Of the machine's rate: 2 FLOP per multiply-add of convolutions and classifier."""
    model = build_model("resnet50", 1000, baseline.MEAN, baseline.STD)
    forward, rate = estimate_flops(model, 224), rows["rate"]
    # of each image, in forward passes: an attack step is two, the training pass three
    work = {"train-pgd3-resnet50-bf16": 16 * (2 * 3 + 3), "eval-pgd20-resnet50-bf16": 8 * 41}
    found = []
    for name, passes in work.items():
        reached = passes * forward / rows[name].ours / 1e12
        found.append(Measured(rate, reached, reached / rate, rows[name].n))
    return found


# --- input pipelines ------------------------------------------------------------------------------


def drain(batches: Iterator, execution: Execution | None) -> None:
    for images, _ in batches:
        if execution:
            execution.images(images)
        else:
            images.to(DEVICE)


def cifar(side: int, count: int) -> list[Measured]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    plain = baseline.array_loader(pixels, labels, side, 128)
    spec = DataSpec("cifar10", "", side, "crop" if side == 32 else "rrc", True)
    split = Split(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)
    ours = Loader(split, train_transform(spec), list("0123456789"), batch_size=128, train=True)
    return interleaved(lambda: drain(iter(plain), None), lambda: drain(ours.epoch(0), FP32), n=7)


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
        spec = DataSpec("imagenet", name, 224, "rrc", True)
        ours, *_ = build_loaders(spec, batch_size=64, eval_batch_size=64, workers=0, seed=0)
        plain = baseline.folder_loader(root / "train", 224, 64)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return interleaved(
                lambda: drain(iter(plain), None), lambda: drain(ours.epoch(0), FP32), n=5
            )
        finally:
            torch.set_num_threads(threads)


# --- pruning, files, memory -----------------------------------------------------------------------


def prune_rewind(_rows: Results) -> list[Measured]:
    plain = baseline.network("resnet50", 1000, 224).to(DEVICE)
    plain_init = {name: value.clone() for name, value in plain.state_dict().items()}
    ours = FP32.place(build_model("resnet50", 1000, baseline.MEAN, baseline.STD))
    our_init = {name: value.clone() for name, value in ours.state_dict().items()}

    def our_round() -> None:
        pruning_model(ours, 0.2)
        rewind(ours, our_init)

    return interleaved(lambda: baseline.prune_and_rewind(plain, 0.2, plain_init), our_round, n=5)


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
    plain, ours = (in_own_process(role) for role in ("plain", "ours"))
    return [Measured(plain, ours, ours / plain)]


def growth(_rows: Results) -> list[Measured]:
    early, late = in_own_process("rounds"), in_own_process("more-rounds")
    return [Measured(early, late, late / early)]


def in_own_process(role: str) -> float:
    command = [sys.executable, str(ROOT / "benchmarks/bench.py"), "--memory_of", role]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_of(role: str) -> float:
    """MB at most in use (the process's, less its imports'; on CUDA the tensors')."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if role != "plain":
        keep_freed_memory()
    if role.endswith("rounds"):
        model = FP32.place(build_model("resnet50", 1000, baseline.MEAN, baseline.STD))
        init = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(2 if role == "rounds" else 20):
            pruning_model(model, 0.2)
            rewind(model, init)
    else:
        step = plain_training(RESNET50) if role == "plain" else our_training(RESNET50, BF16)
        step(), step()
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def peer(_rows: Results) -> list[Measured]:
    import torchattacks

    model = our_network("resnet18", 10, 32, FP32).eval()
    images, labels = random_batch(64, 32, 10)
    theirs = torchattacks.PGD(model, eps=EPS, alpha=2 / 255, steps=10, random_start=True)
    ours, placed = make_pgd(model, PGD10), FP32.images(images)
    return interleaved(lambda: theirs(images, labels), lambda: ours(placed, labels), n=3)


# --- groups of rows that share a baseline -------------------------------------------------------

GROUPS: dict[Callable[[Results], list[Measured]], tuple[str, ...]] = {
    train_resnet50: ("train-pgd3-resnet50-fp32", "train-pgd3-resnet50-bf16"),
    eval_resnet50: ("eval-pgd20-resnet50-fp32", "eval-pgd20-resnet50-bf16"),
    lambda _: training(3, Recipe("resnet18", 32, 64, 10, PGD10), BF16): (
        "train-pgd10-resnet18-bf16",
    ),
    lambda _: training(7, Recipe("resnet20s", 32, 128, 10, PGD3), BF16): (
        "train-pgd3-resnet20s-bf16",
    ),
    lambda _: training(5, RESNET50._replace(attack=None), BF16): ("train-std-resnet50-bf16",),
    lambda _: cifar(224, 256): ("data-cifar-224",),
    lambda _: cifar(32, 2560): ("data-cifar-32",),
    jpeg: ("data-jpeg-224",),
    prune_rewind: ("prune-rewind-resnet50",),
    files: ("bytes-per-state-resnet50", "bytes-ticket-resnet50"),
    shares: ("share-train-resnet50-bf16", "share-eval-resnet50-bf16"),
    memory: ("memory-train-resnet50-bf16",),
    growth: ("memory-growth-20-rounds",),
    peer: ("peer-torchattacks-pgd10",),
}
