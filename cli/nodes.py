"""How many nodes share a run, which one this is and where they meet: flags and environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from cli.parsing import natural, positive_int
from errors import InputError

PLACE = ("MASTER_ADDR", "MASTER_PORT")


def settle_nodes(args: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Give --world_size, --rank and --dist_url their values, in place.

    As in the released code, `--dist_url env://` takes those that are left out, or -1, from the
    environment, where they count nodes. What torchrun says of its own processes goes before all.

    Raises:
        InputError: the environment lacks something, or it is not a run of the spawn flags.
    """
    if args.dist_url == "env://" and "LOCAL_RANK" not in environment:
        args.world_size = _count(args.world_size, "WORLD_SIZE", positive_int, environment)
        if not args.multiprocessing_distributed and args.world_size > 1:
            raise InputError(
                "--dist_url env://: start the processes by torchrun, or one for each node with "
                "--multiprocessing_distributed, which starts those of its GPUs"
            )
        args.dist_url = None
        if args.world_size > 1:
            args.rank = _count(args.rank, "RANK", natural, environment)
            host, port = (_found(name, environment) for name in PLACE)
            args.dist_url = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    args.world_size = 1 if args.world_size is None else args.world_size
    args.rank = 0 if args.rank is None else args.rank


def _count(
    given: int | None, name: str, convert: Callable[[str], int], environment: Mapping[str, str]
) -> int:
    if given is not None:
        return given
    text = _found(name, environment)
    try:
        return convert(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--dist_url env://: ${name} {error}") from error


def _found(name: str, environment: Mapping[str, str]) -> str:
    if not environment.get(name):
        flags = {"WORLD_SIZE": "--world_size N", "RANK": "--rank R"}
        instead = flags.get(name, "--dist_url tcp://HOST:PORT")
        raise InputError(f"--dist_url env://: ${name} is not set; set it, or give {instead}")
    return environment[name]
