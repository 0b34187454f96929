"""Names as people and machines write them: of classes, in files that list them, in messages."""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from errors import InputError


def shown(path: str | bytes | Path) -> str:
    """Return a path as it can be printed everywhere: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def class_name(folder: str) -> str:
    """Return the class name of a folder, whatever Unicode form and locale its disk uses."""
    return unicodedata.normalize("NFC", shown(folder))


def few(names: Sequence[str], limit: int = 5) -> str:
    """Join names, the first few of many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def counted(count: int, what: str) -> str:
    """Write a count before its noun: `1 image`, `2 images`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def read_lines(path: Path) -> list[str]:
    """Read a text file of any line end, in UTF-8 or with the mark of a UTF-16; raise OSError.

    Bytes that are not UTF-8 become surrogates, as in the names of a folder.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def choose_classes(
    names: Sequence[str], wanted: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes `wanted` of `names`, and notes: a number N = the first N, or a file.

    A line of the file is a class name; what follows a tab on it is ignored, as are empty lines and
    those that begin with # (unless a class is called so). The numbering follows `names`, not the
    lines.
    """
    if wanted is None:
        return tuple(names), ()
    if wanted.isdecimal():
        return tuple(names[: _number_of(wanted, len(names))]), ()
    listed = _listed(wanted, set(names))
    if not listed:
        raise InputError(f"{shown(wanted)}: names no class; write one class folder a line")
    unknown = sorted(set(listed) - set(names))
    if unknown:
        raise InputError(
            f"{shown(wanted)}: no such class in the data set: {few(unknown)}{_hint(unknown, names)}"
        )
    keep = tuple(name for name in names if name in set(listed))
    _needs_two(wanted, len(keep))
    once, notes = list(dict.fromkeys(listed)), []
    if len(once) < len(listed):
        twice = sorted({name for name in once if listed.count(name) > 1})
        notes.append(f"{shown(wanted)}: named more than once: {few(twice)}")
    if once != list(keep):
        notes.append(
            f"{shown(wanted)}: its lines are in another order than the classes of the data set, "
            "whose order numbers them"
        )
    return keep, tuple(notes)


def count_chosen(wanted: str | None, there: int) -> int:
    """Return how many of `there` classes `wanted` names, as far as that shows without the data."""
    if wanted is None:
        return there
    if wanted.isdecimal():
        return _number_of(wanted, there)
    if not os.path.isfile(wanted):
        return there
    listed = len(set(_listed(wanted, set())))
    _needs_two(wanted, listed)
    return min(listed, there)


def _number_of(wanted: str, there: int) -> int:
    number = int(wanted)
    if number > there:
        raise InputError(f"classes {wanted}: must be 2 to {there}, the classes there are")
    _needs_two(wanted, number)
    return number


def _needs_two(wanted: str, number: int) -> None:
    if number < 2:
        raise InputError(f"classes {shown(wanted)}: names {number}, a classifier needs at least 2")


def _listed(wanted: str, names: set[str]) -> list[str]:
    """Read the class names of a file, in the form of `class_name`."""
    try:
        lines = read_lines(Path(wanted))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(
            f"classes {shown(wanted)}: neither a number nor a readable file that names classes"
        ) from error
    found = []
    for line in lines:
        text = line.split("\t")[0].strip()
        name = unicodedata.normalize(
            "NFC", text.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")
        )
        if name not in names:
            name = name.removeprefix("./").rstrip("/")
        if name and (name in names or not name.startswith("#")):
            found.append(name)
    return found


def _hint(unknown: Iterable[str], names: Sequence[str]) -> str:
    """Say what is meant instead of unknown names, where that can be seen."""
    known, alike = set(names), {_loosely(name): name for name in names}
    for name in unknown:
        first = name.replace(",", " ").split()[0] if name.strip(" ,") else ""
        if first in known:
            return f"; a tab, not {name[len(first)]!r}, ends the name {first}"
        if _loosely(name) in alike:
            return f"; there is {alike[_loosely(name)]}"
    if any("\\x" in name for name in unknown):
        return "; the file is not UTF-8"
    return ""


def _loosely(name: str) -> str:
    return "".join(name.casefold().split()).replace("-", "_").replace("_", "")


def missing_classes(lacking: Sequence[str], others: Sequence[str]) -> str:
    """Name the classes that a split lacks, with what may be meant among its other folders."""
    alike = {_loosely(name): name for name in others}
    meant = [f"{alike[_loosely(n)]!r} for {n!r}" for n in lacking if _loosely(n) in alike]
    return few(lacking) + (f" (is {few(meant, 2)} meant?)" if meant else "")


# ------------------------------------------------------------- classes of files and of data sets


def compare_classes(
    theirs: Sequence[str], ours: Sequence[str], holder: str, offer: str
) -> str | None:
    """Say in what the classes of a file differ from those of a data set; None where they do not.

    Raises InputError for the same names in another order: whatever is counted then is wrong.
    """
    if tuple(theirs) == tuple(ours):
        return None
    place = {name: number for number, name in enumerate(ours)}
    moved = [(number, n) for number, n in enumerate(theirs) if place.get(n, number) != number]
    example = f"{moved[0][1]} is {moved[0][0]} there, {place[moved[0][1]]} here" if moved else ""
    if set(theirs) == set(ours):
        raise InputError(
            f"{holder}: its classes are those of the data set in another order (class {example}); "
            f"its order is {few(theirs)}: {offer}"
        )
    gone = [name for name in theirs if name not in place]
    new = [name for name in ours if name not in set(theirs)]
    parts = [f"{few(gone)} only there"] if gone else []
    parts += [f"{few(new)} only here"] if new else []
    if moved:
        parts.append(
            f"{len(moved)} with another number, which counts them as wrong (class {example})"
        )
    return f"{holder}: its classes are not those of the data set: {'; '.join(parts)}"


def doubtful_order(classes: Sequence[str]) -> str | None:
    """Say why another program may number these classes otherwise; None where that is unlikely."""
    here = list(classes)
    orders = {
        "in Unicode's NFC form": sorted(here),
        "in Unicode's NFD form": sorted(here, key=lambda n: unicodedata.normalize("NFD", n)),
        "counted as numbers": sorted(here, key=_natural),
        "in upper and lower case alike": sorted(here, key=str.casefold),
    }
    for how, order in orders.items():
        if order != here:
            first, other = next(p for p in zip(here, order, strict=True) if p[0] != p[1])
            return f"{other} comes before {first} {how}"
    alike = {name.casefold(): name for name in here}
    twins = [(name, alike[name.casefold()]) for name in here if alike[name.casefold()] != name]
    return f"{twins[0][0]} and {twins[0][1]} differ in case alone" if twins else None


def _natural(name: str) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name)
