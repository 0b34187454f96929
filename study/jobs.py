"""Run a list of commands, some at a time, each with its log; show how far they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import IO

from study.config import Run
from study.state import CUT_OFF, DONE, state_of

POLL = 0.3  # seconds
QUIET = 30.0  # seconds without a line of a job, after which its last one is shown again
GRACE = 60.0  # seconds that a job has to save and end when the study is stopped
STOPPED, PREEMPTED = 75, "PREEMPTED"  # status and file of a main that a signal made save and end

FINISHED_EPOCH = re.compile(r"epoch (\d+)/(\d+): train loss")
WITHIN_EPOCH = re.compile(r"epoch (\d+)/(\d+)  (\d+)/(\d+)  ")


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Stop(Exception):
    """The study is asked to stop, by this signal."""

    def __init__(self, number: int) -> None:
        self.number = number


class Job:
    """One run that is going on; it writes straight into its log, which is read here."""

    def __init__(self, run: Run, command: Sequence[str], gpu: str | None, log: IO[bytes]) -> None:
        self.run, self.gpu = run, gpu
        self.start = self.shown = time.monotonic()
        self.first: float | None = None  # what a resumed run had done before
        self.fraction = 0.0
        self.last = "starting"
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        self.reader = open(run.log, "rb")  # noqa: SIM115
        self.reader.seek(0, os.SEEK_END)
        self.rest = b""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the study, which ends its jobs in order
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def read(self) -> list[str]:
        """The lines that are new in the log."""
        *lines, self.rest = (self.rest + self.reader.read()).split(b"\n")
        texts = [line.decode(errors="replace").rstrip() for line in lines]
        texts = [text for text in texts if text]
        for text in texts:
            if found := FINISHED_EPOCH.search(text):
                done, total = map(int, found.groups())
                self._reached((done - 1) / total, done / total)
            elif found := WITHIN_EPOCH.search(text):
                epoch, total, step, steps = map(int, found.groups())
                self._reached((epoch - 1) / total, (epoch - 1 + step / steps) / total)
            self.last = text
        return texts

    def _reached(self, epoch_began: float, now: float) -> None:
        self.first = epoch_began if self.first is None else self.first
        self.fraction = now

    @property
    def share(self) -> float:
        """The share of the whole run that this job has done."""
        return self.fraction - (self.first or 0.0)

    def kill(self) -> None:
        """End the job and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Screen:
    """A line for each job that is going on, kept up to date; plain lines without a terminal."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.height = 0

    def say(self, text: str) -> None:
        self._clear()
        print(text, flush=True)

    def show(self, lines: Sequence[str]) -> None:
        if not self.live:
            return
        self._clear()
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("".join(f"{line[:width]}\n" for line in lines))
        sys.stdout.flush()
        self.height = len(lines)

    def _clear(self) -> None:
        if self.height:
            sys.stdout.write(f"\x1b[{self.height}A\x1b[J")
            self.height = 0


class Queue:
    """The runs of a study that are left, `jobs` at a time."""

    def __init__(
        self,
        runs: Sequence[Run],
        command: Callable[[Run], list[str]],
        *,
        jobs: int,
        gpus: Sequence[str],
        costs: Mapping[str, float],
    ) -> None:
        self.waiting = list(runs)
        self.total = len(runs)
        self.command, self.jobs, self.gpus, self.costs = command, jobs, gpus, costs
        self.running: list[Job] = []
        self.done: list[str] = []
        self.failed: list[tuple[Run, str]] = []
        self.spent: dict[str, list[float]] = {}  # by kind of run: seconds, cost
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
            while self.waiting or self.running:
                if self.signals:
                    raise Stop(self.signals[0])
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
            lacking = [path for path in run.needs if not path.is_file()]
            if not lacking:
                elsewhere += not self.start(run)
            elif not self._will_come(run):
                self.waiting.remove(run)
                self.fail(run, f"left out: {lacking[0]} was not written")

    def _will_come(self, run: Run) -> bool:
        folders = {path.parent for path in run.needs}
        others = [*self.waiting, *(job.run for job in self.running)]
        return any(other.folder in folders for other in others)

    def start(self, run: Run) -> bool:
        """Whether the run is this study's; it may be going on in another process."""
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            (run.folder / PREEMPTED).unlink(missing_ok=True)
            # The job holds the lock too, so that a study that is started again after its process
            # was killed does not run a second time what is still going on.
            with open(run.log, "ab") as log:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.waiting.remove(run)
                self.start_locked(run, log)
        except BlockingIOError:
            if run.name not in self.elsewhere:
                self.elsewhere.add(run.name)
                self.screen.say(f"{run.name} is going on in another process; waiting for it")
            return False
        except OSError as error:
            self.waiting = [other for other in self.waiting if other is not run]
            self.fail(run, f"{error.filename or run.folder}: {error.strerror}")
        return True

    def start_locked(self, run: Run, log: IO[bytes]) -> None:
        state = state_of(run)
        if state == DONE:
            return self.finish(run, "elsewhere")
        used = [job.gpu for job in self.running]
        gpu = min(self.gpus, key=used.count, default=None)
        self.running.append(Job(run, self.command(run), gpu, log))
        verb = "going on with" if state == CUT_OFF else "starting"
        on = f" on GPU {gpu}" if gpu is not None else ""
        return self.screen.say(f"{verb} {run.name}{on}")

    # --- watching ---

    def watch(self, job: Job) -> None:
        status = job.process.poll()
        for line in job.read():
            if FINISHED_EPOCH.search(line) and not self.screen.live:
                self.screen.say(f"[{job.run.name}] {line[line.index('epoch') :]}")
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
            seconds = self.spent.setdefault(_sort(run), [0.0, 0.0])
            seconds[0] += job.seconds
            seconds[1] += self.cost(run) * (1 - (job.first or 0.0))
            return self.finish(run, f"in {clock(job.seconds)}")
        if status == STOPPED or (run.folder / PREEMPTED).exists():
            return self.fail(run, "was asked to stop, and has saved")
        if status == 0:
            return self.fail(run, "ended without its result")
        return self.fail(run, f"exit status {status}: {job.last}")

    def finish(self, run: Run, how: str) -> None:
        self.done.append(run.name)
        self.screen.say(f"done {run.name} {how}   [{self.summary()}]")

    def fail(self, run: Run, why: str) -> None:
        self.failed.append((run, why))
        self.screen.say(f"FAILED {run.name}: {why}   [{self.summary()}]")

    def show(self) -> None:
        lines = [f"  {job.run.name}  {clock(job.seconds)}  {_gist(job.last)}"
                 for job in self.running]  # fmt: skip
        self.screen.show([*lines, f"  {self.summary()}"])

    def summary(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        text = f"{len(self.done)} of {self.total} done{failed}, {len(self.running)} going on"
        left = self.seconds_left()
        return f"{text}, ETA {clock(left)}" if left is not None else text

    # --- how long ---

    def cost(self, run: Run) -> float:
        return self.costs.get(run.name) or 1.0

    def seconds_left(self) -> float | None:
        """From the seconds that runs of the same sort took per unit of cost."""
        spent = {sort: list(pair) for sort, pair in self.spent.items()}
        for job in self.running:
            pair = spent.setdefault(_sort(job.run), [0.0, 0.0])
            if job.share:
                pair[0] += job.seconds
                pair[1] += self.cost(job.run) * job.share
        pace = {sort: seconds / cost for sort, (seconds, cost) in spent.items() if cost}
        if not pace:
            return None
        usual = sum(pace.values()) / len(pace)
        left = 0.0
        longest = 0.0
        for run, fraction in [(run, 0.0) for run in self.waiting] + [
            (job.run, job.fraction) for job in self.running
        ]:
            seconds = self.cost(run) * (1 - fraction) * pace.get(_sort(run), usual)
            left, longest = left + seconds, max(longest, seconds)
        return max(left / self.jobs, longest)

    # --- stopping ---

    def end_all(self) -> None:
        """Ask the jobs to save and end; kill them after GRACE, or at one more signal."""
        for job in self.running:
            job.process.terminate()
        with contextlib.suppress(OSError):  # nobody may be listening
            self.screen.say(f"stopping {len(self.running)} runs; they save first (or again: kill)")
        asked, deadline = len(self.signals), time.monotonic() + GRACE
        while any(job.process.poll() is None for job in self.running):
            if len(self.signals) > asked or time.monotonic() > deadline:
                for job in self.running:
                    if job.process.poll() is None:
                        job.kill()
            time.sleep(0.05)


def _sort(run: Run) -> str:
    """Runs of one sort take about as long per FLOP: same main, same regime."""
    mode = run.arguments[run.arguments.index("--mode") + 1] if "--mode" in run.arguments else ""
    return f"{run.main} {mode}"


def _gist(line: str) -> str:
    return line[line.index("epoch ") :] if "epoch " in line else line
