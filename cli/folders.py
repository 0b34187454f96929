"""A run's folder as its flags name it: what is written there, and what may differ on resume."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from cli.build import states
from cli.flags import FILES, FREE_FLAGS, OF_INIT
from engine.run_folder import BYTES, IMAGES, RunFolder
from errors import InputError
from files import imp_run, names, transfer_run
from files.atomic import fingerprint, sha256_of
from files.salvage import Salvaged
from files.tickets import Ticket, read_ticket
from input_pipeline.loader import Loader
from models import is_fetched


def search_folder(args: argparse.Namespace) -> RunFolder:
    """The folder of a ticket search; its last file is the mask after the last state."""
    last_file = names.ticket(states(args).last + 1)
    folder = _run_folder(args, imp_run.newest_checkpoint, last_file)
    return replace(folder, free={*folder.free, *OF_INIT}) if args.continue_from else folder


def transfer_folder(args: argparse.Namespace) -> RunFolder:
    return _run_folder(args, transfer_run.newest_checkpoint, names.RESULTS)


def _run_folder(
    args: argparse.Namespace, newest: Callable[[Path], Path | None], last_file: str
) -> RunFolder:
    flags, inputs = vars(args), [name for name in FILES if hasattr(args, name)]
    return RunFolder(
        Path(args.save_dir),
        flags,
        FREE_FLAGS,
        inputs,
        args.resume,
        newest,
        last_file,
        read=lambda wanted: contents_of_files(args, wanted),
    )


def contents(
    args: argparse.Namespace,
    loaders: Sequence[Loader],
    ticket: Ticket | None = None,
    salvaged: Salvaged | None = None,
) -> dict[str, str]:
    """Fingerprints of inputs: on resume paths may change, contents may not.

    loaders: of the training split, and of those that the run is measured on.
    """
    found = {
        "data": loaders[0].described(),
        IMAGES: ", ".join(loader.sampled() for loader in loaders),
        BYTES: ", ".join(loader.sampled_bytes() for loader in loaders),
    }
    if salvaged is not None:
        found["continue_from"] = fingerprint(salvaged.ticket.sha256)
    return {**found, **contents_of_files(args, FILES, ticket)}


def contents_of_files(
    args: argparse.Namespace, wanted: Collection[str], ticket: Ticket | None = None
) -> dict[str, str]:
    """The same of the files that the flags `wanted` name; the ticket may have been read.

    Raises InputError for a file that is not there.
    """
    found = {}
    salvaged = getattr(args, "continue_from", None)  # perhaps begun from other weights than --init
    for name in FILES:
        path = getattr(args, name, None)
        if path is None or name not in wanted:
            continue
        if name == "tickets_file":
            found[name] = fingerprint((ticket or read_ticket(path)).sha256)
        elif name != "init" or not (salvaged or is_fetched(path)):
            found[name] = fingerprint(_sha256(path, f"--{name}"))
    return found


def _sha256(path: str, flag: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{flag} {path}: no such file")
    return sha256_of(path)
