"""What the runs that are left will cost and need, as the mains' `--dry_run --json` tells it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from study.config import Needed, Run, Study, without
from study.state import has_last_ticket

SPECIFIC = ("--tickets_file", "--tag", "--seed")  # no matter for the plan

STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Forecast:
    """What a study asks of a run's plan; None where the run has no such thing."""

    epochs: int | None
    epochs_taken: int  # over, from the run of --continue_from
    last_ticket: int | None
    flop: float | None
    gpu_hours: float | None
    flop_per_image: float | None  # of one pass
    memory: float  # bytes, of the network and the images of a pass
    seconds: float | None  # of the whole run here, where it was timed
    missing: tuple[str, ...]  # inputs that are not there and that no run of the study writes

    @property
    def trains_at_unknown_cost(self) -> bool:
        """Whether the images that it would train on are not counted."""
        return self.epochs is not None and self.flop is None

    @property
    def cost(self) -> float | None:
        """FLOP; 0 of a run that trains nothing, None where the images are not counted."""
        return 0.0 if self.epochs is None else self.flop


def make_forecasts(
    study: Study,
    runs: Iterable[Run],
    python: str,
    jobs: int,
    further: Callable[[Run], Sequence[str]] = lambda _: (),
) -> dict[str, Forecast]:
    """The forecast of every run by name. Runs whose plans are alike share one call of the main.

    Args:
        jobs: calls at a time.
        further: what a call says beside a run's own words.

    Raises:
        InputError: a main refuses its flags; or a transfer wants a ticket that will not exist.
    """
    runs = list(runs)
    groups: dict[tuple[str, ...], Run] = {}
    for run in runs:
        groups.setdefault(_kind(run), run)
    pool = ThreadPoolExecutor(jobs, initializer=signal.pthread_sigmask,
                              initargs=(signal.SIG_UNBLOCK, STOPPING))  # fmt: skip
    try:
        with _held_signals():  # one that raised while a thread starts would break the thread
            made = pool.map(
                lambda run: _forecast(run, python, study, further(run)), groups.values()
            )
        forecasts = dict(zip(groups, made, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    by_name = {run.name: forecasts[_kind(run)] for run in runs}
    for run in runs:
        for needed in run.needs:
            _check(run, needed, study, by_name)
    return by_name


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Inside the block the signals that stop a study wait; they arrive at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kind(run: Run) -> tuple[str, ...]:
    """What the plan depends on: the main and its arguments, without those of one run only.

    Initial weights count where they are from outside: they may be missing. Those of a run that
    needs a ticket are written with it.
    """
    written = ("--init",) if run.needs else ()
    return (run.main, *without(run.arguments, *SPECIFIC, *written))


def _forecast(run: Run, python: str, study: Study, further: Sequence[str]) -> Forecast:
    command = run.command(python, "--dry_run", "--json", *further)
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{run.name}: {lines[-1].removeprefix('error: ')}")
    return read_plan(json.loads(answer.stdout), study)


def read_plan(plan: Mapping[str, Any], study: Study) -> Forecast:
    """What matters here of the plan of one of the study's runs."""
    cost = plan["cost"] or {}
    timed = plan.get("timed")
    own = {run.folder for run in study.runs}
    return Forecast(
        epochs=plan["epochs"],
        epochs_taken=plan["epochs_taken"],
        last_ticket=plan["last_ticket"],
        flop=cost.get("flop"),
        gpu_hours=cost.get("gpu_hours"),
        flop_per_image=cost["flop"] / cost["passes"] if cost else None,
        memory=cost["network_bytes"] + cost["activation_bytes"] if cost else 0.0,
        seconds=3600 * timed["whole_hours"] if timed else None,
        missing=tuple(
            f"{needed['name']} {needed['path']}"
            for needed in plan["inputs"]
            if needed["missing"] and own.isdisjoint(Path(needed["path"]).parents)
        ),
    )


def _check(run: Run, needed: Needed, study: Study, forecasts: Mapping[str, Forecast]) -> None:
    name = needed.folder.relative_to(study.out).as_posix()
    last = forecasts[name].last_ticket if name in forecasts else None
    if last is not None and needed.state > last:
        raise InputError(f"{run.name}: {name} ends with the ticket of state {last}")
    if has_last_ticket(needed.folder) and not needed.path.is_file():
        raise InputError(f"{run.name}: {name} is done and has no {needed.path.name}")


def study_seconds(runs: Collection[Forecast], jobs: int) -> float | None:
    """Seconds until all runs are done, `jobs` at a time; None where one that trains is untimed.

    The queue may wait for tickets, which is not counted.
    """
    if any(told.seconds is None and told.epochs is not None for told in runs):
        return None
    each = [told.seconds or 0.0 for told in runs]
    return max(sum(each) / jobs, max(each, default=0.0))
