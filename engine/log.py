"""What a run shows and records: console, progress bar, metrics.jsonl, TensorBoard, curves, origin.

Only rank 0 prints and writes.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from engine.distributed import is_main
from files import names
from files.atomic import replacing
from files.features import flush
from files.metrics import read_metrics

# That define networks, decode images or read data; timm is optional.
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "scipy",
    "scikit-learn",
    "safetensors",
)
PLAIN_INTERVAL = 10.0  # seconds between progress lines when nobody watches a terminal
MOST_TICKS = 8  # labels of a logarithmic axis


def say(text: str) -> None:
    """Print a line (rank 0)."""
    if is_main():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def say_for_scripts(text: str) -> None:
    """Print a line of the released code's for scripts that read a log; not on a terminal."""
    if not sys.stdout.isatty():
        say(text)


def warn(text: str) -> None:
    """Print a line that deserves attention (rank 0), on standard error."""
    if is_main():
        tqdm.write(f"warning: {text}", file=sys.stderr)


class Warnings:
    """What a run goes on past, one line each: told when it is added, and kept for its files.

    told: lines that were told before there was a run.
    """

    def __init__(self, told: Sequence[str] = ()) -> None:
        self.lines = list(told)

    def add(self, line: str) -> None:
        """Tell a line (rank 0) and keep it, unless it is there already."""
        if line not in self.lines:
            warn(line)
            self.lines.append(line)

    def recall(self, lines: Iterable[str]) -> None:
        """Put lines of the run's earlier starts, which were told then, before those of this one."""
        self.lines = list(dict.fromkeys([*lines, *self.lines]))


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


class Progress:
    """A bar with loss, accuracy, images/s and ETA; plain lines where there is no terminal.

    Use as a context manager and pass `step` as `report` to `engine.steps`.
    """

    def __init__(
        self, steps: int, label: str, print_freq: int | None = None, done: int = 0
    ) -> None:
        self.steps, self.label, self.print_freq = steps, label, print_freq
        self.done = self.before = done
        self.images = 0
        self.start = self.last = time.monotonic()
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if is_main() and sys.stderr.isatty():
            self.bar = tqdm(total=self.steps, initial=self.done, desc=self.label, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, images: int, meter: Any) -> None:
        """Count one batch; `meter.read()` is only asked for when something is shown."""
        self.done += 1
        self.images += images
        now = time.monotonic()
        if not is_main() or not self._due(now):
            return
        metrics = meter.read()
        rate = self.images / max(now - self.start, 1e-9)
        figures = f"loss {metrics.loss:.3f}  acc {metrics.top1:.2f} %  {rate:.0f} images/s"
        if self.bar is not None:
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(self.done - self.bar.n)
        else:
            left = (now - self.start) / (self.done - self.before) * (self.steps - self.done)
            say(f"{self.label}  {self.done}/{self.steps}  {figures}  ETA {clock(left)}")
        self.last = now

    def _due(self, now: float) -> bool:
        if self.bar is not None:
            return now - self.last > 0.2 or self.done == self.steps
        if self.print_freq:
            return self.done % self.print_freq == 0
        return now - self.last > PLAIN_INTERVAL


class RunLog:
    """`metrics.jsonl` and TensorBoard of one run; also knows how long the run has taken.

    Use as a context manager. `epochs_done` are those of a run that is resumed: what was recorded
    of later ones is dropped, since they are done again. `part` is what it has trained of the next
    epoch, from 0 to 1, and `seconds` what it had taken by then, where that is known.
    """

    def __init__(
        self,
        save_dir: Path,
        epochs_done: int = 0,
        part: float = 0.0,
        seconds: float | None = None,
    ) -> None:
        self.save_dir, self.first, self.begun = save_dir, epochs_done, epochs_done + part
        before = _cut_metrics(save_dir / names.METRICS, epochs_done) if is_main() else 0.0
        self.opened = self.last = time.monotonic()
        self.start = self.opened - (before if seconds is None else seconds)

    def __enter__(self) -> RunLog:
        self.file = self.board = None
        if is_main():
            from torch.utils.tensorboard import SummaryWriter

            self.file = open(self.save_dir / names.METRICS, "a")  # noqa: SIM115
            self.board = SummaryWriter(str(self.save_dir / names.BOARD), purge_step=self.first)
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None and self.board is not None:
            self.file.close()
            self.board.close()

    @property
    def seconds(self) -> float:
        """Since the run began, what it took before it was resumed included."""
        return time.monotonic() - self.start

    def lap(self) -> float:
        """Seconds since the last call, or since the log was opened."""
        before, self.last = self.last, time.monotonic()
        return self.last - before

    def pace(self, done: int, total: int) -> str:
        """Elapsed time and ETA after `done` of `total` epochs, by the pace since the last start."""
        since, epochs = time.monotonic() - self.opened, done - self.begun
        each = since / epochs if epochs >= 1 else self.seconds / done
        return f"elapsed {clock(self.seconds)}, ETA {clock(each * (total - done))}"

    def metrics(self, epoch: int, values: Mapping[str, float | int | None]) -> None:
        """Record one epoch's figures; those that are None were not measured and are left out."""
        if self.file is None or self.board is None:
            return
        measured = {name: value for name, value in values.items() if value is not None}
        line = {"epoch": epoch, "seconds": round(self.seconds, 3), **measured}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        # The checkpoint that counts this epoch comes after it.
        flush(self.file.fileno(), self.save_dir / names.METRICS)
        for name, value in measured.items():
            self.board.add_scalar(name, value, epoch)
        self.board.flush()


def _cut_metrics(path: Path, epochs: int) -> float:
    """Keep the lines of the first `epochs` epochs; give the seconds that they took."""
    if not path.is_file():
        return 0.0
    lines = [line for line in read_metrics(path) if line["epoch"] in range(epochs)]
    if len(lines) < epochs:
        warn(f"{path}: lacks the figures of {epochs - len(lines)} of {epochs} epochs")
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines[-1].get("seconds", 0.0) if lines else 0.0


# --- origin ---------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Command, code version, package versions and hardware, for args.json and results.json."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "code": _code_version(),
        "packages": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _code_version() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


# --- pictures of one run --------------------------------------------------------------------------


def plot_curves(
    path: Path,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    xlabel: str,
    title: str,
    *,
    log_x: bool = False,
) -> None:
    """Accuracy curves (percent) of one run as a PNG; values that are None were not measured."""
    if not is_main():
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for (name, values), marker in zip(curves.items(), "osd^vP", strict=False):
        points = [(a, b) for a, b in zip(x, values, strict=True) if b is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=name)
    axes.set(xlabel=xlabel, ylabel="accuracy (%)", title=title)
    if log_x:
        axes.set_xscale("log")
        axes.invert_xaxis()
        named = sorted(x, reverse=True)[:: -(-len(x) // MOST_TICKS) or 1]
        axes.set_xticks(named, [f"{value:.3g}" for value in named])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
