"""Reading a TOML table key by key, with one line for whatever is wrong in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from errors import InputError


@dataclass(frozen=True)
class Rule:
    """What a value must fulfil, and how that is said."""

    holds: Callable[[Any], bool]
    wanted: str


NAME = Rule(
    lambda text: re.fullmatch(r"[A-Za-z0-9][\w.+-]*", text) is not None,
    "a plain name (letters, digits, . _ + -)",
)
COUNT = Rule(lambda number: 0 <= number < 2**63, "a whole number from 0 to 2**63 - 1")
FRACTION = Rule(lambda number: 0 < number <= 1, "a fraction above 0 and at most 1")
Check = Rule | tuple[str, ...] | None  # a tuple: the values that may be
REQUIRED = object()


class Table:
    """A TOML table that is read key by key; `end` complains of what was not asked for."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        self.path, self.name = path, name
        if not isinstance(values, Mapping):
            self.wrong(None, values, "a table")
        self.values: dict[str, Any] = dict(values)
        self.left = dict(values)
        self.known: list[str] = []
        self.texts: dict[str, str] = {}  # what {NAME} in a text stands for

    def wrong(self, key: str | None, value: Any, wanted: str) -> NoReturn:
        where = " ".join(part for part in (f"[{self.name}]" if self.name else "", key) if part)
        raise InputError(f"{self.path}: {where} is {value!r}; it must be {wanted}")

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        self.known.append(key)
        if key not in self.left:
            if default is REQUIRED and key not in self.values:
                where = f"[{self.name}] needs" if self.name else "there must be"
                raise InputError(f"{self.path}: {where} {key}")
            return self.values.get(key, default)
        return self.left.pop(key)

    def end(self) -> None:
        if self.left:
            key = next(iter(self.left))
            where = f"[{self.name}] " if self.name else ""
            raise InputError(
                f"{self.path}: {where}{key} is not known here; known: {', '.join(self.known)}"
            )

    def table(self, key: str, default: Any = REQUIRED) -> Table:
        return Table(self.path, key, self.take(key, default))

    def tables(self, key: str) -> list[Any]:
        values = self.take(key, [])
        if not isinstance(values, list):
            self.wrong(key, values, f"written [[{key}]], once for each")
        return values

    def text(self, key: str, default: Any = REQUIRED, good: Check = None) -> str:
        value = self.take(key, default)
        self._check(key, value, str, good)
        return self._filled(value)

    def several(self, key: str, kind: type, good: Check = None, default: Any = REQUIRED) -> list:
        values = self.take(key, default)
        if not isinstance(values, list) or (not values and values != default):
            self.wrong(key, values, "a list with at least one value, like [1, 2]")
        for value in values:
            self._check(key, value, kind, good)
        if len({f"{value:g}" if kind is float else value for value in values}) < len(values):
            self.wrong(key, values, "a list without repetitions")
        return values

    def points(self, key: str) -> float | None:
        """Percentage points of accuracy; None where the key is left out."""
        value = self.take(key, None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= 100):
            self.wrong(key, value, "points of accuracy, from 0 to 100")
        return value

    def flags(self, key: str) -> list[str]:
        """Arguments of a command, written and split as in the shell."""
        value = self.take(key, "")
        self._check(key, value, str, None)
        try:
            return [self._filled(word) for word in shlex.split(value)]
        except ValueError as error:
            raise InputError(f"{self.path}: [{self.name}] {key}: {error}: {value!r}") from error

    def flags_by(self, keys: list[str]) -> dict[str, list[str]]:
        table = Table(self.path, f"{self.name}.flags", self.take("flags", {}))
        table.texts = self.texts
        flags = {key: table.flags(key) for key in keys}
        table.end()
        return flags

    def _filled(self, text: str) -> str:
        for name, value in self.texts.items():
            text = text.replace("{" + name + "}", value)
        return text

    def _check(self, key: str, value: Any, kind: type, good: Check) -> None:
        kinds = (int, float) if kind is float else (kind,)
        wanted = {str: "text in quotes", int: "a whole number", float: "a number"}[kind]
        if not isinstance(value, kinds) or isinstance(value, bool):
            self.wrong(key, value, wanted)
        if isinstance(value, str) and "\0" in value:
            self.wrong(key, value, "text that a command can hold, without \\u0000")
        if isinstance(good, Rule):
            if not good.holds(value):
                self.wrong(key, value, good.wanted)
        elif good is not None and value not in good:
            self.wrong(key, value, f"one of {', '.join(good)}")
