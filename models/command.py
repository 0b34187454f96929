"""What the package's two commands share: bad usage is one line, too."""

from __future__ import annotations

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse, but bad usage is answered in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help shows the usage)\n")
