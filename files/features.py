"""What some file systems cannot do, and how files are written without it.

Network, FUSE and memory-stick file systems know no hard links, permissions or locks, or do not
flush a folder. What only makes a run safer is left out there, and a LacksFeature warning says what
is lost. A fault of the disk (full, broken, read-only) is no missing feature and stays an error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

# What file systems answer to a call that they do not know or do not allow to anybody.
UNKNOWN_CALL = frozenset(
    (
        *(errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY),
        *(errno.EPERM, errno.EACCES, errno.EBADF, errno.EISDIR, errno.ENOLCK),
        *(errno.EXDEV, errno.EMLINK),
    )
)


class LacksFeature(UserWarning):
    """A file system cannot do what would make a run safer; the message says what is lost."""


def tell_lack(folder: str | os.PathLike[str], lost: str, error: OSError) -> None:
    """Warn that a folder's file system cannot do something, and what is lost by it."""
    text = f"{folder}: the file system {lost} ({error.strerror or error})"
    warnings.warn(text, LacksFeature, stacklevel=2)


@contextlib.contextmanager
def lacks_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Give `tell` the line of every LacksFeature warning in the block, the same one only once."""
    told, show = set[str](), warnings.showwarning

    def show_line(message: Warning | str, category: type[Warning], *where: Any, **at: Any) -> None:
        if not issubclass(category, LacksFeature):
            show(message, category, *where, **at)
        elif str(message) not in told:
            told.add(str(message))
            tell(str(message))

    warnings.showwarning = show_line  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show


@contextlib.contextmanager
def optional(folder: str | os.PathLike[str], lost: str) -> Iterator[None]:
    """Go on with a warning where the block makes a call that the file system does not know."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNKNOWN_CALL:
            raise
        tell_lack(folder, lost, error)


def take_lock(
    take: Callable[[], object], held: Collection[int], folder: str | os.PathLike[str], lost: str
) -> bool:
    """Take a lock by a call that does not wait, as far as the file system knows locks.

    Args:
        held: what the call answers where another process has the lock.
        lost: what is lost without a lock, in words; that is told.

    Returns:
        False if another process has the lock.
    """
    try:
        take()
    except OSError as error:
        if error.errno in held:
            return False
        tell_lack(folder, f"locks no file: {lost}", error)
    return True


def lock_by_process(file: IO[Any], folder: str | os.PathLike[str], lost: str) -> bool:
    """Lock an open file for this process, not for those that it starts, by `take_lock`."""
    # Not flock: loader processes would inherit it and outlive a killed run by seconds.
    lock = partial(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return take_lock(lock, (errno.EAGAIN, errno.EACCES), folder, lost)


def flush(descriptor: int, path: Path) -> None:
    """Have an open file's contents on the disk."""
    with optional(path.parent, "flushes no file: a power cut may cost the newest ones"):
        os.fsync(descriptor)


def flush_directory(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    with optional(directory, "flushes no folder: a power cut may cost the newest file"):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_mode(path: Path, mode: int) -> None:
    """Set a file's permissions."""
    with optional(path.parent, "sets no permissions: others may not be able to read the files"):
        path.chmod(mode)


def same_contents(path: Path, other: Path) -> None:
    """Give a file's contents another name, by a hard link or, where there is none, by a copy."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in UNKNOWN_CALL:
            raise
        shutil.copyfile(path, other)
        with open(other, "r+b") as written:
            flush(written.fileno(), other)


def move(temporary: Path, path: Path) -> None:
    """Rename a file, over another one if there is one."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in UNKNOWN_CALL | {errno.EEXIST}:
            raise
        shutil.copyfile(temporary, path)
        tell_lack(path.parent, "renames no file: a crash while one is written may tear it", error)
        discard(temporary)


def discard(path: Path) -> None:
    """Remove a file that nothing needs; if that fails, it stays."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
