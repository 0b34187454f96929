"""Exit status 0 if a requirements file is satisfied by what is installed."""

import re
import sys
from importlib import metadata
from pathlib import Path


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 2.14.1+cpu -> (2, 14, 1)."""
    return tuple(int(n) for n in re.match(r"[\d.]*\d", version).group().split("."))


def satisfied(requirements: Path) -> bool:
    for line in requirements.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            if not satisfied(requirements.parent / line[3:].strip()):
                return False
        elif line:
            name, bound = line.split(">=")
            try:
                if release(metadata.version(name.strip())) < release(bound.strip()):
                    return False
            except metadata.PackageNotFoundError:
                return False
    return True


if __name__ == "__main__":
    sys.exit(not satisfied(Path(sys.argv[1])))
