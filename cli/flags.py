"""The flags of both mains, by group. Pure: building a parser reads nothing and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cli.parsing import (
    Parser,
    Switch,
    evaluation_set,
    natural,
    pixel_fraction,
    positive,
    positive_int,
    pruning_rate,
    share,
)
from cli.shared_flags import (
    add_image_flags,
    add_mode,
    add_model_flags,
    add_optimisation_flags,
    add_output_flags,
    add_runtime_flags,
    add_training_attack,
)
from files.results import FOUND, IMP

OF_INIT = {"reset_fc": False, "init_key": None}  # what is said of --init, as without it
NETWORK_FILES = ("init", "tickets_file")  # what a network is made of
FILES = (*NETWORK_FILES, "masking_source")  # flags that name a file
# Flags that may differ when a run is resumed: what they change is where and how it runs, what it
# keeps and what it is called. Figures move by rounding at most, but for random starts, which are
# drawn by each process and in tests by each batch, and BatchNorm, which sees the images of a
# process: of these the run warns.
FREE_FLAGS = frozenset(
    (
        *("resume", "continue_from", "pretrained", "dry_run", "time_it", "evaluate"),
        *("export_released", "keep", "tag", "save_dir", "workers", "print_freq"),
        *("save_every_steps", "eval_batch_size", "threads", "compile", "cuda_graphs"),
        *("device", "gpu", "nproc", "world_size", "rank", "dist_url", "dist_backend"),
        *("dist_timeout", "start_epoch"),
        # Without --skip_bad a run ends at the first bad image; where files lie is free, not what
        # is in them: see `folders.contents`.
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
    add_mode(parser, "adversarial (PGD) or standard training of every state (adv)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="ImageNet layout: DATA/train/CLASS/*, DATA/val/CLASS/*; only --ticket imp needs it",
    )
    add_image_flags(data)
    add = add_model_flags(parser, archs).add_argument
    add("--pretrained", action="store_true", help="the same as --init torchvision")
    add(
        "--reset_fc",
        action="store_true",
        help="a fresh classifier, where --init's has other classes",
    )
    _add_search_flags(parser)
    add_training_attack(parser.add_argument_group("attack, in --mode adv"))
    add = add_optimisation_flags(
        parser, "epochs of all states, --pretrain_epochs not counted", "0 anew in every state"
    )
    add(
        "--start_epoch",
        type=natural,
        default=0,
        metavar="N",
        help="understood beside --resume, whose checkpoint says where to go on",
    )
    parser.add_argument_group("evaluation").add_argument(
        "-e",
        "--evaluate",
        action="store_true",
        help="only validate --resume PATH (or the newest checkpoint, or --init where there is "
        "none) and write eval.json; the network is -a if given, else inferred from the file",
    )
    add_runtime_flags(parser)
    _add_search_output(parser)
    return parser


def _add_search_output(parser: Parser) -> None:
    add = add_output_flags(parser, "runs/imp")
    add(
        "--keep",
        choices=("all", "last", "tickets"),
        default="all",
        help="which checkpoints stay: of every state, of the last, none; tickets always do (all)",
    )
    add(
        "--export_released",
        type=natural,
        metavar="K",
        help="only write state K of --save_dir, or ticket K where there is no checkpoint of it, as "
        "one file in the released code's format",
    )


def _add_search_flags(parser: Parser) -> None:
    add = parser.add_argument_group("ticket").add_argument
    add(
        "--ticket",
        choices=FOUND,
        default=IMP,
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
        help="learning rate of --pretrain_epochs, by a cosine to 0 (0.1)",
    )
    add(
        "--continue_from",
        metavar="TICKET",
        help="where the checkpoints of a run are lost: go on with the state of its ticket TICKET, "
        "from its init.pth.tar (beside TICKET, or --init) and with its other flags. What follows "
        "is equal to the bit to the run left alone, but for the loss scale of --amp fp16 and "
        "what dropout draws; the figures of earlier epochs come from the metrics.jsonl beside "
        "TICKET, if it is there",
    )


def build_transfer_parser(archs: Sequence[str], datasets: Sequence[str]) -> Parser:
    """Flags of main_downstream.py."""
    parser = Parser(
        prog="main_downstream.py",
        description="Transfer a ticket, or the dense network, to a data set: train it there and "
        "measure SA and, in --mode adv, RA.",
    )
    add_mode(parser, "adversarial (PGD) training, SA and RA; or standard training, SA (adv)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        choices=datasets,
        metavar="NAME",
        help=f"one of {', '.join(datasets)} (cifar10)",
    )
    data.add_argument(
        "--data",
        metavar="DIR",
        help="where the data set lies, or goes to (data; ../data where that alone holds it)",
    )
    data.add_argument(
        "--data_number", type=share, default=1.0, help="fraction of the training images (1)"
    )
    add_image_flags(data)
    add_model_flags(parser, archs)
    add = parser.add_argument_group("ticket").add_argument
    add(
        "--tickets_file",
        "--ticket_file",
        metavar="PATH",
        help="any file that holds masks; the dense network if left out",
    )
    add("--reinit", action="store_true", help="random weights, not --init's, under the masks")
    _add_transfer_attack(parser)
    add_optimisation_flags(parser, "epochs in all", "0")
    _add_transfer_evaluation(parser)
    add_runtime_flags(parser)
    _add_transfer_output(parser)
    return parser


def _add_transfer_attack(parser: Parser) -> None:
    attack = parser.add_argument_group(
        "attack", "in training: --mode adv; in tests: --mode adv, or --eval_attack"
    )
    add_training_attack(attack)
    add = attack.add_argument
    add("--test_eps", type=pixel_fraction, help="radius in evaluation (recipe)")
    add("--test_step", "--test_steps", type=natural, help="PGD steps in evaluation (recipe)")
    add("--test_gamma", "--test_step_size", type=pixel_fraction, help="step size in tests (recipe)")
    add("--test_randinit", action=Switch, help="start at a random point in evaluation (on)")


def _add_transfer_output(parser: Parser) -> None:
    add = add_output_flags(parser, "runs/transfer")
    add(
        "--save_all",
        action="store_true",
        help="also keep {epoch}-checkpoint.pth.tar, bare state dicts, epochs counted from 0",
    )
    add(
        "--export_released",
        action="store_true",
        help="only write the masks and weights of --resume PATH (or of the newest checkpoint) as a "
        "ticket that the released code reads",
    )


def _add_transfer_evaluation(parser: Parser) -> None:
    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--eval_from",
        type=natural,
        metavar="EPOCH",
        help="first epoch, counted from 0, that is evaluated; the last always is (recipe)",
    )
    add("--eval_batch_size", type=positive_int, help="images per pass in evaluation (128)")
    add(
        "-e",
        "--evaluate",
        action="store_true",
        help="only test --resume PATH (or the newest checkpoint) and write eval.json; the network "
        "is -a if given, else inferred from the file",
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
    _add_further_tests(add)


def _add_further_tests(add: Callable[..., object]) -> None:
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
        help="only the first N images (one of each Nth part, where the set is sorted by class), in "
        "--evaluate, autoattack and --check_masking (all; 512 for the last)",
    )
    add(
        "--restarts",
        type=positive_int,
        metavar="N",
        help="run pgd on the test split N times; robust is what survives all of them (1)",
    )
    add(
        "--check_masking",
        action="store_true",
        help="check that RA is no artefact of useless gradients: more steps do not raise it, it "
        "vanishes at a huge radius, attacks from another network are no stronger",
    )
    add(
        "--masking_source",
        metavar="CKPT",
        help="the other network that --check_masking attacks from: the dense transfer, say",
    )
