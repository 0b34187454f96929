"""Flags that were left out and take their value neither from a recipe nor from a constant."""

from __future__ import annotations

import argparse

from cli import build
from dataset import holds
from engine.log import warn
from errors import InputError
from files.run_args import read_args

# So many images each of eight GPUs, of a node of the released script's batch, has in a pass.
# Deviation: one GPU of the released code takes its whole batch in a pass; 256 is an eighth of 2048.
IMAGES_PER_PASS = 256
RELEASED_DATA = "../data"  # where the released scripts look
USUAL_DATA = ("data", RELEASED_DATA)  # where a transfer without --data looks


def settle_pretrained(args: argparse.Namespace) -> None:
    """Let --pretrained be --init torchvision.

    Raises InputError beside another --init.
    """
    if args.pretrained:
        if args.init not in (None, "torchvision"):
            raise InputError(f"--pretrained is --init torchvision, not {args.init}: leave one out")
        args.init = "torchvision"


def settle_micro_batch(args: argparse.Namespace) -> None:
    """Give --micro_batch of a ticket search its value if it was left out: as the run began with."""
    if args.micro_batch is None:
        folder = build.begun_in(args)
        begun_with = read_args(folder) if folder else {}
        args.micro_batch = begun_with.get("micro_batch", IMAGES_PER_PASS)


def settle_data(args: argparse.Namespace) -> None:
    """Give --data of a transfer its value if it was left out.

    That is `data`, or `../data`, the released code's place, where that alone holds the set.
    """
    if args.data is None:
        args.data = "data"
        if not holds(args.dataset, "data") and holds(args.dataset, RELEASED_DATA):
            args.data = RELEASED_DATA
            warn(f"data: {RELEASED_DATA} holds {args.dataset}, data does not (--data DIR)")
