"""The groups of flags that both mains share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from cli.parsing import (
    Parser,
    Switch,
    below_one,
    channel_triple,
    folder_name,
    image_size,
    milestones,
    natural,
    not_negative,
    pixel_fraction,
    positive,
    positive_int,
    printable,
    seed_value,
    two_or_more,
    unless_minus_one,
    width,
)


def add_mode(parser: Parser, meaning: str) -> None:
    parser.add_argument("--mode", choices=("adv", "std"), help=meaning)


def add_image_flags(group) -> None:
    add = group.add_argument
    add("--input_size", type=image_size, help="side of the square input, in pixels (recipe)")
    add(
        "--augment",
        choices=("rrc", "crop", "none"),
        help="framing. rrc: random resized crops, in evaluation resized by 256/224 and the centre; "
        "crop: padded crops at native size, in evaluation whole; none: as in evaluation, below 64 "
        "pixels whole; flips are apart (recipe)",
    )
    add("--hflip", action=Switch, help="random horizontal flips in training (recipe)")
    add("--classes", metavar="N|FILE", help="the first N classes, or those that FILE names by line")
    add(
        "-j",
        "--workers",
        type=natural,
        help="loader processes, on whose number no result depends (one for each core that the "
        "process may use, at most 16 or --threads; none where the images lie in memory at their "
        "final size)",
    )
    add("--skip_bad", action="store_true", help="go on past unreadable images, with a warning")


def _architecture(archs: Sequence[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in archs and not name.startswith("timm:"):
            known = ", ".join([*archs, "timm:NAME"])
            raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {known})")
        return name

    return check


def add_model_flags(parser: Parser, archs: Sequence[str]):
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "-a",
        "--arch",
        type=_architecture(archs),
        metavar="ARCH",
        help=f"one of {', '.join(archs)}, or timm:NAME with the package timm (recipe)",
    )
    add("--width", type=width, help="channels of resnet20s' first stage (16)")
    add(
        "--stem",
        choices=("imagenet", "cifar"),
        help="7x7 stride 2 and max-pool, or 3x3 stride 1 without (cifar below 64 pixels)",
    )
    add("--mean", type=channel_triple, help="channel means, like .49,.48,.45 (the data set's)")
    add("--std", type=channel_triple, help="channel standard deviations (the data set's)")
    add(
        "--init",
        metavar="PATH",
        help="pre-trained weights: a file, `torchvision`, hf:OWNER/REPO/FILE[@REVISION], or a URL "
        "that ends in #sha256=… (random weights)",
    )
    add(
        "--init_key",
        metavar="NAME",
        help="the entry of --init with the weights, OUTER.INNER if nested, such as model_ema",
    )
    return group


def add_training_attack(group) -> None:
    add = group.add_argument
    add("--train_eps", type=pixel_fraction, help="radius in training, like 8/255 (recipe)")
    add("--train_step", "--train_steps", type=natural, help="PGD steps in training (recipe)")
    add("--train_gamma", "--train_step_size", type=pixel_fraction, help="step size (recipe)")
    add("--train_randinit", action=Switch, help="start at a random point of the ball (on)")


def add_optimisation_flags(parser: Parser, epochs: str, counted: str):
    """Args: what --epochs counts, and from where the schedule's epochs are counted, in words."""
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=positive_int, help=f"{epochs} (recipe)")
    add("-b", "--batch_size", type=positive_int, help="images per node and step (recipe)")
    add(
        "--micro_batch",
        type=two_or_more,
        metavar="N",
        help="images per pass of a process; the batch's gradients are accumulated (in IMP 256, as "
        "on each of eight GPUs at the recipe's batch; in transfers the whole share of the process)",
    )
    add("--lr", "--learning_rate", type=positive, help="learning rate (recipe)")
    add(
        "--lr_schedule",
        choices=("constant", "multistep", "cosine"),
        help="how the rate falls, after --warmup (recipe)",
    )
    add(
        "--decreasing_lr",
        type=milestones,
        metavar="E,E",
        help=f"epochs at which multistep divides the rate by ten, counted from {counted} (recipe)",
    )
    add("--warmup", type=natural, help="epochs of linear warm-up, by step (0)")
    add("--momentum", type=below_one, help="of SGD (0.9)")
    add(
        "--wd",
        "--weight_decay",
        dest="weight_decay",
        type=not_negative,
        help="weight decay of SGD, on all parameters (recipe)",
    )
    return add


def add_runtime_flags(parser: Parser) -> None:
    add = parser.add_argument_group("runtime").add_argument
    add(
        "--seed",
        type=seed_value,
        help="with the same seed a run repeats, on the CPU at the same --threads to the bit (1)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="what computes (CUDA if it is there)",
    )
    add("--gpu", type=natural, metavar="I", help="use this one GPU, by one process")
    add("--threads", type=positive_int, help="CPU threads (PyTorch's choice)")
    add("--channels_last", action=Switch, default=True, help="layout; changes rounding only (on)")
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        help="mixed precision in training, attacks and evaluation, but for AutoAttack; changes "
        "results (off)",
    )
    add("--tf32", action=Switch, help="TF32 matrix products on CUDA; changes results (off)")
    add(
        "--compile",
        action="store_true",
        help="torch.compile the passes, minutes at the start; changes rounding only: for GPUs",
    )
    add(
        "--cuda_graphs",
        action="store_true",
        help="with --compile: replay training's passes as CUDA graphs, for small networks",
    )
    add("--sync_bn", action="store_true", help="BatchNorm statistics over all GPUs (CUDA only)")
    add(
        "--multiprocessing_distributed",
        action=Switch,
        default=False,
        help="start one process per GPU of this node (torchrun works too; off)",
    )
    add(
        "--nproc",
        type=positive_int,
        help="processes per node that --multiprocessing_distributed starts (its GPUs, or 1)",
    )
    nodes, number = unless_minus_one(positive_int), unless_minus_one(natural)
    add("--world_size", type=nodes, help="number of nodes (1)")
    add("--rank", type=number, help="this node's number (0)")
    add(
        "--dist_url",
        metavar="URL",
        help="where the nodes meet: tcp://HOST:PORT, or env://, where MASTER_ADDR, MASTER_PORT, "
        "WORLD_SIZE (nodes) and RANK say it (one node: a free port; more: needed)",
    )
    add("--dist_backend", choices=("nccl", "gloo"), help="how processes talk (nccl, on CPUs gloo)")
    add("--dist_timeout", type=positive_int, default=600, help="seconds to wait for others (600)")


def add_output_flags(parser: Parser, save_dir: str):
    add = parser.add_argument_group("output").add_argument
    where = f"where the run writes ({save_dir})"
    add("--save_dir", type=folder_name, default=save_dir, metavar="DIR", help=where)
    name = "name of the pre-training in results and figures: std, adv, fast, …"
    add("--tag", type=printable, help=name)
    add(
        "-p",
        "--print_freq",
        type=positive_int,
        metavar="N",
        help="without a terminal, a progress line every N batches (every 10 s)",
    )
    add(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from PATH, or from the newest file in --save_dir; a new run if there is none",
    )
    add(
        "--save_every_steps",
        type=positive_int,
        metavar="N",
        help="a checkpoint every N steps, besides the one after every epoch",
    )
    add("--dry_run", action="store_true", help="print what would be done, written and spent")
    add("--time_it", action="store_true", help="with --dry_run: time a few steps, estimate hours")
    add("--json", action="store_true", help="with --dry_run: print the plan as one JSON object")
    return add
