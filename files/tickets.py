"""Tickets: `{k}-ticket.safetensors`, one bit per weight; and masks in any other file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from files.checkpoints import bare_keys, load_checkpoint
from files.sealed import HASH, SUFFIX, header_of, write_sealed
from pruning_utils import MASK_SUFFIX

FORMAT = "double-win-ticket-1"
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Ticket:
    """A ticket as it was read: later changes of the file do not matter any more.

    masks: `{module name + '.weight_mask': bool tensor}`, named as in the bare network. kind: how it
    was found (imp, omp, random). state: how many times the weights were pruned; None where the file
    does not say. sha256: the hash of the file's bytes.
    """

    masks: dict[str, Tensor]
    kind: str
    state: int | None
    sha256: str

    def state_at(self, density: float) -> int:
        """The file's own state, else the one of IMP at rate 0.2 that is nearest to a density."""
        return round(math.log(density) / math.log(0.8)) if self.state is None else self.state


def save_ticket(
    path: AnyPath,
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
        init_sha256: the hash of the file with the initial weights that belong to the masks.
        kind: how the ticket was found: imp, omp or random.
    """
    packed = {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().astype(bool).reshape(-1)))
        for name, mask in masks.items()
    }
    header = {
        "format": FORMAT,
        "kind": kind,
        "arch": arch,
        "state": str(state),
        "density": repr(float(density)),
        "init_sha256": init_sha256,
        "shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()}),
    }
    write_sealed(path, packed, header)


def read_ticket(path: AnyPath) -> Ticket:
    """Read a ticket, once, from any file that holds masks.

    That is: a ticket file, an IMP checkpoint of this project or of the released code, a transfer
    checkpoint (with or without `1.`), one with `module.`, or a bare dictionary of masks.

    Raises:
        InputError: unreadable, without any mask, or with values other than 0 and 1.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; a ticket or another file with masks is needed")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not a readable ticket ({error.strerror})") from error
    payload = load_checkpoint(path, content)
    header = _ticket_header(header_of(content)) if Path(path).suffix == SUFFIX else {}
    if header:
        if HASH not in header:
            raise InputError(f"{path}: damaged, its header lacks the checksum")
        masks = _unpack(path, payload, _shapes(path, header))
    else:
        masks = _masks_in(path, payload)
    state: Any = header.get("state", payload.get("state_prune"))
    return Ticket(
        masks,
        kind=header.get("kind", "imp"),
        state=int(state) if str(state).isdecimal() else None,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def load_ticket(path: AnyPath) -> dict[str, Tensor]:
    """The masks alone: `{module name + '.weight_mask': bool tensor}`; see `read_ticket`."""
    return read_ticket(path).masks


def ticket_header(path: AnyPath) -> dict[str, str]:
    """Origin of a ticket file: format, kind, arch, state, density, init_sha256, shapes (as text).

    Empty for a file that is not one of this project's ticket files.
    """
    if Path(path).suffix != SUFFIX:
        return {}
    try:
        with open(path, "rb") as file:
            size = file.read(8)
            content = size + file.read(int.from_bytes(size, "little"))
        return _ticket_header(header_of(content))
    except (ValueError, AttributeError, OverflowError, MemoryError, OSError) as error:
        raise InputError(f"{path}: not a readable ticket ({error})") from error


def _ticket_header(header: dict[str, str]) -> dict[str, str]:
    return header if header.get("format") == FORMAT else {}


def _masks_in(path: AnyPath, payload: Mapping[str, Any]) -> dict[str, Tensor]:
    for candidate in (payload.get("state_dict"), payload.get("mask"), payload):
        if isinstance(candidate, Mapping):
            found = {str(n): v for n, v in candidate.items() if str(n).endswith(MASK_SUFFIX)}
            masks = bare_keys(found)
            if len(masks) < len(found):
                raise InputError(f"{path}: holds two masks of one layer under different prefixes")
            if masks:
                return {name: _as_bool(path, name, value) for name, value in masks.items()}
    raise InputError(
        f"{path}: holds no masks where they are looked for: no entry of the file, of its "
        f"state_dict or of its mask is named like conv1{MASK_SUFFIX}"
    )


def _shapes(path: AnyPath, header: Mapping[str, str]) -> dict[str, list[int]]:
    try:
        shapes = json.loads(header["shapes"])
        good = all(type(side) is int and side > 0 for shape in shapes.values() for side in shape)
    except (KeyError, ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise InputError(f"{path}: no ticket of this program, its header lacks the masks' shapes")
    return shapes


def _unpack(
    path: AnyPath, packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]
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


def _as_bool(path: AnyPath, name: str, mask: Any) -> Tensor:
    if not isinstance(mask, Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(f"{path}: {name} is no mask; every entry must be 0 or 1")
    return mask.bool()
