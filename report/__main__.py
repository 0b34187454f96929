"""The command that judges finished runs, or looks at one ticket.

bash script/report.sh RUNS [--out DIR] [--margin POINTS] [--evidence_margin POINTS]
bash script/report.sh RUNS --plan
bash script/report.sh --inspect TICKET
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from errors import InputError, OneLineParser, run_main
from report.console import print_plan, print_verdict
from report.drawing import ON_REQUEST
from report.tickets import inspect_ticket
from report.verdict import DEFAULT_MARGIN
from report.write import judge_runs, write_report

SMALLEST_INPUT = 8  # pixels; the networks halve an image up to five times


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command's flags."""
    parser = OneLineParser(
        prog="bash script/report.sh",
        description="Report on the runs below a folder: report.html, verdict.json, results.csv "
        "(a row a run), tickets.csv (a row a ticket), tickets.tex (the same for a paper), and the "
        "figures. Or describe one ticket.",
    )
    parser.add_argument("runs", nargs="?", metavar="RUNS", help="folder with results.json below it")
    parser.add_argument("--out", metavar="DIR", help="where the report goes (RUNS/report)")
    parser.add_argument(
        "--margin", type=float, default=DEFAULT_MARGIN, metavar="POINTS",
        help="what a ticket may lack where the dense network has one seed (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--evidence_margin", "--evidence-margin", type=float, metavar="POINTS",
        help="what a ticket may lack by the evidence, fixed beforehand (left out: what the study's "
        "file has fixed, else the rule's tolerance, which is itself estimated)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=ON_REQUEST, help="draw each figure in this format too, for a paper"
    )
    parser.add_argument(
        "--plan", action="store_true",
        help="write nothing; print what would decide the tickets that are undecided",
    )  # fmt: skip
    parser.add_argument("--inspect", metavar="TICKET", help="describe this file with masks instead")
    parser.add_argument(
        "--input_size", "--input-size", type=int, metavar="PIXELS",
        help="image size that --inspect counts FLOPs for (224, or 32 for the CIFAR stem)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 when a group has no dense run to match, else 0.

    Raises InputError for wrong input, RunFailed where the report cannot be written.
    """
    args = build_parser().parse_args(argv)
    check_flags(args)
    if args.inspect is not None:
        print(inspect_ticket(args.inspect, args.input_size))
        return 0
    if args.plan:
        _, verdict = judge_runs(Path(args.runs), args.margin, args.evidence_margin)
        print_plan(verdict)
    else:
        formats = [args.format] if args.format else []
        verdict, files = write_report(
            args.runs, args.out, args.margin, args.evidence_margin, formats
        )
        print_verdict(verdict, files)
    return 1 if verdict.errors else 0


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError for flags that are wrong, or of no effect beside the others."""
    if (args.runs is None) == (args.inspect is None):
        raise InputError("give either RUNS, a folder, or --inspect TICKET, a file")
    for name, given in (("RUNS", args.runs), ("--out", args.out)):
        if given is not None and not str(given):
            raise InputError(f"{name} is empty; . is the current folder")
    if args.input_size is not None and args.input_size < SMALLEST_INPUT:
        raise InputError(
            f"--input_size is {args.input_size}: it must be at least {SMALLEST_INPUT} pixels"
        )
    if args.input_size is not None and args.inspect is None:
        raise InputError("--input_size goes with --inspect; leave it out")
    of_a_report = {"--out": args.out, "--format": args.format}
    margin = args.margin if args.margin != DEFAULT_MARGIN else None
    of_a_verdict = {
        "--plan": args.plan or None, "--margin": margin, "--evidence_margin": args.evidence_margin
    }  # fmt: skip
    if args.inspect is not None:
        _check_unused("--inspect", of_a_report | of_a_verdict)
    elif args.plan:
        _check_unused("--plan", of_a_report)


def _check_unused(beside: str, flags: Mapping[str, object]) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise InputError(f"{flag} has no effect beside {beside}; leave it out")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack ’ and ±, or a file's name
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.suppress(AttributeError):  # `| head` ends the command quietly; not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    run_main(lambda: sys.exit(main()))
