"""What a run is made of, built from its flags: loaders, attacks, the optimizer, tests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from attack_utils import CHECKED_EVERY, Perturb, PGDConfig, checked, make_pgd
from dataset import DataSpec, build_loaders
from engine import sharing
from engine.data_warnings import warn_of_notes
from engine.distributed import (
    Runtime,
    configure_torch,
    main_first,
    seed_everything,
)
from engine.launching import Launch
from engine.log import Warnings, say, warn
from engine.schedules import Schedule, States
from engine.steps import AMP, Execution, make_sgd
from engine.training import StopSignals, Training
from evaluation.evaluator import Evaluator, Watch
from evaluation.request import Request
from files.run_args import read_args, recorded_batch, recorded_processes
from input_pipeline.loader import Loader

# --- how to run -----------------------------------------------------------------------------------


def launch_options(args: argparse.Namespace) -> Launch:
    return Launch(
        device=args.device,
        gpu=args.gpu,
        spawn=args.multiprocessing_distributed,
        world_size=args.world_size,
        rank=args.rank,
        dist_url=args.dist_url,
        dist_backend=args.dist_backend,
        nproc=args.nproc,
        begun_with=recorded_processes(folder) if (folder := begun_in(args)) else None,
        timeout=args.dist_timeout,
    )


def set_up_process(args: argparse.Namespace) -> None:
    """Threads, allocator and seed: what every process of a run does first."""
    configure_torch(args.threads, args.tf32)
    seed_everything(args.seed)


def execution(args: argparse.Namespace, device: torch.device) -> Execution:
    return Execution(
        device,
        args.channels_last,
        AMP[args.amp],
        args.micro_batch,
        args.compile,
        args.cuda_graphs,
    )


def images_per_pass(args: argparse.Namespace, processes: int) -> int:
    """How many images go through a network at once where `processes` share a node's batch."""
    return sharing.images_per_pass(args.batch_size, processes, args.micro_batch)


def goes_on(args: argparse.Namespace) -> bool:
    """Whether a run that was begun, if there is one in --save_dir, is to be trained further."""
    return args.resume is not None and not args.evaluate


def begun_in(args: argparse.Namespace) -> Path | None:
    """The folder with the `args.json` of the run that goes on, from a checkpoint or a ticket."""
    folders = []
    if goes_on(args):
        folders.append(Path(args.save_dir))
        if args.resume != "auto":
            folders.append(Path(args.resume).parent)
    if ticket := getattr(args, "continue_from", None):  # a flag of searches
        folders.append(Path(ticket).parent)
    return next((folder for folder in folders if read_args(folder)), None)


def shared_out(batch: int, processes: int, micro_batch: int | None) -> str:
    """How a step's images are shared out, in words."""
    passes = sharing.passes(batch, processes, micro_batch)
    words = f"{batch} images a step"
    if processes > 1:
        words += f", {sharing.share(batch, processes)} for each of {processes} processes (--nproc)"
    if passes > 1:
        each = sharing.images_per_pass(batch, processes, micro_batch)
        words += f", in {passes} passes of {each} (--micro_batch)"
    return words


# --- data -----------------------------------------------------------------------------------------


def data_spec(args: argparse.Namespace) -> DataSpec:
    """The data set of a transfer, or the pre-training task of a ticket search."""
    search = not hasattr(args, "dataset")
    return DataSpec(
        "imagenet" if search else args.dataset,
        args.data,
        args.input_size,
        args.augment,
        args.hflip,
        data_number=1.0 if search else args.data_number,
        classes=args.classes,
        skip_bad=args.skip_bad,
    )


def source_loaders(
    args: argparse.Namespace, runtime: Runtime, warnings: Warnings
) -> tuple[Loader, Loader]:
    """Training and validation images of the pre-training task."""
    train, val, _ = _loaders(args, runtime, warnings, source_eval_batch(args))
    say(
        f"data: {train.num_images} training and {val.num_images} validation images, "
        f"{train.num_classes} classes"
    )
    return train, val


def source_eval_batch(args: argparse.Namespace) -> int:
    return min(args.batch_size, 256)


def target_loaders(
    args: argparse.Namespace, runtime: Runtime, warnings: Warnings
) -> tuple[Loader, Loader, Loader]:
    """Training, validation and test images of a transfer."""
    _compare_eval_batch(args, warnings)
    train, val, test = _loaders(args, runtime, warnings, args.eval_batch_size)
    assert test is not None  # only an ImageNet layout has none
    images = f"{val.num_images} validation and {test.num_images} test images"
    if test is val:
        images = f"{val.num_images} validation images, which are the test images too"
    say(f"data: {args.dataset}, {train.num_images} training, {images}, {train.num_classes} classes")
    if test is val or _are_the_same(val, test):
        warnings.add(
            "data: the test images are the validation images, by which the best network is chosen: "
            "accuracies are too good by that choice"
        )
    return train, val, test


def _are_the_same(one: Loader, other: Loader) -> bool:
    """Whether two splits hold the same images, if in copies; read whole only where they may."""
    return one.sampled() == other.sampled() and one.fingerprint() == other.fingerprint()


def _loaders(
    args: argparse.Namespace, runtime: Runtime, warnings: Warnings, eval_batch_size: int
) -> tuple[Loader, Loader, Loader | None]:
    with main_first():
        loaders = build_loaders(
            data_spec(args),
            batch_size=_global_batch(args, runtime, warnings),
            eval_batch_size=eval_batch_size,
            workers=args.workers,
            processes=runtime.processes_here,
            threads=args.threads,
            seed=args.seed,
            pin_memory=runtime.device.type == "cuda",
            tell=warn,
        )
    warn_of_notes(warnings, loaders[0])
    return loaders


def _global_batch(args: argparse.Namespace, runtime: Runtime, warnings: Warnings) -> int:
    """The images of a step over all nodes; a run that is resumed keeps the number it began with."""
    asked = args.batch_size * runtime.nodes
    folder = begun_in(args)
    kept = recorded_batch(folder) if folder else None
    is_own_choice = folder and read_args(folder).get("batch_size") != args.batch_size
    if kept is None or kept == asked or is_own_choice:
        return asked
    warnings.add(
        f"the run began with steps of {kept} images over all nodes and keeps them: "
        f"{kept / runtime.world_size:g} for each of now {runtime.world_size} processes"
    )
    return kept


def _compare_eval_batch(args: argparse.Namespace, warnings: Warnings) -> None:
    """Warn where a run goes on with evaluation batches on which the figures of attacks depend."""
    folder = begun_in(args)
    before = read_args(folder).get("eval_batch_size") if folder else None
    asked = request(args)
    if before not in (None, args.eval_batch_size) and (asked.attacked or asked.further):
        warnings.add(
            f"--eval_batch_size {args.eval_batch_size}: the run began with {before}; attacks draw "
            "their random starts batch by batch, so RA may differ a little from a run left alone"
        )


# --- training -------------------------------------------------------------------------------------


def states(args: argparse.Namespace) -> States:
    return States(args.pretrain_epochs, args.epochs, args.prune_epoch)


def schedule(args: argparse.Namespace, epochs: int) -> Schedule:
    return Schedule(args.lr_schedule, args.lr, epochs, args.decreasing_lr, args.warmup)


def optimizer(args: argparse.Namespace, model: nn.Module, execution: Execution) -> Optimizer:
    return make_sgd(model, args.lr, args.momentum, args.weight_decay, execution)


def train_attack_config(args: argparse.Namespace) -> PGDConfig:
    return PGDConfig(args.train_eps, args.train_step, args.train_gamma, args.train_randinit)


def train_attack(
    args: argparse.Namespace, model: nn.Module, execution: Execution
) -> Perturb | None:
    """PGD on the network in training, its output looked at now and then; None in --mode std."""
    if args.mode == "std":
        return None
    attack = train_attack_config(args)
    perturb = make_pgd(model, attack, execution.loss_scale)
    return checked(perturb, attack.eps, every=CHECKED_EVERY)


def training(
    args: argparse.Namespace,
    runtime: Runtime,
    execution: Execution,
    model: nn.Module,
    loader: Loader,
    *,
    stop: StopSignals,
    save: Callable[[], None],
) -> Training:
    """The network's training."""
    return Training(
        model,
        optimizer(args, model, execution),
        loader,
        execution,
        runtime,
        train_attack(args, model, execution),
        stop=stop,
        save=save,
        save_every=args.save_every_steps,
        print_freq=args.print_freq,
    )


def device_line(runtime: Runtime, execution: Execution, batch: int) -> str:
    """Which device trains, and how the images of a step are shared out.

    Args:
        batch: the images of a step over all processes.
    """
    on_cpu = execution.device.type == "cpu" and not torch.cuda.is_available()
    device = "the CPU, PyTorch sees no CUDA" if on_cpu else execution.device
    return f"device: {device}; {shared_out(batch, runtime.world_size, execution.micro_batch)}"


# --- tests ----------------------------------------------------------------------------------------


def source_evaluator(
    args: argparse.Namespace, runtime: Runtime, watch: Watch | None = None
) -> Evaluator:
    """How the networks of a ticket search are measured: clean images alone."""
    return Evaluator(
        runtime,
        execution(args, runtime.device),
        seed=args.seed,
        batch_size=source_eval_batch(args),
        advice=_source_advice(args),
        workers=args.workers,
        threads=args.threads,
        print_freq=args.print_freq,
        watch=watch,
    )


def _source_advice(args: argparse.Namespace) -> str:
    """What to try where the validation of a search runs out of memory, which has no flag for it."""
    fewer = f"-b {max(1, source_eval_batch(args) // 2)}"
    if args.evaluate:
        return f"in validation, try {fewer}"
    return (
        f"in validation, take a device with more memory, or {fewer} and another --save_dir: -b is "
        "the images of a step too"
    )


def target_evaluator(
    args: argparse.Namespace, runtime: Runtime, watch: Watch | None = None
) -> Evaluator:
    """How the networks of a transfer are measured."""
    return Evaluator(
        runtime,
        execution(args, runtime.device),
        PGDConfig(args.test_eps, args.test_step, args.test_gamma, args.test_randinit),
        seed=args.seed,
        batch_size=args.eval_batch_size,
        advice=f"in evaluation, try --eval_batch_size {max(1, args.eval_batch_size // 2)}; it may "
        "differ when a run goes on by --resume",
        workers=args.workers,
        threads=args.threads,
        print_freq=args.print_freq,
        watch=watch,
    )


def request(args: argparse.Namespace) -> Request:
    """What a transfer is asked to test."""
    return Request(
        attacked=args.mode == "adv" or args.eval_attack is not None,
        asked=args.eval_attack is not None,
        autoattack=args.eval_attack == "autoattack",
        check_masking=args.check_masking,
        masking_source=args.masking_source,
        images=args.eval_images,
        restarts=args.restarts,
        random_start=args.test_randinit,
        evaluate=args.evaluate,
        eval_set=args.eval_set,
        save_adv=args.save_adv,
    )
