"""How far the runs of a study are, from what lies in their folders."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePath

from engine.schedules import States
from files import names
from files.atomic import fingerprint, is_written, sha256_of
from files.run_args import args_if_readable
from study.config import Run, flag_of

DONE, CUT_OFF, TO_DO = "done", "cut off", "to do"


def state_of(run: Run) -> str:
    """Done: results.json of a transfer, the last ticket of a search. Cut off: begun, not done."""
    if is_written(run.folder / names.RESULTS) or has_last_ticket(run.folder):
        return DONE
    return CUT_OFF if (run.folder / names.ARGS).is_file() else TO_DO


def has_last_ticket(folder: Path) -> bool:
    try:
        flags = args_if_readable(folder)
        states = States(flags.get("pretrain_epochs", 0), flags["epochs"], flags["prune_epoch"])
        return is_written(folder / names.ticket(states.last + 1))
    except (ValueError, KeyError, TypeError):
        return False


def other_flags(run: Run) -> str | None:
    """With which flags what is in the run's folder was made, if the study now names others."""
    try:
        before = shlex.split(args_if_readable(run.folder)["command"])[2:]
        return _difference(before, run.command("python")[2:], run.name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def other_input(run: Run) -> Path | None:
    """The ticket or the initial weights that a run was made from, if the file is another now.

    A search that was made again leaves the transfers of its former tickets where they were.
    """
    before, now = args_if_readable(run.folder), _flags(run.arguments)
    try:
        for flag in ("tickets_file", "init"):
            recorded = before.get(f"{flag}_content")
            for path in map(Path, now.get(f"--{flag}", ())):
                if recorded and path.is_file() and recorded != _content(path):
                    return path
    except OSError:
        pass
    return None


@lru_cache
def _content(path: Path) -> str:
    return fingerprint(sha256_of(path))


def _difference(before: Sequence[str], now: Sequence[str], name: str) -> str | None:
    """What one call of a main says otherwise than another, as they stand in a sentence; or None.

    They may be in any order, with any number of threads. The study's folder may have moved: a path
    below the one is that path below the other.
    """
    one, other = _flags(before), _flags(now)
    here, there = (_study_folder(flags.pop("--save_dir"), name) for flags in (one, other))

    def alike(a: str, b: str) -> bool:
        below = _below(a, here)
        return a == b or (below is not None and below == _below(b, there))

    apart = [
        flag
        for flag in {**one, **other}
        if flag not in one
        or flag not in other
        or len(one[flag]) != len(other[flag])
        or not all(map(alike, one[flag], other[flag]))
    ]
    if not apart:
        return None
    flag = apart[0]
    was, is_now = (_shown(flag, flags[flag]) if flag in flags else "" for flags in (one, other))
    how = f"with {was}, not {is_now}" if was and is_now else f"with {was}" if was else ""
    more = f", and {len(apart) - 1} more that differ" if len(apart) > 1 else ""
    return f"{how or f'without {is_now}'}{more}"


def _shown(flag: str, values: Sequence[str]) -> str:
    return " ".join((flag or "DATA", *values))


def _flags(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The values of every flag, of whose two the last counts; those of "" are positions."""
    flags: dict[str, list[str]] = {}
    flag = ""
    for argument in arguments:
        if named := flag_of(argument):
            flag, value = named, argument.partition("=")[2]
            flags[flag] = [value] if value else []
        else:
            flags.setdefault(flag, []).append(argument)
    flags.pop("--threads", None)
    return flags


def _study_folder(save_dir: Sequence[str], name: str) -> PurePath:
    """The folder that a study's run `name` lies in, which may be "." or one of a longer name."""
    (folder,) = map(PurePath, save_dir)
    return folder.parents[len(PurePath(name).parts) - 1]


def _below(path: str, folder: PurePath) -> PurePath | None:
    return PurePath(path).relative_to(folder) if PurePath(path).is_relative_to(folder) else None
