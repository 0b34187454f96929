"""Plan and run a study: the grid of pre-trainings, tickets and transfers that a TOML file names.

Runs that are done are left out, those that were cut off are resumed, the others start as soon as
the tickets that they need exist. At the end `report` writes the report.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from errors import InputError, OneLineParser, RunFailed, run_main
from files import names
from files.features import lacks_told
from files.study_record import files_below, record_plan
from study.config import ROOT, Run, Study, flag_of, read_study
from study.forecast import Forecast, make_forecasts, study_seconds
from study.machine import cores, threads_each, usual_jobs, visible_gpus
from study.running import Queue, Stop
from study.screen import clock
from study.slurm import check_needs, max_array_size, sbatch_script
from study.state import CUT_OFF, DONE, TO_DO, other_flags, other_input, state_of

PYTHON = sys.executable


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="bash script/study.sh", description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="TOML; see script/study/*.toml")
    add("-J", "--jobs", type=_count, metavar="N",
        help="runs at a time, which share the GPUs or the cores (one a GPU; on a CPU one "
        "for each core where the networks are small, else 1); runs that go on here in another "
        "process are counted")  # fmt: skip
    add("--out", metavar="DIR", help="the study's folder (the file's own)")
    add("--only", type=_pattern, metavar="REGEX", help="only runs whose name this is found in")
    add("--time_it", "--time-it", action="store_true",
        help="with --dry_run: time some steps of each kind of run, estimate the whole")  # fmt: skip
    add("--numbers", metavar="HASH",
        help="with --run and --folder: refuse if the list has other runs than when --slurm printed "
        "this hash of it")  # fmt: skip
    add = parser.add_mutually_exclusive_group().add_argument
    add("--dry_run", "--dry-run", action="store_true",
        help="print the list, the estimated cost and the commands")  # fmt: skip
    add("--list", action="store_true", help="print every run's command, with its number for --run")
    add("--slurm", action="store_true",
        help="print the sbatch commands for what is left (-J: tasks at a time)")  # fmt: skip
    add("--run", type=_count, metavar="N", help="be run N of the whole list (for Slurm arrays)")
    add("--folder", type=_count, metavar="N", help="print the folder of run N")
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError for a flag that would have no effect beside the others."""
    one_run = bool(args.run or args.folder)
    if args.time_it and not args.dry_run:
        raise InputError("--time_it goes with --dry_run")
    if args.numbers is not None and not one_run:
        raise InputError("--numbers goes with --run or --folder")
    if one_run and (args.only or args.jobs):
        flag = "--only" if args.only else "-J"
        raise InputError(
            f"{flag} does not go with --run or --folder: N is one run of the whole list"
        )


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
    check_flags(args)
    try:
        study = read_study(args.config, args.out)
        if args.list:
            return print_commands(study, args.only)
        if args.slurm:
            return print_sbatch_commands(study, args)
        if args.run or args.folder:
            return one_run(study, args)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        return run_study(study, args)
    except Stop as stop:
        script = shlex.quote(os.path.relpath(ROOT / "script/study.sh"))
        again = f"to go on: bash {script} {shlex.join(sys.argv[1:])}"
        print(f"stopped; {again if stop.begun else 'nothing was run'}", flush=True)
        return 128 + stop.number


def _stop(number: int, _: object) -> NoReturn:
    raise Stop(number)


# --- the whole study ------------------------------------------------------------------------------


def notes(runs: Iterable[Run]) -> Iterator[str]:
    """Say of what was made in another way than the study would make it now."""
    made: dict[str, list[Run]] = {}
    for run in runs:
        how, other = other_flags(run), other_input(run)
        if how is None and other is not None:
            how = f"from another {other.name} than {other} is now"
        if how is not None:
            made.setdefault(how, []).append(run)
    for how, (first, *others) in made.items():
        if others:
            which = f"{first.name} and {len(others)} more were made {how}"
            again = f"each again, delete its folder, such as {first.folder}"
        else:
            which, again = f"{first.name} was made {how}", f"it again, delete {first.folder}"
        yield f"note: {which}; to make {again}; a study of its own needs another folder (--out)"


def without_dense(study: Study) -> Iterator[str]:
    if study.plan is not None and not any("/state0/" in run.name for run in study.runs):
        yield (
            "note: [transfer] states has no 0, the dense network that tickets are to match; "
            "without a run of it the report judges nothing"
        )


def run_study(study: Study, args: argparse.Namespace) -> int:
    """Run what is left (or with --dry_run say what that is); then write the report."""
    gpus = visible_gpus()
    chosen = choose(study, args.only)
    states = {run.name: state_of(run) for run in chosen}
    todo = [run for run in chosen if states[run.name] != DONE]
    if todo:
        print("asking for costs, and checking flags …", flush=True)
    forecasts = make_forecasts(study, todo, PYTHON, max(args.jobs or 1, cores()))
    jobs = args.jobs or usual_jobs(gpus, forecasts.values())
    print_list(states, forecasts)
    for line in (*notes(chosen), *without_dense(study)):
        print(line)

    def threads(run: Run) -> list[str]:
        own = gpus or "--threads" in map(flag_of, run.arguments)
        return [] if own else ["--threads", str(threads_each(jobs))]

    def command(run: Run) -> list[str]:
        return run.command(PYTHON, *threads(run))

    if args.dry_run:
        if args.time_it and todo:
            print("timing some steps of every kind of run …", flush=True)
            timed = make_forecasts(
                study, todo, PYTHON, 1 if gpus else jobs, lambda run: ["--time_it", *threads(run)]
            )
            print_time(timed, jobs)
        for run in todo:
            print(f"\n# {run.name}\n{shlex.join(command(run))}")
        return 0
    check_needs(todo)
    check_inputs(forecasts)
    record(study)
    queue = Queue(todo, command, folder=study.out, jobs=jobs, gpus=gpus, forecasts=forecasts)
    queue.work()
    return finish(study, queue.failed)


def check_inputs(forecasts: Mapping[str, Forecast]) -> None:
    """Raise InputError for an input that some run lacks: it may come last, days from now."""
    lacking = {line: name for name, told in forecasts.items() for line in told.missing}
    if lacking:
        line, name = next(iter(lacking.items()))
        more = f" (and {len(lacking) - 1} more above)" if len(lacking) > 1 else ""
        raise InputError(f"{name}: {line} is not there{more}; nothing was run")


def record(study: Study) -> None:
    """Record what is planned before it runs, which the report needs to know."""
    try:
        if study.plan is not None:
            with lacks_told(lambda line: print(f"warning: {line}", file=sys.stderr)):
                record_plan(study.out, study.plan)
    except (RunFailed, OSError) as error:
        print(f"note: the plan is not recorded: {error}", file=sys.stderr)


def choose(study: Study, only: re.Pattern[str] | None) -> list[Run]:
    """The runs whose name `only` is found in; InputError if there are none."""
    chosen = [run for run in study.runs if only is None or only.search(run.name)]
    if only is not None and not chosen:
        raise InputError(f"--only {only.pattern}: no run has such a name (see --list)")
    return chosen


def print_list(states: Mapping[str, str], forecasts: Mapping[str, Forecast]) -> None:
    """Print every run with its state, and the cost of those that are left; then what they lack."""
    for name, state in states.items():
        hours = forecasts[name].gpu_hours if name in forecasts else None
        print(f"  {state:<8} {'' if hours is None else f'{hours:.2g} GPU-h':>14}  {name}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in (DONE, CUT_OFF, TO_DO)]
    print(f"{len(states)} runs: {', '.join(counts)}")
    for line in dict.fromkeys(line for told in forecasts.values() for line in told.missing):
        print(f"missing: {line}")
    known = [told for told in forecasts.values() if told.flop is not None]
    if known:
        print(
            f"what is left costs {sum(told.flop or 0 for told in known):.2g} FLOP, "
            f"{sum(told.gpu_hours or 0 for told in known):.2g} hours of a data-centre GPU "
            "(an estimate from FLOPs; runs cut off are counted whole)"
        )
    unknown = sum(told.trains_at_unknown_cost for told in forecasts.values())
    if unknown:
        runs = "1 run" if unknown == 1 else f"{unknown} runs"
        print(f"and {runs} of unknown cost, whose images are not counted")
    sys.stdout.flush()


def print_time(timed: Mapping[str, Forecast], jobs: int) -> None:
    seconds = study_seconds(timed.values(), jobs)
    if seconds is not None:
        print(f"what is left takes about {clock(seconds)} here, {jobs} at a time (timed on random "
              "images; reading data, starting and waiting for tickets aside)")  # fmt: skip


def finish(study: Study, failed: Sequence[tuple[Run, str]]) -> int:
    """Report on all the results there are; then name the runs that failed, with their logs."""
    status = 0
    if files_below(study.out, names.RESULTS)[0]:
        print("\nreport:", flush=True)
        status = subprocess.run(["bash", str(ROOT / "script/report.sh"), str(study.out)]).returncode
    for run, why in failed:
        log = f"; see {run.log}" if run.log.exists() else ""
        print(f"failed: {run.name}: {why}{log}", file=sys.stderr)
    return 1 if failed else status


# --- one run at a time, for Slurm -----------------------------------------------------------------


def print_commands(study: Study, only: re.Pattern[str] | None) -> int:
    for number, run in enumerate(study.runs, 1):
        if only is None or only.search(run.name):
            print(f"{number}\t{shlex.join(run.command(PYTHON))}")
    return 0


def print_sbatch_commands(study: Study, args: argparse.Namespace) -> int:
    """Print them alone, as they may be piped into a shell; all else goes to standard error."""
    arguments = [str(args.config), "--numbers", study.numbers_hash()]
    arguments += ["--out", args.out] if args.out else []
    chosen = choose(study, args.only)
    script = sbatch_script(study, chosen, arguments, args.jobs, max_array_size())
    todo = [run for run in chosen if state_of(run) != DONE]
    if todo:
        print("checking flags …", file=sys.stderr)
    forecasts = make_forecasts(study, todo, PYTHON, cores())
    missing = dict.fromkeys(line for told in forecasts.values() for line in told.missing)
    for line in (*notes(chosen), *(f"warning: missing, here at least: {what}" for what in missing)):
        print(line, file=sys.stderr)
    print(*script, sep="\n")
    return 0


def one_run(study: Study, args: argparse.Namespace) -> int:
    """Become run --run, whose signals and exit status are then the main's own; or name --folder."""
    number = args.run or args.folder
    if args.numbers not in (None, study.numbers_hash()):
        raise InputError(
            f"{args.config}: has other runs or flags than when their numbers were given out, so "
            f"{number} may be another now; give them out again: bash script/study.sh "
            f"{args.config} --slurm"
        )
    if number > len(study.runs):
        raise InputError(f"there are {len(study.runs)} runs; {number} is none of them")
    run = study.runs[number - 1]
    if not args.run:
        print(run.folder)
        return 0
    if state_of(run) == DONE:
        print(f"{run.name}: done; nothing to do")
        for line in notes([run]):
            print(line)
        return 0
    for needed in run.needs:
        if not needed.path.is_file():
            print(f"error: {run.name} needs {needed.path}, which is not there yet", file=sys.stderr)
            return 1
    command = run.command(PYTHON)
    record(study)
    print(f"$ {shlex.join(command)}", flush=True)
    return os.execv(PYTHON, command)


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()))
