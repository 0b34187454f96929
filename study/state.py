"""How far the runs of a study are, from what lies in their folders."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from engine.schedules import States
from files import names
from study.config import Run

DONE, CUT_OFF, TO_DO = "done", "cut off", "to do"


def state_of(run: Run) -> str:
    """Done: results.json of a transfer, the last ticket of a search. Cut off: begun, not done."""
    if (run.folder / names.RESULTS).is_file() or has_last_ticket(run.folder):
        return DONE
    return CUT_OFF if (run.folder / names.ARGS).is_file() else TO_DO


def has_last_ticket(folder: Path) -> bool:
    try:
        flags = _recorded(folder)
        states = States(flags.get("pretrain_epochs", 0), flags["epochs"], flags["prune_epoch"])
        return (folder / names.ticket(states.last + 1)).is_file()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def has_other_flags(run: Run) -> bool:
    """Whether what is in the run's folder was made with other flags than the study now names."""
    try:
        before = shlex.split(_recorded(run.folder)["command"])[2:]
        return _comparable(before, run.name) != _comparable(run.command("python")[2:], run.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _recorded(folder: Path) -> Any:
    return json.loads((folder / names.ARGS).read_text())


def _comparable(arguments: list[str], name: str) -> list[tuple[str, list[str]]]:
    """Flags in any order (the last of two counts), without the number of threads, and with the
    study's folder called {out}, so that it may move."""
    out = arguments[arguments.index("--save_dir") + 1].removesuffix(name)
    flags: dict[str, list[str]] = {}
    flag = ""
    for argument in (argument.replace(out, "{out}/") for argument in arguments):
        if re.match(r"--?[A-Za-z]", argument):
            flag, _, value = argument.partition("=")
            flags[flag] = [value] if value else []
        else:
            flags.setdefault(flag, []).append(argument)
    for own in ("--threads", "--save_dir"):
        flags.pop(own, None)
    return sorted(flags.items())
