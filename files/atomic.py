"""Files that are whole or not there: atomic writing, a copy kept, damage recognised, hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from errors import InputError, RunFailed
from files import names
from files.features import discard, flush, flush_directory, move, same_contents, set_mode
from files.names import previous


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], keep_previous: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same directory; move it to `path` when the block succeeds.

    The file and its directory are flushed to disk, so that after a crash `path` is the old file or
    the new one, never a part of one, as far as the file system can do that: see files.features.
    Raises RunFailed for a full disk and the like.
    """
    path = Path(path)
    try:
        with _temporary(path) as temporary:
            yield temporary
            with open(temporary, "r+b") as written:
                flush(written.fileno(), path)
            set_mode(temporary, 0o666 & ~_umask())
            if keep_previous and path.exists():
                _keep(path)
            move(temporary, path)
        flush_directory(path.parent)
    except (OSError, RuntimeError) as error:
        fault = _fault_of_disk(error)
        if fault is None:
            raise
        reason = fault.strerror or fault
        raise RunFailed(f"{path}: cannot be written ({reason}); what was there is whole") from error


def copy_into(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy files into a folder under these names, each whole or not at all."""
    for name, path in files.items():
        target = folder / name
        if not (target.exists() and target.samefile(path)):
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)


def _fault_of_disk(error: BaseException | None) -> OSError | None:
    """The OSError behind an error: PyTorch's writer, when it is closed, hides it by its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        discard(Path(name))


def _keep(path: Path) -> None:
    """Name a file's contents `previous(path)` too; `path` itself is there all the time."""
    with _temporary(previous(path)) as name:
        name.unlink()
        same_contents(path, name)
        move(name, previous(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: str | os.PathLike[str], flag: str) -> None:
    """Raise InputError, naming the flag, where a file could not be written; make no folder."""
    if Path(path).is_dir():
        raise InputError(f"{flag}: {path} is a folder; name a file")
    folder = next(above for above in Path(path).absolute().parents if above.exists())
    try:
        with _temporary(folder / "x"):
            pass
    except OSError as error:
        raise InputError(f"{flag}: {path} cannot be written ({error.strerror})") from error


def is_written(path: Path) -> bool:
    """Whether a file is there and not empty, which a copy that broke off may leave of one."""
    return path.is_file() and path.stat().st_size > 0


def check_no_run_file(path: str | os.PathLike[str], flag: str) -> None:
    """Raise InputError, naming the flag, where a file of a run is there, as its name tells."""
    path = Path(path)
    if path.exists() and any(fnmatch(path.name, pattern) for pattern in names.OF_A_RUN):
        raise InputError(f"{flag}: {path} is a file of a run, which would be lost; name another")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_archive(path: str | os.PathLike[str], source: IO[bytes] | None = None) -> None:
    """Compare every record of a PyTorch archive with its CRC-32; a torn or changed one is refused.

    PyTorch stores records uncompressed, so a compressed one (a zip bomb) is refused too. Files in
    PyTorch's format before 1.6 are no archives and are left to its own reader. `source` is the open
    file, where it is not to be opened anew.
    """
    if not zipfile.is_zipfile(source or path):
        return
    try:
        with zipfile.ZipFile(source or path) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    raise InputError(f"{path}: refused, its record {record.filename} is compressed")
                # PyTorch's reader takes a record so marked for a folder, and gives random memory.
                if record.external_attr or record.is_dir():
                    raise InputError(f"{path}: damaged, its record {record.filename} is no file")
            damaged = archive.testzip()
    except InputError:
        raise
    except Exception as error:  # a torn or hostile archive fails in many ways
        raise InputError(f"{path}: damaged ({error})") from error
    if damaged:
        raise InputError(f"{path}: damaged, its record {damaged} does not match its checksum")


def fingerprint(sha256: str) -> str:
    """How `args.json` tells an input file's content."""
    return f"sha256 {sha256[:16]}"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
