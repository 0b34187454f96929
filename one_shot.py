"""OMP and random tickets: baselines for IMP that need neither data nor training.

OMP (one-shot magnitude pruning) prunes the pre-trained weights to the density of each of IMP's
states; random tickets have masks with the same counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

import pruning_utils as pruning
from cli.plan import states_of
from dataset import mean_std
from engine.distributed import seed_everything
from engine.log import say
from engine.run_folder import run_folder
from errors import InputError
from files import checkpoints as files
from files.atomic import sha256_of
from models import build_model, count_classes, load_pretrained, weights_file


def prune_without_training(args: argparse.Namespace) -> None:
    """OMP and random tickets: the initial weights pruned to the densities of IMP's states."""
    seed_everything(args.seed)
    save_dir, last = Path(args.save_dir), states_of(args).last
    if args.resume and (save_dir / files.ticket_name(last + 1)).is_file():
        return say(f"{save_dir}: this run is finished; nothing to do")
    path = init_file(args)
    mean, std = (args.mean, args.std) if args.mean else mean_std("imagenet")
    model = build_model(
        args.arch, count_classes(path, args.arch, args.init_key), mean, std, args.stem, args.width
    )
    load_pretrained(model, path, key=args.init_key)
    with run_folder(save_dir, vars(args), resume=args.resume is not None):
        write_tickets(args, model, last)
    return say(f"done: {last + 2} {args.ticket} tickets in {save_dir}")


def write_tickets(args: argparse.Namespace, model: nn.Module, last: int) -> None:
    """Tickets 0 to last + 1 of an untrained network, each pruned from the one before."""
    save_dir = Path(args.save_dir)
    files.save_checkpoint(save_dir / files.INIT_FILE, model.state_dict())
    sha256 = sha256_of(save_dir / files.INIT_FILE)
    prune = pruning.pruning_model if args.ticket == "omp" else pruning.pruning_model_random
    for state in range(last + 2):
        if state > 0:
            prune(model, args.rate)
        density = pruning.check_sparsity_mask(pruning.masks(model)) / 100
        say(f"state {state}: density {100 * density:.2f} %")
        files.save_ticket(
            save_dir / files.ticket_name(state),
            pruning.masks(model),
            arch=args.arch,
            state=state,
            density=density,
            init_sha256=sha256,
            kind=args.ticket,
        )


def init_file(args: argparse.Namespace) -> Path:
    if args.init is None:
        raise InputError(f"--ticket {args.ticket} prunes pre-trained weights: name them by --init")
    found = weights_file(args.init, args.arch)
    if found.note:
        say(f"init: {found.note}")
    return found.path
