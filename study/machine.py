"""What this machine has to run jobs on, and how many jobs that is good for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection

from study.forecast import Forecast

SMALL = 2e9  # FLOP of one image through a network, up to which a job on each core was seen to gain
OF_MEMORY = 0.5  # the share of the machine's memory that the jobs may be planned to fill
OF_PROCESS = 0.5e9  # bytes of a job beside what its plan says: Python, PyTorch, loaders


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


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(jobs: int) -> int:
    """CPU threads for each of `jobs` jobs that run at a time."""
    return max(cores() // jobs, 1)


def usual_jobs(gpus: Collection[str], runs: Collection[Forecast]) -> int:
    """How many of the `runs` at a time, unless -J says so: one for each GPU.

    On a CPU, if every network is SMALL: as many as there are cores, runs, and room in OF_MEMORY of
    the memory; the cores are shared out as threads. Else one run with all of the cores. A
    ResNet-18 at 32 pixels (1.1 GFLOP) is small, a ResNet-50 at 224 (8.2 GFLOP) is not. The figures
    are in benchmarks/README.md.
    """
    if gpus:
        return len(gpus)
    trained = [told for told in runs if told.flop_per_image is not None]
    if not trained or any((told.flop_per_image or 0) > SMALL for told in trained):
        return 1
    largest = max(told.memory for told in trained) + OF_PROCESS
    return max(min(cores(), len(runs), int(OF_MEMORY * memory() / largest)), 1)


def memory() -> float:
    """Bytes of main memory."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
