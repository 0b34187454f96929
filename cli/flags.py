"""The flags of both mains, by group. Pure: building a parser reads nothing and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from cli.parsing import (
    Parser,
    Switch,
    below_one,
    channel_triple,
    evaluation_set,
    image_size,
    milestones,
    natural,
    not_negative,
    pixel_fraction,
    positive,
    positive_int,
    pruning_rate,
    seed_value,
    share,
)

FILES = ("init", "tickets_file", "masking_source")  # flags that name a file
# Flags that may differ when a run is resumed: they change neither its results nor its files' names.
FREE_FLAGS = frozenset(
    (
        *("resume", "dry_run", "time_it", "evaluate", "export_released", "keep", "tag", "save_dir"),
        *("workers", "print_freq", "save_every_steps", "eval_batch_size", "compile", "threads"),
        *("device", "gpu", "nproc", "world_size", "rank", "dist_url", "dist_backend"),
        # Without --skip_bad a run ends at the first bad image; where files lie is free, not what
        # is in them: see `build.contents`.
        *("multiprocessing_distributed", "skip_bad", "data", *FILES),
    )
)


def build_imp_parser(archs: Sequence[str]) -> Parser:
    """Flags of main_imp_pretrain.py."""
    parser = Parser(
        prog="main_imp_pretrain.py",
        description="Find lottery tickets by iterative magnitude pruning on a pre-training task: "
        "prune the trained weights, rewind the others to the pre-trained ones, train, repeat.",
    )
    _add_mode(parser, "adversarial (PGD) or standard training of every state (adv)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="ImageNet layout: DATA/train/CLASS/*, DATA/val/CLASS/*; only --ticket imp needs it",
    )
    _add_image_flags(data)
    model = _add_model_flags(parser, archs)
    model.add_argument(
        "--pretrained",
        dest="init",
        action="store_const",
        const="torchvision",
        help="the same as --init torchvision",
    )
    model.add_argument(
        "--reset_fc",
        action="store_true",
        help="a fresh classifier, where --init's has other classes",
    )
    add = parser.add_argument_group("ticket").add_argument
    add(
        "--ticket",
        choices=("imp", "omp", "random"),
        default="imp",
        help="imp; omp: one-shot magnitude pruning of --init at every density of IMP's states; "
        "random: masks with the same counts. Neither trains (imp)",
    )
    add("--rate", type=pruning_rate, help="fraction of the weights left that a prune removes (0.2)")
    add("--prune_epoch", type=positive_int, help="epochs per state (recipe: 30)")
    add(
        "--pretrain_epochs",
        type=natural,
        default=0,
        help="train the dense network first, as state 0, if you have no pre-trained weights; "
        "not counted in --epochs (0)",
    )
    add(
        "--pretrain_lr",
        type=positive,
        default=0.1,
        help="its learning rate, by a cosine to 0 (0.1)",
    )
    _add_training_attack(parser.add_argument_group("attack, in --mode adv"))
    _add_optimisation_flags(parser)
    parser.add_argument_group("evaluation").add_argument(
        "-e",
        "--evaluate",
        action="store_true",
        help="only validate --resume PATH (or the newest checkpoint) and write eval.json",
    )
    _add_runtime_flags(parser)
    add = _add_output_flags(parser, "runs/imp")
    add(
        "--keep",
        choices=("all", "last", "tickets"),
        default="all",
        help="which checkpoints stay; tickets always do (all)",
    )
    add(
        "--export_released",
        type=natural,
        metavar="K",
        help="only write state K of --save_dir as one file in the released code's format",
    )
    return parser


def build_transfer_parser(archs: Sequence[str], datasets: Sequence[str]) -> Parser:
    """Flags of main_downstream.py."""
    parser = Parser(
        prog="main_downstream.py",
        description="Transfer a ticket, or the dense network, to a data set: train it there and "
        "measure SA and, in --mode adv, RA.",
    )
    _add_mode(parser, "adversarial (PGD) training, SA and RA; or standard training, SA (adv)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        choices=datasets,
        default="cifar10",
        metavar="NAME",
        help=f"one of {', '.join(datasets)} (cifar10)",
    )
    data.add_argument(
        "--data", default="data", metavar="DIR", help="where the data set lies, or goes to (data)"
    )
    data.add_argument(
        "--data_number", type=share, default=1.0, help="fraction of the training images (1)"
    )
    _add_image_flags(data)
    _add_model_flags(parser, archs)
    add = parser.add_argument_group("ticket").add_argument
    add(
        "--tickets_file",
        "--ticket_file",
        metavar="PATH",
        help="any file that holds masks; the dense network if left out",
    )
    add("--reinit", action="store_true", help="random weights, not --init's, under the masks")
    attack = parser.add_argument_group("attack, in --mode adv")
    _add_training_attack(attack)
    add = attack.add_argument
    add("--test_eps", type=pixel_fraction, help="radius in evaluation (recipe)")
    add("--test_step", "--test_steps", type=natural, help="PGD steps in evaluation (recipe)")
    add("--test_gamma", "--test_step_size", type=pixel_fraction, help="step size there (recipe)")
    add("--test_randinit", action=Switch, help="start at a random point in evaluation (on)")
    _add_optimisation_flags(parser)
    _add_transfer_evaluation(parser)
    _add_runtime_flags(parser)
    add = _add_output_flags(parser, "runs/transfer")
    add(
        "--save_all",
        action="store_true",
        help="also keep {epoch}-checkpoint.pth.tar, bare state dicts",
    )
    return parser


def _add_transfer_evaluation(parser: Parser) -> None:
    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--eval_from",
        type=natural,
        metavar="EPOCH",
        help="first epoch, counted from 0, that is evaluated; the last always is (recipe)",
    )
    add("--eval_batch_size", type=positive_int, default=128, help="images per pass there (128)")
    add(
        "-e",
        "--evaluate",
        action="store_true",
        help="only test --resume PATH (or the newest checkpoint) and write eval.json; the network "
        "is told from the file",
    )
    add(
        "--eval_set",
        type=evaluation_set,
        default=("test", ""),
        metavar="SET",
        help="what --evaluate tests on: test, the data set's split; cifar10_c[:DIR], every "
        "corruption and severity (DATA/CIFAR-10-C); adv:FILE, saved adversarial images (test)",
    )
    add("--save_adv", metavar="FILE", help="keep the images that --evaluate attacks, for adv:FILE")
    add(
        "--eval_attack",
        choices=("pgd", "autoattack"),
        help="how the test split is attacked, in --mode std too: pgd; autoattack: four attacks "
        "without parameters to tune, beside pgd, hours on a large set (pgd in --mode adv)",
    )
    add(
        "--eval_images",
        type=positive_int,
        metavar="N",
        help="only the first N images, in --evaluate, autoattack and --check_masking "
        "(all; 512 for the last)",
    )
    add(
        "--restarts",
        type=positive_int,
        default=1,
        metavar="N",
        help="run pgd on the test split N times; robust is what survives all of them (1)",
    )
    add(
        "--check_masking",
        action="store_true",
        help="check that RA is no artefact of useless gradients: more steps do not raise it, it "
        "vanishes at a huge radius, attacks from another network are no stronger",
    )
    add("--masking_source", metavar="CKPT", help="that other network: the dense transfer, say")


# --- groups that both mains share -----------------------------------------------------------------


def _add_mode(parser: Parser, meaning: str) -> None:
    parser.add_argument("--mode", choices=("adv", "std"), default="adv", help=meaning)


def _add_image_flags(group) -> None:
    add = group.add_argument
    add("--input_size", type=image_size, help="side of the square input, in pixels (recipe)")
    add(
        "--augment",
        choices=("rrc", "crop", "none"),
        help="training images: random resized crops, padded crops at native size, or as in "
        "evaluation (recipe)",
    )
    add("--hflip", action=Switch, help="random horizontal flips in training (recipe)")
    add("--classes", metavar="N|FILE", help="the first N classes, or those that FILE names by line")
    add(
        "-j",
        "--workers",
        type=natural,
        default=2,
        help="loader processes; results do not depend on their number (2)",
    )
    add("--skip_bad", action="store_true", help="go on past unreadable images, with a warning")


def _architecture(archs: Sequence[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in archs and not name.startswith("timm:"):
            known = ", ".join([*archs, "timm:NAME"])
            raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {known})")
        return name

    return check


def _add_model_flags(parser: Parser, archs: Sequence[str]):
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "-a",
        "--arch",
        type=_architecture(archs),
        metavar="ARCH",
        help=f"one of {', '.join(archs)}, or timm:NAME with the package timm (recipe)",
    )
    add("--width", type=positive_int, default=16, help="channels of resnet20s' first stage (16)")
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


def _add_training_attack(group) -> None:
    add = group.add_argument
    add("--train_eps", type=pixel_fraction, help="radius in training, like 8/255 (recipe)")
    add("--train_step", "--train_steps", type=natural, help="PGD steps in training (recipe)")
    add("--train_gamma", "--train_step_size", type=pixel_fraction, help="step size (recipe)")
    add("--train_randinit", action=Switch, help="start at a random point of the ball (on)")


def _add_optimisation_flags(parser: Parser) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=positive_int, help="epochs in all (recipe)")
    add("-b", "--batch_size", type=positive_int, help="images per node and step (recipe)")
    add(
        "--micro_batch",
        type=positive_int,
        metavar="N",
        help="images per pass; the batch's gradients are accumulated (the whole batch)",
    )
    add("--lr", "--learning_rate", type=positive, help="learning rate (recipe)")
    add("--lr_schedule", choices=("constant", "multistep", "cosine"), help="(recipe)")
    add(
        "--decreasing_lr",
        type=milestones,
        metavar="E,E",
        help="epochs at which multistep divides the rate by ten (recipe)",
    )
    add("--warmup", type=natural, help="epochs of linear warm-up, by step (0)")
    add("--momentum", type=below_one, help="(0.9)")
    add("--wd", "--weight_decay", dest="weight_decay", type=not_negative, help="(recipe)")


def _add_runtime_flags(parser: Parser) -> None:
    add = parser.add_argument_group("runtime").add_argument
    add("--seed", type=seed_value, help="with the same seed a run repeats to the bit (1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(CUDA if it is there)")
    add("--gpu", type=natural, metavar="I", help="use this one GPU")
    add("--threads", type=positive_int, help="CPU threads (PyTorch's choice)")
    add("--channels_last", action=Switch, default=True, help="layout; changes rounding only (on)")
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="mixed precision in training, attacks and evaluation; changes results (off)",
    )
    add("--tf32", action="store_true", help="TF32 matrix products on CUDA; changes results")
    add("--compile", action="store_true", help="torch.compile the network: for GPUs")
    add("--sync_bn", action="store_true", help="BatchNorm statistics over all GPUs (CUDA only)")
    add(
        "--multiprocessing_distributed",
        action="store_true",
        help="start one process per GPU of this node (torchrun works too)",
    )
    add("--nproc", type=positive_int, help="processes per node for that (its GPUs, or 1)")
    add("--world_size", type=positive_int, default=1, help="number of nodes (1)")
    add("--rank", type=natural, default=0, help="this node's number (0)")
    add("--dist_url", default="tcp://127.0.0.1:23456", help="where the nodes meet")
    add("--dist_backend", choices=("nccl", "gloo"), help="(nccl with CUDA, else gloo)")


def _add_output_flags(parser: Parser, save_dir: str):
    add = parser.add_argument_group("output").add_argument
    add("--save_dir", default=save_dir, metavar="DIR", help=f"where the run writes ({save_dir})")
    add("--tag", help="name of the pre-training in results and figures: std, adv, fast, …")
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
