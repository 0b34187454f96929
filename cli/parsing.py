"""Reading flags: the recipe table, types, checks, and one-line errors.

A flag that is left out takes its value from the recipe of (task, mode, dataset); the recipes are
the schedules that the released code's scripts and the paper use.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch

from errors import InputError, RunFailed, exit_with, failures_named

EPILOG = "A flag marked (recipe) that is left out takes its value from the table in cli/parsing.py."

# --- recipes --------------------------------------------------------------------------------------

_IMP = {
    "arch": "resnet50", "input_size": 224, "augment": "rrc", "hflip": True,
    "epochs": 570, "prune_epoch": 30, "rate": 0.2, "batch_size": 2048,
    "lr": 5e-4, "lr_schedule": "constant", "decreasing_lr": (), "weight_decay": 1e-4,
    "train_eps": 8 / 255, "train_step": 3, "train_gamma": 16 / (3 * 255),
}  # fmt: skip
_TRANSFER = {
    "arch": "resnet50", "input_size": 224, "augment": "rrc", "hflip": True,
    "weight_decay": 5e-4, "train_eps": 8 / 255, "train_step": 10, "train_gamma": 2 / 255,
    "test_eps": 8 / 255, "test_step": 20, "test_gamma": 2 / 255,
}  # fmt: skip
_COMMON = {"momentum": 0.9, "warmup": 0, "train_randinit": True, "test_randinit": True, "seed": 1}
_NATIVE = {"input_size": 32, "augment": "crop", "stem": "cifar"}

RECIPES: dict[tuple[str, str, str], dict[str, Any]] = {
    ("imp", "adv", "*"): _IMP,
    ("imp", "std", "*"): _IMP,
    ("transfer", "adv", "*"): {
        **_TRANSFER, "batch_size": 128, "lr": 0.1, "epochs": 100,
        "lr_schedule": "multistep", "decreasing_lr": (50, 75), "eval_from": 45,
    },
    ("transfer", "adv", "svhn"): {
        "lr": 0.01, "epochs": 80, "lr_schedule": "cosine", "decreasing_lr": (), "eval_from": 0,
    },
    ("transfer", "std", "*"): {
        **_TRANSFER, "batch_size": 64, "lr": 0.001, "epochs": 150,
        "lr_schedule": "multistep", "decreasing_lr": (50, 100), "eval_from": 0,
    },
    ("transfer", "*", "cifar10_3"): _NATIVE,
    ("transfer", "*", "digits"): {**_NATIVE, "hflip": False},
}  # fmt: skip


def recipe(task: str, mode: str, dataset: str = "*") -> dict[str, Any]:
    """The recipe of (task, mode, dataset): the general values, then the data set's own."""
    values = dict(_COMMON)
    for key in ((task, mode, "*"), (task, "*", dataset), (task, mode, dataset)):
        values.update(RECIPES.get(key, {}))
    return values


def apply_recipe(args: argparse.Namespace, task: str) -> None:
    """Give every flag that was left out its value of the recipe, in place; then check values."""
    _check_schedule_given(args, task)
    for name, value in recipe(task, args.mode, getattr(args, "dataset", "*")).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if args.stem is None:
        args.stem = "cifar" if args.input_size < 64 else "imagenet"
    _check(args)


def _check_schedule_given(args: argparse.Namespace, task: str) -> None:
    """Refuse milestones that the epochs do not reach, if both were given: a recipe's may be."""
    name = "prune_epoch" if task == "imp" else "epochs"
    epochs, late = getattr(args, name), args.decreasing_lr
    if late and epochs and max(late) >= epochs and late == tuple(sorted(set(late))):
        raise InputError(
            f"--decreasing_lr {','.join(map(str, late))}: epochs counted from 0, so below --{name} "
            f"{epochs}"
        )


def _check(args: argparse.Namespace) -> None:
    milestones = args.decreasing_lr
    if any(b <= a for a, b in zip(milestones, milestones[1:], strict=False)):
        raise InputError(f"--decreasing_lr {','.join(map(str, milestones))}: must increase")
    length = min(args.epochs, getattr(args, "prune_epoch", args.epochs))
    if args.warmup > length:
        raise InputError(f"--warmup {args.warmup}: more than the {length} epochs there are")
    _check_processes(args)
    if args.amp == "fp16" and (args.device == "cpu" or not torch.cuda.is_available()):
        raise InputError("--amp fp16 needs CUDA; on the CPU there is --amp bf16")
    if (args.mean is None) != (args.std is None):
        raise InputError("--mean and --std go together: give both or neither")


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


# --- types ----------------------------------------------------------------------------------------


def _number(parse: Callable[[str], float], good: Callable[[float], bool], wanted: str) -> Callable:
    def convert(text: str):
        try:
            value = parse(text)
            right = math.isfinite(value) and good(value)
        except (ValueError, ZeroDivisionError, OverflowError):
            right = False
        if not right:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


def _fraction(text: str) -> float:
    product = re.fullmatch(r"(\d+)/\((\d+)\*(\d+)\)", text)
    if product:
        top, a, b = map(int, product.groups())
        return top / (a * b)
    return float(Fraction(text)) if "/" in text else float(text)


positive_int = _number(int, lambda v: v >= 1, "a whole number of at least 1")
natural = _number(int, lambda v: v >= 0, "a whole number of at least 0")
positive = _number(float, lambda v: v > 0, "a number above 0")
not_negative = _number(float, lambda v: v >= 0, "a number of at least 0")
below_one = _number(float, lambda v: 0 <= v < 1, "a number from 0 to below 1")
pixel_fraction = _number(
    _fraction, lambda v: 0 <= v <= 1, "a fraction of the pixel range, 0 to 1, like 8/255 or 0.03"
)
share = _number(_fraction, lambda v: 0 < v <= 1, "a fraction above 0 and at most 1")
pruning_rate = _number(_fraction, lambda v: 0 < v < 1, "a fraction between 0 and 1, both excluded")
image_size = _number(int, lambda v: 8 <= v <= 4096, "a size from 8 to 4096 pixels")


def evaluation_set(text: str) -> tuple[str, str]:
    """`test`, `cifar10_c`, `cifar10_c:DIR` or `adv:FILE` -> (kind, path)."""
    kind, _, path = text.partition(":")
    if text not in ("test", "cifar10_c") and not (kind in ("cifar10_c", "adv") and path):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of test, cifar10_c, cifar10_c:DIR, adv:FILE"
        )
    return kind, path


def seed_value(text: str) -> int:
    return _number(int, lambda v: 0 <= v < 2**63, "a whole number from 0 to 2**63 - 1")(text)


def milestones(text: str) -> tuple[int, ...]:
    return tuple(natural(part) for part in text.split(",") if part.strip())


def channel_triple(text: str) -> tuple[float, ...]:
    values = tuple(not_negative(part) for part in text.replace(",", " ").split())
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers like 0.49,0.48,0.45")
    return values


class Switch(argparse.Action):
    """`--name` and `--no_name`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        names = [f(o) for o in option_strings for f in (str, lambda o: f"--no_{o[2:]}")]
        super().__init__(names, dest, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, not option_string.startswith("--no_"))


class Parser(argparse.ArgumentParser):
    """One-line errors, no abbreviations, and `-` for `_` anywhere inside a flag."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, epilog=EPILOG, **kwargs)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_underscored(word) for word in words], namespace)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _underscored(word: str) -> str:
    if not re.match(r"--[A-Za-z]", word):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def launch_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `engine.distributed.Launch`."""
    return {
        "device": args.device,
        "gpu": args.gpu,
        "spawn": args.multiprocessing_distributed,
        "world_size": args.world_size,
        "rank": args.rank,
        "dist_url": args.dist_url,
        "dist_backend": args.dist_backend,
        "nproc": args.nproc,
    }


def execution_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `engine.steps.Execution` but for the device."""
    return {
        "channels_last": args.channels_last,
        "amp": {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[args.amp],
        "micro_batch": args.micro_batch,
    }


def evaluation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `evaluation.request.Request`."""
    return {
        "attacked": args.mode == "adv" or args.eval_attack is not None,
        "asked": args.eval_attack is not None,
        "autoattack": args.eval_attack == "autoattack",
        "check_masking": args.check_masking,
        "masking_source": args.masking_source,
        "images": args.eval_images,
        "restarts": args.restarts,
        "evaluate": args.evaluate,
        "eval_set": args.eval_set,
        "save_adv": args.save_adv,
    }


# --- running a main -------------------------------------------------------------------------------


def run_main(main: Callable[[], None]) -> None:
    """Call `main`; an error that is not a bug becomes one line on standard error and a status."""
    try:
        with failures_named():
            main()
    except (InputError, RunFailed) as error:
        exit_with(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def memory_advice(images: int) -> Iterator[None]:
    """Turn running out of memory with `images` per pass into a line with a value to try."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            f"out of memory with {images} images per pass: try --micro_batch {max(1, images // 2)}"
        ) from error


def configure_torch(args: argparse.Namespace) -> None:
    """Threads, and TF32 only where it was asked for: it changes results by more than rounding."""
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32


def keep_freed_memory() -> None:
    """Let glibc keep what a pass frees for the next one, on Linux; elsewhere nothing changes.

    By default it gives every large tensor back to the system, which then has to map and clear its
    pages anew: about a tenth of a training step on the CPU. The peak stays what it is.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of their own for large blocks
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks
