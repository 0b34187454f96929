"""Run what is left of a study, some runs at a time, each with its log; show how far they are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from files import names
from files.features import lacks_told, take_lock
from study.config import Run
from study.forecast import Forecast
from study.jobs import Job
from study.progress import Pace
from study.screen import Screen, clock
from study.state import CUT_OFF, DONE, state_of

POLL = 0.3  # seconds
QUIET = 30.0  # seconds without a line of a job, after which its last one is shown again
GRACE = 60.0  # seconds that a job has to save and end when the study is stopped
HELD = (errno.EWOULDBLOCK,)  # what flock answers where another process has the lock


class Stop(Exception):
    """The study is asked to stop, by this signal; `begun` says whether it had begun to run."""

    def __init__(self, number: int, *, begun: bool = False) -> None:
        self.number, self.begun = number, begun


class Queue:
    """The runs of a study in `folder` that are left, `jobs` at a time."""

    def __init__(
        self,
        runs: Sequence[Run],
        command: Callable[[Run], list[str]],
        *,
        folder: Path,
        jobs: int,
        gpus: Sequence[str],
        forecasts: Mapping[str, Forecast],
    ) -> None:
        self.waiting = list(runs)
        self.total = len(runs)
        self.folder, self.command, self.jobs = folder, command, jobs
        self.gpus, self.forecasts = gpus, forecasts
        self.running: list[Job] = []
        self.done: list[str] = []
        self.failed: list[tuple[Run, str]] = []
        self.pace = Pace({name: told.cost for name, told in forecasts.items()})
        self.elsewhere: set[str] = set()
        self.screen = Screen()
        self.signals: list[int] = []

    def work(self) -> None:
        """Run everything.

        Raises:
            Stop: a signal asked for it; the jobs have ended.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self.signals.append(number))
        try:
            with lacks_told(lambda line: self.screen.say(f"warning: {line}")):
                while self.waiting or self.running:
                    if self.signals:
                        raise Stop(self.signals[0], begun=True)
                    self.start_some()
                    self.show()
                    time.sleep(POLL)
                    for job in list(self.running):
                        self.watch(job)
            self.screen.show([])
        except BaseException:
            self.end_all()
            raise

    # --- starting ---

    def start_some(self) -> None:
        elsewhere = 0
        for run in list(self.waiting):
            if len(self.running) + elsewhere >= self.jobs:
                return
            lacking = [needed for needed in run.needs if not needed.path.is_file()]
            if not lacking:
                elsewhere += not self.start(run)
            elif not self._will_come(run):
                self.waiting.remove(run)
                self.fail(run, f"left out: {lacking[0].path} was not written")

    def _will_come(self, run: Run) -> bool:
        folders = {needed.folder for needed in run.needs}
        others = [*self.waiting, *(job.run for job in self.running)]
        return any(other.folder in folders for other in others)

    def start(self, run: Run) -> bool:
        """Start a run under the lock of its log; False where another process has that.

        A run that cannot start has failed and is not waiting any more.
        """
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            # The job holds the lock too, so that a study that is started again after its process
            # was killed does not run a second time what is still going on.
            with open(run.log, "ab") as log:
                if not self.lock(log):
                    self.tell_elsewhere(run)
                    return False
                self.waiting.remove(run)
                self.start_locked(run, log)
        except OSError as error:
            self.waiting = [other for other in self.waiting if other is not run]
            self.fail(run, f"{error.filename or run.folder}: {error.strerror}")
        return True

    def lock(self, log: IO[bytes]) -> bool:
        """Lock a log, as far as its file system knows locks; False if another process has it."""

        def take() -> None:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)

        lost = "see to it that no other study works here, and none that was killed goes on"
        return take_lock(take, HELD, self.folder, lost)

    def tell_elsewhere(self, run: Run) -> None:
        if run.name not in self.elsewhere:
            self.elsewhere.add(run.name)
            count = f"it is one of the {self.jobs} at a time (-J)"
            self.screen.say(f"{run.name} is going on in another process; waiting for it: {count}")

    def start_locked(self, run: Run, log: IO[bytes]) -> None:
        state = state_of(run)
        if state == DONE:
            return self.finish(run, "elsewhere")
        used = [job.gpu for job in self.running]
        gpu = min(self.gpus, key=used.count, default=None)
        told = self.forecasts[run.name]
        command = self.command(run)
        self.running.append(
            Job(run, command, log, gpu=gpu, epochs=told.epochs, taken=told.epochs_taken)
        )
        verb = "going on with" if state == CUT_OFF else "starting"
        on = f" on GPU {gpu}" if gpu is not None else ""
        return self.screen.say(f"{verb} {run.name}{on}")

    # --- watching ---

    def watch(self, job: Job) -> None:
        status = job.process.poll()
        for epoch in job.look():
            if not self.screen.live:
                self.screen.say(f"[{job.run.name}] {epoch}")
                job.shown = time.monotonic()
        if status is not None:
            self.running.remove(job)
            job.reader.close()
            self.reap(job, status)
        elif not self.screen.live and time.monotonic() - job.shown > QUIET:
            self.screen.say(f"[{job.run.name}] {job.last}")
            job.shown = time.monotonic()

    def reap(self, job: Job, status: int) -> None:
        run = job.run
        if status == 0 and state_of(run) == DONE:
            self.pace.finished(job)
            return self.finish(run, f"in {clock(job.seconds)}")
        if status == names.PREEMPTED_STATUS:
            return self.fail(run, "was asked to stop, and has saved")
        if status == -signal.SIGTERM:
            return self.fail(run, "was asked to stop before it had begun")
        if status == 0:
            return self.fail(run, "ended without its result")
        if status < 0:
            return self.fail(run, f"{_ended_by(-status)}; the last line: {job.last}")
        return self.fail(run, f"exit status {status}: {job.last}")

    def finish(self, run: Run, how: str) -> None:
        self.done.append(run.name)
        self.screen.say(f"done {run.name} {how}   [{self.summary()}]")

    def fail(self, run: Run, why: str) -> None:
        self.failed.append((run, why))
        self.screen.say(f"FAILED {run.name}: {why}   [{self.summary()}]")

    def show(self) -> None:
        lines = [
            f"  {job.run.name}  {clock(job.seconds)}  {_without_label(job.last)}"
            for job in self.running
        ]
        self.screen.show([*lines, f"  {self.summary()}"])

    def summary(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        text = f"{len(self.done)} of {self.total} done{failed}, {len(self.running)} going on"
        left = self.pace.seconds_left(self.waiting, self.running, self.jobs)
        return f"{text}, ETA {clock(left)}" if left is not None else text

    # --- stopping ---

    def end_all(self) -> None:
        """Ask the jobs to save and end; kill them after GRACE, or at one more signal."""
        for job in self.running:
            job.process.terminate()
        within = f"within {GRACE:.0f} seconds (or again: kill)"
        self._say_if_heard(f"stopping {len(self.running)} runs; they save first, {within}")
        asked, deadline = len(self.signals), time.monotonic() + GRACE
        while left := [job for job in self.running if job.process.poll() is None]:
            if len(self.signals) > asked or time.monotonic() > deadline:
                for job in left:
                    job.kill()
                which = ", ".join(job.run.name for job in left)
                self._say_if_heard(f"killed, to go on from the checkpoint before: {which}")
                for job in left:
                    job.process.wait()
            time.sleep(0.05)

    def _say_if_heard(self, text: str) -> None:
        """Say a line where perhaps nobody is listening any more."""
        with contextlib.suppress(OSError):
            self.screen.say(text)


def _ended_by(number: int) -> str:
    """Say which signal ended a run, and what often sends it."""
    memory = "; if memory ran out, run fewer at a time (-J)" if number == signal.SIGKILL else ""
    return f"was ended by signal {number} ({signal.strsignal(number)}){memory}"


def _without_label(line: str) -> str:
    """A line of a log without the [label] that it may begin with; the run's name is shown."""
    return re.sub(r"^\[[^]]*\] ", "", line)
