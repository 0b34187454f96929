"""What is shown and recorded: lines, the bar, metrics.jsonl, TensorBoard, origin, curves."""

import io
import json
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from helpers.main_cases import draw_curves
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import log
from engine.log import Progress, RunLog, clock, provenance, say, warn


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(log.time, "monotonic", lambda: self.now)


class FakeMeter:
    """Counts how often it is asked, which on a GPU waits for the device."""

    def __init__(self):
        self.reads = 0

    def read(self):
        self.reads += 1
        return SimpleNamespace(loss=0.1234, top1=56.789)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def time(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def second_rank(monkeypatch):
    monkeypatch.setattr(log, "is_main", lambda: False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (90061, "1 day, 1:01:01")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


# --- lines ----------------------------------------------------------------------------------------


def test_lines_go_to_stdout_and_warnings_to_stderr(capsys):
    say("a line")
    warn("look")
    printed = capsys.readouterr()
    assert printed.out == "a line\n"
    assert printed.err == "warning: look\n"


def test_only_the_first_process_prints(capsys, second_rank):
    say("a line")
    warn("look")
    with Progress(4, "epoch", print_freq=1) as bar:
        bar.step(8, FakeMeter())
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # the second node's first
        ({"RANK": "1"}, True),  # without torchrun a number of the node
        ({}, True),
    ],
)
def test_only_the_first_of_torchruns_processes_warns_before_they_have_met(
    monkeypatch, capsys, environment, says
):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    log.warn("a flag that is not used")
    assert bool(capsys.readouterr().err) == says


def test_without_a_terminal_a_plain_line_comes_every_n_batches(time, capsys):
    meter = FakeMeter()
    with Progress(10, "epoch 1/3", print_freq=4) as bar:
        for _ in range(10):
            time.now += 0.5
            bar.step(20, meter)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 1/3  4/10  loss 0.123  acc 56.79 %  40 images/s  ETA 0:00:03",
        "epoch 1/3  8/10  loss 0.123  acc 56.79 %  40 images/s  ETA 0:00:01",
    ]
    assert meter.reads == 2  # asked for only when something is shown


def test_without_a_number_a_plain_line_comes_every_ten_seconds(time, capsys):
    meter = FakeMeter()
    with Progress(100, "e") as bar:
        for _ in range(50):
            time.now += 0.5
            bar.step(1, meter)
    shown = re.findall(r"^e  (\d+)/100  .*ETA (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert shown == [("21", "0:00:40"), ("42", "0:00:29")]
    assert meter.reads == 2


def test_an_epoch_that_goes_on_counts_from_where_it_was(time, capsys):
    with Progress(10, "e", print_freq=1, done=6) as bar:
        time.now += 2
        bar.step(10, FakeMeter())
    # one step in two seconds: three more take six
    assert capsys.readouterr().out == "e  7/10  loss 0.123  acc 56.79 %  5 images/s  ETA 0:00:06\n"


def test_on_a_terminal_a_bar_shows_loss_accuracy_rate_and_eta(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(3, "epoch 1/3", print_freq=1) as bar:
        for _ in range(3):
            threading.Event().wait(0.21)  # the bar is drawn at most every 0.2 s
            bar.step(20, FakeMeter())
        assert bar.bar is not None
        assert bar.bar.n == 3
    drawn = terminal.getvalue()
    assert "epoch 1/3" in drawn
    assert "0/3" in drawn
    assert re.search(r"3/3 \[\d\d:\d\d<\d\d:\d\d.*loss 0.123  acc 56.79 %  \d+ images/s\]", drawn)
    assert capsys.readouterr().out == ""  # no plain lines beside the bar


def test_a_line_on_a_terminal_goes_above_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(3, "epoch", None) as bar:
        bar.step(1, FakeMeter())
        say("in between")
        bar.step(1, FakeMeter())
    first, rest = terminal.getvalue().split("\n", 1)
    assert "/3 [" in first
    assert first.rsplit("\r", 1)[1] == "in between"  # the bar was wiped away before it
    assert "/3 [" in rest


# --- metrics.jsonl --------------------------------------------------------------------------------


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_epoch_is_a_line_and_what_was_not_measured_is_left_out(time, tmp_path):
    with RunLog(tmp_path) as log:
        time.now += 2.5
        log.metrics(0, {"val_sa": 12.5, "val_ra": None, "state": 1})
        # on disk at once, not when the run ends
        assert lines_of(tmp_path) == [{"epoch": 0, "seconds": 2.5, "val_sa": 12.5, "state": 1}]
    assert "null" not in (tmp_path / "metrics.jsonl").read_text()


def test_tensorboard_gets_the_same_figures(tmp_path):
    with RunLog(tmp_path) as log:
        for epoch in range(3):
            log.metrics(epoch, {"val_sa": 10.0 * epoch, "val_ra": None})
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert events.Tags()["scalars"] == ["val_sa"]
    assert [(e.step, e.value) for e in events.Scalars("val_sa")] == [(0, 0), (1, 10), (2, 20)]


def test_a_resumed_run_drops_the_epochs_that_are_done_again(time, tmp_path):
    with RunLog(tmp_path) as log:
        for epoch in range(4):
            time.now += 10
            log.metrics(epoch, {"val_sa": epoch})
    time.now += 500  # nobody worked on it
    with RunLog(tmp_path, epochs_done=2) as log:
        assert [line["epoch"] for line in lines_of(tmp_path)] == [0, 1]
        time.now += 10
        log.metrics(2, {"val_sa": 22})
        assert log.pace(3, 6) == "elapsed 0:00:30, ETA 0:00:30"
    expected = [(0, 10.0), (1, 20.0), (2, 30.0)]
    assert [(line["epoch"], line["seconds"]) for line in lines_of(tmp_path)] == expected
    assert lines_of(tmp_path)[2]["val_sa"] == 22
    scalars = EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("val_sa")
    assert [(event.step, event.value) for event in scalars] == [(0, 0), (1, 1), (2, 22)]


def test_a_torn_last_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = '{"epoch": 0, "seconds": 1.5, "val_sa": 1.0}\n'
    for torn in ('{"epoch": 1, "sec', '{"epoch": 1, "seconds": 2.0, "val_sa": 3}', "\x00\x00"):
        path.write_text(whole + torn)
        with RunLog(tmp_path, epochs_done=1) as log:
            log.metrics(1, {"val_sa": 2.0})
        assert [line["epoch"] for line in lines_of(tmp_path)] == [0, 1]
        assert lines_of(tmp_path)[1]["val_sa"] == 2.0


def test_pace_before_and_within_a_run(time, tmp_path):
    log = RunLog(tmp_path)
    time.now += 60
    assert log.pace(1, 4) == "elapsed 0:01:00, ETA 0:03:00"
    assert log.pace(4, 4) == "elapsed 0:01:00, ETA 0:00:00"


def test_a_run_resumed_within_an_epoch_counts_what_that_had_taken(time, tmp_path):
    with RunLog(tmp_path, 0, part=0.75, seconds=30.0) as log:
        time.now += 10
        log.metrics(0, {"val_sa": 1.0})
        assert log.pace(1, 3) == "elapsed 0:00:40, ETA 0:01:20"  # a quarter of an epoch tells less
        time.now += 40
        log.metrics(1, {"val_sa": 2.0})
        assert log.pace(2, 3) == "elapsed 0:01:20, ETA 0:00:40"
    assert [line["seconds"] for line in lines_of(tmp_path)] == [40.0, 80.0]


def test_only_the_first_process_writes(tmp_path, second_rank):
    with RunLog(tmp_path) as log:
        log.metrics(0, {"val_sa": 1.0})
    draw_curves(tmp_path / "net.png", [1], {"a": [1.0]}, "x", "title")
    assert list(tmp_path.iterdir()) == []


# --- origin ---------------------------------------------------------------------------------------


def test_provenance_tells_command_code_packages_and_hardware(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main_downstream.py", "--tag", "two words"])
    origin = provenance()
    assert json.loads(json.dumps(origin)) == origin
    assert set(origin) == {"command", "code", "packages", "hardware"}
    assert origin["command"] == "python main_downstream.py --tag 'two words'"
    of_results = {"python", "torch", "torchvision", "numpy", "pillow", "scipy", "timm"}
    assert of_results <= set(origin["packages"])
    assert origin["packages"]["torch"].split("+")[0] == log.torch.__version__.split("+")[0]
    assert {"machine", "processor", "cores", "threads", "gpus"} == set(origin["hardware"])
    assert origin["hardware"]["threads"] == 1


def test_the_codes_version_is_gits_or_said_to_be_unknown(monkeypatch):
    def run(command, **_):
        assert command[0] == "git"
        return SimpleNamespace(stdout="abc1234-dirty\n")

    monkeypatch.setattr(log.subprocess, "run", run)
    assert provenance()["code"] == "abc1234-dirty"
    for error in (FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(log.subprocess, "run", fail)
        assert provenance()["code"] == "unknown (no git checkout)"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(log, "PACKAGES", ("torch", "no-such-package"))
    assert provenance()["packages"]["no-such-package"] is None


# --- curves ---------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What is plotted: {label: (x, y)}."""
    from matplotlib.axes import Axes

    plot, lines = Axes.plot, {}

    def spy(self, x, y, **options):
        lines[options["label"]] = (list(x), list(y))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return lines


def test_curves_are_a_png_of_what_was_measured(tmp_path, drawn):
    curves = {"train": [1.0, 2.0, 3.0], "val RA": [None, None, 5.0], "test RA": [None] * 3}
    draw_curves(tmp_path / "net_train.png", [1, 2, 3], curves, "epoch", "title")
    assert drawn == {"train": ([1, 2, 3], [1.0, 2.0, 3.0]), "val RA": ([3], [5.0])}
    with Image.open(tmp_path / "net_train.png") as picture:
        assert picture.format == "PNG"
        picture.verify()


def test_curves_leave_no_figure_open(tmp_path):
    from matplotlib import pyplot as plt

    draw_curves(tmp_path / "a.png", [100, 80], {"best": [1.0, 2.0]}, "density", "t", log_x=True)
    assert plt.get_fignums() == []


def test_a_curve_of_another_length_than_its_epochs_is_a_fault(tmp_path):
    with pytest.raises(ValueError):
        draw_curves(tmp_path / "a.png", [1, 2], {"best": [1.0]}, "epoch", "t")
