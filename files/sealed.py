"""safetensors files whose header holds the hash of all that the file says, so that damage shows.

Starts without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping

import numpy as np
from safetensors.numpy import save

from files.atomic import replacing

HASH = "sha256"  # the header's entry


def write_sealed(
    path: str | os.PathLike[str], data: Mapping[str, bytes], header: Mapping[str, str]
) -> None:
    """Write bytes by name, and a header with their hash; equal contents give equal files.

    Raises RunFailed when the disk is full or the place cannot be written.
    """
    sealed = {**header, HASH: hash_of(header, sorted(data.items()))}
    arrays = {name: np.frombuffer(value, np.uint8) for name, value in data.items()}
    content = _sorted_header(save(arrays, metadata=sealed))
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _sorted_header(content: bytes) -> bytes:
    """safetensors writes metadata in a random order; equal files must have equal hashes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the data stays aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def header_of(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file whose beginning, at least, is `content`."""
    end = 8 + int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8:end]).get("__metadata__") or {})


def hash_of(header: Mapping[str, str], data: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 of a header, but for its own hash, and of the data, which come sorted by name."""
    entries = sorted((key, value) for key, value in header.items() if key != HASH)
    digest = hashlib.sha256(json.dumps(dict(entries)).encode())
    for name, value in data:
        digest.update(name.encode() + value)
    return digest.hexdigest()
