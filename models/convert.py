"""python -m models.convert IN OUT: turn a weight file into one that opens without running code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import InputError, OneLineParser, run_main
from files.atomic import check_no_run_file
from files.checkpoints import load_checkpoint, load_trusted_pickle, save_checkpoint
from files.state_dicts import (
    MASKS,
    Taken,
    holds_weights,
    other_entries,
    take_state_dict,
    unsaved_constants,
)
from files.tickets import ticket_header
from models.source import Source, read_layout
from pruning_utils import MASK_SUFFIX, percent_left_in

DESCRIPTION = """\
Write the state dict inside IN to OUT, a file that torch.load(OUT, weights_only=True) opens and
--init accepts. The names of the weights stay as they are; everything else in IN is left out. IN may
also hold a whole network (torch.save(model), TorchScript), even if its code is not here.

Some checkpoints (MadryLab/robustness, robust-models-transfer, old releases) hold pickled objects
beside the weights, and can be opened only by running code that is stored in them. This project
never does so, except here and only with --trust_pickle.

  --trust_pickle RUNS WHATEVER CODE IS IN THE FILE, with your rights. Use it for files whose origin
  you trust, best in a container without network or credentials, and carry only OUT over.
"""
EXAMPLES = """\
examples:
  python -m models.convert resnet50_linf_eps4.0.ckpt robust.pth.tar --trust_pickle
  python -m models.convert cv_lth.pth.tar start.pth.tar --key init_weight
  python -m models.convert whole_network.pt weights.pth.tar --trust_pickle
  python -m models.convert saved_pruned.pth masks.pth.tar --masks_from_zeros
"""


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="the file to read")
    parser.add_argument("target", metavar="OUT", help="the file to write, such as robust.pth.tar")
    parser.add_argument(
        "--trust_pickle", "--trust-pickle", action="store_true", help="run the code stored in IN"
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="the entry of IN to take, OUTER.INNER if nested (state_dict, model, or IN itself)",
    )
    parser.add_argument(
        "--masks_from_zeros",
        "--masks-from-zeros",
        action="store_true",
        help="write no weights but a ticket that prunes the convolution weights that are exactly "
        "0: for a network that was saved pruned, without its masks",
    )
    return parser


def convert(
    source: str,
    target: str,
    *,
    trust_pickle: bool = False,
    key: str | None = None,
    masks_from_zeros: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the state dict inside `source`, or the masks that its zeros make, to `target`.

    Returns how many tensors OUT has. `tell` gets a line on whatever else of use the file holds.
    Raises InputError if `source` cannot be opened, with `trust_pickle` or without, has no state
    dict (under `key`), or no zeros to make masks of.
    """
    if Path(source).resolve() == Path(target).resolve():
        raise InputError(f"{target}: IN and OUT are the same file; name another OUT")
    if target.endswith(".safetensors"):
        raise InputError(f"{target}: OUT is a PyTorch file; name it like robust.pth.tar")
    if not target:
        raise InputError("OUT is empty; name it like robust.pth.tar")
    check_no_run_file(target, "OUT")
    if Path(source).is_file() and ticket_header(source):
        raise InputError(
            f"{source}: is a ticket, which --tickets_file takes as it is; for the released code "
            "main_imp_pretrain.py --export_released K writes one"
        )
    payload = _load_trusted(source) if trust_pickle else load_checkpoint(source)
    taken = take_state_dict(payload, source, key, "--key")
    if masks_from_zeros:
        state = _masks_from_zeros(read_layout(payload, source, key, "--key"), source)
        tell(f"{source}: masks keep {percent_left_in(state):.2f} % of the convolution weights")
    else:
        state = {str(name): _plain(value) for name, value in taken.state.items()}
    save_checkpoint(target, state)
    for line in (*taken.notes, *_left_behind(payload, taken)):
        tell(f"{source}: {line}")
    return len(state)


def _masks_from_zeros(found: Source, source: str) -> dict[str, Tensor]:
    """The masks of the network that --init takes from the file."""
    if found.masks:
        raise InputError(f"{source}: has masks already; pass it to --tickets_file as it is")
    masks = {
        name.removesuffix(".weight") + MASK_SUFFIX: value != 0
        for name, value in found.weights.items()
        if value.dim() == 4 and name.endswith(".weight")
    }
    if all(mask.all() for mask in masks.values()):
        raise InputError(f"{source}: no convolution weight in it is exactly 0; it is not pruned")
    return masks


def _left_behind(payload: Mapping[str, Any], taken: Taken) -> list[str]:
    notes, warnings = other_entries(payload, taken, "--key")
    if taken.key not in MASKS:
        notes += [
            f"masks lie beside the weights: --key {name} takes them, as a ticket"
            for name in MASKS
            if holds_weights(payload.get(name))
        ]
    constants = unsaved_constants(payload)
    if constants:
        notes.append(f"the network normalises its images by {constants}, which OUT does not tell")
    return [*notes, *warnings]


def _load_trusted(source: str) -> Mapping[str, Any]:
    try:
        return load_trusted_pickle(source)
    except ImportError as error:
        package = (error.name or str(error)).split(".")[0]
        raise InputError(
            f"{source}: was saved with the package {package}, which is not installed here; "
            f"pip install {package}, then convert again"
        ) from error
    except AttributeError as error:
        raise InputError(f"{source}: needs code that is not here ({error})") from error


def _plain(value: Tensor) -> Tensor:
    # A copy, since tensors that are views of a larger one would take all of it into the file.
    value = value.detach() if value.layout == torch.strided else value.detach().to_dense()
    return torch.empty_like(value, requires_grad=False).copy_(value)


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    count = convert(**vars(args), tell=print)
    flag = "--tickets_file" if args.key in MASKS or args.masks_from_zeros else "--init"
    print(f"{args.target}: {count} tensors; opens with weights_only=True and as {flag}")


if __name__ == "__main__":
    run_main(main)
