"""Unpickling without the code that a file was saved with: what cannot be imported gets a stand-in.

To be handed to torch.load as its `pickle_module`. It runs what a pickle asks for, as pickle does.
"""

from __future__ import annotations

import os
import pickle
from functools import cache
from pathlib import PurePath
from typing import Any

from torch import nn

from files.state_dicts import ITEMS


class StandIn(nn.Module):
    """In place of a class or a function that is not here. A network's layers keep their weights.

    A dictionary of another kind keeps its items, under ITEMS; what is neither (settings, a
    schedule, a list of another kind) is forgotten.
    """

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        nn.Module.__init__(made)  # pickle may not call __init__
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, name: Any, value: Any) -> None:
        self.__dict__.setdefault(ITEMS, {})[name] = value

    def extend(self, values: Any) -> None:
        pass

    append = extend


@cache
def _stand_in(module: str, name: str) -> type[StandIn]:
    return type(name.rpartition(".")[2], (StandIn,), {"__module__": module})


class Unpickler(pickle.Unpickler):
    """pickle's, but a missing class is no error."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib"):
            return PurePath  # a path of another system cannot be made here
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return _stand_in(module, name)


def load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def load_file(path: str | os.PathLike[str]) -> Any:
    """Read what pickle itself has written."""
    with open(path, "rb") as file:
        return load(file)
