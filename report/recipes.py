"""Whether the runs that are compared were made by one recipe, as far as their `args.json` tell."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from files.results import MODES, REGIMES, RunResult
from files.run_args import args_if_readable
from report.judged import GroupVerdict, TicketRow

TRAINING = (
    *("data_content", "input_size", "augment", "hflip", "width", "stem", "mean", "std"),
    *("epochs", "global_batch", "lr", "lr_schedule", "decreasing_lr", "warmup", "momentum"),
    *("weight_decay", "eval_from", "amp", "tf32", "images_a_pass", "processes", "sync_bn"),
)
ATTACKS = (
    *("train_eps", "train_step", "train_gamma", "train_randinit"),
    *("test_eps", "test_step", "test_gamma", "test_randinit", "restarts"),
)
WORDS = {
    "data_content": "training data",
    "global_batch": "images a step",
    "images_a_pass": "images a pass",
}
RECIPE = {"std": TRAINING, "adv": TRAINING + ATTACKS}  # by mode


OF_PRETRAINING = ("mean", "std")  # each has those that its weights were made for

Recipes = Mapping[Path, Mapping[str, Any]]  # by the path of results.json: what args.json says


def read_recipes(results: Iterable[RunResult]) -> dict[Path, Mapping[str, Any]]:
    """Read how runs were made.

    A run without a readable `args.json`, and what an earlier version did not record, count as
    like any other.
    """
    return {run.path: _flags(run.path) for run in results}


def mixed_recipes(groups: Iterable[GroupVerdict], recipes: Recipes) -> list[str]:
    """Name what differs between the runs of a group under one regime: a line for each."""
    lines = []
    for group, mode in itertools.product(groups, MODES):
        if apart := rows_apart(group.all_rows, mode, recipes):
            lines.append(f"{group.group}: {REGIMES[mode]} by different recipes: {'; '.join(apart)}")
    return lines


def rows_apart(rows: Iterable[TicketRow], mode: str, recipes: Recipes) -> list[str]:
    """Name what differs between the recipes of all runs of these rows under one regime."""
    return list(_apart(_of(rows, mode, recipes), RECIPE[mode]))


def recipes_apart(a: GroupVerdict, b: GroupVerdict, recipes: Recipes) -> list[str]:
    """Name what differs between the networks and the recipes of two pre-trainings."""
    rows = a.all_rows + b.all_rows
    archs = sorted({run.arch for row in rows for run in row.runs})
    found = [f"architectures {' and '.join(archs)}"] if len(archs) > 1 else []
    for mode in MODES:
        keys = [key for key in RECIPE[mode] if key not in OF_PRETRAINING]
        if apart := list(_apart(_of(rows, mode, recipes), keys)):
            found.append(f"{REGIMES[mode]} by {', '.join(apart)}")
    return found


def _of(rows: Iterable[TicketRow], mode: str, recipes: Recipes) -> list[Mapping[str, Any]]:
    runs = (run for row in rows for run in row.runs if run.mode == mode)
    return [recipes.get(run.path, {}) for run in runs]


def _apart(runs: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> Iterable[str]:
    for key in keys:
        values = dict.fromkeys(_text(flags[key]) for flags in runs if key in flags)
        if len(values) > 1:
            yield f"{WORDS.get(key, key)} {' and '.join(values)}"


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flags(results: Path) -> Mapping[str, Any]:
    found = args_if_readable(results.parent)
    return {**found, **_passes(found)}


def _passes(flags: Mapping[str, Any]) -> dict[str, int]:
    """How many images BatchNorm sees at a time: what is recorded says so, but no flag alone."""
    try:
        share = -(-flags["global_batch"] // flags["processes"])
        return {"images_a_pass": min(flags["micro_batch"] or share, share)}
    except (KeyError, TypeError, ZeroDivisionError):
        return {}
