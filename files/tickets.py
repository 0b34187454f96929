"""Tickets: `{k}-ticket.safetensors`, one bit per weight; and masks in any other file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from files.checkpoints import load_checkpoint
from files.kinds import is_safetensors
from files.mask_layouts import ticket_masks
from files.results import FOUND, IMP
from files.sealed import HASH, header_of, write_sealed
from files.weight_names import strip_wrappers, torchvision_name

FORMAT = "double-win-ticket-1"
WEIGHTS = "weights_sha256"
KIND = "ticket_kind"  # in other files that hold masks: how they were found, if not by IMP
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Ticket:
    """A ticket as it was read: later changes of the file do not matter any more.

    masks: `{module name + '.weight_mask': bool tensor}`, named as in the bare network. kind: how it
    was found, one of FOUND. state: how many times the weights were pruned. sha256: the hash of the
    file's bytes. init_sha256: that of the file with the initial weights it belongs to.
    weights_sha256: that of these weights, in whatever file, without classifier and normalisation.
    arch: the network. State, hashes and arch are None where the file does not say. init: the
    initial weights of convolutions themselves, which files of the released code hold. notes: what
    is left out or not known.
    """

    masks: dict[str, Tensor]
    kind: str
    state: int | None
    sha256: str
    init_sha256: str | None = None
    weights_sha256: str | None = None
    arch: str | None = None
    init: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def is_from(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether a network's weights are not others than `init`, as far as both have them."""
        own = plain_convolutions(weights)
        return all(
            torch.equal(value, own[name].to(value))
            for name, value in self.init.items()
            if name in own and own[name].shape == value.shape
        )

    def state_at(self, density: float) -> int:
        """The file's own state, else the one of IMP at rate 0.2 that is nearest to a density.

        State 0 is the dense network alone.
        """
        if self.state is not None:
            return self.state
        return max(round(math.log(density) / math.log(0.8)), int(density < 1))


def save_ticket(
    path: AnyPath,
    masks: Mapping[str, Tensor],
    *,
    arch: str,
    state: int,
    density: float,
    init_sha256: str,
    weights_sha256: str = "",
    kind: str = IMP,
) -> None:
    """Write a ticket: one bit per weight, in C order, and its origin in the header.

    Args:
        masks: `{module name + '.weight_mask': mask}`, each in the shape of its weight.
        state: how many times the weights were pruned; 0 is the dense network.
        density: the fraction of the weights that is left, in (0, 1].
        init_sha256: the hash of the file with the initial weights that belong to the masks.
        weights_sha256: the hash of these weights without classifier and normalisation, as results
            tell that of --init's; "" where it is not known.
        kind: how the ticket was found, one of FOUND.
    """
    packed = {
        name: np.packbits(mask.cpu().numpy().astype(bool).reshape(-1)).tobytes()
        for name, mask in masks.items()
    }
    header = {
        "format": FORMAT,
        "kind": kind,
        "arch": arch,
        "state": str(state),
        "density": repr(float(density)),
        "init_sha256": init_sha256,
        **({WEIGHTS: weights_sha256} if weights_sha256 else {}),
        "shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()}),
    }
    write_sealed(path, packed, header)


def read_ticket(path: AnyPath) -> Ticket:
    """Read a ticket, once, from any file that holds masks.

    That is: a ticket file, an IMP checkpoint of this project or of the released code, a transfer
    checkpoint (with or without `1.`), one under wrappers' prefixes, or a dictionary of masks; see
    `mask_layouts`.

    Raises:
        InputError: unreadable, without any mask, with values other than 0 and 1, or found in a way
            that is not known here.
    """
    if not Path(path).is_file():
        what = "is a folder; name a file in it" if Path(path).is_dir() else "no such file"
        raise InputError(f"{path}: {what}; a ticket or another file with masks is needed")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not a readable ticket ({error.strerror})") from error
    payload = load_checkpoint(path, content)
    header = _ticket_header(header_of(content)) if is_safetensors(path) else {}
    if header:
        if HASH not in header:
            raise InputError(f"{path}: damaged, its header lacks the checksum")
        masks, notes = _unpack(path, payload, _shapes(path, header)), list[str]()
    else:
        masks, notes = ticket_masks(payload, str(path))
    kind = header.get("kind", payload.get(KIND))
    if kind is None and "state_prune" not in payload:  # which IMP's checkpoints have
        notes.append("the file does not say how its masks were found; they count as IMP's")
    elif kind not in (None, *FOUND):
        raise InputError(
            f"{path}: its masks were found by {kind!r}, which is none of {', '.join(FOUND)}; is "
            "it of a later version?"
        )
    state: Any = header.get("state", payload.get("state_prune"))
    held = payload.get("init")
    init: Mapping[str, Any] = held if isinstance(held, Mapping) else {}
    arch = header.get("arch", payload.get("arch"))
    return Ticket(
        masks,
        kind=kind or IMP,
        state=int(state) if str(state).isdecimal() else None,
        sha256=hashlib.sha256(content).hexdigest(),
        init_sha256=header.get("init_sha256") or _text(init.get("sha256")),
        weights_sha256=header.get(WEIGHTS) or _text(init.get(WEIGHTS)),
        arch=_text(arch),
        init=plain_convolutions(init),
        notes=tuple(notes),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def plain_convolutions(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the convolutions among a state dict's entries, by bare names."""
    return {
        torchvision_name(strip_wrappers(name)).removesuffix("_orig"): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
        and value.dim() == 4
        and name.endswith((".weight", ".weight_orig"))
    }


def load_ticket(path: AnyPath) -> dict[str, Tensor]:
    """The masks alone: `{module name + '.weight_mask': bool tensor}`; see `read_ticket`."""
    return read_ticket(path).masks


def ticket_header(path: AnyPath) -> dict[str, str]:
    """Origin of a ticket file: format, kind, arch, state, density, hashes, shapes (as text).

    Empty for a file that is not one of this project's ticket files.
    """
    if not is_safetensors(path):
        return {}
    try:
        with open(path, "rb") as file:
            size = file.read(8)
            content = size + file.read(int.from_bytes(size, "little"))
        return _ticket_header(header_of(content))
    except (ValueError, AttributeError, OverflowError, MemoryError, OSError) as error:
        raise InputError(f"{path}: not a readable ticket ({error})") from error


def kind_noted(kind: str) -> dict[str, str]:
    """What another file with a ticket's masks says of how they were found, if not by IMP."""
    return {} if kind == IMP else {KIND: kind}


def _ticket_header(header: dict[str, str]) -> dict[str, str]:
    return header if header.get("format") == FORMAT else {}


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
