"""The names of the files that runs, studies and reports write, and what their presence means.

The figures of a report are named in `report/pictures.py`.
"""

from __future__ import annotations

from pathlib import Path

# Of every run.
ARGS = "args.json"  # written first: the run has begun
METRICS = "metrics.jsonl"
BOARD = "tb"  # TensorBoard's folder
LOCK = ".lock"
PREEMPTED = "PREEMPTED"  # a signal asked the run to stop, and it has saved
PREEMPTED_STATUS = 75  # its exit status: EX_TEMPFAIL of sysexits.h, try again later
OF_EVALUATION = "eval."  # begins what --evaluate writes, which may work beside a run
EVALUATION = "eval.json"
EVALUATION_OUTCOMES = "eval.outcomes.safetensors"
AUTOATTACK_PROGRESS = "autoattack_progress.json"
EVALUATION_PROGRESS = "eval.autoattack_progress.json"

# Of a ticket search, beside the names below that have a state in them.
INIT = "init.pth.tar"
ACCURACY_PLOT = "accuracy_vs_density.png"

# Of a transfer.
CHECKPOINT = "checkpoint.pth.tar"
SA_BEST = "model_SA_best.pth.tar"
RA_BEST = "model_RA_best.pth.tar"
CURVES_PLOT = "net_train.png"
OUTCOMES = "outcomes.safetensors"  # which test images each network got right
RESULTS = "results.json"  # written last: the run is done

# Of a study and a report.
LOG = "log.txt"
STUDY = "study.json"  # what was planned before there was any result
REPORT = "report"  # the folder
PAGE = "report.html"
TABLE = "results.csv"  # a row a run
TICKETS_TABLE = "tickets.csv"  # a row a ticket
TICKETS_LATEX = "tickets.tex"
VERDICT = "verdict.json"

CHECKPOINT_SUFFIX = "-checkpoint.pth.tar"
TICKET_SUFFIX = "-ticket.safetensors"


def former(name: str, number: int) -> str:
    """An evaluation's file that a later evaluation of another kind has found in its place."""
    return f"{OF_EVALUATION}{number}.{name.removeprefix(OF_EVALUATION)}"


def imp_checkpoint(state: int) -> str:
    return f"{state}{CHECKPOINT_SUFFIX}"


def imp_best(state: int | str) -> str:
    return f"{state}-model_best.pth.tar"


def ticket(state: int) -> str:
    return f"{state}{TICKET_SUFFIX}"


def released(state: int) -> str:
    """A state exported for the released code."""
    return f"{state}-released.pth.tar"


def released_transfer(checkpoint: Path) -> str:
    """A transfer's network exported as a ticket for the released code."""
    return f"{checkpoint.name.partition('.')[0]}-released.pth.tar"


def epoch_checkpoint(epoch: int) -> str:
    """A transfer's bare state dict of one epoch, counted from 0 (--save_all)."""
    return f"{epoch}{CHECKPOINT_SUFFIX}"


def previous(path: Path) -> Path:
    """Where the copy of a file before its last replacement is kept."""
    return path.with_name(f"{path.name}.previous")


# What a run cannot do without, or has found: patterns of names.
OF_A_RUN = (
    *(RESULTS, INIT, f"*{CHECKPOINT}", f"*{TICKET_SUFFIX}"),
    *(METRICS, OUTCOMES, SA_BEST, RA_BEST, imp_best("*")),
)
