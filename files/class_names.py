"""The class names that files hold beside a classifier or labels, in the order of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES = "classes"  # the entry of this project's checkpoints and adversarial sets


def class_names_in(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Find the class names in a file's content; None where it does not give them.

    Read are a list under `classes` or `class_names`, and torchvision's dictionary `class_to_idx`,
    which other programs save.
    """
    for key in (CLASSES, "class_names"):
        names = content.get(key)
        if isinstance(names, (list, tuple)) and _are_names(names):
            return tuple(names)
    places = content.get("class_to_idx")
    if isinstance(places, Mapping) and _are_names(list(places)):
        numbers = list(places.values())
        if all(type(n) is int for n in numbers) and sorted(numbers) == list(range(len(numbers))):
            return tuple(sorted(places, key=places.__getitem__))
    return None


def _are_names(names: list[Any] | tuple[Any, ...]) -> bool:
    return bool(names) and all(isinstance(n, str) for n in names) and len({*names}) == len(names)
