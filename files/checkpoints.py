"""Files that hold tensors: the only place of the project that calls `torch.save` or `torch.load`.

Checkpoints are dictionaries of tensors and plain values, so that `torch.load(path,
weights_only=True)` opens every one of them. Tickets are bit-packed masks in a safetensors file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from errors import InputError
from files import stranger_pickles
from files.atomic import check_archive, previous, replacing, sha256_of
from files.state_dicts import as_state_dicts

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


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint (or a `.safetensors` file) onto the CPU without running any code in it.

    Raises:
        InputError: no such file, not a checkpoint, a damaged one, or one that only unpickles by
            running code.
    """

    def read() -> Any:
        if Path(path).suffix == ".safetensors":
            tensors = load_file(path)
            _check_content(path, tensors)
            return tensors
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's pickle protocol
            payload = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(path, payload)
        return payload

    return _read_dictionary(path, read)


def _check_tensors(path: str | os.PathLike[str], value: Any) -> None:
    """Refuse tensors that claim more than the file stores: a copy of one could fill the memory."""
    if isinstance(value, Mapping):
        for item in value.values():
            _check_tensors(path, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_tensors(path, item)
    elif isinstance(value, Tensor):
        stored = value.layout == torch.strided and value.device.type == "cpu"
        if not stored or value.nbytes > value.untyped_storage().nbytes():
            raise InputError(
                f"{path}: refused, a tensor in it has {tuple(value.shape)} entries but stores fewer"
            )


def load_newest(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run keeps, or the newest good one before it if that is damaged."""
    candidates = [path, previous(path)]
    state = path.name.removesuffix(imp_checkpoint_name(0)[1:])
    if state.isdecimal():
        earlier = range(int(state) - 1, -1, -1)
        candidates += [path.with_name(imp_checkpoint_name(state)) for state in earlier]
    candidates = [candidate for candidate in candidates if candidate.is_file() or candidate == path]
    while True:
        candidate = candidates.pop(0)
        try:
            checkpoint = load_checkpoint(candidate)
            break
        except InputError as error:
            if not candidates:
                raise
            print(f"warning: {error}; trying {candidates[0].name}", file=sys.stderr)
    return checkpoint


def load_trusted_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file by running whatever code is in it: only for `models.convert --trust_pickle`.

    Networks in it become their state dicts, NumPy arrays become tensors.
    """

    def read() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives, and of classes that changed
            return as_state_dicts(
                torch.load(
                    path, map_location="cpu", weights_only=False, pickle_module=stranger_pickles
                )
            )

    return _read_dictionary(path, read, passed=(ImportError, AttributeError))


def _read_dictionary(
    path: str | os.PathLike[str],
    read: Callable[[], Any],
    passed: tuple[type[Exception], ...] = (),
) -> dict[str, Any]:
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
    except Exception as error:  # a torn or hostile file fails in many ways
        if isinstance(error, (InputError, *passed)):
            raise
        raise InputError(f"{path}: not a readable checkpoint ({_first_line(error)})") from error
    if not isinstance(payload, Mapping):
        raise InputError(
            f"{path}: holds a {type(payload).__name__}; a dictionary of tensors is needed"
        )
    return dict(payload)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


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
    header["sha256"] = content_hash(header, packed)
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


def content_hash(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Of all that a safetensors file of ours says, so that a changed one is recognised."""
    digest = hashlib.sha256(json.dumps(dict(sorted(header.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        # a ticket's bits have their shapes in the header
        kind = "" if tensor.dtype == torch.uint8 else f"{tensor.dtype}{tuple(tensor.shape)}"
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + kind.encode() + flat.numpy().tobytes())
    return digest.hexdigest()


def _check_content(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Compare a safetensors file with the hash in its header, where it has one: ours do."""
    header = _metadata(path)
    ours = header.get("format") == TICKET_FORMAT or "sha256" in header
    if ours and header.pop("sha256", None) != content_hash(header, tensors):
        raise InputError(f"{path}: damaged, it does not match its checksum")


def _metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def ticket_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """Origin of a ticket file: format, kind, arch, state, density, init_sha256, shapes (as text).

    Empty for a file that is not one of this project's ticket files.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        header = _metadata(path)
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
    if not str(state).isdecimal():
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
        return _unpack(path, payload, _shapes(path, header))
    for candidate in (payload.get("state_dict"), payload.get("mask"), payload):
        if isinstance(candidate, Mapping):
            found = [str(name) for name in candidate if str(name).endswith(MASK_SUFFIX)]
            masks = {_bare(name): candidate[name] for name in found}
            if len(masks) < len(found):
                raise InputError(f"{path}: holds two masks of one layer under different prefixes")
            if masks:
                return {name: _as_bool(path, name, value) for name, value in masks.items()}
    raise InputError(f"{path}: holds no masks; a ticket has entries named like conv1{MASK_SUFFIX}")


def _shapes(path: str | os.PathLike[str], header: Mapping[str, str]) -> dict[str, list[int]]:
    try:
        shapes = json.loads(header["shapes"])
        good = all(type(side) is int and side > 0 for shape in shapes.values() for side in shape)
    except (KeyError, ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise InputError(f"{path}: no ticket of this program, its header lacks the masks' shapes")
    return shapes


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
