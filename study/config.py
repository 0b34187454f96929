"""From a study's TOML file to the list of its runs; the keys are explained in script/study/*.toml.

Order: pre-trainings with IMP, tickets that need no training (omp, random), transfers.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from errors import InputError, first_line
from files import names
from files.results import IMP, MODES, REINIT, TICKETS, UNTRAINED
from files.study_record import Plan
from study.table import COUNT, FRACTION, NAME, REQUIRED, Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SEARCH, TRANSFER = "main_imp_pretrain.py", "main_downstream.py"


@dataclass(frozen=True)
class Needed:
    """A ticket that another run of the study writes first; its initial weights are there then."""

    folder: Path
    state: int

    @property
    def path(self) -> Path:
        return self.folder / names.ticket(self.state)


# Flags that a study gives each run, by its own keys; another value would belie the run's folder.
OF_EVERY_RUN = frozenset(("--mode", "--tag", "--save_dir", "--resume"))
OF_A_SEARCH = OF_EVERY_RUN | {"--ticket", "--pretrained"}
OF_THE_GRID = OF_EVERY_RUN | {
    *("--dataset", "--init", "--tickets_file", "--ticket_file", "--reinit"),
    *("--data_number", "--seed"),
}
# With one of these a main makes no run.
OF_NO_RUN = frozenset(
    ("--evaluate", "-e", "--export_released", "--dry_run", "--json", "--time_it", "--help", "-h")
)


def flag_of(word: str) -> str:
    """The flag that a word of a command names, as the mains read it; "" for a value."""
    flag = re.match(r"--?[A-Za-z][^=]*", word)
    return re.sub(r"(?<=\w)-", "_", flag[0]) if flag else ""


@dataclass(frozen=True)
class Run:
    """One call of a main, and the tickets that it needs."""

    name: str
    main: str
    arguments: tuple[str, ...]  # without --save_dir and --resume
    folder: Path
    needs: tuple[Needed, ...] = ()

    @property
    def log(self) -> Path:
        return self.folder / names.LOG

    def command(self, python: str, *further: str) -> list[str]:
        return [python, str(ROOT / self.main), *self.arguments,
                "--save_dir", str(self.folder), "--resume", *further]  # fmt: skip


@dataclass(frozen=True)
class Study:
    """plan: of the transfers; None without any."""

    out: Path
    runs: tuple[Run, ...]
    plan: Plan | None = None

    def numbers_hash(self) -> str:
        """Short; it changes where a number is that of another run, or of one by other flags."""
        runs = "\n".join(shlex.join([run.name, *run.command("python")[2:]]) for run in self.runs)
        return hashlib.sha256(runs.encode()).hexdigest()[:12]


def read_study(path: Path, out: str | None = None) -> Study:
    """Read a study; `out` replaces the file's own.

    Raises:
        InputError: no such file, no TOML, an unknown key or a wrong value.
    """
    try:
        with path.open("rb") as file:
            whole = Table(path, "", tomllib.load(file))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a study's TOML file") from error
    except (ValueError, RecursionError) as error:  # not TOML, or more of it than can be read
        raise InputError(f"{path}: not TOML: {first_line(error)}") from error
    study, transfer = whole.table("study"), whole.table("transfer", {})
    pretrainings = [Table(path, "pretraining", table) for table in whole.tables("pretraining")]
    whole.end()
    own = study.text("out", REQUIRED if out is None else out)
    place = own if out is None else out
    if not place:
        raise InputError(f"{path}: [study] out (or --out) is empty; . is the current folder")
    folder = Path(place)
    if folder.is_file():
        raise InputError(f"{folder}: is a file; [study] out (or --out) must be a folder")
    study.texts.update(out=str(folder))
    flags = study.flags("flags")
    evidence_margin = study.points("evidence_margin")
    study.end()
    runs, tags = [], []
    for table in pretrainings:
        table.texts.update(out=str(folder))
        tags.append(table.text("tag", good=NAME))
        runs.append(_pretraining(table, tags[-1], flags, folder))
        if len(set(tags)) < len(tags):
            raise InputError(f"{path}: [[pretraining]] tag {tags[-1]!r} is there twice")
    runs = [_after_its_weights(path, runs, place) for place in range(len(runs))]
    transfer.texts.update(out=str(folder))
    plan = None
    if transfer.values:
        grid = Grid(transfer, flags, folder)
        for kind in UNTRAINED:
            if kind in grid.tickets:
                runs += [grid.untrained(kind, run) for run in runs[: len(tags)]]
        for tag in tags:
            runs += grid.runs(tag)
        plan = grid.plan(path, tags, evidence_margin)
    if not runs:
        raise InputError(f"{path}: no [[pretraining]], so nothing to run")
    found = Study(folder, tuple(runs), plan)
    _refuse_unfilled(path, found)
    return found


def _refuse_unfilled(path: Path, study: Study) -> None:
    """Raise InputError for a home or a variable that no shell fills in."""
    for word in (word for run in study.runs for word in run.command("python")[2:]):
        if word.startswith("~") or re.search(r"\$\w|\$\{", word):
            raise InputError(
                f"{path}: {word}: ~ and $NAME are not filled in here; write the path out"
            )


def _pretraining(table: Table, tag: str, flags: list[str], out: Path) -> Run:
    mode = table.text("mode", good=MODES)
    arguments = [table.text("data"), "--mode", mode, "--tag", tag]
    if init := table.text("init", ""):
        arguments += ["--init", init]
    own = [*flags, *table.flags("flags")]
    _refuse(OF_A_SEARCH, own, table, "use its keys")
    arguments += own
    table.end()
    return Run(f"imp/{tag}", SEARCH, tuple(arguments), out / "imp" / tag)


def _after_its_weights(path: Path, searches: Sequence[Run], place: int) -> Run:
    """The search at a place of the list, made to wait for the one that writes its --init.

    Raises InputError where that is no earlier one: they might wait for one another.
    """
    run = searches[place]
    init = _last_value(run.arguments, "--init")
    weights = Path(init or "").resolve()
    written = any(fnmatch(weights.name, pattern) for pattern in names.OF_A_RUN)
    for number, other in enumerate(searches):
        if written and weights.parent == other.folder.resolve():
            if number >= place:
                raise InputError(
                    f"{path}: {run.name} starts from {init}, which {other.name} writes; only "
                    "that of a [[pretraining]] above it can be waited for"
                )
            return replace(run, needs=(Needed(other.folder, 0),))
    return run


class Grid:
    """The transfers of one study: pre-training x data set x regime x fraction x ticket x seed."""

    def __init__(self, table: Table, flags: list[str], out: Path) -> None:
        self.out = out
        self.common = flags
        self.data = table.text("data")
        self.datasets = table.several("datasets", str, NAME)
        self.modes = table.several("modes", str, MODES, [*MODES])
        self.states = table.several("states", int, COUNT)
        self.fractions = table.several("data_numbers", float, FRACTION, [1.0])
        self.seeds = table.several("seeds", int, COUNT, [1])
        self.tickets = table.several("tickets", str, TICKETS, [IMP])
        pairs = tuple(f"{dataset} {mode}" for dataset in self.datasets for mode in self.modes)
        self.flags = table.flags_by(["all", *self.modes, *self.datasets, *pairs])
        instead = "use its keys, and for a search the flags of its [[pretraining]]"
        for words in (flags, *self.flags.values()):
            _refuse(OF_THE_GRID, words, table, instead)
        self.without = table.several("without", str, pairs, [])
        table.end()

    def plan(self, path: Path, tags: Sequence[str], evidence_margin: float | None) -> Plan:
        """What is asked for, for the record."""
        return Plan(
            str(path.resolve()),
            tuple(state for state in self.states if state),  # 0 is no ticket
            tuple(self.seeds),
            tuple(tags),
            tuple(self.datasets),
            tuple(self.fractions),
            evidence_margin,
            tuple(self.regimes()),
            tuple(self.tickets),
        )

    def regimes(self) -> Iterator[tuple[str, str]]:
        """The pairs of a data set and a mode that are run."""
        for dataset in self.datasets:
            for mode in self.modes:
                if f"{dataset} {mode}" not in self.without:
                    yield dataset, mode

    def untrained(self, kind: str, imp: Run) -> Run:
        """Tickets by one-shot magnitude or by chance, from the weights that IMP rewinds to."""
        folder = self.out / kind / imp.folder.name
        arguments = without(imp.arguments, "--init", "--init_key", "--continue_from")
        arguments += ("--ticket", kind, "--init", str(imp.folder / names.INIT))
        needs = (Needed(imp.folder, 0),)
        return Run(f"{kind}/{folder.name}", imp.main, arguments, folder, needs)

    def runs(self, tag: str) -> Iterator[Run]:
        for dataset, mode in self.regimes():
            for fraction in self.fractions:
                for state in self.states:
                    # Without a prune, every kind of ticket is the same dense network.
                    for kind in self.tickets if state else [IMP]:
                        for seed in self.seeds:
                            yield self.run(tag, dataset, mode, fraction, state, kind, seed)

    def run(
        self, tag: str, dataset: str, mode: str, fraction: float, state: int, kind: str, seed: int
    ) -> Run:
        source = self.out / (kind if kind in UNTRAINED else IMP) / tag
        ticket = Needed(source, state)
        arguments = ["--mode", mode, "--dataset", dataset, "--data", self.data, "--tag", tag,
                     "--init", str(source / names.INIT)]  # fmt: skip
        arguments += ["--tickets_file", str(ticket.path)] if state else []
        arguments += ["--reinit"] if kind == REINIT else []
        arguments += ["--data_number", f"{fraction:g}"] if fraction < 1 else []
        arguments += ["--seed", str(seed), *self.common]
        for key in ("all", mode, dataset, f"{dataset} {mode}"):
            arguments += self.flags.get(key, [])
        at = f"state{state}" if kind == IMP else f"state{state}-{kind}"
        name = f"transfer/{tag}/{dataset}/{mode}/f{fraction:g}/{at}/seed{seed}"
        return Run(name, TRANSFER, tuple(arguments), self.out / name, (ticket,))


def _refuse(flags: Collection[str], words: Sequence[str], table: Table, instead: str) -> None:
    """Raise InputError where words of a command give a flag of OF_NO_RUN, or the study's own."""
    for word in words:
        if (flag := flag_of(word)) in OF_NO_RUN:
            raise InputError(
                f"{table.path}: [{table.name}]: flags set {flag}, with which nothing is run; leave "
                "it out"
            )
        if flag in flags:
            raise InputError(
                f"{table.path}: [{table.name}]: flags set {flag}, as the study does for each run; "
                f"{instead}"
            )


def _last_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag, which counts where it is given last; None without it."""
    value = None
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        if flag_of(word) == flag:
            value = word.partition("=")[2] or following
    return value


def without(arguments: tuple[str, ...], *flags: str) -> tuple[str, ...]:
    """Arguments without some flags and their values."""
    kept, words = [], iter(arguments)
    for word in words:
        if flag_of(word) not in flags:
            kept.append(word)
        elif "=" not in word:
            next(words, None)
    return tuple(kept)
