"""What the package's two commands share: errors of one line and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from errors import InputError


class OneLineParser(argparse.ArgumentParser):
    """argparse, but bad usage is answered in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help shows the usage)\n")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run `main`; wrong input is one line on stderr and exit status 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
