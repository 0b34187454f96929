"""What is taken from the run that trained a network: its images, their framing, mode, the attack.

Images that are framed in another way than in training give other accuracies, without a word, an
attack from another seed another RA, and one on a network of standard training a figure that its run
does not have.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.parsing import Parser
from cli.settle import USUAL_DATA
from engine.log import warn
from errors import InputError
from files import names
from files.run_args import read_args

# What `--evaluate` does with a flag that is left out; a new flag is put into one of three classes.
# It takes from the record what a figure depends on: such a flag is None where it is left out.
TAKEN = (
    *("input_size", "augment", "test_eps", "test_step", "test_gamma", "test_randinit", "seed"),
    *("dataset", "mode", "amp", "tf32", "restarts", "eval_batch_size"),
)
# A test's own: where things lie, what is asked for, how it is run; the file tells the network.
OWN = frozenset(
    (
        *("data", "classes", "skip_bad", "arch", "mean", "std", "init", "init_key", "pretrained"),
        *("tickets_file", "evaluate", "eval_set", "eval_attack", "eval_images", "save_adv"),
        *("check_masking", "masking_source", "resume", "save_dir", "dry_run", "json", "time_it"),
        *("workers", "print_freq", "threads", "device", "gpu", "channels_last", "compile"),
        *("batch_size", "multiprocessing_distributed", "nproc", "world_size", "rank"),
        *("dist_url", "dist_backend", "dist_timeout"),
    )
)
# Of training, of its files, or of the network that the checkpoint tells: of no effect on a test,
# but that another stem than the network's is refused.
WITHOUT_EFFECT = frozenset(
    (
        *("hflip", "data_number", "width", "stem", "reset_fc", "reinit", "ticket", "rate"),
        *("prune_epoch", "pretrain_epochs", "pretrain_lr", "continue_from", "epochs"),
        *("start_epoch", "eval_from", "micro_batch", "lr", "lr_schedule", "decreasing_lr"),
        *("warmup", "momentum", "weight_decay", "train_eps", "train_step", "train_gamma"),
        *("train_randinit", "sync_bn", "cuda_graphs", "tag", "keep", "save_all"),
        *("save_every_steps", "export_released"),
    )
)


def take_recorded(args: argparse.Namespace, parser: Parser) -> None:
    """Give flags that are left out the values that a run has recorded, in place.

    That is for a test the run that trained the network, and for a run that goes on its own name.
    `args.notes` are lines that were told, for the results too.

    Raises InputError where the run's `args.json` is damaged, or says what `parser` would refuse.
    """
    args.notes = []
    if args.evaluate:
        _take_test(args, parser)
    elif args.resume is not None:
        _take_tag(args, parser)
    for note in args.notes:
        warn(note)


def _take_tag(args: argparse.Namespace, parser: Parser) -> None:
    """Let a run that goes on keep its --tag, under which the report groups it."""
    own = read_args(Path(args.save_dir))
    elsewhere = not own and args.resume != "auto"
    folder = Path(args.resume).parent if elsewhere else Path(args.save_dir)
    tag = _recorded(folder, read_args(folder), "tag", parser)
    if args.tag is None:
        args.tag = tag
    elif tag not in (None, args.tag):
        args.notes.append(f"--tag {args.tag}: the run began as {tag}; its results say {args.tag}")


def _take_test(args: argparse.Namespace, parser: Parser) -> None:
    """Take what frames and attacks images as in the run that trained the network.

    A sentence in `args.recorded` says which, and from where; it is None where nothing is taken,
    since flags say all of it or the checkpoint does not lie in the folder of a run.
    `args.arch_given` and `args.stem_given` keep what flags said before a recipe fills them in: the
    network of a file is the recipe's only by chance.
    """
    newest = args.resume in (None, "auto")
    folder = Path(args.save_dir) if newest else Path(args.resume).parent
    args.recorded, args.arch_given, args.stem_given = None, args.arch, args.stem
    before = read_args(folder)
    needs_data = not getattr(args, "eval_set", ("test", ""))[1]
    if args.data is None and needs_data and before.get("data") not in (None, *USUAL_DATA):
        args.notes.append(f"no place of images is named; the network's run had {before['data']}")
    if not newest and not before and Path(args.resume).is_file():
        args.notes.append(
            f"{args.resume}: no {names.ARGS} beside it: framing and attack are as flags say, or "
            "the recipe (a network of native CIFAR images takes --input_size 32 --augment crop)"
        )
    theirs, given = before.get("dataset"), getattr(args, "dataset", None)
    if None not in (theirs, given) and theirs != given:
        args.notes.append(
            f"--dataset {given}: the network's run had {theirs}, which may frame images otherwise"
        )
    left_out = [name for name, value in vars(args).items() if value is None]
    taken = [name for name in TAKEN if name in left_out and name in before]
    for name in taken:
        setattr(args, name, _recorded(folder, before, name, parser))
    if not _is_attacked(args) and "restarts" in taken:
        taken.remove("restarts")
        args.restarts = None
    if taken:
        values = ", ".join(f"{name} {_short(before[name])}" for name in taken)
        args.recorded = f"as {folder / names.ARGS} has recorded: {values}"


def _recorded(folder: Path, before: Mapping[str, Any], name: str, parser: Parser) -> Any:
    value = before.get(name)
    if not parser.admits(name, value):
        raise InputError(
            f"{folder / names.ARGS}: damaged, its {name} is {value!r}; mend that, or move the file "
            "away"
        )
    return value


def _is_attacked(args: argparse.Namespace) -> bool:
    """Whether test images are attacked: not in a search, nor where they come attacked."""
    asked = args.mode != "std" or getattr(args, "eval_attack", None) is not None
    return asked and getattr(args, "eval_set", ("",))[0] == "test"


def recorded_mode(args: argparse.Namespace, parser: Parser) -> str:
    """The mode of the run in --save_dir; the flag's, where its `args.json` does not say."""
    folder = Path(args.save_dir)
    return _recorded(folder, read_args(folder), "mode", parser) or args.mode


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
