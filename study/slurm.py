"""The sbatch commands of a study: an array of tasks for each stage, chained by dependencies."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from errors import InputError
from files.results import IMP, UNTRAINED
from study.config import ROOT, Run, Study
from study.state import DONE, state_of

BATCH_FILE = ROOT / "script/slurm/study.sbatch"
USUAL_ARRAY_SIZE = 1001  # Slurm's own MaxArraySize; the last number of a task is one below
# A stage needs all those before it: searches, those that start from one's initial weights, tickets
# from initial weights, transfers.
STAGES = ("searches", "later_searches", "tickets", "transfers")


def max_array_size() -> int:
    """MaxArraySize of the cluster at hand; Slurm's own value where there is none."""
    if shutil.which("scontrol"):
        command = ["scontrol", "show", "config"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in shown.splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "MaxArraySize" and value.strip().isdigit():
                return int(value)
    return USUAL_ARRAY_SIZE


def sbatch_script(
    study: Study, chosen: Sequence[Run], arguments: Sequence[str], jobs: int | None, array_size: int
) -> list[str]:
    """The lines of a shell script that submits the runs of `chosen` which are not done.

    `arguments` are those of the batch file, `jobs` the tasks of one array that may run at a time,
    `array_size` is Slurm's MaxArraySize.

    Raises:
        InputError: a run needs a ticket that is not there and that no chosen run writes; or the
            cluster has no arrays.
    """
    if array_size < 2:
        raise InputError(
            f"this cluster takes no job arrays (MaxArraySize is {array_size}); submit jobs of your "
            "own that call script/study.sh CONFIG --run N, N from --list"
        )
    left = {run.name for run in chosen if state_of(run) != DONE}
    todo = {number: run for number, run in enumerate(study.runs, 1) if run.name in left}
    check_needs(list(todo.values()))
    lines = [
        f"# {len(todo)} runs to do, {len(chosen) - len(todo)} done.",
        "# If a run fails, Slurm cancels what waits for it: submit again what is left then.",
        "set -euo pipefail",
        f"export DOUBLE_WIN_ROOT={shlex.quote(str(ROOT))}",
    ]
    submitted: list[str] = []  # the shell variables that hold the jobs of earlier stages
    for stage, numbers in _stages(todo).items():
        after = list(submitted)
        for part, array in enumerate(_arrays(numbers, array_size), 1):
            variable = stage if part == 1 else f"{stage}_{part}"
            command = _sbatch(array, arguments, jobs, after)
            lines.append(f"{variable}=$({command} | cut -d';' -f1)")  # after it, the cluster's name
            submitted.append(variable)
    if not todo:
        return lines[:1]
    shown = " ".join(f"{variable} ${variable}" for variable in submitted)
    return [*lines, f'echo "submitted: {shown}"']


def check_needs(runs: Sequence[Run]) -> None:
    """Raise InputError for a ticket that is not there and that none of these runs writes."""
    folders = {run.folder for run in runs}
    for run in runs:
        for needed in run.needs:
            if needed.folder not in folders and not needed.path.is_file():
                raise InputError(
                    f"{run.name} needs {needed.path}, which is not there and which no run writes "
                    "that --only takes"
                )


def _stages(todo: Mapping[int, Run]) -> dict[str, list[int]]:
    """The numbers of the runs of each stage that has any, in order."""
    numbers = {stage: [n for n, run in todo.items() if _stage(run) == stage] for stage in STAGES}
    return {stage: found for stage, found in numbers.items() if found}


def _stage(run: Run) -> str:
    kind = run.name.split("/")[0]
    if kind == IMP:
        return "later_searches" if run.needs else "searches"
    return "tickets" if kind in UNTRAINED else "transfers"


def _arrays(numbers: Sequence[int], array_size: int) -> Iterator[tuple[int, list[int]]]:
    """(OFFSET, the numbers of the tasks): a task's number must stay below `array_size`."""
    most = array_size - 1
    by_offset: dict[int, list[int]] = {}
    for number in numbers:
        offset = (number - 1) // most * most
        by_offset.setdefault(offset, []).append(number - offset)
    yield from by_offset.items()


def _sbatch(
    array: tuple[int, list[int]], arguments: Sequence[str], jobs: int | None, after: Sequence[str]
) -> str:
    offset, numbers = array
    words = ["sbatch --parsable", f"--array={ranges(numbers)}" + (f"%{jobs}" if jobs else "")]
    if after:
        waited_for = ":".join(f"${variable}" for variable in after)
        words += [f"--dependency=afterok:{waited_for}", "--kill-on-invalid-dep=yes"]
    words += [f"--export=ALL,OFFSET={offset}", shlex.join([str(BATCH_FILE), *arguments])]
    return " ".join(words)


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as Slurm writes them: [1, 2, 3, 7] is 1-3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
