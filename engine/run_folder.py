"""A run's folder: what was begun in it, whether this run may go on in it, and who holds it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.distributed import barrier, gather_from_ranks, is_main
from engine.log import provenance, say, warn
from errors import InputError
from files import names
from files.atomic import is_written, write_json
from files.features import discard, lacks_told, lock_by_process
from files.metrics import read_metrics
from files.results import IMP
from files.run_args import read_args

WARNINGS = "warnings"
NOTES = "notes"  # among the flags, but none: what was told of them
WRITTEN_BESIDE = (
    names.ARGS, names.ACCURACY_PLOT, names.CURVES_PLOT, names.AUTOATTACK_PROGRESS
)  # fmt: skip
CONTENT = "_content"  # ends the name under which the fingerprint of an input is recorded
IN_SIGHT = 60.0  # seconds until all nodes see a new file
# Of the data's content, what is not only that of the training split: its files by name and size,
# and by their bytes.
OF_IMAGES = IMAGES, BYTES = "images", "bytes"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what must stay as it is while the run is resumed in it.

    free: the flags that may differ. inputs: those that name an input file, which may lie elsewhere,
    but is there or is not. resume: what --resume says: None, auto or a checkpoint.
    newest: finds the checkpoint to resume from. last_file: the file that a finished run has.
    contents: fingerprints of input files, as `{flag: text}`; on resume paths may change, contents
    may not. facts: what else `args.json` says of the run; it is not compared. read: gives the
    fingerprints of those of `inputs` that it is asked for.
    """

    path: Path
    flags: Mapping[str, Any]
    free: Collection[str]
    inputs: Collection[str]
    resume: str | None
    newest: Callable[[Path], Path | None]
    last_file: str
    contents: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Collection[str]], Mapping[str, str]] = lambda _: {}

    def is_finished(self) -> bool:
        """Whether there is nothing left to resume; then it says so.

        Raises InputError where the flags name other input files than the finished run had.
        """
        before = read_args(self.path)
        if self.resume is None or not before or not is_written(self.path / self.last_file):
            return False
        self._reading([name for name in self.inputs if not self._is_gone(name, before)]).check()
        told = ""
        if before.get("data", self.flags.get("data")) != self.flags.get("data"):
            told = f" (with --data {before['data']}; the one of the flags was not looked at)"
        say(f"{self.path}: this run is finished; nothing to do{told}")
        return True

    def check_named(self, checkpoint: Path, inputs: Collection[str]) -> None:
        """Raise InputError where one of these `inputs` is named and not of --evaluate's network."""
        named = [name for name in inputs if self.flags.get(name) is not None]
        other = replace(self._reading(named), path=checkpoint.parent)
        for name, before, now in other.differences():
            raise InputError(
                f"--evaluate is about {checkpoint}, of a run with --{name} {before}, not {now}; "
                "name another --save_dir, or a checkpoint by --resume PATH"
            )
        if named and not read_args(checkpoint.parent).keys() & {*named}:
            raise InputError(
                f"--evaluate is about {checkpoint}, whose run is not known: leave out --{named[0]}"
            )

    def _reading(self, inputs: Collection[str]) -> RunFolder:
        """The same, of the run's flags only those that name these files."""
        flags = {name: self.flags.get(name) for name in (*inputs, "continue_from")}
        return replace(self, flags=flags, inputs=inputs, contents=self.read(inputs))

    def _is_gone(self, name: str, before: Mapping[str, Any]) -> bool:
        """Whether an input that a run had, by the same path, is no more."""
        path = self.flags[name]
        return path is not None and path == before.get(name) and not Path(path).is_file()

    def checkpoint(self) -> Path | None:
        """What `--resume` means: nothing, the folder's newest file, or the path that it names."""
        if self.resume in (None, "auto"):
            return self.newest(self.path) if self.resume else None
        if not Path(self.resume).is_file():
            found = (
                "is a folder; name a file in it" if Path(self.resume).is_dir() else "no such file"
            )
            raise InputError(
                f"--resume {self.resume}: {found}; leave out PATH for the newest in --save_dir"
            )
        return Path(self.resume)

    def checkpoint_to_test(self, flag: str = "--evaluate") -> Path:
        """The checkpoint that a flag is about: the one that --resume names, or the newest."""
        checkpoint = replace(self, resume=self.resume or "auto").checkpoint()
        if checkpoint is None:
            raise InputError(f"{flag}: no checkpoint in {self.path}; name one by --resume PATH")
        return checkpoint

    def recorded(self) -> dict[str, Any]:
        """What `args.json` says that is compared when the run goes on: flags, inputs' contents."""
        contents = {f"{name}{CONTENT}": value for name, value in self.contents.items()}
        flags = {name: value for name, value in self.flags.items() if name != NOTES}
        return {**flags, **contents}

    def check(self) -> None:
        """Raise InputError if the folder holds a run and `resume` is off, or one of other flags."""
        if not (self.path / names.ARGS).exists():
            self._check_remains()
        elif self.resume is None:
            raise InputError(
                f"--save_dir {self.path}: holds a run already; add --resume to go on, or choose "
                "another"
            )
        for flag, before, now in self.differences():
            raise InputError(
                f"--save_dir {self.path}: holds a run with --{flag} {before}, not {now}; choose "
                "another folder"
            )
        self._check_lost()

    def _check_lost(self) -> None:
        """Raise InputError if `--resume` finds no checkpoint of a run that had one.

        It would begin anew and overwrite what is left. The figures of one epoch are written before
        its checkpoint, and so are the tickets that a search has without having trained a state: 0
        and 1. More tell.
        """
        going_on = self.resume == "auto" and self.flags.get("continue_from") is None
        if not going_on or self.newest(self.path) or is_written(self.path / self.last_file):
            return
        metrics = self.path / names.METRICS
        epochs = len(read_metrics(metrics)) if metrics.is_file() else 0
        tickets = len([*self.path.glob(f"*{names.TICKET_SUFFIX}")])
        if epochs > 1:
            found = f"the figures of {epochs} epochs"
        elif tickets > 2 and self.flags.get("ticket") == IMP:
            found = f"{tickets} tickets of a search"
        else:
            return
        offer = "; --continue_from a ticket goes on without it" if tickets else ""
        raise InputError(
            f"--resume: {self.path} holds {found}, but no checkpoint{offer}; to begin anew choose "
            "another --save_dir"
        )

    def _check_remains(self) -> None:
        """Raise InputError if a folder without `args.json` holds what a run would overwrite."""
        ticket = self.flags.get("continue_from")
        salvaged = ticket is not None and Path(ticket).resolve().parent == self.path.resolve()
        if salvaged:
            return
        for pattern in names.OF_A_RUN:
            for found in self.path.glob(pattern):
                raise InputError(
                    f"--save_dir {self.path}: holds {found.name} of a run whose {names.ARGS} is "
                    "missing; choose another (there a run goes on by --resume PATH of a "
                    "checkpoint, with its own flags)"
                )

    def check_origin(self, checkpoint: Path) -> None:
        """Raise InputError for a checkpoint that lies elsewhere, in a folder of other flags."""
        if checkpoint.parent.resolve() == self.path.resolve():
            return
        for flag, before, now in replace(self, path=checkpoint.parent).differences():
            raise InputError(
                f"--resume {checkpoint}: of a run with --{flag} {before}, not {now}; a run goes "
                "on with its own flags"
            )

    def differences(self) -> Iterator[tuple[str, Any, Any]]:
        """In which flags (flag, then, now) this run is another than the one in the folder."""
        before = read_args(self.path)
        yield from self._inputs_that_differ(before)
        for name, value in json.loads(json.dumps(self.recorded())).items():
            if name not in self.free and name in before and before[name] != value:
                yield _as_flag(name), _said(before[name]), _said(value)

    def _inputs_that_differ(self, before: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        """The inputs that only one of the two runs has, or has as a file of its own."""
        salvaged = before.get("continue_from") or self.flags.get("continue_from")
        known = bool(self.contents) and f"data{CONTENT}" in before
        for name in self.inputs:
            if name == "init" and salvaged or name not in before:
                continue  # a salvaged run goes on from what lay beside its ticket
            one_has = (before[name] is None) != (self.flags[name] is None)
            had, has = f"{name}{CONTENT}" in before, name in self.contents
            fetched = not had and not has and before[name] != self.flags[name]
            if one_has or known and (had != has or fetched):
                yield name, _said(before[name]), _said(self.flags[name])

    def claim(self) -> None:
        """Check the folder, write `args.json` if it has none, remove PREEMPTED and torn files."""
        self.check()
        if not (self.path / names.ARGS).exists():
            recorded = {**self.recorded(), **self.facts, **provenance()}
            write_json(self.path / names.ARGS, recorded)
        self._forget_the_stop()
        for pattern in (*names.OF_A_RUN, *WRITTEN_BESIDE):
            for torn in self.path.glob(f".{pattern}.*.tmp"):  # of a run that was killed in writing
                discard(torn)

    def _forget_the_stop(self) -> None:
        """Remove PREEMPTED: a job script that finds it queues the job again, for ever."""
        path = self.path / names.PREEMPTED
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be removed ({error.strerror}); remove it") from error

    def warnings(self) -> list[str]:
        """What earlier starts of the folder's run warned of."""
        lines = read_args(self.path).get(WARNINGS, [])
        return [str(line) for line in lines] if isinstance(lines, list) else []

    def record(self, warnings: Sequence[str]) -> None:
        """Let `args.json` say what the run warned of (rank 0)."""
        if is_main() and list(warnings) != self.warnings():
            recorded = {**read_args(self.path), WARNINGS: list(warnings)}
            write_json(self.path / names.ARGS, recorded)

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that was written last, if there is any."""
        found = list(self.path.glob(f"*{names.CHECKPOINT}"))
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _as_flag(name: str) -> str:
    """What a message calls a recorded value, behind `--`."""
    if name in [f"{of}{CONTENT}" for of in OF_IMAGES]:
        return "data whose images are"
    return name.replace(CONTENT, " that holds")


def _said(value: Any) -> Any:
    return "none" if value is None else value


@contextlib.contextmanager
def holding(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder: make it, lock it, write or compare `args.json`; rank 0 does so for all.

    The lock dies with the process, however it dies. A folder that was made here is removed again
    if wrong input ends the run before its first checkpoint.

    Raises:
        InputError: another process works in it; it holds a run and `resume` is off, or one with
            other flags; it cannot be written.
    """
    if not is_main():
        barrier()
        _check_shared(folder.path)
        yield
        return
    new = not folder.path.exists()
    with lacks_told(warn), _locked(folder.path):
        try:
            folder.claim()
            barrier()
            _check_shared(folder.path)
            yield
        except InputError:
            if new and folder.last_checkpoint() is None:
                shutil.rmtree(folder.path, ignore_errors=True)  # NFS keeps the lock, which is open
            raise


def _check_shared(folder: Path) -> None:
    """Raise InputError where a process does not see what rank 0 wrote into the run's folder."""
    seen = gather_from_ranks(_is_seen(folder / names.ARGS))
    if not all(seen):
        raise InputError(
            f"--save_dir {folder}: process {seen.index(False)} does not see what process 0 writes "
            "there; name a folder that all nodes share"
        )


def _is_seen(path: Path) -> bool:
    """Whether a file is there, or comes into sight: NFS takes up to a minute to show a new one."""
    deadline = time.monotonic() + IN_SIGHT
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return path.exists()


@contextlib.contextmanager
def _locked(save_dir: Path) -> Iterator[None]:
    """Lock a folder, as far as its file system knows locks."""
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock = open(save_dir / names.LOCK, "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"--save_dir {save_dir}: cannot be written ({error.strerror}); name another folder"
        ) from error
    with lock:
        if not lock_by_process(lock, save_dir, "see to it that no other run writes here"):
            raise InputError(
                f"--save_dir {save_dir}: another run is working in it; wait, or name another folder"
            )
        yield
