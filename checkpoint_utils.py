"""Files that hold tensors: the only place of the project that calls `torch.save` or `torch.load`.

Checkpoints are dictionaries of tensors and plain values, so that `torch.load(path,
weights_only=True)` opens every one of them. Tickets are bit-packed masks in a safetensors file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from errors import InputError

TICKET_FORMAT = "double-win-ticket-1"
INIT_FILE = "init.pth.tar"
MASK_SUFFIX = ".weight_mask"
CONSTANTS = ("normalize.mean", "normalize.std")
TRANSFER_FILE = "checkpoint.pth.tar"
SA_BEST_FILE = "model_SA_best.pth.tar"
RA_BEST_FILE = "model_RA_best.pth.tar"


def imp_checkpoint_name(state: int) -> str:
    return f"{state}-checkpoint.pth.tar"


def imp_best_name(state: int) -> str:
    return f"{state}-model_best.pth.tar"


def ticket_name(state: int) -> str:
    return f"{state}-ticket.safetensors"


def epoch_checkpoint_name(epoch: int) -> str:
    return f"{epoch}-checkpoint.pth.tar"


# --- writing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same directory; move it to `path` when the block succeeds.

    The file and its directory are flushed to disk, so that after a crash `path` is either the old
    file or the new one, never a part of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_checkpoint(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> None:
    """Write a dictionary of tensors and plain values, all of it or nothing."""
    # Through a file object: given a path, torch writes its name into the file, and equal payloads
    # would have different hashes.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(dict(payload), file)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


# --- reading ------------------------------------------------------------------------------------


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint (or a `.safetensors` file) onto the CPU without running any code in it.

    Raises:
        InputError: no such file, not a checkpoint, or one that only unpickles by running code.
    """

    def read() -> Any:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)

    return _read_dictionary(path, read)


def load_trusted_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file by running whatever code is in it: only for `models.convert --trust_pickle`."""
    return _read_dictionary(path, lambda: torch.load(path, map_location="cpu", weights_only=False))


def _read_dictionary(path: str | os.PathLike[str], read: Callable[[], Any]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file; a checkpoint (.pth.tar, .pt, .safetensors) is needed"
        )
    try:
        payload = read()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: no checkpoint, or one that runs code when it is opened; if trusted: "
            f"python -m models.convert {path} OUT.pth.tar --trust_pickle"
        ) from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({_first_line(error)})") from error
    if not isinstance(payload, Mapping):
        raise InputError(
            f"{path}: holds a {type(payload).__name__}; a dictionary of tensors is needed"
        )
    return dict(payload)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- names of weights ----------------------------------------------------------------------------


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


# --- tickets -------------------------------------------------------------------------------------


def save_ticket(
    path: str | os.PathLike[str],
    masks: Mapping[str, Tensor],
    *,
    arch: str,
    state: int,
    density: float,
    init_sha256: str,
    kind: str = "imp",
) -> None:
    """Write a ticket: one bit per weight, in C order, and its origin in the header.

    Args:
        masks: `{module name + '.weight_mask': mask}`, each in the shape of its weight.
        state: how many times the weights were pruned; 0 is the dense network.
        density: the fraction of the weights that is left, in (0, 1].
        init_sha256: hash of the file with the initial weights that belong to the masks.
        kind: how it was found: imp, omp or random.
    """
    packed = {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().astype(bool).reshape(-1)))
        for name, mask in masks.items()
    }
    header = {
        "format": TICKET_FORMAT,
        "kind": kind,
        "arch": arch,
        "state": str(state),
        "density": repr(float(density)),
        "init_sha256": init_sha256,
        "shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()}),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(_sorted_header(save(packed, metadata=header)))


def _sorted_header(file: bytes) -> bytes:
    """safetensors writes metadata in a random order; equal tickets must have equal hashes."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the data stays aligned
    return len(text).to_bytes(8, "little") + text + file[end:]


def ticket_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """Origin of a ticket file: format, kind, arch, state, density, init_sha256, shapes (as text).

    Empty for a file that is not one of this project's ticket files.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable ticket ({_first_line(error)})") from error
    return header if header.get("format") == TICKET_FORMAT else {}


def ticket_origin(path: str | os.PathLike[str] | None, density: float) -> dict[str, Any]:
    """What results.json says of a ticket: `ticket`, `state`, `density`, `ticket_sha256`.

    The state is the file's own where it has one, else the nearest one of IMP at rate 0.2.
    """
    if path is None:
        return {"ticket": "imp", "state": 0, "density": density, "ticket_sha256": None}
    header = ticket_header(path)
    state: Any = header.get("state")
    if state is None and Path(path).suffix != ".safetensors":
        state = load_checkpoint(path).get("state_prune")
    if state is None:
        state = round(math.log(density) / math.log(0.8))
    return {
        "ticket": header.get("kind", "imp"),
        "state": int(state),
        "density": density,
        "ticket_sha256": sha256_of(path),
    }


def load_ticket(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read masks from any file that holds them.

    That is: a ticket file, an IMP checkpoint of this project or of the released code, a transfer
    checkpoint (with or without `1.`), one with `module.`, or a bare dictionary of masks.

    Returns:
        `{module name + '.weight_mask': bool tensor}`, named as in the bare network.

    Raises:
        InputError: unreadable, without any mask, or with values other than 0 and 1.
    """
    header = ticket_header(path) if Path(path).is_file() else {}
    payload = load_checkpoint(path)
    if header:
        return _unpack(path, payload, json.loads(header["shapes"]))
    for candidate in (payload.get("state_dict"), payload.get("mask"), payload):
        if isinstance(candidate, Mapping):
            masks = {
                name: value
                for name, value in bare_keys(candidate).items()
                if name.endswith(MASK_SUFFIX)
            }
            if masks:
                return {name: _as_bool(path, name, value) for name, value in masks.items()}
    raise InputError(f"{path}: holds no masks; a ticket has entries named like conv1{MASK_SUFFIX}")


def _unpack(
    path: str | os.PathLike[str], packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    masks = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        bits = packed.get(name)
        if bits is None or bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
            raise InputError(f"{path}: damaged ticket, {name} does not hold {count} bits")
        unpacked = np.unpackbits(bits.numpy(), count=count).astype(bool)
        masks[name] = torch.from_numpy(unpacked).reshape(shape)
    return masks


def _as_bool(path: str | os.PathLike[str], name: str, mask: Any) -> Tensor:
    if not isinstance(mask, Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(f"{path}: {name} is no mask; every entry must be 0 or 1")
    return mask.bool()


# --- what a run needs to go on as if it had not stopped ------------------------------------------


def to_cpu(value: Any) -> Any:
    """Copy a nest of dictionaries, lists and tensors, with every tensor on the CPU, contiguous."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_cpu(item) for item in value]
    return value


def random_state() -> dict[str, Any]:
    """States of torch's generators on the CPU and on every CUDA device."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to `random_state()`; CUDA's only where the devices are as many."""
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def newest_imp_checkpoint(save_dir: Path) -> Path | None:
    """The checkpoint of the highest state in an IMP run's folder."""
    states = [
        int(path.name.split("-")[0])
        for path in save_dir.glob("*-checkpoint.pth.tar")
        if path.name.split("-")[0].isdigit()
    ]
    return save_dir / imp_checkpoint_name(max(states)) if states else None


def newest_transfer_checkpoint(save_dir: Path) -> Path | None:
    path = save_dir / TRANSFER_FILE
    return path if path.is_file() else None


def find_checkpoint(
    save_dir: Path, resume: str | None, newest: Callable[[Path], Path | None]
) -> Path | None:
    """What `--resume` means: nothing, the newest file of the folder, or the path that it names."""
    if resume is None:
        return None
    if resume == "auto":
        return newest(save_dir)
    if not Path(resume).is_file():
        raise InputError(
            f"--resume {resume}: no such file; leave out PATH for the newest in --save_dir"
        )
    return Path(resume)


def load_initial_weights(checkpoint: Path, origin: Mapping[str, str]) -> dict[str, Any]:
    """The weights that an IMP checkpoint rewinds to, from the file beside it that it names."""
    path = checkpoint.parent / Path(origin["file"]).name
    init = load_checkpoint(path)
    if sha256_of(path) != origin["sha256"]:
        raise InputError(f"{path}: not the initial weights that {checkpoint.name} belongs to")
    return init


def export_released(save_dir: Path, state: int, mode: str) -> Path:
    """Write one state of an IMP run as the released code's checkpoint: float masks, `init` inside.

    In the standard mode the released code normalises in the transforms, so `normalize.*` goes.
    """
    source = save_dir / imp_checkpoint_name(state)
    checkpoint = load_checkpoint(source)
    init = load_initial_weights(source, checkpoint["init"])

    def released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.float() if name.endswith(MASK_SUFFIX) else value
            for name, value in state_dict.items()
            if mode == "adv" or not name.startswith("normalize.")
        }

    kept = ("epoch", "arch", "best_acc1", "optimizer", "state_prune")
    path = save_dir / f"{state}-released.pth.tar"
    save_checkpoint(
        path,
        {
            **{key: checkpoint[key] for key in kept},
            "state_dict": released(checkpoint["state_dict"]),
            "init": released(init),
        },
    )
    return path
