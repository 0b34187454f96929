"""What a run would do, write and cost: the text that `--dry_run` prints.

Costs are estimates from FLOPs, never measurements, and say so.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from attack_utils import PGDConfig, make_pgd
from cli import parsing
from engine.schedules import States
from engine.steps import Execution, training_step
from errors import InputError
from files import checkpoints as files
from models import build_model, estimate_activations, estimate_flops, is_fetched

ASSUMED_RATE = 50e12  # FLOP/s that one data-centre GPU is taken to sustain, for GPU-hours
IMAGENET_IMAGES = 1_281_167
TIMED_STEPS, TIMED_IMAGES = 4, 64  # of --time_it
IMAGES = {
    "cifar10": (45_000, 5_000, 10_000),
    "cifar100": (45_000, 5_000, 10_000),
    "svhn": (68_257, 5_000, 26_032),
    "digits": (1_290, 144, 363),
}


def states_of(args: argparse.Namespace) -> States:
    return States(args.pretrain_epochs, args.epochs, args.prune_epoch)


def attack_passes(steps: int) -> int:
    """Network passes of a PGD attack: each step is one forward and one backward to the image."""
    return 2 * steps


def training_passes(steps: int) -> int:
    """Passes per training image: the attack, a forward, a backward to inputs and one to weights."""
    return attack_passes(steps) + 3


def plan_imp(args: argparse.Namespace) -> str:
    """The plan of an IMP run."""
    states = states_of(args)
    if args.ticket != "imp":
        return _plan_one_shot(args, states)
    lines = [f"IMP, {args.mode}: {args.arch} at {args.input_size} pixels, seed {args.seed}"]
    images = _count_folder(args.data, "train") or IMAGENET_IMAGES
    steps = args.train_step if args.mode == "adv" else 0
    lines += _inputs({"DATA/train": Path(args.data) / "train", "DATA/val": Path(args.data) / "val"})
    lines += _inputs({"--init": args.init, "--resume": args.resume, **_class_file(args)})
    if states.pretrain_epochs:
        lines.append(f"  state 0: density 100 %, {states.pretrain_epochs} epochs of dense training")
    for state in range(1, states.last + 1):
        epochs = states.first_epoch(state + 1) - states.first_epoch(state)
        lines.append(
            f"  state {state}: density {100 * (1 - args.rate) ** state:.2f} %, {epochs} epochs"
        )
    lines.append(f"  {-(-images // args.batch_size)} steps per epoch of {args.batch_size} images")
    names = [files.INIT_FILE, "args.json", "metrics.jsonl", "tb/", "accuracy_vs_density.png"]
    names += [f"{{0..{states.last + 1}}}-ticket.safetensors"]
    first = 0 if states.pretrain_epochs else 1
    names += [f"{{{first}..{states.last}}}-checkpoint.pth.tar, …-model_best.pth.tar"]
    lines += [f"writes into {args.save_dir}:", *(f"  {name}" for name in names)]
    passes = states.total_epochs * images * training_passes(steps)
    # A checkpoint is weights, momentum and masks (a byte each), a best one without the momentum.
    kept = states.last if args.keep == "all" else 1
    copies = 1 + kept * (2.25 + 1.25) + 2.25 + (states.last + 2) / 32
    lines += _cost(args, passes, 1000, copies)
    return "\n".join(lines + _timed(args, states.total_epochs * images, classes=1000))


def _plan_one_shot(args: argparse.Namespace, states: States) -> str:
    tickets = f"  {{0..{states.last + 1}}}-ticket.safetensors"
    return "\n".join(
        [
            f"{args.ticket}: {args.arch}, seed {args.seed}; no data, no training",
            *_inputs({"--init": args.init}),
            f"writes into {args.save_dir}:",
            f"  {files.INIT_FILE}",
            "  args.json",
            tickets,
        ]
    )


def plan_transfer(args: argparse.Namespace) -> str:
    """The plan of a transfer run, or of testing one."""
    if args.evaluate:
        return _plan_evaluation(args)
    adversarial = args.mode == "adv"
    stored = args.dataset.split("_")[0]
    train, val, test = IMAGES.get(stored) or _folder_images(args.data)
    train = max(int(train * args.data_number), 1)
    evaluations = args.epochs - min(args.eval_from, args.epochs - 1)
    lines = [
        f"transfer, {args.mode}: {args.arch} to {args.dataset} at {args.input_size} pixels, "
        f"seed {args.seed}",
        *_inputs({"--data": args.data if args.dataset != "digits" else None, "--init": args.init}),
        *_inputs({"--tickets_file": args.tickets_file, "--resume": args.resume}),
        *_inputs({"--masking_source": args.masking_source, **_class_file(args)}),
        f"  {args.epochs} epochs of {-(-train // args.batch_size)} steps of {args.batch_size}",
        f"  {evaluations} evaluations on {val} validation images, a final test on {test}",
    ]
    names = ["args.json", "metrics.jsonl", "tb/", files.TRANSFER_FILE, files.SA_BEST_FILE]
    names += [files.RA_BEST_FILE] if adversarial else []
    names += [f"{{1..{args.epochs}}}-checkpoint.pth.tar"] if args.save_all else []
    names += ["net_train.png", "results.json"]
    lines += [f"writes into {args.save_dir}:", *(f"  {name}" for name in names)]
    train_passes = args.epochs * train * training_passes(args.train_step if adversarial else 0)
    each = 2 + attack_passes(args.test_step) if adversarial else 1
    passes = train_passes + each * (evaluations * (val if adversarial else val + test) + 3 * test)
    copies = 2 * 2.25 + 1.25 * (1 + adversarial) + 1.25 * args.epochs * args.save_all
    lines += _cost(args, passes, 10, copies)
    return "\n".join(lines + _timed(args, args.epochs * train, classes=10))


def _plan_evaluation(args: argparse.Namespace) -> str:
    kind, path = args.eval_set
    checkpoint = args.resume if args.resume not in (None, "auto") else None
    asked = {"--eval_attack": args.eval_attack, "--check_masking": args.check_masking or None}
    lines = [f"evaluation of a checkpoint on {kind}", *_inputs({"--eval_set": path})]
    lines += _inputs({"--resume": checkpoint or Path(args.save_dir) / files.TRANSFER_FILE})
    lines += _inputs({"--masking_source": args.masking_source})
    lines += [f"  {name} {value}" for name, value in asked.items() if value]
    lines += [f"writes into {args.save_dir}:", "  eval.json"]
    return "\n".join(lines + ([f"and {args.save_adv}"] if args.save_adv else []))


def _cost(args: argparse.Namespace, passes: int, classes: int, copies: float) -> list[str]:
    """Lines of the estimates; `copies`: the run's files, in units of the network's weights."""
    model = build_model(args.arch, classes, (0.5,) * 3, (0.5,) * 3, args.stem, args.width)
    flops = estimate_flops(model, args.input_size) * passes
    weights = 4 * sum(p.numel() for p in model.parameters())
    images = args.micro_batch or args.batch_size
    activations = images * estimate_activations(model, args.input_size)
    return [
        f"cost (estimate from FLOPs): {passes:.3g} passes of one image, {flops:.2g} FLOP, "
        f"{flops / ASSUMED_RATE / 3600:.2g} GPU-hours at {ASSUMED_RATE / 1e12:.0f} TFLOP/s",
        f"memory (estimate): {3.25 * weights / 1e9:.2g} GB for weights, gradients, momentum and "
        f"masks, {activations / 1e9:.2g} GB for {images} images per pass (--micro_batch N: fewer)",
        f"disk (estimate): {copies * weights / 1e9:.2g} GB",
    ]


def _timed(args: argparse.Namespace, images: int, classes: int) -> list[str]:
    """Hours of training `images` images in all, from a few steps on random ones."""
    if not args.time_it:
        return []
    execution = Execution(
        torch.device("cuda" if torch.cuda.is_available() and args.device != "cpu" else "cpu"),
        **parsing.execution_options(args),
    )
    model = build_model(args.arch, classes, (0.5,) * 3, (0.5,) * 3, args.stem, args.width)
    execution.place(model).train()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, args.momentum)
    attack = PGDConfig(args.train_eps, args.train_step, args.train_gamma, args.train_randinit)
    perturb = make_pgd(model, attack) if args.mode == "adv" else None
    count = min(args.micro_batch or args.batch_size, TIMED_IMAGES)
    batch = execution.images(torch.rand(count, 3, args.input_size, args.input_size))
    labels = torch.randint(classes, (count,), device=execution.device)
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        loss, _ = training_step(model, batch, labels, optimizer, execution, perturb)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    rate = count / min(seconds)
    return [
        f"timed here: {rate:.3g} images/s in steps of {count} random images on {execution.device}: "
        f"{images / rate / 3600:.3g} hours of training on one such device, evaluation aside"
    ]


def _inputs(paths: dict[str, Any]) -> list[str]:
    """A line for each path; --resume auto and weights that --init has fetched are none."""
    return [
        f"  {name} {path}" + ("" if Path(path).exists() else "   <- MISSING")
        for name, path in paths.items()
        if path and path != "auto" and not is_fetched(str(path))
    ]


def _class_file(args: argparse.Namespace) -> dict[str, str | None]:
    return {"--classes": None if args.classes is None or args.classes.isdigit() else args.classes}


def _folder_images(root: str) -> tuple[int, int, int]:
    """Images in train, val and test of class folders; one that is not there is made of another."""
    train, test = _count_folder(root, "train"), _count_folder(root, "test")
    val = _count_folder(root, "val") or _count_folder(root, "validation")
    if val == 0:
        val = train // 10
        train -= val
    return train, val, test or val


def _count_folder(root: str, part: str) -> int:
    folder = Path(root) / part
    if not folder.is_dir():
        return 0
    try:
        return sum(1 for path in folder.glob("*/*") if path.is_file())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error})") from error
