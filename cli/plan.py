"""From flags to the plan of a run: what it would do, write and cost (`--dry_run`)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from cli import build, folders, networks
from cli.run_plan import ASSUMED_RATE, Cost, Input, PlannedState, RunPlan, Timing, Written
from cli.salvage import state_given
from dataset import Counts, count_images
from dataset import is_fetched as is_data_fetched
from engine.launching import takes_cuda
from engine.schedules import States
from engine.steps import training_step
from engine.training import check_batch
from files import names
from files.results import IMP
from input_pipeline.loader import check_batch_size, training_batches
from models import build_model, estimate_activations, estimate_flops, is_fetched

TIMED_STEPS, TIMED_IMAGES = 4, 64  # of --time_it


def attack_passes(steps: int) -> int:
    """Network passes of a PGD attack: each step is one forward and one backward to the image."""
    return 2 * steps


def training_passes(steps: int) -> int:
    """Passes per training image: the attack, a forward, a backward to inputs and one to weights."""
    return attack_passes(steps) + 3


def plan_imp(args: argparse.Namespace) -> RunPlan:
    """The plan of a ticket search (IMP, OMP or random), or of validating a network of one."""
    if args.evaluate:
        return _plan_validation(args)
    states = build.states(args)
    networks.refuse_too_many_prunes(_network(args), args.rate, states.last + 1)
    if args.ticket != IMP:
        return _plan_one_shot(args, states)
    counted = count_images(build.data_spec(args))
    images, validated = (counted.train, counted.val) if counted else (0, 0)
    if counted:
        _check_batch(args, images, counted.classes)
    steps = args.train_step if args.mode == "adv" else 0
    done = states.first_epoch(state_given(args))  # by the run of --continue_from
    epochs = states.total_epochs - done
    passes = epochs * (images * training_passes(steps) + validated)
    # A checkpoint is weights, momentum and masks (a byte each), a best one without the momentum.
    trained = states.last + (states.pretrain_epochs > 0)  # state 0 among them
    kept = trained if args.keep == "all" else 1
    copies = 1 + kept * (2.25 + 1.25) + 2.25 + (states.last + 2) / 32
    return RunPlan(
        task="imp",
        settings=f"IMP, {args.mode}: {args.arch} at {args.input_size} pixels, seed {args.seed}",
        inputs=_inputs(
            {
                **_image_folders(args),
                **_given(args, "init", "resume", "continue_from"),
                "--classes": _class_file(args),
            }
        ),
        states=_planned_states(states, args.rate, state_given(args)),
        epochs=epochs,
        epochs_taken=done,
        steps_per_epoch=_steps(args, images),
        batch_size=_global_batch(args),
        save_dir=args.save_dir,
        writes=_imp_files(states, args.keep),
        last_ticket=states.last + 1,
        cost=_cost(args, passes, 1000, copies),
        timed=_timed(args, epochs * images, passes, classes=1000),
    )


def _plan_validation(args: argparse.Namespace) -> RunPlan:
    named = args.resume if args.resume not in (None, "auto") else None
    newest = folders.search_folder(args).newest(Path(args.save_dir))
    first = str(Path(args.save_dir) / names.imp_checkpoint(1))  # for the line that it is missing
    checkpoint = named or newest or (None if args.init else first)
    return RunPlan(
        task="evaluation",
        settings="evaluation of a network on DATA/val",
        inputs=_inputs(
            {
                **_image_folders(args),
                **({"--resume": str(checkpoint)} if checkpoint else _given(args, "init")),
                "--classes": _class_file(args),
            }
        ),
        save_dir=args.save_dir,
        writes=_files(names.EVALUATION),
    )


def _image_folders(args: argparse.Namespace) -> dict[str, str]:
    return {f"DATA/{part}": str(Path(args.data) / part) for part in ("train", "val")}


def _planned_states(states: States, rate: float, first: int) -> tuple[PlannedState, ...]:
    trained = range(first or (0 if states.pretrain_epochs else 1), states.last + 1)
    return tuple(
        PlannedState(k, (1 - rate) ** k, states.first_epoch(k + 1) - states.first_epoch(k))
        for k in trained
    )


def _imp_files(states: States, keep: str) -> tuple[Written, ...]:
    """What a search leaves in the end."""
    first = {"all": 0 if states.pretrain_epochs else 1, "last": states.last}.get(keep)
    checkpoints = (names.imp_checkpoint, names.imp_best)
    return (
        *_files(names.INIT, names.ARGS, names.METRICS, f"{names.BOARD}/", names.ACCURACY_PLOT),
        _numbered(0, states.last + 1, names.ticket),
        *(() if first is None else (_numbered(first, states.last, *checkpoints),)),
    )


def _plan_one_shot(args: argparse.Namespace, states: States) -> RunPlan:
    tickets = _numbered(0, states.last + 1, names.ticket)
    return RunPlan(
        task=args.ticket,
        settings=f"{args.ticket}: {args.arch}, seed {args.seed}; no data, no training",
        inputs=_inputs(_given(args, "init")),
        save_dir=args.save_dir,
        writes=(*_files(names.INIT, names.ARGS), tickets),
        last_ticket=states.last + 1,
    )


def plan_transfer(args: argparse.Namespace) -> RunPlan:
    """The plan of a transfer run, or of testing one."""
    if args.evaluate:
        return _plan_evaluation(args)
    adversarial = args.mode == "adv"
    asked = build.request(args)
    to_be_fetched = is_data_fetched(args.dataset) and not Path(args.data).exists()
    counted = count_images(build.data_spec(args))
    train, val, test, shared, classes = counted or Counts(0, 0, 0)
    if counted:
        _check_batch(args, train, classes)
    evaluations = args.epochs - min(args.eval_from, args.epochs - 1)
    validated = val if adversarial or shared else val + test
    attack = 1 + attack_passes(args.test_step)
    passes = args.epochs * train * training_passes(args.train_step if adversarial else 0)
    passes += evaluations * validated * (1 + attack * adversarial)
    tests = {"--eval_attack autoattack": asked.autoattack, "--check_masking": asked.check_masking}
    beyond = [flag for flag, is_asked in tests.items() if is_asked]
    networks = 3 if adversarial else 2  # best by RA, best by SA, last
    passes += networks * test * (1 + attack * asked.restarts * asked.attacked)
    copies = 2 * 2.25 + 1.25 * (1 + adversarial) + 1.25 * args.epochs * args.save_all
    return RunPlan(
        task="transfer",
        settings=f"transfer, {args.mode}: {args.arch} to {args.dataset} at {args.input_size} "
        f"pixels, seed {args.seed}",
        inputs=_inputs(
            {
                "--data": None if args.dataset == "digits" or to_be_fetched else args.data,
                **_given(args, "init", "tickets_file", "resume", "masking_source"),
                "--classes": _class_file(args),
            }
        ),
        epochs=args.epochs,
        steps_per_epoch=_steps(args, train) if counted else None,
        batch_size=_global_batch(args),
        evaluations=evaluations,
        validation_images=val if counted else None,
        test_images=test if counted else None,
        tests=dict.fromkeys(beyond, "(its cost is not estimated)"),
        save_dir=args.save_dir,
        writes=_transfer_files(args, adversarial),
        cost=_cost(args, passes, 10, copies) if counted else None,
        timed=_timed(args, args.epochs * train, passes, classes=10) if counted else None,
    )


def _transfer_files(args: argparse.Namespace, adversarial: bool) -> tuple[Written, ...]:
    first = (names.ARGS, names.METRICS, f"{names.BOARD}/", names.CHECKPOINT, names.SA_BEST)
    last = args.epochs - 1
    return (
        *_files(*first, *([names.RA_BEST] if adversarial else [])),
        *([_numbered(0, last, names.epoch_checkpoint)] if args.save_all else []),
        *_files(names.CURVES_PLOT, names.OUTCOMES, names.RESULTS),
    )


def _plan_evaluation(args: argparse.Namespace) -> RunPlan:
    kind, path = args.eval_set
    checkpoint = args.resume if args.resume not in (None, "auto") else None
    tests = {"--eval_attack": args.eval_attack, "--check_masking": args.check_masking or None}
    written = (names.EVALUATION, *((names.EVALUATION_OUTCOMES,) if kind == "test" else ()))
    return RunPlan(
        task="evaluation",
        settings=f"evaluation of a checkpoint on {kind}",
        inputs=_inputs(
            {
                "--eval_set": path,
                "--resume": checkpoint or str(Path(args.save_dir) / names.CHECKPOINT),
                "--masking_source": args.masking_source,
            }
        ),
        tests={name: value for name, value in tests.items() if value},
        save_dir=args.save_dir,
        writes=_files(*written),
        writes_elsewhere=args.save_adv or None,
    )


# --- parts ----------------------------------------------------------------------------------------


def _check_batch(args: argparse.Namespace, images: int, classes: int) -> None:
    """Raise InputError where there surely are too few images, whatever a class was rounded by."""
    batch_size = _global_batch(args)
    check_batch_size(batch_size, train=True)
    if batch_size > images + classes:
        check_batch(batch_size, images, _nodes(args))


def _nodes(args: argparse.Namespace) -> int:
    return args.world_size if args.multiprocessing_distributed else 1


def _processes(args: argparse.Namespace) -> int:
    """Of a node, as far as the flags say; how many GPUs there will be is not known here."""
    return args.nproc or 1 if args.multiprocessing_distributed else 1


def _global_batch(args: argparse.Namespace) -> int:
    """The images of a step over all nodes."""
    return args.batch_size * _nodes(args)


def _steps(args: argparse.Namespace, images: int) -> int:
    """Of an epoch."""
    return training_batches(images, _global_batch(args), _nodes(args) * _processes(args))


def _files(*found: str) -> tuple[Written, ...]:
    return tuple(Written(name, (name,)) for name in found)


def _numbered(first: int, last: int, *makers: Callable[[int], str]) -> Written:
    """The files that `makers` name for every number; in the text `{first..last}` as in bash."""
    suffixes = [make(0).removeprefix("0") for make in makers]
    text = f"{{{first}..{last}}}" + ", …".join(suffixes)
    return Written(text, tuple(make(k) for make in makers for k in range(first, last + 1)))


def _inputs(paths: Mapping[str, str | None]) -> tuple[Input, ...]:
    """Every path that is one: --resume auto and weights that --init fetches are none."""
    return tuple(
        Input(name, path, not Path(path).exists())
        for name, path in paths.items()
        if path and path != "auto" and not is_fetched(str(path))
    )


def _given(args: argparse.Namespace, *flags: str) -> dict[str, str | None]:
    return {f"--{flag}": getattr(args, flag) for flag in flags}


def _class_file(args: argparse.Namespace) -> str | None:
    return None if args.classes is None or args.classes.isdigit() else args.classes


def _network(args: argparse.Namespace, classes: int = 1000) -> nn.Module:
    return build_model(args.arch, classes, (0.5,) * 3, (0.5,) * 3, args.stem, args.width)


def _cost(args: argparse.Namespace, passes: int, classes: int, copies: float) -> Cost:
    """Estimates; `copies` is the size of the run's files in units of the network's weights."""
    model = _network(args, classes)
    flop = estimate_flops(model, args.input_size) * passes
    weights = 4 * sum(p.numel() for p in model.parameters())
    images = build.images_per_pass(args, _processes(args))
    return Cost(
        passes=passes,
        flop=flop,
        gpu_hours=flop / ASSUMED_RATE / 3600,
        network_bytes=3.25 * weights,
        activation_bytes=images * estimate_activations(model, args.input_size),
        images_per_pass=images,
        disk_bytes=copies * weights,
    )


def _timed(args: argparse.Namespace, images: int, passes: int, classes: int) -> Timing | None:
    """Time a few steps on random images, if asked to.

    Args:
        images: trained on in the whole run.
        passes: of one image through the network in the whole run, evaluation included.
    """
    if not args.time_it:
        return None
    cuda = takes_cuda(args.device)
    execution = build.execution(args, torch.device("cuda" if cuda else "cpu"))
    model = _network(args, classes)
    execution.place(model).train()
    optimizer = build.optimizer(args, model, execution)
    perturb = build.train_attack(args, model, execution)
    count = min(build.images_per_pass(args, _processes(args)), TIMED_IMAGES)
    batch = execution.images(torch.rand(count, 3, args.input_size, args.input_size))
    labels = torch.randint(classes, (count,), device=execution.device)
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        loss, _ = training_step(model, batch, labels, optimizer, execution, perturb)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    rate = count / min(seconds)
    each = training_passes(args.train_step if args.mode == "adv" else 0)
    hours, whole_hours = images / rate / 3600, passes / each / rate / 3600
    return Timing(str(execution.device), count, rate, hours, whole_hours)
