"""The network that a run starts from, built from its flags: its weights, and its ticket's masks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import pruning_utils as pruning
from cli.flags import NETWORK_FILES
from dataset import mean_std
from engine.data_warnings import RESET, compare_classes
from engine.distributed import main_first
from engine.log import Warnings, say
from engine.run_folder import RunFolder
from engine.steps import Execution
from errors import InputError
from evaluation.tested import NetworkFile
from files import names
from files.atomic import sha256_of
from files.fingerprints import weights_sha256
from files.results import IMP
from files.run_args import args_if_readable
from files.tickets import Ticket
from input_pipeline.loader import Loader
from models import (
    Loaded,
    build_model,
    check_input_size,
    classifier,
    compile_passes,
    fit_masks,
    is_arch,
    load_pretrained,
    synchronised,
    weights_file,
)

FOR_TRANSFER = {"fc": "drop", "stem": "fresh", "normalization": "keep"}
SHOWN = 3  # layers that a line names
FEW_ZEROS = 5.0  # percent of the weights; more look like masks that were multiplied in


def source_network(
    args: argparse.Namespace, loader: Loader, execution: Execution, warnings: Warnings
) -> tuple[nn.Module, str | None]:
    """The network of a ticket search: pre-trained, or fresh for --pretrain_epochs.

    Returns:
        It, and the hash of the weights of --init, if there are any.
    """
    model, sha256 = _fresh_network(args, loader.num_classes, "imagenet"), None
    if args.init:
        fc = "drop" if args.reset_fc else "strict"
        loaded = load_init(model, init_file(args), args, warnings, fc=fc)
        if loaded.trunk_only:
            raise InputError(
                f"--init {args.init}: {loaded.layout} can only be transferred, not pruned"
            )
        refuse_pruned(args.init, loaded)
        if not args.reset_fc:
            compare_classes(loaded.class_names, loader, f"--init {args.init}", warnings, RESET)
        sha256 = trunk_sha256(model, loaded)
    elif not args.pretrain_epochs:
        warnings.add(f"no --init: starting from random weights (seed {args.seed})")
    return _placed(model, args, execution), sha256


def target_network(
    args: argparse.Namespace,
    classes: int,
    execution: Execution,
    ticket: Ticket | None,
    warnings: Warnings,
) -> tuple[nn.Module, str | None]:
    """The pre-trained network with a fresh classifier, under the ticket's masks.

    Returns:
        It, and the hash of the weights of --init, if there are any, --reinit or not.
    """
    model, sha256 = _fresh_network(args, classes, args.dataset), None
    if args.reinit:
        say(f"re-initialised weights (seed {args.seed}); --init is not used")
        if ticket is not None and ticket.kind != IMP:
            warnings.add(
                f"--tickets_file {args.tickets_file}: of kind {ticket.kind}, and with --reinit it "
                "counts as reinit, which is the control of IMP's tickets"
            )
        sha256 = _sha256_without_use(model, args, warnings) if args.init else None
    elif args.init:
        sha256 = _load_for_transfer(model, args, ticket, warnings)
    else:
        warnings.add(f"no --init: starting from random weights (seed {args.seed})")
    if ticket is not None:
        apply_ticket(model, ticket, warnings)
    return _placed(model, args, execution), sha256


def apply_ticket(model: nn.Module, ticket: Ticket, warnings: Warnings) -> None:
    masks = fit_masks(model, ticket.masks)
    notes = (*ticket.notes, *pruning.apply_masks(model, masks))
    _compare_arch(model, ticket, len(masks), warnings)
    for note in notes:
        warnings.add(f"ticket: {note}")
    if ticket.state is None:
        state = ticket.state_at(pruning.percent_left(model) / 100)
        warnings.add(
            "ticket: the file does not say how often its weights were pruned; by its density it "
            f"counts as state {state} of --rate 0.2"
        )


def _compare_arch(model: nn.Module, ticket: Ticket, masks: int, warnings: Warnings) -> None:
    """Warn of a ticket of another network; refuse one that knows a part of this network only."""
    own, convolutions = str(getattr(model, "arch", "")), len([*pruning.convolutions(model)])
    if ticket.arch in (None, own, own.removeprefix("timm:")):
        return
    if masks < convolutions and is_arch(ticket.arch):
        raise InputError(
            f"the ticket is one of {ticket.arch}: it has masks for {masks} of the {convolutions} "
            f"convolutions of {own}; give -a {ticket.arch}"
        )
    warnings.add(f"ticket: the file says it is of {ticket.arch}; its masks are put on {own}")


def _fresh_network(args: argparse.Namespace, classes: int, dataset: str) -> nn.Module:
    mean, std = normalization(args, dataset)
    model = build_model(args.arch, classes, mean, std, args.stem, args.width)
    check_input_size(model, args.input_size)
    return model


def normalization(
    args: argparse.Namespace, dataset: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Channel means and standard deviations: the flags', else the data set's."""
    return (args.mean, args.std) if args.mean else mean_std(dataset)


def _placed(model: nn.Module, args: argparse.Namespace, execution: Execution) -> nn.Module:
    if args.sync_bn and not torch.cuda.is_available():
        raise InputError("--sync_bn needs CUDA: PyTorch's SyncBatchNorm runs on no other device")
    execution.place(synchronised(model) if args.sync_bn else model)
    if execution.compiled:
        compile_passes(model, execution.layout, execution.cuda_graphs)
    return model


# --- the weights of --init ------------------------------------------------------------------------


def init_file(args: argparse.Namespace) -> Path:
    """Where --init lies, once it is there: rank 0 fetches what must be.

    Asked for once in a run: what is fetched is hashed, and told, each time.
    """
    with main_first():
        found = weights_file(args.init, args.arch)
    if found.note:
        say(f"init: {found.note}")
    return found.path


def file_to_test(args: argparse.Namespace, folder: RunFolder) -> NetworkFile:
    """The checkpoint that --evaluate is about.

    --init_key names its entry with the weights, if not the usual one; beside --init it is --init's.
    """
    checkpoint = folder.checkpoint_to_test()
    folder.check_named(checkpoint, NETWORK_FILES)
    return _network_file(args, checkpoint, args.init_key if args.init is None else None)


def file_to_validate(args: argparse.Namespace, folder: RunFolder) -> NetworkFile:
    """The network that a search's --evaluate is about: a checkpoint, else the weights of --init."""
    named = args.resume not in (None, "auto")
    if args.init is None or named or folder.newest(folder.path) is not None:
        return file_to_test(args, folder)
    return _network_file(args, init_file(args), args.init_key)


def _network_file(args: argparse.Namespace, path: Path, key: str | None) -> NetworkFile:
    if args.recorded:
        say(args.recorded)
    return NetworkFile(path, args.arch_given, key, args.mean, args.std, args.stem_given)


def load_init(
    model: nn.Module,
    path: Path,
    args: argparse.Namespace,
    warnings: Warnings,
    ticket: Ticket | None = None,
    **how: str,
) -> Loaded:
    """Load --init, which lies at `path`, into a network; say what it is and what is left out of it.

    A `ticket` that is to be put on it accounts for weights that are exactly 0.
    """
    how = {"normalization": "keep" if args.mean else "file", **how}
    loaded = load_pretrained(model, path, key=args.init_key, **how)
    normalize = model.get_submodule("normalize")
    by = f"by {normalize.extra_repr()}"
    if not (loaded.has_constants or args.mean or args.init == "torchvision"):
        by += ", as the data set's usually are: the file does not tell its own"
    say(f"init: {path} ({loaded.layout}); images are normalised {by}")
    for note in loaded.notes:
        say(f"init: {note}")
    for warning in loaded.warnings:
        warnings.add(f"init: {warning}")
    if not loaded.masks and ticket is None:
        warn_of_zeros(args.init, model, warnings)
    return loaded


def _load_for_transfer(
    model: nn.Module, args: argparse.Namespace, ticket: Ticket | None, warnings: Warnings
) -> str:
    """Load --init but for its classifier, and return its hash."""
    path = init_file(args)
    loaded = load_init(model, path, args, warnings, ticket, **FOR_TRANSFER)
    density = loaded.percent_left
    if ticket is None and density < 100:
        warnings.add(
            f"--init {args.init}: is pruned to {density:.2f} %, but its masks are not used and the "
            f"dense network is trained; for its ticket add --tickets_file {args.init}"
        )
    sha256 = trunk_sha256(model, loaded)
    if ticket is not None:
        known = None if loaded.fresh_stem else sha256
        _compare_weights(args, path, ticket, model, known, warnings)
    return sha256


def _compare_weights(
    args: argparse.Namespace,
    path: Path,
    ticket: Ticket,
    model: nn.Module,
    sha256: str | None,
    warnings: Warnings,
) -> None:
    """Warn of a ticket that was found from other initial weights than --init, loaded into `model`.

    The file that the ticket names by its hash holds its weights, and of another file their own hash
    tells. Tickets of earlier versions lack that: then the other file does not hold them, if it has
    the name of such files, if the ticket's search trained its weights before the first prune, or if
    it began with others, as its folder says; nor if the ticket itself holds weights (a checkpoint
    of the released code does) that differ.

    Args:
        path: where --init lies.
        sha256: the hash of --init's weights; None where they were not loaded whole.
    """
    if ticket.init_sha256 == sha256_of(path):
        return
    search = args_if_readable(Path(args.tickets_file).parent) if ticket.init_sha256 else {}
    began_with, trained = search.get("init_sha256"), search.get("pretrain_epochs") not in (None, 0)
    named = ticket.init_sha256 is not None and path.name == names.INIT
    is_known = "init_sha256" in search and sha256 is not None
    if None not in (ticket.weights_sha256, sha256):
        other = ticket.weights_sha256 != sha256
    else:
        other = named or trained or (is_known and began_with != sha256)
    if other or not ticket.is_from(model.state_dict()):
        warnings.add(
            f"--tickets_file {args.tickets_file}: belongs to other initial weights than {path}; "
            f"take those that its search began with (of one by this code: {names.INIT} beside it)"
        )


def _sha256_without_use(
    model: nn.Module, args: argparse.Namespace, warnings: Warnings
) -> str | None:
    """The hash that --init has without --reinit; the model stays as it is."""
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        loaded = load_pretrained(model, init_file(args), key=args.init_key, **FOR_TRANSFER)
    except InputError as error:
        warnings.add(f"--init is not used, and its hash will not be in the results: {error}")
        return None
    sha256 = trunk_sha256(model, loaded)
    model.load_state_dict(fresh)
    return sha256


def trunk_sha256(model: nn.Module, loaded: Loaded) -> str:
    """The hash of the weights that were loaded: no classifier, normalisation or fresh stem."""
    stem = ("conv1.weight",) if loaded.fresh_stem else ()
    return weights_sha256(model.state_dict(), (*_beside_trunk(model), *stem))


def initial_sha256(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """The hash of the weights that a model is rewound to, by which a ticket tells them."""
    return weights_sha256(weights, _beside_trunk(model))


def _beside_trunk(model: nn.Module) -> tuple[str, str]:
    return f"{classifier(model)}.", "normalize."


def refuse_pruned(init: str, loaded: Loaded) -> None:
    """Raise InputError for initial weights that are masked: a search begins at density 1.

    Its states are numbered by how often the weights were pruned, their densities (1 - rate)^state,
    and every state is rewound to the weights before the first prune, which a pruned file lacks.
    """
    density = loaded.percent_left
    if density < 100:
        raise InputError(
            f"--init {init}: is pruned to {density:.2f} % already, but state 1 is pruned from "
            "dense weights; name the file that they were before the first prune (init.pth.tar of "
            "an IMP run)"
        )


def refuse_too_many_prunes(model: nn.Module, rate: float, prunes: int) -> None:
    """Raise InputError where so many prunes, each of the share `rate`, leave less than a weight."""
    weights = sum(module.weight.numel() for _, module in pruning.convolutions(model))
    if weights * (1 - rate) ** prunes < 1:
        raise InputError(
            f"--rate {rate:g}: {prunes} prunes, one a state and one after the last, come to a "
            f"density of (1 - rate)^{prunes}, less than one of the {weights} convolution weights; "
            "a smaller one, or fewer states (--epochs divided by --prune_epoch)"
        )


def warn_of_empty_layers(model: nn.Module, state: int, warnings: Warnings) -> None:
    """Warn where a prune has left nothing of a layer: what follows may see none of the images."""
    if empty := pruning.empty_layers(model):
        layers = sum(1 for _ in pruning.convolutions(model))
        more = ", …" if len(empty) > SHOWN else ""
        warnings.add(
            f"state {state}: nothing remains of {len(empty)} of the {layers} convolutions: "
            f"{', '.join(empty[:SHOWN])}{more}"
        )


def warn_of_zeros(init: str, model: nn.Module, warnings: Warnings) -> None:
    """Warn where weights without masks look pruned all the same."""
    zeros = 100 - pruning.percent_left(model)
    if zeros > FEW_ZEROS:
        warnings.add(
            f"--init {init}: {zeros:.2f} % of its convolution weights are exactly 0, as of a "
            "network that was saved pruned, without its masks; they are treated like any others "
            "(a ticket of them: python -m models.convert IN OUT --masks_from_zeros)"
        )
