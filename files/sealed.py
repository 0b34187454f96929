"""safetensors files whose header holds the hash of all that the file says, so that damage shows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from errors import InputError
from files.atomic import replacing

HASH = "sha256"  # the header's entry


def write_sealed(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write tensors and a header with their hash; equal contents give equal bytes."""
    sealed = {**header, HASH: content_hash(header, tensors)}
    content = _sorted_header(save(dict(tensors), metadata=sealed))
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


def read_safetensors(
    path: str | os.PathLike[str], content: bytes | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, from `content` if that is given: its tensors and its header.

    A file with a hash in its header is compared with it.

    Raises:
        InputError: the file does not match its hash.
        SafetensorError: it is no safetensors file.
    """
    content = Path(path).read_bytes() if content is None else content
    tensors, header = load(content), header_of(content)
    if HASH in header and header[HASH] != content_hash(header, tensors):
        raise InputError(f"{path}: damaged, it does not match its checksum")
    return tensors, header


def header_of(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file whose beginning, at least, is `content`."""
    end = 8 + int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8:end]).get("__metadata__") or {})


def content_hash(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of header and tensors of our safetensors files, to detect changes."""
    entries = sorted((key, value) for key, value in header.items() if key != HASH)
    digest = hashlib.sha256(json.dumps(dict(entries)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        # The shapes of packed bits are in the header already.
        kind = "" if tensor.dtype == torch.uint8 else f"{tensor.dtype}{tuple(tensor.shape)}"
        digest.update(name.encode() + kind.encode() + _bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
