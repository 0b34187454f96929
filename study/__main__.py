"""Plan and run a study: the grid of pre-trainings, tickets and transfers that a TOML file names.

Runs that are done are left out, those that were cut off are resumed, the others start as soon as
the tickets that they need exist. At the end `report` writes the report.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from study.config import ROOT, ConfigError, Run, Study, read_study
from study.jobs import Queue, Stop
from study.state import CUT_OFF, DONE, TO_DO, Plan, has_other_flags, make_plans, state_of

PYTHON = sys.executable


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def build_parser() -> Parser:
    parser = Parser(prog="study.sh", description=__doc__.split("\n\n")[1], allow_abbrev=False)
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="TOML; see script/study/*.toml")
    add("-J", "--jobs", type=_count, metavar="N", help="runs at a time (the GPUs, or 1)")
    add("--out", metavar="DIR", help="the study's folder (the file's own)")
    add("--only", type=_pattern, metavar="REGEX", help="only runs whose name this is found in")
    add("--dry_run", "--dry-run", action="store_true",
        help="print the list, the estimated cost and the commands")  # fmt: skip
    add("--list", action="store_true", help="print a numbered command per run, as for --run")
    add("--run", type=_count, metavar="N", help="be run N of the whole list (for Slurm arrays)")
    add("--folder", type=_count, metavar="N", help="print the folder of run N")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        study = read_study(args.config, args.out)
        if args.list:
            return print_commands(study, args.only)
        if args.run or args.folder:
            return one_run(study, args.run or args.folder, only_folder=not args.run)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        return run_study(study, args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stop as stop:
        print(f"stopped; to go on: bash script/study.sh {shlex.join(sys.argv[1:])}", flush=True)
        return 128 + stop.number


def run_study(study: Study, args: argparse.Namespace) -> int:
    """Run what is left (or with --dry_run say what that is); then write the report."""
    gpus = visible_gpus()
    jobs = args.jobs or len(gpus) or 1
    chosen = [run for run in study.runs if args.only is None or args.only.search(run.name)]
    if not chosen:
        raise ConfigError(f"--only {args.only.pattern}: no run has such a name (see --list)")
    states = {run.name: state_of(run) for run in chosen}
    todo = [run for run in chosen if states[run.name] != DONE]
    if todo:
        print("asking for costs, and checking flags …", flush=True)
    plans = make_plans(study, todo, PYTHON, max(jobs, cores(1)))
    print_list(states, plans)
    for run in chosen:
        if has_other_flags(run):
            print(
                f"note: {run.name} was made with other flags; to make it again, delete {run.folder}"
            )

    def command(run: Run) -> list[str]:
        share = [] if gpus or "--threads" in run.arguments else ["--threads", str(cores(jobs))]
        return run.command(PYTHON, *share)

    if args.dry_run:
        for run in todo:
            print(f"\n# {run.name}\n{shlex.join(command(run))}")
        return 0
    costs = {name: plan.flop for name, plan in plans.items() if plan.flop}
    queue = Queue(todo, command, jobs=jobs, gpus=gpus, costs=costs)
    queue.work()
    return finish(study, queue.failed)


def _stop(number: int, _: object) -> NoReturn:
    raise Stop(number)


def finish(study: Study, failed: Sequence[tuple[Run, str]]) -> int:
    """Report on all the results there are; then name the runs that failed, with their logs."""
    status = 0
    if any(study.out.rglob("results.json")):
        print("\nreport:", flush=True)
        status = subprocess.run(["bash", str(ROOT / "script/report.sh"), str(study.out)]).returncode
    for run, why in failed:
        log = f"; see {run.log}" if run.log.exists() else ""
        print(f"failed: {run.name}: {why}{log}", file=sys.stderr)
    return 1 if failed else status


# --- what is there to do --------------------------------------------------------------------------


def print_list(states: Mapping[str, str], plans: Mapping[str, Plan]) -> None:
    """Print every run with its state, and the cost of those that are left; then what they lack."""
    for name, state in states.items():
        hours = plans[name].gpu_hours if name in plans else None
        print(f"  {state:<8} {'' if hours is None else f'{hours:.2g} GPU-h':>14}  {name}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in (DONE, CUT_OFF, TO_DO)]
    print(f"{len(states)} runs: {', '.join(counts)}")
    for line in dict.fromkeys(line for plan in plans.values() for line in plan.missing):
        print(f"missing: {line}")
    known = [plan for plan in plans.values() if plan.flop is not None]
    if known:
        print(
            f"what is left costs {sum(plan.flop or 0 for plan in known):.2g} FLOP, "
            f"{sum(plan.gpu_hours or 0 for plan in known):.2g} hours of a data-centre GPU "
            "(an estimate from FLOPs; runs cut off are counted whole)"
        )
    sys.stdout.flush()


def visible_gpus() -> list[str]:
    """The CUDA devices that jobs can be given, by what CUDA_VISIBLE_DEVICES calls them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.replace(" ", "").split(",") if gpu and gpu != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(gpus))]


def cores(jobs: int) -> int:
    """CPU threads for each of some jobs."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((mine or 1) // jobs, 1)


# --- one run at a time, for Slurm -----------------------------------------------------------------


def print_commands(study: Study, only: re.Pattern[str] | None) -> int:
    for number, run in enumerate(study.runs, 1):
        if only is None or only.search(run.name):
            print(f"{number}\t{shlex.join(run.command(PYTHON))}")
    return 0


def one_run(study: Study, number: int, *, only_folder: bool) -> int:
    """Become run `number`; its signals and its exit status are then the main's own."""
    if number > len(study.runs):
        raise ConfigError(f"there are {len(study.runs)} runs; {number} is none of them")
    run = study.runs[number - 1]
    if only_folder:
        print(run.folder)
        return 0
    if state_of(run) == DONE:
        print(f"{run.name}: done; nothing to do")
        return 0
    for path in run.needs:
        if not path.is_file():
            print(f"error: {run.name} needs {path}, which is not there yet", file=sys.stderr)
            return 1
    command = run.command(PYTHON)
    print(f"$ {shlex.join(command)}", flush=True)
    return os.execv(PYTHON, command)


if __name__ == "__main__":
    sys.exit(main())
