"""The recipe table: what a flag that is left out takes, by (task, mode, dataset).

The recipes are the schedules that the released code's scripts and the paper use.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from cli.checks import (
    check_attacks,
    check_milestones,
    check_precision,
    check_start,
    check_states,
    check_together,
    check_unused,
    check_validated,
)
from cli.nodes import settle_nodes
from engine.run_folder import NOTES
from files.results import IMP
from models.stem import usual_stem

_IMP = {
    "arch": "resnet50", "input_size": 224, "augment": "rrc", "hflip": True,
    "epochs": 570, "prune_epoch": 30, "rate": 0.2, "batch_size": 2048, "pretrain_lr": 0.1,
    "lr": 5e-4, "lr_schedule": "constant", "decreasing_lr": (), "weight_decay": 1e-4,
    "train_eps": 8 / 255, "train_step": 3, "train_gamma": 16 / (3 * 255),
}  # fmt: skip
_TRANSFER = {
    "arch": "resnet50", "input_size": 224, "augment": "rrc", "hflip": True,
    "weight_decay": 5e-4, "train_eps": 8 / 255, "train_step": 10, "train_gamma": 2 / 255,
    "test_eps": 8 / 255, "test_step": 20, "test_gamma": 2 / 255, "restarts": 1,
    "eval_batch_size": 128,
}  # fmt: skip
_COMMON = {
    "momentum": 0.9, "warmup": 0, "train_randinit": True, "test_randinit": True, "seed": 1,
    "width": 16, "amp": "off", "tf32": False,
}  # fmt: skip
_NATIVE = {"input_size": 32, "augment": "crop"}

RECIPES: dict[tuple[str, str, str], dict[str, Any]] = {
    ("imp", "adv", "*"): _IMP,
    ("imp", "std", "*"): _IMP,
    ("transfer", "adv", "*"): {
        **_TRANSFER, "batch_size": 128, "lr": 0.1, "epochs": 100,
        "lr_schedule": "multistep", "decreasing_lr": (50, 75), "eval_from": 45,
    },
    ("transfer", "adv", "svhn"): {
        "lr": 0.01, "epochs": 80, "lr_schedule": "cosine", "eval_from": 0,
    },
    ("transfer", "std", "*"): {
        **_TRANSFER, "batch_size": 64, "lr": 0.001, "epochs": 150,
        "lr_schedule": "multistep", "decreasing_lr": (50, 100), "eval_from": 0,
    },
    ("transfer", "*", "cifar10_3"): _NATIVE,
    ("transfer", "*", "digits"): {**_NATIVE, "hflip": False},
}  # fmt: skip


def recipe(task: str, mode: str, dataset: str = "*") -> dict[str, Any]:
    """The recipe of (task, mode, dataset): the general values, then the data set's own."""
    values = dict(_COMMON)
    for key in ((task, mode, "*"), (task, "*", dataset), (task, mode, dataset)):
        values.update(RECIPES.get(key, {}))
    return values


def apply_recipe(args: argparse.Namespace, task: str) -> list[str]:
    """Give every flag that was left out its value of the recipe, in place; then check values.

    Returns:
        What to warn of. What of it bears on results is added to `args.notes`, too.

    Raises:
        InputError: flags that do not go together, or with the environment.
    """
    args.mode = args.mode or "adv"
    if task == "transfer":
        args.dataset = args.dataset or "cifar10"  # Deviation: cifar100, unless its scripts say so
    values = recipe(task, args.mode, getattr(args, "dataset", "*"))
    if "multistep" not in (args.lr_schedule, values["lr_schedule"]):
        values["decreasing_lr"] = ()  # SVHN's milestones are for --lr_schedule multistep alone
    given = {name for name in (*values, "stem") if getattr(args, name, None) is not None}
    milestones = args.decreasing_lr
    for name, value in values.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if args.stem is None and getattr(args, "ticket", IMP) == IMP:  # else the weights tell
        args.stem = usual_stem(args.input_size)
    settle_nodes(args, os.environ)
    check_together(args)
    notes = check_unused(args, given) + check_milestones(args, milestones)
    notes += check_attacks(args, given)
    notes += check_validated(args, given) if task == "transfer" else check_states(args)
    args.notes = [*getattr(args, NOTES, ()), *notes]
    notes += check_precision(args)
    return notes + check_start(args) if task == "imp" else notes
