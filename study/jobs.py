"""One run that is going on: its process, its log, and how far it is."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import IO

from study.config import Run
from study.progress import Epochs


class Job:
    """A run in a process of its own; it writes straight into its log, which is read here."""

    def __init__(
        self,
        run: Run,
        command: Sequence[str],
        log: IO[bytes],
        *,
        gpu: str | None = None,
        epochs: int | None = None,
        taken: int = 0,
    ) -> None:
        self.run, self.gpu = run, gpu
        self.epochs = Epochs(run.folder, epochs, taken)
        self.start = self.shown = time.monotonic()
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

    def look(self) -> list[str]:
        """Read what is new in the log; describe the epochs that have been recorded since."""
        *lines, self.rest = (self.rest + self.reader.read()).split(b"\n")
        texts = [line.decode(errors="replace").rstrip() for line in lines]
        self.last = next((text for text in reversed(texts) if text), self.last)
        return [self.epochs.described(epoch) for epoch in self.epochs.look(self.seconds)]

    def kill(self) -> None:
        """End the job and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
