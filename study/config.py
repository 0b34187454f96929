"""From a study's TOML file to the list of its runs; the keys are explained in script/study/*.toml.

Order: pre-trainings with IMP, tickets that need no training (omp, random), transfers.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MODES = ("std", "adv")
TICKETS = ("imp", "omp", "random", "reinit")  # reinit: IMP's masks, weights drawn anew


class ConfigError(ValueError):
    """One line: what is wrong in which file, and what would be right."""


@dataclass(frozen=True)
class Run:
    """One call of a main. `needs` are files that other runs of the study write first."""

    name: str
    main: str
    arguments: tuple[str, ...]  # without --save_dir and --resume
    folder: Path
    needs: tuple[Path, ...] = ()

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def command(self, python: str, *further: str) -> list[str]:
        return [python, str(ROOT / self.main), *self.arguments,
                "--save_dir", str(self.folder), "--resume", *further]  # fmt: skip


@dataclass(frozen=True)
class Study:
    out: Path
    runs: tuple[Run, ...]


def read_study(path: Path, out: str | None = None) -> Study:
    """Read a study; `out` replaces the file's own.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or a wrong value.
    """
    try:
        with path.open("rb") as file:
            whole = Table(path, "", tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a study's TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    study, transfer = whole.table("study"), whole.table("transfer", {})
    pretrainings = [Table(path, "pretraining", table) for table in whole.tables("pretraining")]
    whole.end()
    own = study.text("out", REQUIRED if out is None else out)
    folder = Path(own if out is None else out)
    study.texts.update(out=str(folder))
    flags = study.flags("flags")
    study.end()
    runs, tags = [], []
    for table in pretrainings:
        table.texts.update(out=str(folder))
        tags.append(table.text("tag", good=_is_name))
        runs.append(_pretraining(table, tags[-1], flags, folder))
        if len(set(tags)) < len(tags):
            raise ConfigError(f"{path}: [[pretraining]] tag {tags[-1]!r} is there twice")
    transfer.texts.update(out=str(folder))
    if transfer.values:
        grid = Grid(transfer, flags, folder)
        for kind in ("omp", "random"):
            if kind in grid.tickets:
                runs += [grid.untrained(kind, run) for run in runs[: len(tags)]]
        for tag in tags:
            runs += grid.runs(tag)
    if not runs:
        raise ConfigError(f"{path}: no [[pretraining]], so nothing to run")
    return Study(folder, tuple(runs))


def _pretraining(table: Table, tag: str, flags: list[str], out: Path) -> Run:
    mode = table.text("mode", good=MODES)
    arguments = [table.text("data"), "--mode", mode, "--tag", tag]
    if init := table.text("init", ""):
        arguments += ["--init", init]
    arguments += [*flags, *table.flags("flags")]
    table.end()
    return Run(f"imp/{tag}", "main_imp_pretrain.py", tuple(arguments), out / "imp" / tag)


class Grid:
    """The transfers of one study: pre-training x data set x regime x fraction x ticket x seed."""

    def __init__(self, table: Table, flags: list[str], out: Path) -> None:
        self.out = out
        self.common = flags
        self.data = table.text("data")
        self.datasets = table.several("datasets", str, _is_name)
        self.modes = table.several("modes", str, MODES, [*MODES])
        self.states = table.several("states", int, lambda k: k >= 0)
        self.fractions = table.several("data_numbers", float, lambda f: 0 < f <= 1, [1.0])
        self.seeds = table.several("seeds", int, lambda s: s >= 0, [1])
        self.tickets = table.several("tickets", str, TICKETS, ["imp"])
        self.flags = table.flags_by(
            ["all", *self.modes, *self.datasets]
            + [f"{dataset} {mode}" for dataset in self.datasets for mode in self.modes]
        )
        self.without = table.several("without", str, lambda w: w in self.flags, [])
        table.end()

    def untrained(self, kind: str, imp: Run) -> Run:
        """Tickets by one-shot magnitude or by chance, from the weights that IMP rewinds to."""
        folder = self.out / kind / imp.folder.name
        init = ("--ticket", kind, "--init", str(imp.folder / "init.pth.tar"))
        needs = (imp.folder / "0-ticket.safetensors",)
        return Run(
            f"{kind}/{folder.name}", imp.main, (*_without_init(imp.arguments), *init), folder, needs
        )

    def runs(self, tag: str) -> Iterator[Run]:
        for dataset in self.datasets:
            for mode in self.modes:
                if f"{dataset} {mode}" in self.without:
                    continue
                for fraction in self.fractions:
                    for state in self.states:
                        # Without a prune, every kind of ticket is the same dense network.
                        for kind in self.tickets if state else ["imp"]:
                            for seed in self.seeds:
                                yield self.run(tag, dataset, mode, fraction, state, kind, seed)

    def run(
        self, tag: str, dataset: str, mode: str, fraction: float, state: int, kind: str, seed: int
    ) -> Run:
        source = self.out / (kind if kind in ("omp", "random") else "imp") / tag
        ticket = source / f"{state}-ticket.safetensors"
        arguments = ["--mode", mode, "--dataset", dataset, "--data", self.data, "--tag", tag,
                     "--init", str(source / "init.pth.tar")]  # fmt: skip
        arguments += ["--tickets_file", str(ticket)] if state else []
        arguments += ["--reinit"] if kind == "reinit" else []
        arguments += ["--data_number", f"{fraction:g}"] if fraction < 1 else []
        arguments += ["--seed", str(seed), *self.common]
        for key in ("all", mode, dataset, f"{dataset} {mode}"):
            arguments += self.flags.get(key, [])
        at = f"state{state}" if kind == "imp" else f"state{state}-{kind}"
        name = f"transfer/{tag}/{dataset}/{mode}/f{fraction:g}/{at}/seed{seed}"
        # The ticket is written after the initial weights: where it is, they are.
        return Run(name, "main_downstream.py", tuple(arguments), self.out / name, (ticket,))


def _without_init(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if "--init" not in arguments:
        return arguments
    at = arguments.index("--init")
    return arguments[:at] + arguments[at + 2 :]


# --- reading values -------------------------------------------------------------------------------


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.+-]*", text) is not None


Check = Callable[[Any], bool] | tuple[str, ...] | None
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

    def wrong(self, key: str | None, value: Any, wanted: str) -> None:
        where = " ".join(part for part in (f"[{self.name}]" if self.name else "", key) if part)
        raise ConfigError(f"{self.path}: {where} is {value!r}; it must be {wanted}")

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        self.known.append(key)
        if key not in self.left:
            if default is REQUIRED and key not in self.values:
                where = f"[{self.name}] needs" if self.name else "there must be"
                raise ConfigError(f"{self.path}: {where} {key}")
            return self.values.get(key, default)
        return self.left.pop(key)

    def end(self) -> None:
        for key in self.left:
            where = f"[{self.name}] " if self.name else ""
            raise ConfigError(
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
        if not isinstance(values, list) or (not values and default is REQUIRED):
            self.wrong(key, values, "a list with at least one value, like [1, 2]")
        if len({str(value) for value in values}) < len(values):
            self.wrong(key, values, "a list without repetitions")
        for value in values:
            self._check(key, value, kind, good)
        return values

    def flags(self, key: str) -> list[str]:
        """Arguments of a command, written and split as in the shell."""
        value = self.take(key, "")
        self._check(key, value, str, None)
        try:
            return [self._filled(word) for word in shlex.split(value)]
        except ValueError as error:
            raise ConfigError(f"{self.path}: [{self.name}] {key}: {error}: {value!r}") from error

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
        if isinstance(good, tuple):
            if value not in good:
                self.wrong(key, value, f"one of {', '.join(good)}")
        elif good is not None and not good(value):
            reasons = {
                str: "a plain name (letters, digits, . _ + -)",
                int: "a whole number of at least 0",
                float: "a fraction above 0 and at most 1",
            }
            self.wrong(key, value, reasons[kind])
