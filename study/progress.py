"""How many epochs of a run are done, by its metrics.jsonl; how long a study still takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from files import names
from files.metrics import read_metrics
from study.config import Run

NOT_SHOWN = ("epoch", "seconds")  # of an epoch's figures


class Epochs:
    """The epochs of a run that is going on.

    `before` counts those that were recorded when this job began, so that its pace is its own;
    `reached` is the age in seconds at which the newest one was seen.
    """

    def __init__(self, folder: Path, total: int | None) -> None:
        self.path, self.total = folder / names.METRICS, total
        self.seen = (0, 0)
        self.done = self.before = 0
        self.reached = 0.0
        self.look(0.0)
        self.before = self.done

    def look(self, age: float) -> list[dict[str, Any]]:
        """The figures of the epochs that have been recorded since the last look.

        A run that is resumed drops what its checkpoint does not know; then those count again.
        """
        epochs = self._epochs()
        if epochs is None:
            return []
        done = epochs[-1]["epoch"] + 1 if epochs else 0
        new = [epoch for epoch in epochs if epoch["epoch"] >= self.done]
        self.before = min(self.before, done)
        self.reached = age if new else self.reached
        self.done = done
        return new

    def _epochs(self) -> list[dict[str, Any]] | None:
        """The figures of every epoch; None if the file is as it was, or not there."""
        try:
            status = self.path.stat()
            if (status.st_mtime_ns, status.st_size) == self.seen:
                return None
            self.seen = (status.st_mtime_ns, status.st_size)
            return read_metrics(self.path)
        except OSError:
            return None

    @property
    def share(self) -> float:
        """The share of the whole run that this job has done."""
        return (self.done - self.before) / self.total if self.total else 0.0

    @property
    def share_before(self) -> float:
        return self.before / self.total if self.total else 0.0

    def described(self, epoch: Mapping[str, Any]) -> str:
        """One epoch's figures as text: `epoch 2/30: train loss 0.512, train acc 81.2, …`."""
        figures = [f"{_words(k)} {v:.4g}" for k, v in epoch.items() if k not in NOT_SHOWN]
        total = f"/{self.total}" if self.total else ""
        return f"epoch {epoch['epoch'] + 1}{total}: {', '.join(figures)}"


def _words(name: str) -> str:
    return " ".join(word.upper() if word in ("sa", "ra") else word for word in name.split("_"))


class Timed(Protocol):
    """What `Pace` asks of a job."""

    @property
    def run(self) -> Run: ...

    @property
    def seconds(self) -> float: ...

    @property
    def epochs(self) -> Epochs: ...


class Pace:
    """Seconds per unit of cost, by sort of run, and from it what is left of a study."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.costs = costs
        self.spent: dict[str, tuple[float, float]] = {}  # by sort of run: seconds, cost

    def cost(self, run: Run) -> float:
        return self.costs.get(run.name) or 1.0

    def finished(self, job: Timed) -> None:
        share = 1 - job.epochs.share_before
        self.spent[_sort(job.run)] = self._more(self.spent, job, job.seconds, share)

    def _more(
        self, spent: Mapping[str, tuple[float, float]], job: Timed, seconds: float, share: float
    ) -> tuple[float, float]:
        before = spent.get(_sort(job.run), (0.0, 0.0))
        return before[0] + seconds, before[1] + self.cost(job.run) * share

    def seconds_left(
        self, waiting: Iterable[Run], running: Sequence[Timed], jobs: int
    ) -> float | None:
        """Seconds until all is done, `jobs` at a time; None as long as nothing tells the pace."""
        spent = dict(self.spent)
        for job in running:
            if job.epochs.share:
                more = self._more(spent, job, job.epochs.reached, job.epochs.share)
                spent[_sort(job.run)] = more
        pace = {sort: seconds / cost for sort, (seconds, cost) in spent.items() if cost}
        if not pace:
            return None
        usual = sum(pace.values()) / len(pace)

        def seconds(run: Run) -> float:
            return self.cost(run) * pace.get(_sort(run), usual)

        left = [seconds(run) for run in waiting]
        for job in running:
            share = 1 - job.epochs.share_before - job.epochs.share
            since = job.seconds - job.epochs.reached
            left.append(max(seconds(job.run) * share - since, 0.0))
        return max(sum(left) / jobs, max(left, default=0.0))


def _sort(run: Run) -> str:
    """Runs of one sort take about as long per FLOP: same main, same regime."""
    mode = run.arguments[run.arguments.index("--mode") + 1] if "--mode" in run.arguments else ""
    return f"{run.main} {mode}"
