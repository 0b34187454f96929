"""What lies in a folder of images: which files are images, and what is left out of the count."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from errors import InputError
from input_pipeline.names import counted, few, shown

# The image formats of data sets that PIL reads in every installation, or (AVIF, JPEG 2000) names
# as the reason where it does not. A fixed list: the same folder is the same set on every machine.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".avif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga"}
)
# What systems and programs put beside people's files, in small letters; so do names in ".", "~$".
SYSTEM_ENTRIES = frozenset(
    {"__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"}
    | {"lost+found", "$recycle.bin", "recycler", "system volume information", "~snapshot"}
    | {"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"}
)
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"P5", b"P6", b"BM")


@dataclass
class LeftOut:
    """What was met in the folders of a split and is not one of its images."""

    folder: Path
    system: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    loose: Counter[str] = field(default_factory=Counter)
    special: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Say in one line for each kind what was left out and how many."""
        where, found = shown(self.folder), []
        if self.system:
            found.append(
                f"{_entries(len(self.system))} of the system or hidden: {few(_once(self.system))}"
            )
        if self.suffixes:
            found.append(f"{counted(self.suffixes.total(), 'file')} without the suffix of an image:"
                         f" {_by_suffix(self.suffixes)}")  # fmt: skip
        if self.loose:
            found.append(f"{counted(self.loose.total(), 'file')} beside the class folders, so of "
                         f"no class: {_by_suffix(self.loose)}")  # fmt: skip
        if self.special:
            found.append(f"{_entries(len(self.special))} that are no files: {few(self.special)}")
        if self.loops:
            found.append(f"{counted(len(self.loops), 'link')} to a folder that holds the link: "
                         f"{few(self.loops)}")  # fmt: skip
        return [f"{where}: left out {line}" for line in found]


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _once(names: Sequence[str]) -> list[str]:
    return [shown(name).rstrip() for name in dict.fromkeys(names)]


def _by_suffix(suffixes: Counter[str]) -> str:
    return few([f"{n} {suffix or 'with none'}" for suffix, n in sorted(suffixes.items())])


def entries(folder: Path | str) -> list["os.DirEntry[str]"]:
    """List a folder in the order of the names' bytes; an unreadable one is an InputError."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(path: Path | str | bytes, error: OSError) -> InputError:
    return InputError(
        f"{shown(path)}: cannot be read ({error.strerror}); without it a part of the data "
        "would be missing: give access to it, or move it away"
    )


def is_system(name: str) -> bool:
    """Whether an entry belongs to a system or a program, or is hidden."""
    return name.startswith((".", "~$")) or name.casefold() in SYSTEM_ENTRIES


def is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise unreadable(entry.path, error) from error


def suffix_of(name: str) -> str:
    """Return a file's suffix in small letters: empty where there is none, or a number."""
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    return "" if suffix == "." or suffix[1:].isdigit() else suffix


def is_image(entry: "os.DirEntry[str]") -> bool:
    """Tell an image by the suffix of its name, or by its first bytes where it has none."""
    suffix = suffix_of(entry.name)
    if suffix:
        return suffix in SUFFIXES
    try:
        with open(entry.path, "rb") as file:
            first = file.read(12)
    except OSError as error:
        raise unreadable(entry.path, error) from error
    return first.startswith(_IMAGE_STARTS) or first[8:] == b"WEBP" or first[4:] == b"ftypavif"


def images_below(
    folder: str, left_out: LeftOut, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, int]]:
    """Yield (path, inode, 0 if unknown) of each image in a folder and its folders."""
    try:
        here = os.stat(folder)
    except OSError as error:
        raise unreadable(folder, error) from error
    if (here.st_dev, here.st_ino) in above:
        left_out.loops.append(shown(os.path.basename(folder)))
        return
    above |= {(here.st_dev, here.st_ino)}
    for entry in entries(folder):
        if is_system(entry.name):
            left_out.system.append(entry.name)
        elif is_folder(entry):
            yield from images_below(entry.path, left_out, above)
        elif not entry.is_symlink() and not entry.is_file():
            left_out.special.append(shown(entry.name))  # a pipe would block who opens it
        elif entry.is_symlink():
            yield from _linked(entry, left_out)
        elif is_image(entry):
            yield entry.path, entry.inode()
        else:
            left_out.suffixes[suffix_of(entry.name)] += 1


def _linked(entry: "os.DirEntry[str]", left_out: LeftOut) -> Iterator[tuple[str, int]]:
    """Yield the image that a link leads to; a broken link is told when its image is read."""
    try:
        target = entry.stat()
    except OSError:
        if suffix_of(entry.name) in SUFFIXES:
            yield entry.path, 0
        else:
            left_out.suffixes[suffix_of(entry.name)] += 1
        return
    if not stat.S_ISREG(target.st_mode):
        left_out.special.append(shown(entry.name))
    elif is_image(entry):
        yield entry.path, target.st_ino
    else:
        left_out.suffixes[suffix_of(entry.name)] += 1


def same_files(files: np.ndarray, inodes: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of places (earlier, later) that hold the same file, by links of either kind."""
    order = np.argsort(inodes, kind="stable")
    pairs = []
    for place in np.flatnonzero(np.diff(inodes[order]) == 0).tolist():
        earlier, later = int(order[place]), int(order[place + 1])
        # Equal numbers prove nothing across disks.
        if inodes[earlier] and os.path.samefile(files[earlier], files[later]):
            pairs.append((earlier, later))
    return pairs
