"""Files from strangers: pickles with code in them, and files with a bit flipped."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from errors import InputError
from files.checkpoints import load_checkpoint
from files.tickets import load_ticket


class Payload:
    """Makes a file when it is unpickled: stands for whatever code a stranger would run."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.makedirs, (str(self.proof), 0o777, True)


def armed_files(folder: Path, proof: Path) -> Iterator[Path]:
    """The payload in every shape in which a program might unpickle it."""
    content = {"state_dict": Payload(proof), "epoch": 1, "data": Payload(proof)}
    for name in ("a.pth.tar", "a.pt", "1-checkpoint.pth.tar", "a.safetensors"):
        torch.save(content, folder / name)
        yield folder / name
    torch.save(content, folder / "legacy.pth.tar", _use_new_zipfile_serialization=False)
    yield folder / "legacy.pth.tar"
    for protocol in (0, 2, 4):
        (folder / f"bare{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
        yield folder / f"bare{protocol}.pkl"


def armed_arrays(folder: Path, proof: Path) -> None:
    """A folder that looks like CIFAR-10-C, whose arrays hold pickled objects."""
    folder.mkdir()
    array = np.array([Payload(proof)] * 50, dtype=object)
    for name in ("fog", "labels"):
        np.save(folder / f"{name}.npy", array, allow_pickle=True)


def flip(source: Path, target: Path, place: int, bit: int) -> None:
    content = bytearray(source.read_bytes())
    content[place] ^= 1 << bit
    target.write_bytes(content)


def same(a, b) -> bool:
    """Whether two nests hold the same, to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def reader(path: Path) -> Callable[[Path], object]:
    return load_ticket if "ticket" in path.name else load_checkpoint


def flips(source: Path, folder: Path, places: Iterator[tuple[int, int]]) -> dict[str, int]:
    """Flip one bit at each place; count what was refused and what was read as it should be.

    Raises:
        AssertionError: a changed file was read as something else, or not refused in one line.
    """
    read, counts = reader(source), {"refused": 0, "harmless": 0}
    whole, target = read(source), folder / source.name
    for place, bit in places:
        flip(source, target, place, bit)
        told = None
        try:
            found = read(target)
        except InputError as error:
            told = str(error)
        if told is None:
            assert same(found, whole), f"{source.name}: byte {place}, bit {bit} changed it unseen"
        else:
            assert str(target) in told
        counts["harmless" if told is None else "refused"] += 1
    return counts


def headers(path: Path) -> list[int]:
    """The bytes of a PyTorch archive that are no record's content: zip's own, and the padding."""
    size = path.stat().st_size
    inside = np.zeros(size, dtype=bool)
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            first = record.header_offset + 30 + name + extra
            inside[first : first + record.file_size] = True
    return np.flatnonzero(~inside).tolist()
