"""OMP and random tickets: baselines for IMP that need neither data nor training.

OMP (one-shot magnitude pruning) prunes the pre-trained weights to the density of each of IMP's
states; random tickets have masks with the same counts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import nn

import pruning_utils as pruning
from cli import build, folders, networks
from cli.flags import FILES
from engine.distributed import seed_everything
from engine.log import Warnings, say
from engine.run_folder import WARNINGS, holding
from errors import InputError
from files import imp_run, names
from files.tickets import save_ticket
from models import build_model, classes_and_stem

# By --ticket: prunes a fraction of the weights that a model has left, brings none back, and leaves
# as many as IMP does. A layer-wise kind would first make the scores of all layers comparable.
PRUNE = {"omp": pruning.prune_by_magnitude, "random": pruning.prune_at_random}


def prune_without_training(args: argparse.Namespace) -> None:
    """OMP and random tickets: the initial weights pruned to the densities of IMP's states."""
    seed_everything(args.seed)
    folder, last = folders.search_folder(args), build.states(args).last
    replace(folder, free={*folder.free, "stem"}).check()  # which the weights tell, below
    if folder.is_finished():
        return
    if args.init is None:
        raise InputError(f"--ticket {args.ticket} prunes pre-trained weights: name them by --init")
    path = networks.init_file(args)
    mean, std = networks.normalization(args, "imagenet")
    classes, stem = classes_and_stem(path, args.arch, args.init_key)
    args.stem = args.stem or stem
    model = build_model(args.arch, classes, mean, std, args.stem, args.width)
    warnings = Warnings(args.notes)
    loaded = networks.load_init(model, path, args, warnings)
    networks.refuse_pruned(args.init, loaded)
    networks.refuse_too_many_prunes(model, args.rate, last + 1)
    facts = {"init_sha256": networks.trunk_sha256(model, loaded), WARNINGS: warnings.lines}
    contents = folders.contents_of_files(args, FILES)
    with holding(replace(folder, contents=contents, facts=facts)):
        write_tickets(args, model, last, warnings)
        folder.record(warnings.lines)
    say(f"done: {last + 2} {args.ticket} tickets in {folder.path}")


def write_tickets(
    args: argparse.Namespace, model: nn.Module, last: int, warnings: Warnings
) -> None:
    """Tickets 0 to last + 1 of an untrained network, each pruned from the one before."""
    save_dir = Path(args.save_dir)
    init = imp_run.save_initial_weights(save_dir, model.state_dict())
    weights_sha256 = networks.initial_sha256(model, model.state_dict())
    for state in range(last + 2):
        if state > 0:
            PRUNE[args.ticket](model, args.rate)
        masks = pruning.masks(model)
        density = pruning.percent_left_in(masks) / 100
        say(f"state {state}: density {100 * density:.2f} %")
        networks.warn_of_empty_layers(model, state, warnings)
        save_ticket(
            save_dir / names.ticket(state),
            masks,
            arch=args.arch,
            state=state,
            density=density,
            init_sha256=init["sha256"],
            weights_sha256=weights_sha256,
            kind=args.ticket,
        )
