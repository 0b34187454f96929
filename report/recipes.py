"""Whether the runs that are compared were made by one recipe, as far as their `args.json` tell.

Whatever that file says is compared, unless it is listed here: so a flag that is new counts without
a word about it here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.sharing import images_per_pass
from files import names
from files.atomic import fingerprint
from files.results import MODES, REGIMES, REINIT, UNNAMED, RunResult
from files.run_args import GLOBAL_BATCH, PROCESSES, args_if_readable
from report.judged import GroupVerdict, TicketRow

# What tells runs and groups apart, or is told by the fingerprint of what it names.
IDENTITY = (
    *("mode", "dataset", "data", "data_number", "classes", "class_names", "arch", "seed", "tag"),
    *("init", "init_key", "init_content", "init_sha256", "pretrained", "reset_fc", "continue_from"),
    *("tickets_file", "tickets_file_content", "reinit"),
)
# Where and how fast a run went, what it wrote, and what else was tested.
FREE = (
    *("save_dir", "workers", "threads", "device", "gpu", "channels_last", "compile", "cuda_graphs"),
    *("multiprocessing_distributed", "nproc", "world_size", "rank", "dist_url", "dist_backend"),
    *("dist_timeout", "print_freq", "resume", "save_every_steps", "dry_run", "time_it", "json"),
    *("save_all", "export_released", "skip_bad", "start_epoch", "evaluate", "eval_batch_size"),
    *("eval_set", "eval_attack", "eval_images", "save_adv", "check_masking", "masking_source"),
    *("masking_source_content", "warnings", "command", "code", "packages", "hardware"),
)
PARTS = ("batch_size", "micro_batch")  # of `global_batch` and `images_a_pass`, which are compared
NOT_COMPARED = frozenset((*IDENTITY, *FREE, *PARTS))
OF_ATTACKS = frozenset(
    (
        *("train_eps", "train_step", "train_gamma", "train_randinit"),
        *("test_eps", "test_step", "test_gamma", "test_randinit", "restarts"),
    )
)  # no matter of standard training
OF_PRETRAINING = frozenset(("mean", "std"))  # each has those that its weights were made for
OF_PIXELS = ("train_eps", "train_gamma", "test_eps", "test_gamma")  # fractions of their range
WORDS = {
    "data_content": "training data",
    "images_content": "files of images by names and sizes",
    "bytes_content": "files of images by their bytes",
    "global_batch": "images a step",
    "images_a_pass": "images a pass",
}

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


def doubtful_records(groups: Iterable[GroupVerdict], recipes: Recipes) -> list[str]:
    """Name runs whose `args.json` is missing beside others' of a group, or is of another run."""
    lines = []
    for group in groups:
        runs = [run for row in group.all_rows for run in row.runs if run.path in recipes]
        unknown = [run for run in runs if not recipes[run.path]]
        if 0 < len(unknown) < len(runs):
            lines.append(
                f"{group.group}: {len(unknown)} of {len(runs)} runs have no usable {names.ARGS} "
                f"({unknown[0].path.parent}); that they were trained like the others is not known"
            )
        for run in runs:
            told = [
                f"{flag} {recipes[run.path][flag]}, there {value}"
                for flag, value in _flags_in_results(run).items()
                if recipes[run.path].get(flag, value) != value
            ]
            if told:
                where = run.path.with_name(names.ARGS)
                lines.append(f"{where} is not of the run in {run.path.name}: {'; '.join(told)}")
    return lines


def _flags_in_results(run: RunResult) -> dict[str, Any]:
    """What `results.json` says of the flags."""
    return {
        **({} if run.group.pretraining == UNNAMED else {"tag": run.group.pretraining}),
        "mode": run.mode,
        "dataset": run.group.dataset,
        "data_number": run.group.data_number,
        "arch": run.arch,
        "seed": run.seed,
        "reinit": run.ticket == REINIT,
        **({"tickets_file_content": fingerprint(run.ticket_sha256)} if run.ticket_sha256 else {}),
    }


def rows_apart(rows: Iterable[TicketRow], mode: str, recipes: Recipes) -> list[str]:
    """Name what differs between the recipes of all runs of these rows under one regime."""
    return runs_apart((run for row in rows for run in row.runs), mode, recipes)


def runs_apart(runs: Iterable[RunResult], mode: str, recipes: Recipes) -> list[str]:
    """Name what differs between the recipes of these runs, as far as they are of one regime."""
    return _apart([recipes.get(run.path, {}) for run in runs if run.mode == mode], mode)


def recipes_apart(a: GroupVerdict, b: GroupVerdict, recipes: Recipes) -> list[str]:
    """Name what differs between the networks and the recipes of two pre-trainings.

    A recipe of which nothing is known differs from one of which something is.
    """
    runs = [run for row in a.all_rows + b.all_rows for run in row.runs]
    archs = sorted({run.arch for run in runs})
    found = [f"architectures {' and '.join(archs)}"] if len(archs) > 1 else []
    lost = [
        g for g in (a, b) if not any(recipes.get(r.path) for row in g.all_rows for r in row.runs)
    ]
    if len(lost) == 1:
        found.append(
            f"a known and an unknown recipe ({lost[0].group.name}: no usable {names.ARGS})"
        )
    for mode in MODES:
        flags = [recipes.get(run.path, {}) for run in runs if run.mode == mode]
        if apart := _apart(flags, mode, OF_PRETRAINING):
            found.append(f"{REGIMES[mode]} by {', '.join(apart)}")
    return found


def _apart(
    runs: Sequence[Mapping[str, Any]], mode: str, but: frozenset[str] = frozenset()
) -> list[str]:
    left_out = NOT_COMPARED | but | (OF_ATTACKS if mode == "std" else frozenset())
    lines = []
    for key in dict.fromkeys(key for flags in runs for key in flags if key not in left_out):
        values = dict.fromkeys(flag_text(key, flags[key]) for flags in runs if key in flags)
        if len(values) > 1:
            lines.append(f"{WORDS.get(key, key)} {' and '.join(values)}")
    return lines


def flag_text(key: str, value: object) -> str:
    """Write the value of a flag: what is a fraction of the pixel range in parts of 255."""
    if key in OF_PIXELS and isinstance(value, float):
        return f"{255 * value:.4g}/255"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flags(results: Path) -> Mapping[str, Any]:
    found = args_if_readable(results.parent)
    return {**found, **_passes(found)}


def _passes(flags: Mapping[str, Any]) -> dict[str, int]:
    """How many images BatchNorm sees at a time: what is recorded says so, but no flag alone."""
    try:
        shared = (flags[key] for key in (GLOBAL_BATCH, PROCESSES, "micro_batch"))
        return {"images_a_pass": images_per_pass(*shared)}
    except (KeyError, TypeError, ZeroDivisionError):
        return {}
