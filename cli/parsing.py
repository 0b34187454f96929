"""Reading flags: their types, and a parser whose errors are one line."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from errors import OneLineParser

EPILOG = "A flag marked (recipe) that is left out takes its value from the table in cli/recipes.py."

# Flags of files by which "" means none, as in the released code.
EMPTY_IS_NONE = ("init", "init_key", "tickets_file", "resume", "masking_source")

# --- types ----------------------------------------------------------------------------------------


def _number(parse: Callable[[str], float], good: Callable[[float], bool], wanted: str) -> Callable:
    def convert(text: str):
        try:
            value = parse(text)
            right = math.isfinite(value) and good(value)
        except (ValueError, ZeroDivisionError, OverflowError):
            right = False
        if not right:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


def _fraction(text: str) -> float:
    product = re.fullmatch(r"(\d+)/\((\d+)\*(\d+)\)", text)
    if product:
        top, a, b = map(int, product.groups())
        return top / (a * b)
    return float(Fraction(text)) if "/" in text else float(text)


positive_int = _number(int, lambda v: v >= 1, "a whole number of at least 1")
two_or_more = _number(int, lambda v: v >= 2, "a whole number of at least 2")
natural = _number(int, lambda v: v >= 0, "a whole number of at least 0")
positive = _number(float, lambda v: v > 0, "a number above 0")
not_negative = _number(float, lambda v: v >= 0, "a number of at least 0")
below_one = _number(float, lambda v: 0 <= v < 1, "a number from 0 to below 1")
pixel_fraction = _number(
    _fraction, lambda v: 0 <= v <= 1, "a fraction of the pixel range, 0 to 1, like 8/255 or 0.03"
)
share = _number(_fraction, lambda v: 0 < v <= 1, "a fraction above 0 and at most 1")
pruning_rate = _number(_fraction, lambda v: 0 < v < 1, "a fraction between 0 and 1, both excluded")
width = _number(int, lambda v: 1 <= v <= 1024, "a whole number from 1 to 1024")
image_size = _number(int, lambda v: 8 <= v <= 4096, "a size from 8 to 4096 pixels")


def unless_minus_one(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for which -1 means that the flag is left out, as in the released code."""
    return lambda text: None if text == "-1" else convert(text)


def folder_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder; . is the current one")
    if text.startswith("~"):  # in quotes, or after =: no shell has filled it in
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; write your home's path out")
    return text


def printable(text: str) -> str:
    if text and not (text.strip() and text.isprintable()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a printable name")
    return text


def evaluation_set(text: str) -> tuple[str, str]:
    """`test`, `cifar10_c`, `cifar10_c:DIR` or `adv:FILE` -> (kind, path)."""
    kind, _, path = text.partition(":")
    if text not in ("test", "cifar10_c") and not (kind in ("cifar10_c", "adv") and path):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of test, cifar10_c, cifar10_c:DIR, adv:FILE"
        )
    return kind, path


def seed_value(text: str) -> int:
    return _number(int, lambda v: 0 <= v < 2**63, "a whole number from 0 to 2**63 - 1")(text)


def milestones(text: str) -> tuple[int, ...]:
    return tuple(natural(part) for part in text.split(",") if part.strip())


def channel_triple(text: str) -> tuple[float, ...]:
    values = tuple(not_negative(part) for part in text.replace(",", " ").split())
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers like 0.49,0.48,0.45")
    return values


class Switch(argparse.Action):
    """`--name` and `--no_name`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        names = [f(o) for o in option_strings for f in (str, lambda o: f"--no_{o[2:]}")]
        super().__init__(names, dest, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, not option_string.startswith("--no_"))


class Parser(OneLineParser):
    """`-` for `_` anywhere inside a flag, "" for no file."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(epilog=EPILOG, **kwargs)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        words = sys.argv[1:] if args is None else args
        found, rest = super().parse_known_args([_underscored(word) for word in words], namespace)
        for name in EMPTY_IS_NONE:
            if getattr(found, name, None) == "":
                setattr(found, name, None)
        return found, rest

    def admits(self, name: str, value: object) -> bool:
        """Whether the flag of this name in `args` can have a value: one that was recorded, say."""
        flag = next(action for action in self._actions if action.dest == name)
        if value is None or flag.nargs == 0:
            return value is None or isinstance(value, bool)
        try:
            same = (flag.type or str)(str(value)) == value  # type: ignore[operator]
        except argparse.ArgumentTypeError:
            return False
        return same and (flag.choices is None or value in flag.choices)


def _underscored(word: str) -> str:
    if not re.match(r"--[A-Za-z]", word):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
