"""`args.json`, which a run writes first: its flags, what they were told of, and where it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from errors import InputError
from files import names

# Of a flag that is added: the value that runs from before it are compared by, and tested with.
ADDED: dict[str, Any] = {}

GLOBAL_BATCH, PROCESSES, NODES = "global_batch", "processes", "world_size"


def read_args(folder: Path) -> dict[str, Any]:
    """What `args.json` says of a folder's run, first of all its flags; nothing without the file.

    A flag that the run's version did not have yet has the value of `ADDED`.

    Raises InputError for a file that is damaged or cannot be read.
    """
    path = folder / names.ARGS
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}  # what writes there says why it cannot
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, not JSON; move it away to go on without it") from error
    if not isinstance(before, dict):
        raise InputError(f"{path}: damaged, no flags in it; move it away to go on without it")
    return {**ADDED, **before}


def args_if_readable(folder: Path) -> dict[str, Any]:
    """The same for what only tells about a run: nothing from a damaged file too."""
    try:
        return read_args(folder)
    except InputError:
        return {}


def recorded_batch(folder: Path) -> int | None:
    """The images per step over all processes of the run that a folder holds, if that is known."""
    found = read_args(folder).get(GLOBAL_BATCH)
    if found is not None and (type(found) is not int or found < 2):
        raise InputError(
            f"{folder / names.ARGS}: damaged, its {GLOBAL_BATCH} is {found!r}; move it away to go "
            "on without it"
        )
    return found


def recorded_processes(folder: Path) -> int | None:
    """The processes per node of the run that a folder holds, if that is known."""
    before = read_args(folder)
    processes, nodes = before.get(PROCESSES), before.get(NODES)
    if type(processes) is int and type(nodes) is int and 0 < nodes <= processes:
        return processes // nodes
    # Before `processes` was recorded the flags said it, unless it was one for each GPU.
    known = 1 if before.get("multiprocessing_distributed") is False else before.get("nproc")
    return known if type(known) is int and known > 0 else None
