"""How far the runs of a study are, and what those that are left will cost."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from study.config import TICKETS, ConfigError, Run, Study

DONE, CUT_OFF, TO_DO = "done", "cut off", "to do"
SPECIFIC = ("--init", "--tickets_file", "--tag", "--seed")  # no matter for the cost


@dataclass(frozen=True)
class Plan:
    """What a main's --dry_run says of a run; None where it does not say."""

    flop: float | None
    gpu_hours: float | None
    last_ticket: int | None
    missing: tuple[str, ...]


def state_of(run: Run) -> str:
    """Done: results.json of a transfer, the last ticket of a search. Cut off: begun, not done."""
    if (run.folder / "results.json").is_file() or _has_last_ticket(run.folder):
        return DONE
    return CUT_OFF if (run.folder / "args.json").is_file() else TO_DO


def _has_last_ticket(folder: Path) -> bool:
    try:
        flags = json.loads((folder / "args.json").read_text())
        last = -(-flags["epochs"] // flags["prune_epoch"]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (folder / f"{last}-ticket.safetensors").is_file()


def has_other_flags(run: Run) -> bool:
    """Whether what is in the run's folder was made with other flags than the study now names."""
    try:
        command = json.loads((run.folder / "args.json").read_text())["command"]
        before = shlex.split(command)[2:]
        return _comparable(before, run.name) != _comparable(run.command("python")[2:], run.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _comparable(arguments: list[str], name: str) -> str:
    """Without the thread count, and with the study's folder called {out}, so that it may move."""
    out = arguments[arguments.index("--save_dir") + 1].removesuffix(name)
    text = "\n".join(arguments).replace(out, "{out}/")
    return re.sub(r"(^|\n)--threads\n\d+", "", text)


# --- plans ----------------------------------------------------------------------------------------


def make_plans(study: Study, runs: Iterable[Run], python: str, jobs: int) -> dict[str, Plan]:
    """The plan of every run by name. Runs that cost the same share one call of the main.

    Raises:
        ConfigError: a main refuses its flags; or a transfer wants a ticket that will not exist.
    """
    runs = list(runs)
    groups: dict[tuple[str, ...], Run] = {}
    for run in runs:
        groups.setdefault(_kind(run), run)
    pool = ThreadPoolExecutor(jobs)
    try:
        made = pool.map(lambda run: _plan(run, python, study.out), groups.values())
        plans = dict(zip(groups, made, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    by_name = {run.name: plans[_kind(run)] for run in runs}
    for run in runs:
        _check_needs(run, study, by_name)
    return by_name


def _kind(run: Run) -> tuple[str, ...]:
    """What the cost depends on: the main and its arguments, without those of one run only."""
    kept, skip = [run.main], False
    for word in run.arguments:
        if not skip and word not in SPECIFIC:
            kept.append(word)
        skip = not skip and word in SPECIFIC
    return tuple(kept)


def _plan(run: Run, python: str, out: Path) -> Plan:
    answer = subprocess.run(
        run.command(python, "--dry_run"), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(f"{run.name}: {lines[-1].removeprefix('error: ')}")
    text = answer.stdout
    missing = [line.split("<-")[0].strip() for line in text.splitlines() if "<- MISSING" in line]
    tickets = re.search(r"\.\.(\d+)\}-ticket", text)
    return Plan(
        _number(r"([\d.e+-]+) FLOP,", text),
        _number(r"([\d.e+-]+) GPU-hours", text),
        int(tickets[1]) if tickets else None,
        tuple(line for line in missing if not any(f" {out}/{kind}/" in line for kind in TICKETS)),
    )


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) if found else None


def _check_needs(run: Run, study: Study, plans: dict[str, Plan]) -> None:
    for path in run.needs:
        name = path.parent.relative_to(study.out).as_posix()
        last = plans[name].last_ticket if name in plans else None
        state = int(path.name.split("-")[0])
        if last is not None and state > last:
            raise ConfigError(f"{run.name}: {name} ends with the ticket of state {last}")
        if _has_last_ticket(path.parent) and not path.is_file():
            raise ConfigError(f"{run.name}: {name} is done and has no {path.name}")
