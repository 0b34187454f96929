"""Exit status 0 if a requirements file is satisfied by what is installed.

It knows the lines that this project writes: NAME>=VERSION, -r FILE, and the marker
`python_version < "VERSION"`. It needs nothing but Python, since it runs before the installation.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

LINE = re.compile(
    r'(?P<name>[\w.-]+)\s*>=\s*(?P<bound>[\d.]+)(\s*;\s*python_version\s*<\s*"(?P<below>[\d.]+)")?'
)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 2.14.1+cpu -> (2, 14, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def satisfied(requirements: Path, python: tuple[int, ...] = sys.version_info[:2]) -> bool:
    for line in requirements.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            if not satisfied(requirements.parent / line[3:].strip(), python):
                return False
        elif line and not _is_installed(line, python):
            return False
    return True


def _is_installed(line: str, python: tuple[int, ...]) -> bool:
    found = LINE.fullmatch(line)
    if found is None:
        sys.exit(f"error: {line!r}: script/installed.py knows only NAME>=VERSION")
    if found["below"] and python >= release(found["below"]):
        return True
    try:
        return release(metadata.version(found["name"])) >= release(found["bound"])
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(not satisfied(Path(sys.argv[1])))
