"""--continue_from: a ticket search goes on from a ticket where its run's checkpoints are lost."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from attack_utils import draw_noise
from cli import build, folders
from cli.flags import OF_INIT
from engine.distributed import Runtime
from engine.log import Warnings
from engine.sharing import share
from engine.training import Training
from errors import InputError
from files import names
from files.metrics import read_metrics
from files.results import IMP
from files.run_args import PROCESSES, read_args
from files.salvage import Salvaged, salvage
from files.tickets import read_ticket
from models import draws_in_training


def name_initial_weights(args: argparse.Namespace) -> None:
    """Let --init be the initial weights: those beside the ticket, if it was left out.

    They are taken as they are, whatever the ticket's run made of the file that it began with.
    """
    if args.continue_from is None:
        return
    if args.ticket != IMP:
        raise InputError(f"--continue_from goes with --ticket imp, not {args.ticket}")
    vars(args).update(OF_INIT)  # no matter of the initial weights, which a run wrote itself
    beside = _beside(args)
    if args.init is None and beside.is_file():
        args.init = str(beside)


def _beside(args: argparse.Namespace) -> Path:
    return Path(args.continue_from).parent / names.INIT


def state_given(args: argparse.Namespace) -> int:
    """The first state to train, for a plan: 0 where the whole run is to be done.

    A ticket of state 0 is the dense network that the initial weights belong to: state 1 is next.
    """
    path = args.continue_from
    return max(read_ticket(path).state or 0, 1) if path and Path(path).is_file() else 0


def find(args: argparse.Namespace, runtime: Runtime, warnings: Warnings) -> Salvaged | None:
    """Where a search goes on, unless there is a checkpoint to resume, which comes first.

    `warnings` is told in which flags the ticket's run differs. Raises InputError for
    files that cannot be read or do not fit, and where no state is left to be trained.
    """
    folder = folders.search_folder(args)
    if args.continue_from is None or folder.checkpoint() is not None:
        return None
    found = salvage(Path(args.continue_from), Path(args.init or _beside(args)), args.rate)
    last = build.states(args).last
    if found.state > last:
        raise InputError(
            f"--continue_from {found.path}: state {found.state} comes after the last one, {last}, "
            "so nothing is left to train; more --epochs add states"
        )
    later = names.ticket(found.state + 1)
    if found.path.resolve().parent == folder.path.resolve() and (folder.path / later).is_file():
        raise InputError(
            f"--continue_from {found.path}: {later} lies beside it and would be overwritten; go on "
            "from that, or choose another --save_dir"
        )
    _check_schedule(args, found)
    theirs = replace(folder, path=found.path.parent)
    for flag, before, now in theirs.differences():
        warnings.add(
            f"--continue_from {found.path}: its run had --{flag} {before}, not {now}; what follows "
            "may differ from that run"
        )
    before = read_args(found.path.parent).get(PROCESSES, runtime.world_size)
    if before != runtime.world_size:
        warnings.add(
            f"--continue_from {found.path}: its run had {before} processes, not "
            f"{runtime.world_size}; what follows may differ from that run"
        )
    return found


def _check_schedule(args: argparse.Namespace, found: Salvaged) -> None:
    """Raise InputError where the figures beside a ticket are of other states than by these flags.

    They would be taken over as those of the run that goes on.
    """
    states, metrics = build.states(args), found.path.parent / names.METRICS
    for line in read_metrics(metrics) if metrics.is_file() else []:
        epoch, state = line["epoch"], line.get("state")
        if epoch < first_epoch(args, found) and state not in (None, states.of(epoch)):
            raise InputError(
                f"--continue_from {found.path}: {metrics} has epoch {epoch} in state {state}, with "
                f"these flags it is of state {states.of(epoch)}; give --pretrain_epochs, --epochs "
                "and --prune_epoch of its run, or move that file away to go on without its figures"
            )


def first_epoch(args: argparse.Namespace, found: Salvaged) -> int:
    """The number of epochs that the ticket's run had done when it began the state."""
    return build.states(args).first_epoch(max(found.state, 1))


def draw_random_starts(
    args: argparse.Namespace, training: Training, epochs: int, warnings: Warnings
) -> None:
    """Draw what the attack draws in so many epochs, and let torch's generators stand as after it.

    Order and augmentation follow from seed and epoch, so nothing else in training draws from them
    but dropout, which some of timm's networks have: `warnings` is told.
    """
    if epochs and draws_in_training(training.model, args.input_size):
        warnings.add(
            f"--continue_from {args.continue_from}: {args.arch} draws random numbers in training "
            "(dropout), and not what its run would; what follows may differ from that run"
        )
    if args.mode == "std" or not args.train_randinit:
        return
    like = torch.empty(0, device=training.execution.device)
    for _ in range(epochs):
        for images in _passes(training):
            draw_noise((images, 3, args.input_size, args.input_size), like)


def _passes(training: Training) -> Iterator[int]:
    """The images of each pass of this process in an epoch."""
    rank, world = training.runtime.rank, training.runtime.world_size
    for step in range(training.steps):
        batch = training.loader.images_in_batch(step)
        images, pieces = share(batch, world, rank), training.execution.pieces(batch, world)
        yield from (share(images, pieces, piece) for piece in range(pieces))
