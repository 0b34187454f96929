"""What argparse cannot check: flags that must fit each other, the schedule and the machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from engine.launching import takes_cuda
from errors import InputError
from files.results import IMP
from models import ARCHS
from models.normalize import check_constants


def check_milestones(args: argparse.Namespace, given: Sequence[int] | None) -> list[str]:
    """What to warn of where the milestones have no effect, or not all of them.

    Args:
        given: what --decreasing_lr said, or None; `args` has the recipe's milestones by now.

    Raises:
        InputError: --lr_schedule multistep without any, or with one before warm-up is over.
    """
    if args.lr_schedule == "multistep":
        _check_multistep(args)
    flag = f"--decreasing_lr {_listed(given or ())}"
    if args.lr_schedule != "multistep":
        uses = f"the learning rate's schedule is {args.lr_schedule}; --lr_schedule multistep uses"
        return [f"{flag}: not used, {uses} them"] if given else []
    name = "prune_epoch" if hasattr(args, "prune_epoch") else "epochs"
    epochs = getattr(args, name)
    late = [milestone for milestone in args.decreasing_lr if milestone >= epochs]
    if late:
        whose = flag if given else f"the recipe's --decreasing_lr {_listed(args.decreasing_lr)}"
        return [
            f"{whose}: {_listed(late)} is never reached: with --{name} {epochs} the last epoch is "
            f"{epochs - 1}, counted from 0"
        ]
    return []


def _listed(epochs: Sequence[int]) -> str:
    return ",".join(map(str, epochs))


def _check_multistep(args: argparse.Namespace) -> None:
    if not args.decreasing_lr:
        raise InputError(
            "--lr_schedule multistep: there are no milestones; name some by --decreasing_lr E,E, "
            "or say --lr_schedule constant"
        )
    # Deviation: the released code forgets these, as each step of warm-up sets the rate anew.
    if args.decreasing_lr[0] < args.warmup:
        raise InputError(
            f"--warmup {args.warmup}: is not over at milestone {args.decreasing_lr[0]}; name later "
            "ones by --decreasing_lr E,E"
        )


def check_validated(args: argparse.Namespace, given: Collection[str]) -> list[str]:
    """What to warn of where the recipe's --eval_from leaves but the last network to be chosen.

    Args:
        given: the names of the flags that were given.
    """
    if "eval_from" in given or not 1 < args.epochs <= args.eval_from + 1:
        return []
    return [
        f"--eval_from {args.eval_from} of the recipe: with --epochs {args.epochs} the last network "
        "alone is validated, so none is chosen; name an earlier epoch"
    ]


def check_attacks(args: argparse.Namespace, given: Collection[str]) -> list[str]:
    """What to warn of where the flags that were given leave an attack nothing to do.

    Args:
        given: the names of the flags that were given.
    """
    lines = []
    made = {
        "train": args.mode == "adv",
        "test": args.mode == "adv" or getattr(args, "eval_attack", None),
    }
    for of, what in (("train", "training is"), ("test", "RA is measured")):
        names = [f"{of}_{name}" for name in ("eps", "gamma", "step")]
        idle = [f"--{name} 0" for name in names if name in given and getattr(args, name) == 0]
        if idle and made[of]:
            starts = getattr(args, f"{of}_randinit") and f"--{of}_eps 0" not in idle
            on = "the random starts alone" if starts else "clean images"
            lines.append(f"{', '.join(idle)}: the attack does nothing, {what} on {on}")
    return lines


def check_states(args: argparse.Namespace) -> list[str]:
    """What to warn of where a search ends in the middle of a state."""
    short, last = args.epochs % args.prune_epoch, args.epochs // args.prune_epoch + 1
    if not short:
        return []
    return [
        f"--epochs {args.epochs}: state {last} trains {short} of --prune_epoch {args.prune_epoch} "
        f"epochs only, and ticket {last + 1} is of these weights"
    ]


def check_unused(args: argparse.Namespace, given: Collection[str]) -> list[str]:
    """What to warn of where a flag that a recipe could fill in was given and has no effect.

    Args:
        given: the names of those that were given.

    Raises:
        InputError: --width or --stem for a network that has no such thing.
    """
    if "stem" in given and args.arch not in ARCHS:
        raise InputError(f"--stem {args.stem}: {args.arch} has its own; leave it out")
    if "width" in given and args.arch != "resnet20s":
        raise InputError(f"--width {args.width}: goes with -a resnet20s, not {args.arch}")
    lines = _unused_attacks(args, given)
    if "pretrain_lr" in given and not args.pretrain_epochs:
        lines.append(f"--pretrain_lr {args.pretrain_lr:g}: not used without --pretrain_epochs N")
    return lines


def _unused_attacks(args: argparse.Namespace, given: Collection[str]) -> list[str]:
    """What to warn of where an attack is described and none is made: in standard training."""
    if args.mode == "adv" or args.evaluate:  # to test a network, flags come from its run too
        return []
    unused = {"train_": "--mode std trains on clean images"}
    if not (getattr(args, "eval_attack", None) or getattr(args, "check_masking", False)):
        unused["test_"] = "--mode std tests clean images; --eval_attack pgd attacks them"
    flags = {of: [f"--{name}" for name in sorted(given) if name.startswith(of)] for of in unused}
    return [f"{', '.join(flags[of])}: not used, {why}" for of, why in unused.items() if flags[of]]


def check_start(args: argparse.Namespace) -> list[str]:
    """What to warn of where --start_epoch is given beside --resume, where it has no effect.

    Raises:
        InputError: it stands alone and would leave epochs out.
    """
    if not args.start_epoch:
        return []
    if args.resume is None:
        left = args.epochs - args.start_epoch
        fewer = f"to train {args.start_epoch} epochs fewer, --epochs {left} does the same"
        none = f"of --epochs {args.epochs} none would be left to train"
        raise InputError(
            f"--start_epoch {args.start_epoch}: a run goes on by --resume; "
            f"{fewer if left > 0 else none}"
        )
    return [f"--start_epoch {args.start_epoch}: not used, the run goes on where --resume says"]


def check_precision(args: argparse.Namespace) -> list[str]:
    """What to warn of where --amp bf16 is emulated, which takes longer than float32."""
    if args.amp != "bf16":
        return []
    if takes_cuda(args.device):
        machine, native = "this GPU", torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        machine, native = "this CPU", _cpu_has_bf16()
    slow = f"--amp bf16: {machine} has no bf16 instructions and emulates them; --amp off is faster"
    return [] if native else [slow]


def _cpu_has_bf16() -> bool:
    """Whether some instruction of the CPU computes in bf16; True where PyTorch cannot tell."""
    tell: Callable[[], Mapping] = getattr(torch.cpu, "get_capabilities", dict)  # not in older ones
    capabilities = tell()
    known = [has for name, has in capabilities.items() if "bf16" in name]
    return any(known) or not known


def check_together(args: argparse.Namespace) -> None:
    """Raise InputError for values that contradict each other or this machine."""
    milestones = args.decreasing_lr
    if any(b <= a for a, b in zip(milestones, milestones[1:], strict=False)):
        raise InputError(f"--decreasing_lr {_listed(milestones)}: must increase")
    length = min(args.epochs, getattr(args, "prune_epoch", args.epochs))
    if args.warmup > length:
        raise InputError(f"--warmup {args.warmup}: more than the {length} epochs there are")
    _check_processes(args)
    _check_name(args.save_dir)
    if args.json and not args.dry_run:
        raise InputError("--json goes with --dry_run, whose plan it prints")
    if args.time_it and not args.dry_run:
        raise InputError("--time_it goes with --dry_run, whose plan it adds hours to")
    exporting = args.export_released is not None and args.export_released is not False
    if args.dry_run and exporting:
        raise InputError("--export_released writes a file at once: leave out --dry_run")
    if args.evaluate and exporting:
        raise InputError("--export_released only writes a file: leave out --evaluate")
    _check_what_is_tested(args)
    _check_init(args)
    if args.amp == "fp16" and not takes_cuda(args.device):
        raise InputError("--amp fp16 needs CUDA; on the CPU there is --amp bf16")
    if args.cuda_graphs and not args.compile:
        raise InputError("--cuda_graphs goes with --compile, whose graphs they record")
    if args.cuda_graphs and not takes_cuda(args.device):
        raise InputError("--cuda_graphs needs CUDA; leave it out")
    if (args.mean is None) != (args.std is None):
        raise InputError("--mean and --std go together: give both or neither")
    if args.mean is not None:
        check_constants(args.mean, args.std, ("--mean", "--std"))


def _check_what_is_tested(args: argparse.Namespace) -> None:
    ticket = getattr(args, "ticket", IMP)
    if args.evaluate and ticket != IMP:
        raise InputError(
            f"--ticket {ticket} only writes tickets, --evaluate tests a network: leave one out"
        )
    if args.evaluate and getattr(args, "continue_from", None):
        raise InputError(
            "--continue_from trains a ticket further, --evaluate tests a network: leave one out"
        )


def _check_init(args: argparse.Namespace) -> None:
    """Refuse flags about --init without it, where neither a ticket nor a run to resume has it."""
    if args.init is not None or getattr(args, "continue_from", None) or args.resume is not None:
        return
    if args.init_key is not None:
        raise InputError(f"--init_key {args.init_key}: goes with --init, whose entry it names")
    if getattr(args, "reset_fc", False):
        raise InputError("--reset_fc goes with --init, whose classifier it replaces")


def _check_name(save_dir: str) -> None:
    """Refuse a folder's name that cannot be written down, in args.json or by TensorBoard."""
    try:
        save_dir.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"--save_dir {save_dir!r}: is not UTF-8 text here; choose another name, or a UTF-8 "
            "locale such as LC_ALL=C.UTF-8"
        ) from error


def _check_processes(args: argparse.Namespace) -> None:
    most = 4 * (os.cpu_count() or 1)
    for name in ("threads", "workers", "nproc"):
        number = getattr(args, name)
        if number and number > most:
            raise InputError(f"--{name} {number}: at most 4 per core, {most} here")
    under_torchrun = "LOCAL_RANK" in os.environ
    if not (args.multiprocessing_distributed or under_torchrun):
        for name, usual in (("world_size", 1), ("nproc", None)):
            if getattr(args, name) != usual:
                raise InputError(
                    f"--{name} {getattr(args, name)}: goes with --multiprocessing_distributed"
                )
    if args.rank >= args.world_size:
        raise InputError(
            f"--rank {args.rank}: nodes are counted from 0, so below --world_size {args.world_size}"
        )
