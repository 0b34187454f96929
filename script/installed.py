"""Exit status 0 if a requirements file is satisfied by what is installed.

It knows the lines that this project writes: NAME>=VERSION, -r FILE, and the marker
`python_version < "VERSION"`. It needs nothing but Python, since it runs before the installation.

With --kept before the file it prints, as constraints for pip, what an installation must not
replace: the PyTorch and torchvision that are there. One that is too old is an error, status 2.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

LINE = re.compile(
    r'(?P<name>[\w.-]+)\s*>=\s*(?P<bound>[\d.]+)(\s*;\s*python_version\s*<\s*"(?P<below>[\d.]+)")?'
)
KEPT = ("torch", "torchvision")  # large, and made for a machine's driver: replaced by its owner


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 2.14.1+cpu -> (2, 14, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def satisfied(requirements: Path, python: tuple[int, ...] = sys.version_info[:2]) -> bool:
    """Whether every line of a requirements file is met."""
    return all(_is_met(name, bound) for name, bound in _bounds(requirements, python))


def kept(requirements: Path, python: tuple[int, ...] = sys.version_info[:2]) -> list[str]:
    """Constraints that hold the installed PyTorch and torchvision; SystemExit if one is too old."""
    lines = []
    for name, bound in _bounds(requirements, python):
        version = _installed(name) if name in KEPT else None
        if version is not None:
            if not _is_met(name, bound):
                print(
                    f"error: this environment has {name} {version}; {bound} or newer is needed. "
                    "It is not replaced: upgrade it, or deactivate the environment for a new one",
                    file=sys.stderr,
                )
                sys.exit(2)
            lines.append(f"{name}=={version}")
    return lines


def _bounds(requirements: Path, python: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """The packages that a file and those it names ask for on this Python, and their bounds."""
    for line in requirements.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from _bounds(requirements.parent / line[3:].strip(), python)
        elif line:
            found = LINE.fullmatch(line)
            if found is None:
                sys.exit(f"error: {line!r}: script/installed.py knows only NAME>=VERSION")
            if not found["below"] or python < release(found["below"]):
                yield found["name"], found["bound"]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_met(name: str, bound: str) -> bool:
    version = _installed(name)
    return version is not None and release(version) >= release(bound)


if __name__ == "__main__":
    *flags, file = sys.argv[1:]
    if flags == ["--kept"]:
        print("\n".join(kept(Path(file))))
    else:
        sys.exit(not satisfied(Path(file)))
