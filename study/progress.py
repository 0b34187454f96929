"""How many epochs of a run are done, by its metrics.jsonl; how long a study still takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from files import names
from files.metrics import read_metrics
from study.config import Run

NOT_SHOWN = ("epoch", "seconds")  # of an epoch's figures


class Epochs:
    """The epochs of a run that is going on.

    `total` counts all that the run makes, `taken` those that another run made before it
    (--continue_from), `before` those that were done when this job began, so that its pace is its
    own; `reached` is the age in seconds at which the newest one was seen.
    """

    def __init__(self, folder: Path, total: int | None, taken: int = 0) -> None:
        self.path, self.total, self.taken = folder / names.METRICS, total, taken
        self.seen = (0, 0)
        self.done = self.before = taken
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
        done = max(epochs[-1]["epoch"] + 1 if epochs else 0, self.taken)
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
        return (self.before - self.taken) / self.total if self.total else 0.0

    def described(self, epoch: Mapping[str, Any]) -> str:
        """One epoch's figures as text: `epoch 2/30: train loss 0.512, train acc 81.2, …`."""
        figures = [f"{_words(k)} {v:.4g}" for k, v in epoch.items() if k not in NOT_SHOWN]
        total = f"/{self.taken + self.total}" if self.total else ""
        return f"epoch {epoch['epoch'] + 1}{total}: {', '.join(figures)}"


def _words(name: str) -> str:
    return " ".join(word.upper() if word in ("sa", "ra") else word for word in name.split("_"))


class Sort(NamedTuple):
    """What runs have in common that take about as long for a unit of cost."""

    known: bool  # whether the cost is
    main: str
    mode: str


class Timed(Protocol):
    """What `Pace` asks of a job."""

    @property
    def run(self) -> Run: ...

    @property
    def seconds(self) -> float: ...

    @property
    def epochs(self) -> Epochs: ...


class Pace:
    """Seconds per unit of cost, by sort of run, and from it what is left of a study.

    costs: of each run, in FLOP; 0 of one that trains nothing and takes no time to speak of; None
    where it is unknown: such runs count alike, and tell nothing of the others' pace.
    """

    def __init__(self, costs: Mapping[str, float | None]) -> None:
        self.costs = costs
        self.spent: dict[Sort, tuple[float, float]] = {}  # seconds, cost

    def cost(self, run: Run) -> float:
        cost = self.costs[run.name]
        return 1.0 if cost is None else cost

    def sort(self, run: Run) -> Sort:
        """Runs of one sort take about as long per FLOP: same main, same regime."""
        mode = run.arguments[run.arguments.index("--mode") + 1] if "--mode" in run.arguments else ""
        return Sort(self.costs[run.name] is not None, run.main, mode)

    def finished(self, job: Timed) -> None:
        share = 1 - job.epochs.share_before
        self.spent[self.sort(job.run)] = self._more(self.spent, job, job.seconds, share)

    def _more(
        self, spent: Mapping[Sort, tuple[float, float]], job: Timed, seconds: float, share: float
    ) -> tuple[float, float]:
        before, cost = spent.get(self.sort(job.run), (0.0, 0.0)), self.cost(job.run)
        return (before[0] + seconds, before[1] + cost * share) if cost else before

    def seconds_left(
        self, waiting: Iterable[Run], running: Sequence[Timed], jobs: int
    ) -> float | None:
        """Seconds until all is done, `jobs` at a time; None where the pace of some is unknown."""
        spent = dict(self.spent)
        for job in running:
            if job.epochs.share:
                more = self._more(spent, job, job.epochs.reached, job.epochs.share)
                spent[self.sort(job.run)] = more
        pace = {sort: seconds / cost for sort, (seconds, cost) in spent.items() if cost}
        whole: dict[str, float] = {}
        waiting = list(waiting)
        for run in (*waiting, *(job.run for job in running)):
            seconds = self._seconds(run, pace)
            if seconds is None:
                return None
            whole[run.name] = seconds
        left = [whole[run.name] for run in waiting]
        for job in running:
            share = 1 - job.epochs.share_before - job.epochs.share
            since = job.seconds - job.epochs.reached
            left.append(max(whole[job.run.name] * share - since, 0.0))
        return max(sum(left) / jobs, max(left, default=0.0))

    def _seconds(self, run: Run, pace: Mapping[Sort, float]) -> float | None:
        """A whole run's, by the pace of its sort, else by the usual one of those alike."""
        own, cost = self.sort(run), self.cost(run)
        alike = [value for sort, value in pace.items() if sort.known == own.known]
        if cost and not alike:
            return None
        return cost * pace.get(own, sum(alike) / len(alike)) if cost else 0.0
