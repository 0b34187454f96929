"""Files that hold tensors: the only module but a benchmark that calls `torch.save` or `torch.load`.

Checkpoints are dictionaries of tensors and plain values, so that `torch.load(path,
weights_only=True)` opens every one of them.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from errors import InputError, first_line
from files import stranger_pickles
from files.atomic import check_archive, replacing
from files.kinds import convert_command, describe, harmless, is_safetensors
from files.sealed import HASH, hash_of, header_of
from files.state_dicts import as_state_dicts

CONSTANTS = ("normalize.mean", "normalize.std")
LARGEST_SPARSE = 2**27  # entries of a sparse tensor, which stores fewer than it stands for


# --- writing ------------------------------------------------------------------------------------


def save_checkpoint(
    path: str | os.PathLike[str], payload: Mapping[str, Any], *, keep_previous: bool = False
) -> None:
    """Write a dictionary of tensors and plain values, all of it or nothing.

    With `keep_previous` the file that was there stays as `previous(path)`. Raises RunFailed when
    the disk is full or the place cannot be written; the old file is then whole.
    """
    # Through a file object: given a path, torch writes its name into the file, and equal payloads
    # would have different hashes.
    with replacing(path, keep_previous) as temporary, open(temporary, "wb") as file:
        torch.save(dict(payload), file)


# --- reading ------------------------------------------------------------------------------------


def load_checkpoint(path: str | os.PathLike[str], content: bytes | None = None) -> dict[str, Any]:
    """Read a checkpoint (or a `.safetensors` file) onto the CPU without running any code in it.

    Args:
        content: the file's bytes, where they were read already.

    Raises:
        InputError: no such file, not a checkpoint, a damaged one, or one that only unpickles by
            running code.
    """

    kind = describe(path)
    if kind:
        raise InputError(f"{path} is {kind}")

    def read() -> Any:
        if is_safetensors(path):
            return _read_safetensors(path, content)
        check_archive(path, None if content is None else io.BytesIO(content))
        source = path if content is None else io.BytesIO(content)
        with harmless(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's pickle protocol
            payload = torch.load(source, map_location="cpu", weights_only=True)
        _check_tensors(path, payload)
        return payload

    return _read_dictionary(path, read)


def _read_safetensors(
    path: str | os.PathLike[str], content: bytes | None = None
) -> dict[str, Tensor]:
    """Read a safetensors file; one with a hash in its header is compared with it."""
    content = Path(path).read_bytes() if content is None else content
    tensors, header = load(content), header_of(content)
    if HASH in header and header[HASH] != content_hash(header, tensors):
        raise InputError(f"{path}: damaged, it does not match its checksum")
    return tensors


def content_hash(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of header and tensors of our safetensors files, to detect changes."""
    return hash_of(header, ((name, _kind_and_bytes(tensors[name])) for name in sorted(tensors)))


def _kind_and_bytes(tensor: Tensor) -> bytes:
    # What packed bits are is in the header already.
    kind = "" if tensor.dtype == torch.uint8 else f"{tensor.dtype}{tuple(tensor.shape)}"
    return kind.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _check_tensors(path: str | os.PathLike[str], value: Any) -> None:
    """Refuse tensors that claim more than the file stores: a copy of one could fill the memory."""
    if isinstance(value, Mapping):
        for item in value.values():
            _check_tensors(path, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_tensors(path, item)
    elif isinstance(value, Tensor):
        if value.layout != torch.strided:
            small = value.device.type == "cpu" and value.numel() <= LARGEST_SPARSE
        else:
            stored = value.device.type == "cpu" and value.untyped_storage().nbytes()
            small = value.nbytes <= stored
        if not small:
            raise InputError(
                f"{path}: refused, a tensor in it has {tuple(value.shape)} entries but stores fewer"
            )


def load_first_good(candidates: Sequence[Path], tell: Callable[[str], None]) -> dict[str, Any]:
    """Read the first of some checkpoints that is whole; raise the last one's error if none is."""
    first, *rest = candidates
    there = [first, *(path for path in rest if path.is_file())]
    for path, following in zip(there, there[1:], strict=False):
        try:
            return load_checkpoint(path)
        except InputError as error:
            tell(f"{error}; trying {following.name}")
    return load_checkpoint(there[-1])


def load_trusted_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file by running whatever code is in it: only for `models.convert --trust_pickle`.

    Networks in it become their state dicts, NumPy arrays become tensors. Raises InputError for what
    cannot be opened even so, and for what has no dictionary in it.
    """
    kind = describe(path, trusted=True)
    if kind:
        raise InputError(f"{path} is {kind}")

    def unpickled() -> Any:
        try:
            return torch.load(
                path, map_location="cpu", weights_only=False, pickle_module=stranger_pickles
            )
        except RuntimeError as error:  # PyTorch's magic number is missing: another pickle?
            try:
                return stranger_pickles.load_file(path)
            except pickle.UnpicklingError:
                raise error from None

    def read() -> Any:
        if is_safetensors(path):
            return _read_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives, and of classes that changed
            return as_state_dicts(unpickled())

    refused = "no file of PyTorch, nor another pickle; torn perhaps: download it again"
    return _read_dictionary(path, read, refused, passed=(ImportError, AttributeError))


def _read_dictionary(
    path: str | os.PathLike[str],
    read: Callable[[], Any],
    refused: str | None = None,
    passed: tuple[type[Exception], ...] = (),
) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file; a checkpoint (.pth.tar, .pt, .safetensors) is needed"
        )
    try:
        payload = read()
    except pickle.UnpicklingError as error:
        why = refused or (
            "refused: no checkpoint, or one that runs code when it is opened; if trusted: "
            f"{convert_command(path)}"
        )
        raise InputError(f"{path}: {why}") from error
    except Exception as error:  # a torn or hostile file fails in many ways
        if isinstance(error, (InputError, *passed)):
            raise
        raise InputError(f"{path}: not a readable checkpoint ({first_line(error)})") from error
    if not isinstance(payload, Mapping):
        raise InputError(
            f"{path}: holds a {type(payload).__name__}; a dictionary of tensors is needed"
        )
    return dict(payload)


# --- copies, and names of weights -----------------------------------------------------------------


def to_cpu(value: Any) -> Any:
    """Copy a nest of dictionaries, lists and tensors, with every tensor on the CPU, contiguous."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_cpu(item) for item in value]
    return value


def bare_keys(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Names as in the bare network: no `module.`, no `1.`; `0.mean` becomes `normalize.mean`."""
    return {_bare(name): value for name, value in state_dict.items()}


def _bare(name: str) -> str:
    while name.startswith(("module.", "1.")):
        name = name.split(".", 1)[1]
    return f"normalize.{name[2:]}" if name in ("0.mean", "0.std") else name


def transfer_keys(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Names as a transfer checkpoint has them: `0.mean`, `0.std` and `1.*` (released code)."""
    return {
        name.replace("normalize.", "0.", 1) if name in CONSTANTS else f"1.{name}": value
        for name, value in state_dict.items()
    }
