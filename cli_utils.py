"""Flags of both mains: groups, types, the recipe table, and the checks on values.

A flag that is left out takes its value from the recipe of (task, mode, dataset); the recipes are
the schedules that the released code's scripts and the paper use.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch

from errors import InputError

EPILOG = "A flag marked (recipe) takes its value from the recipe table in cli_utils.py if left out."

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
    for name, value in recipe(task, args.mode, getattr(args, "dataset", "*")).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if args.stem is None:
        args.stem = "cifar" if args.input_size < 64 else "imagenet"
    _check(args)


def _check(args: argparse.Namespace) -> None:
    milestones = args.decreasing_lr
    if any(b <= a for a, b in zip(milestones, milestones[1:], strict=False)):
        raise InputError(f"--decreasing_lr {','.join(map(str, milestones))}: must increase")
    if args.threads and args.threads > (os.cpu_count() or 1) * 4:
        raise InputError(f"--threads {args.threads}: this machine has {os.cpu_count()} cores")
    if args.workers > 4 * (os.cpu_count() or 1):
        raise InputError(
            f"--workers {args.workers}: at most 4 per core, {4 * (os.cpu_count() or 1)} here"
        )
    if (args.mean is None) != (args.std is None):
        raise InputError("--mean and --std go together: give both or neither")


# --- types ----------------------------------------------------------------------------------------


def _number(parse: Callable[[str], float], good: Callable[[float], bool], wanted: str) -> Callable:
    def convert(text: str):
        try:
            value = parse(text)
        except (ValueError, ZeroDivisionError, OverflowError):
            value = math.nan
        if not (math.isfinite(value) and good(value)):
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
pixel_fraction = _number(
    _fraction, lambda v: 0 <= v <= 1, "a fraction of the pixel range, 0 to 1, like 8/255 or 0.03"
)
share = _number(_fraction, lambda v: 0 < v <= 1, "a fraction above 0 and at most 1")
pruning_rate = _number(_fraction, lambda v: 0 < v < 1, "a fraction between 0 and 1, both excluded")
image_size = _number(int, lambda v: 8 <= v <= 4096, "a size from 8 to 4096 pixels")


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


# fmt: off
# --- groups of flags that both mains share ----------------------------------------------------------


def add_data_flags(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--input_size", type=image_size, help="side of the square input, in pixels (recipe)")
    add("--augment", choices=("rrc", "crop", "none"),
        help="training images: random resized crops, native-size crops with padding, or as in evaluation (recipe)")
    add("--hflip", action=Switch, help="random horizontal flips in training (recipe)")
    add("--classes", metavar="N|FILE", help="the first N classes, or those named in FILE, one a line")
    add("-j", "--workers", type=natural, default=2, help="loader processes; results do not depend on it (2)")
    add("--skip_bad", action="store_true", help="go on past unreadable image files, with a warning")
    return group


def add_model_flags(parser: Parser, archs: Sequence[str]) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("-a", "--arch", choices=archs, metavar="ARCH", help=f"one of {', '.join(archs)} (recipe)")
    add("--width", type=positive_int, default=16, help="channels of resnet20s' first stage (16)")
    add("--stem", choices=("imagenet", "cifar"),
        help="7x7 stride 2 with max-pool, or 3x3 stride 1 without (cifar below 64 pixels)")
    add("--mean", type=channel_triple, help="channel means of the normalisation, like .49,.48,.45 (the data set's)")
    add("--std", type=channel_triple, help="channel standard deviations (the data set's)")
    return group


def add_train_attack_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--train_eps", type=pixel_fraction, help="radius in training, like 8/255 (recipe)")
    add("--train_step", "--train_steps", type=natural, help="number of PGD steps (recipe)")
    add("--train_gamma", "--train_step_size", type=pixel_fraction, help="step size (recipe)")
    add("--train_randinit", action=Switch, help="start from a random point of the ball (on)")


def add_optimisation_flags(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("optimisation")
    add = group.add_argument
    add("--epochs", type=positive_int, help="epochs in all (recipe)")
    add("-b", "--batch_size", type=positive_int, help="images per node and step (recipe)")
    add("--micro_batch", type=positive_int, metavar="N",
        help="images per pass; gradients of the whole batch are accumulated (the batch)")
    add("--lr", "--learning_rate", type=positive, help="learning rate (recipe)")
    add("--lr_schedule", choices=("constant", "multistep", "cosine"), help="(recipe)")
    add("--decreasing_lr", type=milestones, metavar="E,E", help="epochs at which lr falls to a tenth, for multistep (recipe)")
    add("--warmup", type=natural, help="epochs of linear warm-up, by step (0)")
    add("--momentum", type=not_negative, help="(0.9)")
    add("--wd", "--weight_decay", dest="weight_decay", type=not_negative, help="(recipe)")
    return group


def add_runtime_flags(parser: Parser) -> None:
    group = parser.add_argument_group("runtime")
    add = group.add_argument
    add("--seed", type=seed_value, help="with the same seed a run repeats to the bit (1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(CUDA if it is there)")
    add("--gpu", type=natural, metavar="I", help="use this one GPU")
    add("--threads", type=positive_int, help="CPU threads (PyTorch's choice)")
    add("--channels_last", action=Switch, default=True, help="memory layout; changes rounding only (on)")
    add("--multiprocessing_distributed", action="store_true", help="one process per GPU of this node")
    add("--nproc", type=positive_int, help="processes per node, with --multiprocessing_distributed (its GPUs, or 1)")
    add("--world_size", type=positive_int, default=1, help="number of nodes (1)")
    add("--rank", type=natural, default=0, help="this node's number (0)")
    add("--dist_url", default="tcp://127.0.0.1:23456", help="where the nodes meet")
    add("--dist_backend", choices=("nccl", "gloo"), help="(nccl with CUDA, else gloo)")


def add_output_flags(parser: Parser, save_dir: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--save_dir", default=save_dir, metavar="DIR", help=f"where the run writes ({save_dir})")
    add("--tag", help="name of the pre-training in results and figures (std, adv, fast, …)")
    add("-p", "--print_freq", type=positive_int, metavar="N", help="plain progress lines every N batches (every 10 s)")
    add("--resume", nargs="?", const="auto", metavar="PATH",
        help="go on from PATH, or from the newest file in --save_dir; a new run where there is none")
    add("--dry_run", action="store_true", help="print what the run would do, write and cost; change nothing")
    return group


# fmt: on


def launch_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `dist_utils.Launch`."""
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


# --- running a main ---------------------------------------------------------------------------------


def exit_on_wrong_input(main: Callable[[], None]) -> None:
    """Call `main`; wrong input becomes one line on standard error and exit status 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def set_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
