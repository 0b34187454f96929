"""What a file is that should hold weights or masks but is something else, and what to do then."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickletools
import tarfile
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PosixPath

import numpy as np

WEIGHT_SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".safetensors", ".bin", ".pkl", ".model")
TELLS_HARMLESS = (2, 6)  # the first PyTorch whose list of harmless things can be extended by name
SHOWN = 5
HEAD = 512  # bytes that tell most kinds
# First bytes: what they belong to, and what to do with it.
MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull` where "
    "it was cloned, or download the file from its page",
    b"\x1f\x8b": "a gzip archive: unpack it (gunzip, or tar -xzf) and pass the file in it",
    b"BZh": "a bzip2 archive: unpack it (bunzip2, or tar -xjf) and pass the file in it",
    b"\xfd7zXZ\x00": "an xz archive: unpack it (unxz, or tar -xJf) and pass the file in it",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it (unzstd) and pass the file in it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it (7z x) and pass the file in it",
    b"Rar!": "a rar archive: unpack it (unrar x) and pass the file in it",
    b"\x93NUMPY": "a NumPy array; a dictionary of tensors is needed",
    b"%PDF": "a PDF document; weights of PyTorch are needed",
    b"\xff\xfe": "a text file in UTF-16, no weights: download it again, or pass another",
    b"\xfe\xff": "a text file in UTF-16, no weights: download it again, or pass another",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes them; weights of PyTorch are needed",
}
PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script", b"<!--")


def describe(path: str | os.PathLike[str], *, trusted: bool = False) -> str | None:
    """Say what a file is and what to do, where it is no checkpoint that can be opened safely.

    The text follows "PATH is ". None for a file of PyTorch or safetensors, whatever its suffix, for
    one that is unlike all that is known here, and for one that is not there or may not be read;
    with `trusted` also for one that opens only by running its code.
    """
    path = Path(path)
    if path.is_dir():
        return _describe_folder(path)
    if not path.is_file() or not os.access(path, os.R_OK):
        return None
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file: download or copy it again"
    if is_safetensors(path):  # which may begin with any bytes: those of its header's size
        return None
    if not any(head):
        return "zeros to its beginning, as of a download that did not finish: download it again"
    if _is_onnx(head):
        return "an ONNX graph; the weights of PyTorch that it was made from are needed"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(PAGE):
        return "a web page, not the file itself: download it by the link of its download button"
    for magic, words in MAGIC.items():
        if head.startswith(magic):
            return words
    if head[257:262] == b"ustar":  # before zip, whose end may be that of the last file in it
        return _describe_tar(path, trusted)
    if _is_zip(path):
        return _describe_zip(path, trusted)
    if head.startswith(b"PK\x03\x04"):
        return "torn, its end is missing: download or copy it again"
    if _is_text(head):
        first = text.decode(errors="replace").splitlines()[0][:40]
        what = f"a text file that begins with {first!r}, no weights"
        return f"{what}: download it again, or pass another"
    return None


def _is_zip(path: str | os.PathLike[str]) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one that claims to be a part of several
        return False


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file is laid out as safetensors, whatever its suffix."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(100_000_000, Path(path).stat().st_size - 8):
            return False
        try:
            return isinstance(json.loads(file.read(size)), dict)
        except (ValueError, RecursionError):
            return False


def foreign_objects(path: str | os.PathLike[str]) -> list[str]:
    """The names of what a PyTorch archive would import beyond PyTorch's own, without opening it."""
    try:
        with zipfile.ZipFile(path) as archive:
            named = (r for r in archive.infolist() if r.filename.rpartition("/")[2] == "data.pkl")
            pickled = next(named)
            if pickled.compress_type != zipfile.ZIP_STORED:  # PyTorch's never are; a bomb may be
                return []
            content = archive.read(pickled)
        opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(content)]
        # What torch.load(weights_only=True) asks, so that no file is refused that it would open.
        with harmless():
            unpickler = importlib.import_module("torch._weights_only_unpickler")
            allowed = {*unpickler._get_allowed_globals(), *unpickler._get_user_allowed_globals()}
    except Exception:  # a damaged archive, in one of many ways, or another PyTorch
        return []
    found = [str(argument).replace(" ", ".") for name, argument in opcodes if name == "GLOBAL"]
    return [name for name in dict.fromkeys(found) if name not in allowed]


def harmless() -> AbstractContextManager[None]:
    """Within it torch.load(weights_only=True) also opens settings and numbers of common scripts.

    These are argparse's Namespace, sets, paths and NumPy's numbers: no code of a file runs. PyTorch
    before 2.6 cannot be told so for a while; there they count as code.
    """
    if importlib.import_module("torch").__version__ < TELLS_HARMLESS:
        return nullcontext()
    serialization = importlib.import_module("torch.serialization")
    numbers = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    scalar = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    sets = [(set, f"{module}.set") for module in ("builtins", "__builtin__")]
    paths = [(PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    return serialization.safe_globals(
        [argparse.Namespace, np.dtype, *numbers, *scalars, *sets, *paths]
    )


def convert_command(path: str | os.PathLike[str]) -> str:
    """How to get at the weights of a file that runs code when it is opened."""
    return f"python -m models.convert {path} OUT.pth.tar --trust_pickle"


def _describe_folder(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    fitting = [str(f.relative_to(path)) for f in files if f.name.lower().endswith(WEIGHT_SUFFIXES)]
    if path.joinpath("data.pkl").is_file():
        return "a folder that a checkpoint was unpacked into: pass the checkpoint itself"
    if shards := [file.parent for file in files if file.suffix == ".distcp"]:
        place = min(shards, key=lambda folder: "optim" in folder.name)  # the network's before it
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {place} OUT.pt"
        return f"a folder of torch.distributed.checkpoint: make one file of it, {command}"
    if not fitting:
        return "a folder without weights in it; pass a file"
    return f"a folder; pass a file in it: {_shown(fitting)}"


def _describe_zip(path: Path, trusted: bool) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged, in one of many ways: opening it will say so
        return None
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last and any("/code/" in f"/{name}" for name in names):
        command = convert_command(path)
        return None if trusted else f"a TorchScript archive; its weights as a file: {command}"
    if "data.pkl" in last:
        return None if trusted else _describe_pickle(path)
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz); a dictionary of tensors is needed"
    return f"a zip archive: unpack it (unzip) and pass the file in it, of {_shown(names)}"


def _describe_pickle(path: Path) -> str | None:
    foreign = foreign_objects(path)
    if not foreign:
        return None
    networks = [name for name in foreign if name.startswith("torch.nn.modules.")]
    if networks:
        others = [name for name in foreign if name not in networks]
        needed = [n for n in others if not n.startswith(("torch.", "collections.", "builtins."))]
        what = f"a whole network ({_shown(needed or networks)}), pickled with its code's names"
    else:
        what = f"a checkpoint with more than tensors in it ({_shown(foreign)})"
    return (
        f"{what}, which opens only by running code; if you trust it, its weights as a file: "
        f"{convert_command(path)}"
    )


def _describe_tar(path: Path, trusted: bool) -> str | None:
    try:
        with tarfile.open(path, "r:") as archive:
            names = archive.getnames()
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return None
    if {"storages", "tensors", "pickle"} <= set(names):
        command = convert_command(path)
        old = f"a file of PyTorch before 0.1.10; if you trust it, as a newer one: {command}"
        return None if trusted else old
    return f"a tar archive: unpack it (tar -xf) and pass the file in it, of {_shown(names)}"


def _is_onnx(head: bytes) -> bool:
    """A version of one byte, then the name of what wrote it: the first fields of ONNX's message."""
    begun = len(head) > 4 and head[0] == 8 and head[2] == 0x12
    return begun and head[4 : 4 + head[3]].isalnum()


def _is_text(head: bytes) -> bool:
    """Printable throughout; PyTorch's old files begin with bytes that are not."""
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) and b"\x7f" not in head


def _shown(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
