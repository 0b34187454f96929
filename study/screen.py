"""The console of a study: lines that stay, and below them a line for each job that is going on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


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
        columns = shutil.get_terminal_size().columns or 80  # a terminal of no size, on Python 3.10
        sys.stdout.write("".join(f"{line[: columns - 1]}\n" for line in lines))
        sys.stdout.flush()
        self.height = len(lines)

    def _clear(self) -> None:
        if self.height:
            sys.stdout.write(f"\x1b[{self.height}A\x1b[J")
            self.height = 0
