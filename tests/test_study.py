"""The study runs the whole grid: every run once, through interruptions, past failures.

Most tests copy the scripts into a project of their own, where stand-ins take the mains' places.
"""

import collections
import contextlib
import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import errors
import main_downstream
import main_imp_pretrain
import study.__main__ as study_main
from files.study_record import Plan, read_study_record
from study import forecast, machine
from study.config import Needed, Run, read_study
from study.forecast import Forecast, study_seconds
from study.progress import Epochs, Pace
from study.running import Queue
from study.slurm import USUAL_ARRAY_SIZE, sbatch_script
from study.state import CUT_OFF, other_flags, other_input, state_of

ROOT = Path(__file__).resolve().parent.parent
FAKE = Path(__file__).with_name("helpers") / "fake_main.py"

CONFIG = """
[study]
out = "OUT"
flags = "--epochs 2"

[[pretraining]]
tag = "std"
mode = "std"
data = "SOURCE"

[[pretraining]]
tag = "adv"
mode = "adv"
data = "SOURCE"
init = "adv.pt"

[transfer]
datasets = ["cifar10"]
data = "data"
modes = ["std", "adv"]
states = [0, 2]
"""


class Project:
    """A folder with the real scripts and stand-ins for the mains, and what they were asked."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "runs"
        shutil.copytree(ROOT / "script", folder / "script")
        for name in ("main_imp_pretrain.py", "main_downstream.py"):
            shutil.copy(FAKE, folder / name)
        for name in ("study", "files", "engine"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "errors.py", folder)
        running = folder / "study/running.py"
        assert "POLL = 0.3 " in running.read_text()
        running.write_text(running.read_text().replace("POLL = 0.3 ", "POLL = 0.03 "))
        (folder / "report").mkdir()
        (folder / "report/__init__.py").touch()  # else a report on PYTHONPATH goes before it
        reporting = "import sys; print('reported', sys.argv[1])\n"
        (folder / "report/__main__.py").write_text(reporting)
        (folder / "source").mkdir()
        (folder / "adv.pt").touch()
        self.config = folder / "study.toml"
        self.write()

    def write(self, text=CONFIG, **changes):
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        source = str(self.folder / "source")
        self.config.write_text(text.replace("OUT", str(self.out)).replace("SOURCE", source))

    def append(self, text):
        with self.config.open("a") as file:
            file.write(text)

    def command(self, *arguments):
        return ["bash", str(self.folder / "script/study.sh"), str(self.config), *arguments]

    def environment(self, **more):
        plain = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        own = {"CALLS": str(self.folder / "calls"), "PYTHON": sys.executable}
        return {**plain, **own, "PATH": "/usr/bin:/bin", **more}

    def run(self, *arguments, check=0, **environment):
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60,
            env=self.environment(**environment), cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == check, done.stdout + done.stderr
        return done

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment(), cwd=self.folder,
        )  # fmt: skip

    def calls(self, what="start"):
        """(seconds, run's name) of every call of a main, in their order."""
        path = self.folder / "calls"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [
            (float(when), Path(folder).relative_to(self.out).as_posix())
            for when, kind, folder, *_ in lines
            if kind == what
        ]

    def names(self, what="start"):
        return [name for _, name in self.calls(what)]

    def wait_for(self, name, what="start"):
        until = time.monotonic() + 120
        while name not in self.names(what):
            assert time.monotonic() < until, f"{name} did not {what}"
            time.sleep(0.02)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def transfer(tag, mode="std", state=0, dataset="cifar10"):
    return f"transfer/{tag}/{dataset}/{mode}/f1/state{state}/seed1"


TRANSFERS = [
    transfer(tag, mode, state)
    for tag in ("std", "adv")
    for mode in ("std", "adv")
    for state in (0, 2)
]
ALL = ["imp/std", "imp/adv", *TRANSFERS]


OUT_ELSE = "a study of its own needs another folder (--out)"


def listed(text):
    """[(state, name)] of the list that the study prints."""
    return re.findall(r"^  (done|cut off|to do) .*? (\S+)$", text, re.M)


# --- the whole of it ------------------------------------------------------------------------------


def test_dry_run_lists_runs_in_order_with_costs_and_commands_and_runs_nothing(project):
    (project.folder / "source").rmdir()
    text = project.run("--dry_run").stdout
    assert listed(text) == [("to do", name) for name in ALL]
    assert "10 runs: 0 done, 0 cut off, 10 to do" in text
    assert "what is left costs 2e+13 FLOP, 2.5 hours" in text
    assert text.count("0.25 GPU-h") == 10
    missing = [line for line in text.splitlines() if line.startswith("missing")]
    source = project.folder / "source"
    assert missing == [f"missing: DATA {source}"]  # not what the study will make itself
    commands = [line for line in text.splitlines() if line.startswith(sys.executable)]
    assert len(commands) == 10
    assert all("--resume" in command for command in commands)
    done = project.run(check=2)  # what comes last may lack it too: no run begins
    assert done.stderr == f"error: imp/adv: DATA {source} is not there; nothing was run\n"
    assert project.names() == []
    assert not project.out.exists()


def test_a_study_without_the_dense_network_is_told(project):
    assert "note:" not in project.run("--dry_run").stdout
    project.write(**{"[0, 2]": "[2]"})
    assert "note: [transfer] states has no 0, the dense network" in project.run("--dry_run").stdout


def test_runs_whose_cost_is_unknown_are_counted_apart(project):
    project.append('[transfer.flags]\nadv = "--no_images"')
    text = project.run("--dry_run").stdout
    assert "what is left costs 1.2e+13 FLOP, 1.5 hours" in text
    assert "and 4 runs of unknown cost, whose images are not counted" in text
    assert listed(text) == [("to do", name) for name in ALL]


def test_a_study_does_every_run_once_then_reports_and_a_second_start_only_reports(project):
    first = project.run("-J", "3")
    assert sorted(project.names()) == sorted(ALL)
    assert f"reported {project.out}\n" in first.stdout
    assert "10 of 10 done" in first.stdout
    second = project.run()
    assert len(project.names()) == 10
    assert listed(second.stdout) == [("done", name) for name in ALL]
    assert f"reported {project.out}" in second.stdout


def test_what_is_planned_is_recorded_before_the_first_run(project):
    project.write(CONFIG.replace("[study]", "[study]\nevidence_margin = 1.5"))
    project.run("--dry_run")
    assert read_study_record(project.out) is None
    project.run("--only", "^imp/std$")
    regimes = (("cifar10", "std"), ("cifar10", "adv"))
    plan = Plan(str(project.config), (2,), (1,), ("std", "adv"), ("cifar10",), (1.0,), 1.5, regimes,
                tickets=("imp",))  # fmt: skip
    assert read_study_record(project.out).plans == (plan,)


def test_commands_of_a_study(project):
    project.append('seeds = [3]\ndata_numbers = [0.1]\n[transfer.flags]\nall = "--seconds 0"\n')
    lines = project.run("--list").stdout.splitlines()
    numbers, commands = zip(*(line.split("\t") for line in lines), strict=True)
    assert numbers == tuple(str(n) for n in range(1, 11))
    out = str(project.out)
    main, source = (str(project.folder / name) for name in ("main_imp_pretrain.py", "source"))
    assert shlex.split(commands[1])[1:] == [
        main, source, "--mode", "adv", "--tag", "adv", "--init", "adv.pt", "--epochs", "2",
        "--save_dir", f"{out}/imp/adv", "--resume",
    ]  # fmt: skip
    name = "transfer/adv/cifar10/adv/f0.1/state2/seed3"
    assert shlex.split(commands[9])[2:] == [
        "--mode", "adv", "--dataset", "cifar10", "--data", "data", "--tag", "adv",
        "--init", f"{out}/imp/adv/init.pth.tar",
        "--tickets_file", f"{out}/imp/adv/2-ticket.safetensors", "--data_number", "0.1",
        "--seed", "3", "--epochs", "2", "--seconds", "0", "--save_dir", f"{out}/{name}", "--resume",
    ]  # fmt: skip
    assert "--tickets_file" not in commands[8]


@pytest.mark.parametrize("key", ["--init_key teacher", "--init-key teacher", "--init_key=teacher"])
def test_what_a_searchs_init_needed_is_not_asked_of_its_initial_weights(key, project):
    project.write(**{'init = "adv.pt"': f'init = "adv.pt"\nflags = "{key}"'})
    project.append('tickets = ["imp", "omp"]')
    lines = project.run("--list", "--only", "^(imp|omp)/adv").stdout.splitlines()
    assert [key in line for line in lines] == [True, False]
    assert "teacher" not in lines[1]


def test_baselines_have_tickets_of_their_own_and_no_second_dense_network(project):
    project.append('tickets = ["imp", "omp", "random", "reinit"]')
    commands = dict(line.split(f" --save_dir {project.out}/") for line in
                    project.run("--list", "--only", "std").stdout.splitlines())  # fmt: skip
    commands = {name.removesuffix(" --resume"): command for command, name in commands.items()}
    assert f"--ticket omp --init {project.out}/imp/std/init.pth.tar" in commands["omp/std"]
    root = "transfer/std/cifar10/adv/f1"
    assert [name.removeprefix(root) for name in commands if name.startswith(root)] == [
        "/state0/seed1", "/state2/seed1", "/state2-omp/seed1", "/state2-random/seed1",
        "/state2-reinit/seed1",
    ]  # fmt: skip
    random = commands[f"{root}/state2-random/seed1"]
    assert f"--tickets_file {project.out}/random/std/2-ticket.safetensors" in random
    reinit = commands[f"{root}/state2-reinit/seed1"]
    assert f"{project.out}/imp/std/2-ticket.safetensors" in reinit
    assert "--reinit" in reinit
    project.run("-J", "8")
    assert len(set(project.names())) == len(project.names()) == 2 + 4 + 2 * 2 * 5


def test_flags_go_to_a_mode_a_data_set_and_a_pair(project):
    project.write(**{'["cifar10"]': '["cifar10", "svhn"]'})
    project.append("""
without = ["svhn std"]
[transfer.flags]
adv = "--epochs 3"
svhn = "--epochs 4"
"cifar10 adv" = '--epochs "5"'
""")
    project.run("--only", "imp/std")
    (recorded,) = read_study_record(project.out).plans
    assert recorded.regimes == (("cifar10", "std"), ("cifar10", "adv"), ("svhn", "adv"))
    epochs = {}
    for line in project.run("--list", "--only", "transfer/std/.*state0").stdout.splitlines():
        words = shlex.split(line)
        at = words[words.index("--save_dir") + 1].split("/transfer/std/")[1]
        epochs[at] = [words[i + 1] for i, word in enumerate(words) if word == "--epochs"]
    assert epochs == {
        "cifar10/std/f1/state0/seed1": ["2"],
        "cifar10/adv/f1/state0/seed1": ["2", "3", "5"],
        "svhn/adv/f1/state0/seed1": ["2", "3", "4"],
    }


def test_baselines_do_not_go_on_from_the_ticket_that_imp_goes_on_from(project):
    project.write(**{'mode = "std"': 'mode = "std"\nflags = "--continue_from 1-ticket"'})
    project.append('tickets = ["imp", "omp", "random"]')
    commands = project.run("--list").stdout.splitlines()
    assert [
        ("imp/std" in line, "omp" in line) for line in commands if "--continue_from" in line
    ] == [(True, False)]


def test_a_transfer_starts_when_its_ticket_exists_not_when_all_tickets_do(project):
    project.write(**{'"--epochs 2"': '"--epochs 3 --seconds 0.5"'})
    project.run("-J", "2", "--only", "imp/std|transfer/std/cifar10/std")
    starts, ends = (dict(map(reversed, project.calls(what))) for what in ("start", "end"))
    assert starts[transfer("std", state=0)] < ends["imp/std"]


OF_STD = {'init = "adv.pt"': 'init = "{out}/imp/std/init.pth.tar"'}


@pytest.mark.parametrize("flag", ["", "--init {out}/imp/std/init.pth.tar"])
def test_a_search_starts_when_the_initial_weights_that_another_writes_are_final(flag, project):
    of_std = {'init = "adv.pt"': f'flags = "{flag}"'} if flag else OF_STD
    project.write(**of_std)
    assert read_study(project.config).runs[1].needs == (Needed(project.out / "imp/std", 0),)
    text = project.run("-J", "2", "--only", "imp").stdout
    assert "2 of 2 done" in text
    recorded = json.loads((project.out / "imp/adv/args.json").read_text())
    assert recorded["init_content"]  # it was there
    assert "imp/adv needs" in project.run("--only", "adv", "--out", "new", check=2).stderr


@pytest.mark.parametrize(("tag", "writer"), [("adv", "imp/adv"), ("later", "imp/later")])
def test_a_search_does_not_wait_for_its_own_or_a_later_ones_weights(tag, writer, project):
    project.write(**{'init = "adv.pt"': f'init = "{{out}}/imp/{tag}/init.pth.tar"'})
    project.append('\n[[pretraining]]\ntag = "later"\nmode = "std"\ndata = "source"\n')
    told = project.run("--list", check=2).stderr
    assert f"imp/adv starts from {project.out}/imp/{tag}/init.pth.tar, which {writer} wri" in told
    assert told.count("\n") == 1


def test_weights_of_ones_own_in_a_searchs_folder_are_waited_for_by_none(project):
    project.write(**{'init = "adv.pt"': 'init = "{out}/imp/adv/adv.pt"'})
    assert read_study(project.config).runs[1].needs == ()


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_jobs_at_a_time_as_asked_for(jobs, project):
    project.write(CONFIG.split("[transfer]")[0], **{'"--epochs 2"': '"--epochs 1 --seconds 0.8"'})
    project.append('[[pretraining]]\ntag = "fast"\nmode = "adv"\ndata = "source"\n')
    project.run("-J", str(jobs))
    changes = [(when, 1) for when, _ in project.calls("start")]
    changes += [(when, -1) for when, _ in project.calls("end")]
    going_on = [sum(step for _, step in sorted(changes)[: i + 1]) for i in range(len(changes))]
    assert max(going_on) == jobs


def test_an_empty_file_that_a_broken_copy_left_is_no_finished_run(project):
    project.run()
    before = len(project.names("end"))
    (project.out / transfer("std") / "results.json").write_text("")
    project.run()
    assert project.names("end")[before:] == [transfer("std")]


def test_only_takes_the_runs_whose_name_matches(project):
    project.run("--only", "^imp/")
    assert project.names() == ["imp/std", "imp/adv"]
    done = project.run("--only", "nothing", check=2)
    assert done.stderr == "error: --only nothing: no run has such a name (see --list)\n"


def test_transfers_without_the_search_that_they_need_are_refused_before_any_runs(project):
    done = project.run("--only", "^transfer", check=2)
    assert "which is not there and which no run writes that --only takes" in done.stderr
    assert project.names() == []
    assert not (project.out / "study.json").exists()


# --- interruptions --------------------------------------------------------------------------------


def test_ctrl_c_stops_the_jobs_and_the_next_start_goes_on_without_doing_a_run_twice(project):
    project.write(**{'"--epochs 2"': '"--epochs 2 --seconds 0.3"'})
    study = project.start("-J", "2")
    project.wait_for(TRANSFERS[1])
    time.sleep(0.1)
    study.send_signal(signal.SIGINT)
    text, _ = study.communicate(timeout=20)
    assert study.returncode == 130, text
    assert "to go on: bash script/study.sh" in text
    time.sleep(0.7)  # a job that was left behind would end now
    finished = project.names("end")
    assert {"imp/std", "imp/adv"} <= set(finished)
    assert len(finished) < len(ALL)
    started = collections.Counter(project.names())
    cut_off = [name for name in started if name not in finished]
    assert cut_off
    text = project.run("-J", "4").stdout
    assert {name for state, name in listed(text) if state == "cut off"} == set(cut_off)
    assert "going on with" in text
    assert sorted(project.names("end")) == sorted(ALL)
    again = collections.Counter(project.names())
    assert {name for name, count in again.items() if count > 1} == set(cut_off)


def test_a_search_that_was_cut_off_is_taken_up_though_it_has_tickets(project):
    project.write(**{'"--epochs 2"': '"--epochs 3 --seconds 0.8"'})
    study = project.start("--only", "imp/std")
    until = time.monotonic() + 20
    while not (project.out / "imp/std/1-ticket.safetensors").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    study.terminate()
    text, _ = study.communicate(timeout=20)
    assert study.returncode == 128 + signal.SIGTERM, text
    assert listed(project.run("--only", "imp/std", "--dry_run").stdout) == [("cut off", "imp/std")]
    text = project.run("--only", "imp/std").stdout
    assert "going on with imp/std" in text
    assert "epoch 1/3" not in text
    assert project.names("end") == ["imp/std"]


def test_after_kill_9_the_next_start_waits_for_what_still_goes_on(project):
    go_on = project.folder / "go_on"
    project.write(**{'"--epochs 2"': f'"--epochs 2 --until {go_on}"'})
    study = project.start()
    project.wait_for("imp/std")
    study.kill()
    study.communicate()
    study = project.start("--only", "imp")
    told = "imp/std is going on in another process; waiting for it: it is one of the 1 at a"
    text = ""
    while told not in text and (line := study.stdout.readline()):
        text += line
    assert told in text
    assert project.names() == ["imp/std"]
    go_on.touch()
    text, _ = study.communicate(timeout=120)
    assert "done imp/std elsewhere" in text
    assert project.names() == ["imp/std", "imp/adv"]
    ends, starts = (dict(map(reversed, project.calls(what))) for what in ("end", "start"))
    assert starts["imp/adv"] > ends["imp/std"]  # one at a time, those elsewhere included


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_told_once_and_the_study_goes_on(project, name):
    patch = project.folder / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_):\n"
        f"    raise OSError(errno.{name}, os.strerror(errno.{name}))\n"
        "fcntl.flock = flock\n"
    )
    text = project.run("-J", "4", PYTHONPATH=str(patch)).stdout
    assert "10 of 10 done" in text
    assert sorted(project.names("end")) == sorted(ALL)
    told = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1
    lost = "locks no file: see to it that no other study works here, and none that was killed goes"
    assert f"{project.out}: the file system {lost}" in told[0]


@pytest.mark.parametrize("by", ["a second signal", "time"])
def test_jobs_that_do_not_stop_are_killed_and_named(project, by):
    if by == "time":
        running = project.folder / "study/running.py"
        assert "GRACE = 60.0 " in running.read_text()
        running.write_text(running.read_text().replace("GRACE = 60.0 ", "GRACE = 2.0 "))
    project.write(**{'"--epochs 2"': '"--epochs 2 --seconds 60 --deaf"'})
    study = project.start()
    project.wait_for("imp/std")
    time.sleep(0.2)
    study.send_signal(signal.SIGINT)
    time.sleep(1)
    assert study.poll() is None
    if by == "a second signal":
        study.send_signal(signal.SIGINT)
    text, _ = study.communicate(timeout=20)
    assert study.returncode == 130
    assert text.count("killed, to go on from the checkpoint before: imp/std\n") == 1
    started = re.findall(r"pid=(\d+)", (project.folder / "calls").read_text())
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[0]), signal.SIGKILL)
    assert project.names("end") == []


# --- failures -------------------------------------------------------------------------------------


def test_a_failed_run_is_reported_with_its_log_and_the_others_go_on(project):
    project.append('[transfer.flags]\nadv = "--fail adv/2-ticket"')
    done = project.run("-J", "4", check=1)
    failed = transfer("adv", "adv", 2)
    log = project.out / failed / "log.txt"
    last = done.stderr.splitlines()[-1]
    assert last == f"failed: {failed}: exit status 1: something broke; see {log}"
    assert log.read_text().startswith("$ ")
    assert "something broke" in log.read_text()
    assert set(project.names("end")) == set(ALL) - {failed}
    assert f"reported {project.out}" in done.stdout


def test_transfers_of_a_search_that_failed_are_left_out_and_named(project):
    project.write(CONFIG.replace('init = "adv.pt"', 'flags = "--fail None"'))
    done = project.run("-J", "2", check=1)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("failed: imp/adv: exit status 1")
    lacking = project.out / "imp/adv/0-ticket.safetensors"
    assert f"failed: {transfer('adv')}: left out: {lacking} was not written" in lines
    assert len(lines) == 5
    assert sorted(project.names("end")) == sorted(name for name in ALL if "/adv" not in name[:13])


def test_a_run_that_was_asked_to_stop_is_named_and_can_be_taken_up(project):
    project.append('[transfer.flags]\n"cifar10 adv" = "--ask_to_stop"')
    done = project.run("-J", "4", "--only", "^(imp|transfer)/std", check=1)
    assert f"failed: {transfer('std', 'adv')}: was asked to stop, and has saved" in done.stderr


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (75, "was asked to stop, and has saved"),
        (-signal.SIGTERM, "was asked to stop before it had begun"),
        (1, "exit status 1: something broke"),
        (0, "ended without its result"),
        (
            -signal.SIGSEGV,
            "was ended by signal 11 (Segmentation fault); the last line: something broke",
        ),
        (
            -signal.SIGKILL,
            "was ended by signal 9 (Killed); if memory ran out, run fewer at a time (-J); the last "
            "line: something broke",
        ),
    ],
)
def test_a_runs_status_says_how_it_ended_whatever_files_it_left(tmp_path, status, why):
    """PREEMPTED is there after an error too, if another process of the run stopped in order."""
    (tmp_path / "PREEMPTED").write_text("SIGTERM\n")
    run = Run("imp/std", "main_imp_pretrain.py", (), tmp_path)
    queue = Queue([run], lambda _: [], folder=tmp_path, jobs=1, gpus=[], forecasts={})
    queue.waiting.clear()
    queue.reap(SimpleNamespace(run=run, last="something broke", seconds=1.0), status)
    assert (queue.failed, queue.done) == ([(run, why)], [])


def test_flags_that_a_main_refuses_are_found_before_anything_runs(project):
    project.append('[transfer.flags]\nadv = "--epochs many"')
    done = project.run(check=2)
    assert done.stderr.startswith(f"error: {transfer('std', 'adv')}: argument --epochs: invalid")
    assert done.stderr.count("\n") == 1
    assert project.names() == []


def test_a_state_that_no_search_reaches_is_an_error(project):
    project.write(**{"[0, 2]": "[0, 9]"})
    done = project.run(check=2)
    name = transfer("std", state=9)
    assert done.stderr == f"error: {name}: imp/std ends with the ticket of state 3\n"
    project.run("--run", "1")
    done = project.run(check=2)
    assert done.stderr == f"error: {name}: imp/std is done and has no 9-ticket.safetensors\n"


def test_a_run_made_with_other_flags_is_named(project):
    project.run("-J", "8")
    project.write(**{'init = "adv.pt"': 'init = "adv.pt"\nflags = "--epochs 2 --prune_epoch 2"'})
    text = project.run("-J", "4").stdout
    assert "note: imp/adv was made without --prune_epoch 2; to make it again, delete" in text
    assert text.count("note:") == 1
    assert len(project.names()) == 10


def test_a_run_made_with_the_same_flags_in_another_order_is_as_planned(project):
    project.run("--only", "imp/adv")
    args = project.out / "imp/adv/args.json"
    recorded = json.loads(args.read_text())
    main, data, mode, adv, *flags = shlex.split(recorded["command"])[1:]
    assert (mode, adv) == ("--mode", "adv")
    recorded["command"] = shlex.join(["python", main, data, *flags, "--threads", "3", "--mode=adv"])
    args.write_text(json.dumps(recorded))
    assert "note:" not in project.run("--dry_run").stdout
    recorded["command"] += " --mode std"
    args.write_text(json.dumps(recorded))
    told = project.run("--dry_run").stdout
    assert "note: imp/adv was made with --mode std, not --mode adv; to make it again" in told


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, "[1]", "null", "\xff"])
def test_a_run_whose_args_json_is_damaged_is_one_that_was_cut_off(tmp_path, damage):
    run = Run("imp/std", "main_imp_pretrain.py", ("data", "--init", "init.pth.tar"), tmp_path)
    (tmp_path / "args.json").write_text(damage, encoding="latin-1")
    assert state_of(run) == CUT_OFF
    assert not other_flags(run)
    assert other_input(run) is None


@pytest.mark.parametrize("file", ["2-ticket.safetensors", "init.pth.tar"])
def test_transfers_of_a_search_that_was_made_again_are_named(project, file):
    project.run("-J", "8")
    assert "note:" not in project.run("--dry_run").stdout
    remade = project.out / "imp/std" / file
    remade.write_text("of another search")
    text = project.run("--dry_run").stdout
    notes = [line for line in text.splitlines() if line.startswith("note:")]
    states = (2,) if "ticket" in file else (0, 2)
    name = transfer("std", "std", states[0])
    assert notes == [
        f"note: {name} and {2 * len(states) - 1} more were made from another {file} than {remade} "
        f"is now; to make each again, delete its folder, such as {project.out / name}; {OUT_ELSE}"
    ]
    done = project.run("--slurm")
    assert done.stderr.splitlines() == notes
    assert "note:" not in done.stdout
    number = next(
        line.partition("\t")[0]
        for line in project.run("--list").stdout.splitlines()
        if line.endswith(f"{transfer('std', state=2)} --resume")
    )
    own = (
        f"{transfer('std', state=2)} was made from another {file} than {remade} is now; to make it"
    )
    assert f"nothing to do\nnote: {own}" in project.run("--run", number).stdout


def test_a_search_whose_initial_weights_were_replaced_is_named(project):
    weights = project.folder / "adv.pt"
    weights.write_text("weights")
    project.run("--only", "^imp/")
    assert "note:" not in project.run("--dry_run").stdout
    weights.write_text("others")
    notes = [line for line in project.run("--dry_run").stdout.splitlines() if "note:" in line]
    again = f"to make it again, delete {project.out / 'imp/adv'}"
    found = f"note: imp/adv was made from another adv.pt than adv.pt is now; {again}; {OUT_ELSE}"
    assert notes == [found]


@pytest.mark.parametrize("moved", [".", "..", "elsewhere"])
def test_a_study_whose_folder_is_named_otherwise_is_as_planned(project, moved):
    """`--out .` names the folder by nothing at all, so that every path may lie in it."""
    name = transfer("adv", "adv", 2)
    project.run("--only", f"^{name}$|imp/adv", "--out", ".")
    here = {".": ".", "..": f"../{project.folder.name}", "elsewhere": str(project.folder)}[moved]
    assert "note:" not in project.run("--dry_run", "--out", here).stdout
    project.append('[transfer.flags]\nadv = "--seconds 0.1"')
    text = project.run("--dry_run", "--out", here).stdout
    notes = [line for line in text.splitlines() if line.startswith("note:")]
    again = f"to make it again, delete {Path(here, name)}"
    assert notes == [f"note: {name} was made without --seconds 0.1; {again}; {OUT_ELSE}"]


def test_a_folder_that_cannot_be_written_fails_its_run_only(project):
    project.out.mkdir()
    (project.out / "transfer").mkdir()
    (project.out / "transfer/adv").write_text("a file")
    done = project.run("-J", "4", check=1)
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all("Not a directory" in line for line in lines)
    assert len(project.names("end")) == 6


# --- devices --------------------------------------------------------------------------------------


def test_every_gpu_gets_a_job(project):
    project.write(**{'"--epochs 2"': '"--epochs 1 --seconds 0.3"', "[0, 2]": "[0, 1]"})
    project.run(CUDA_VISIBLE_DEVICES="3,5")
    calls = (project.folder / "calls").read_text()
    gpus = re.findall(r"gpu=(\S+) threads=(\S+)", calls)
    assert set(gpus[:2]) == {("3", "None"), ("5", "None")}
    assert len(gpus) == 10
    assert set(gpus) == {("3", "None"), ("5", "None")}


def test_without_a_gpu_the_jobs_share_the_cores(project):
    cores = len(os.sched_getaffinity(0))
    text = project.run("--dry_run").stdout
    assert text.count(f" --resume --threads {cores}\n") == 10
    assert project.run("--dry_run", "-J", "99").stdout.count(" --resume --threads 1\n") == 10
    project.write(**{'"--epochs 2"': '"--epochs 2 --threads 7"'})
    text = project.run("--dry_run").stdout
    assert text.count("--threads") == text.count("--threads 7") == 10


def test_threads_that_a_study_sets_are_kept_however_they_are_written(project):
    project.write(**{'"--epochs 2"': '"--epochs 2 --threads=7"'})
    assert "--threads 1" not in project.run("--dry_run", "-J", "8").stdout


def test_small_networks_on_a_cpu_get_a_core_each_as_far_as_memory_allows(project):
    cores = len(os.sched_getaffinity(0))
    project.write(**{'"--epochs 2"': '"--epochs 2 --small"'})
    assert project.run("--dry_run").stdout.count(" --resume --threads 1\n") == 10
    assert project.run("--dry_run", "-J", "1").stdout.count(f" --threads {cores}\n") == 10
    project.write(**{'"--epochs 2"': '"--epochs 2 --small --gigabytes 1e6"'})
    assert project.run("--dry_run").stdout.count(f" --resume --threads {cores}\n") == 10


def test_the_usual_number_of_jobs(monkeypatch):
    def told(flop, memory):
        return Forecast(1, 0, None, 1.0, 1.0, flop, memory, None, ())

    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "memory", lambda: 16e9)
    small, large, untrained = told(8e7, 0.3e9), told(8e9, 2e9), told(None, 0.0)
    assert machine.usual_jobs(["0", "1"], [small] * 9) == 2
    assert machine.usual_jobs([], [small, untrained] * 9) == 8
    assert machine.usual_jobs([], [small] * 3) == 3  # no core is left to a run that is not there
    larger = told(8e7, 1.5e9)
    assert machine.usual_jobs([], [small, larger] * 9) == 4  # half of 16 GB for 2 GB each
    assert machine.usual_jobs([], [small, told(8e7, 50e9)] * 9) == 1
    assert machine.usual_jobs([], [small, large] * 9) == 1
    assert machine.usual_jobs([], [untrained]) == machine.usual_jobs([], []) == 1


def test_more_jobs_than_gpus_share_them_evenly(project):
    project.write(**{'"--epochs 2"': '"--epochs 1 --seconds 1"', "[0, 2]": "[0, 1]"})
    project.run("-J", "4", CUDA_VISIBLE_DEVICES="3,5")
    at_once = {"3": 0, "5": 0}
    most, gpu_of = dict(at_once), {}
    for line in (project.folder / "calls").read_text().splitlines():
        _, what, folder, *rest = line.split()
        if what == "start":
            gpu_of[folder] = rest[0].removeprefix("gpu=")
        at_once[gpu_of[folder]] += 1 if what == "start" else -1
        most = {gpu: max(most[gpu], at_once[gpu]) for gpu in most}
    assert most == {"3": 2, "5": 2}


def test_time_it_tells_how_long_all_of_it_takes(project):
    text = project.run("--dry_run", "--time_it", "-J", "1").stdout
    assert "what is left takes about 20:00:00 here, 1 at a time" in text  # 10 runs of 2 hours
    assert text.count("# imp/") == 2
    text = project.run("--dry_run", "--time_it", "-J", "99").stdout
    assert "takes about 3:00:00 here, 99 at a time" in text  # the longest, with one thread
    project.write(**{'"--epochs 2"': '"--epochs 2 --threads 7"'})
    text = project.run("--dry_run", "--time_it", "-J", "99").stdout
    assert "takes about 2:00:00 here, 99 at a time" in text  # with the threads that it asks for
    assert "takes about" not in project.run("--dry_run").stdout
    assert project.names() == []
    done = project.run("--time_it", check=2)
    assert done.stderr == "error: --time_it goes with --dry_run\n"


def test_initial_weights_from_outside_are_looked_for_in_each_search_and_a_studys_own_once(
    project, monkeypatch
):
    asked = []

    def answer(command, **_):
        asked.append(Path(command[command.index("--save_dir") + 1]).relative_to(project.out))
        path = command[command.index("--init") + 1]
        missing = {"name": "--init", "path": path, "missing": True}
        plan = {"epochs": 2, "epochs_taken": 0, "last_ticket": None, "cost": None}
        plan["inputs"] = [missing]
        return subprocess.CompletedProcess(command, 0, json.dumps(plan), "")

    monkeypatch.setattr(forecast, "subprocess", SimpleNamespace(run=answer))
    changes = {'mode = "std"': 'mode = "adv"\ninit = "std.pt"', '["std", "adv"]': '["std"]'}
    project.write(**changes)
    project.append('tickets = ["imp", "omp"]')
    study = read_study(project.config)
    told = forecast.make_forecasts(study, study.runs, "python", 1)
    missing = list(dict.fromkeys(line for one in told.values() for line in one.missing))
    assert missing == ["--init std.pt", "--init adv.pt"]
    kinds = ["imp/std", "imp/adv", "omp/std", "transfer/std/cifar10/std/f1/state0/seed1"]
    assert [path.as_posix() for path in asked] == kinds


def test_what_no_run_of_the_study_writes_is_missing_wherever_it_lies(project):
    study = read_study(project.config)
    paths = ["imp/std/init.pth.tar", "imp/stdd/init.pth.tar", "data/x"]
    inputs = [
        {"name": "--init", "path": str(project.out / path), "missing": True} for path in paths
    ]
    plan = {"epochs": 2, "epochs_taken": 0, "last_ticket": None, "cost": None, "inputs": inputs}
    missing = forecast.read_plan(plan, study).missing
    assert missing == tuple(f"--init {project.out / path}" for path in paths[1:])


def test_runs_that_do_not_train_take_no_time():
    def told(flop, seconds, epochs=1):
        return Forecast(epochs, 0, None, flop, 1.0, flop, 0.0, seconds, ())

    one_shot, unknown = told(None, None, epochs=None), told(None, None)
    assert study_seconds([told(1.0, 30.0), told(1.0, 50.0), one_shot], 2) == 50
    assert study_seconds([told(1.0, 30.0), unknown], 2) is None
    assert study_seconds([told(1.0, 30.0)] * 5, 2) == 75
    assert study_seconds([told(1.0, 30.0), told(1.0, None)], 1) is None


# --- what is seen ---------------------------------------------------------------------------------


def test_without_a_terminal_every_epoch_and_run_has_a_line(project):
    text = project.run("--only", "imp/std").stdout
    assert "starting imp/std" in text
    assert "[imp/std] epoch 1/2: train loss 0.5, val SA 80" in text
    assert "[imp/std] epoch 2/2: train loss 0.5, val SA 80" in text
    assert re.search(r"done imp/std in 0:0\d:\d\d   \[1 of 1 done, 0 going on, ETA 0:00:00\]", text)
    assert "\x1b" not in text


def test_on_a_terminal_every_job_has_a_line_that_is_kept_up_to_date(project):
    project.write(**{'"--epochs 2"': '"--epochs 3 --seconds 0.5"'})
    ours, theirs = pty.openpty()
    study = subprocess.Popen(
        project.command("-J", "2", "--only", "imp"), stdin=theirs, stdout=theirs, stderr=theirs,
        env=project.environment(TERM="xterm"), cwd=project.folder,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while study.poll() is None or select.select([ours], [], [], 0)[0]:
        try:
            seen += os.read(ours, 4096)
        except OSError:
            break
    os.close(ours)
    text = seen.decode()
    assert study.wait() == 0
    assert re.search(r"J  imp/std  0:0\d:\d\d  epoch 1/3: train loss 0.5.*\r\n  imp/adv ", text)
    assert re.search(r"0 of 2 done, 2 going on, ETA 0:0\d:\d\d", text)
    assert "\x1b[3A\x1b[J" in text
    assert "[imp/std] epoch" not in text


def record(folder, *epochs, torn=""):
    lines = [json.dumps({"epoch": epoch, "seconds": 1.0, "train_loss": 0.5}) for epoch in epochs]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines) + torn)


def test_epochs_that_were_done_before_are_not_counted_to_the_pace_of_a_job(tmp_path):
    assert Epochs(tmp_path, 8).share == 0
    record(tmp_path, 0, 1, 2, 3)
    epochs = Epochs(tmp_path, 8)
    assert (epochs.share_before, epochs.share) == (0.5, 0.0)
    record(tmp_path, 0, 1, 2)  # its checkpoint knows three of them
    assert epochs.look(5.0) == []
    assert (epochs.share_before, epochs.share) == (0.375, 0.0)
    record(tmp_path, 0, 1, 2, 3, 4, torn='{"epo')
    assert [line["epoch"] for line in epochs.look(9.0)] == [3, 4]
    assert (epochs.share_before, epochs.share, epochs.reached) == (0.375, 0.25, 9.0)
    assert epochs.look(10.0) == []
    assert epochs.reached == 9.0


def test_epochs_that_another_run_made_are_no_part_of_a_run_that_goes_on_from_its_ticket(tmp_path):
    epochs = Epochs(tmp_path, 4, taken=2)
    assert (epochs.share_before, epochs.share) == (0, 0)
    record(tmp_path, 0, 1)  # those are taken over when it begins
    assert epochs.look(1.0) == []
    assert (epochs.share_before, epochs.share) == (0, 0)
    record(tmp_path, 0, 1, 2)
    (seen,) = epochs.look(7.0)
    assert epochs.described(seen).startswith("epoch 3/6: ")
    assert (epochs.share_before, epochs.share, epochs.reached) == (0, 0.25, 7.0)
    assert Epochs(tmp_path, 4, taken=2).share_before == 0.25


def test_lines_that_are_no_epochs_are_passed_over_and_end_no_study(tmp_path):
    epochs = Epochs(tmp_path, 3)
    odd = ['{"x": 1}', "[1]", "3", "null", "", '{"epoch": "2"}', "\xff"]
    good = '{"epoch": 0, "seconds": 1.0, "val_sa": 80.0, "train_loss": "low", "lr": NaN}'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*odd, good, *odd]), encoding="latin-1")
    (seen,) = epochs.look(5.0)
    assert epochs.described(seen) == "epoch 1/3: val SA 80"
    assert (epochs.done, epochs.reached) == (1, 5.0)


def test_what_is_left_is_told_from_the_pace_of_the_same_sort_of_run(tmp_path):
    def job(name, main, seconds, before, done):
        epochs = Epochs(tmp_path / "none", 4)
        epochs.before, epochs.done, epochs.reached = before, done, 10.0
        run = Run(name, main, ("--mode", "std"), tmp_path)
        return SimpleNamespace(run=run, seconds=seconds, epochs=epochs)

    pace = Pace(
        {"a": 2.0, "b": 2.0, "c": 4.0, "omp": 0.0, "uncounted": None, "more": None, "big": 1e15}
    )
    assert pace.seconds_left([], [job("a", "x", 5.0, 0, 0)], 1) is None
    half = job("a", "x", 13.0, 0, 2)  # half of 2 units in 10 s, and 3 s into the next epoch
    assert pace.seconds_left([], [half], 1) == pytest.approx(7.0)
    waiting = [Run("c", "x", ("--mode", "std"), tmp_path)]
    assert pace.seconds_left(waiting, [half], 1) == pytest.approx(47.0)
    assert pace.seconds_left(waiting, [half], 2) == pytest.approx(40.0)  # the longest one
    pace.finished(job("b", "x", 60.0, 2, 4))  # 1 unit in 60 s: with it, 2 units in 70
    assert pace.seconds_left(waiting, [], 1) == pytest.approx(4 * 60.0)
    # What has no cost takes no time, and what has an unknown one tells nothing of the others.
    one_shot = job("omp", "x", 9.0, 0, 0)
    pace.finished(one_shot)
    assert pace.seconds_left([*waiting, one_shot.run], [], 1) == pytest.approx(4 * 60.0)
    unknown = job("uncounted", "x", 30.0, 0, 0)
    more = Run("more", "y", ("--mode", "adv"), tmp_path)
    assert pace.seconds_left([more, *waiting], [], 1) is None
    pace.finished(unknown)
    assert pace.seconds_left([more, *waiting], [], 1) == pytest.approx(30.0 + 4 * 60.0)
    alone = Pace(pace.costs)
    for done in (one_shot, unknown):
        alone.finished(done)
    assert alone.seconds_left([Run("big", "x", ("--mode", "std"), tmp_path)], [], 1) is None


def test_the_study_starts_without_pytorch():
    listing = "import sys, study.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "study.running" in done.stdout.split()
    assert "torch" not in done.stdout.split()


# --- one run at a time, as Slurm does it ----------------------------------------------------------


def test_run_is_one_run_of_the_list_with_the_mains_own_status(project):
    assert project.run("--folder", "2").stdout == f"{project.out}/imp/adv\n"
    early = project.run("--run", "7", check=1)
    ticket = project.out / "imp/adv/0-ticket.safetensors"
    assert early.stderr == f"error: {transfer('adv')} needs {ticket}, which is not there yet\n"
    project.run("--run", "2")
    project.run("--run", "7")
    assert project.names() == ["imp/adv", transfer("adv")]
    assert "nothing to do" in project.run("--run", "7").stdout
    assert len(project.names()) == 2
    done = project.run("--run", "11", check=2)
    assert done.stderr == "error: there are 10 runs; 11 is none of them\n"
    project.append('[transfer.flags]\n"cifar10 adv" = "--ask_to_stop"')
    project.run("--run", "9", check=75)


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
echo "srun $*"
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1 $2" in
  "show hostnames") echo localhost ;;
  "show job") printf '   %s\\n' "Requeue=${REQUEUE:-1} Restarts=0" "Command=$BATCH_FILE a b" ;;
  "show config") echo "MaxArraySize            = $MAX_ARRAY_SIZE" ;;
  *) echo "scontrol $*" ;;
esac
"""
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$SUBMITTED"
echo "$((100 + $(wc -l < "$SUBMITTED")));cluster"
"""


@pytest.fixture
def tools(project):
    """A folder with stand-ins for Slurm's commands."""
    folder = project.folder / "tools"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def slurm(project, tools):
    """Run a batch file as Slurm would, submitted from another folder than the project's."""

    def sbatch(name, *arguments, check=0, **variables):
        script = project.folder / "script/slurm" / name
        copy = shutil.copy(script, tools / "slurm_script")  # Slurm runs a copy, from its spool
        done = subprocess.run(
            ["bash", copy, *map(str, arguments)], capture_output=True, text=True, timeout=120,
            cwd=tools,
            env={
                **project.environment(), "PATH": f"{tools}:/usr/bin:/bin", "PYTHON": sys.executable,
                "SLURM_SUBMIT_DIR": str(tools), "SLURM_JOB_ID": "9", "BATCH_FILE": str(script),
                **variables,
            },
        )  # fmt: skip
        assert done.returncode == check, done.stdout + done.stderr
        return done

    return sbatch


def test_the_array_job_runs_the_studys_commands(project, slurm):
    commands = [line.split("\t")[1] for line in project.run("--list").stdout.splitlines()]
    for number, command in enumerate(commands, 1):
        done = slurm(
            "study.sbatch",
            project.config,
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_JOB_ID="8",
        )
        assert f"$ {command}\n" in done.stdout
        assert f"srun bash {project.folder}/script/study.sh" in done.stdout
    assert project.names() == ALL
    assert "10 runs: 10 done" in project.run().stdout
    done = slurm("study.sbatch", project.config, SLURM_ARRAY_TASK_ID="1", OFFSET="3",
                 SLURM_ARRAY_JOB_ID="8")  # fmt: skip
    assert f"{ALL[3]}: done; nothing to do" in done.stdout
    assert project.names() == ALL


def test_a_preempted_task_is_queued_again_and_then_goes_on(project, slurm):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    project.write(CONFIG.replace('init = "adv.pt"', "").replace(
        'data = "SOURCE"\n', 'data = "SOURCE"\nflags = "--ask_to_stop"\n'))  # fmt: skip
    done = slurm("study.sbatch", project.config, **array)
    assert done.stdout.endswith("scontrol requeue 8_1\n")
    project.write()
    done = slurm("study.sbatch", project.config, **array)
    assert "scontrol" not in done.stdout
    assert not (project.out / "imp/std/PREEMPTED").exists()
    assert project.names("end") == ["imp/std"]


def test_a_task_that_sigterm_ends_before_it_begins_is_queued_again(project, slurm):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    project.write(**{'"--epochs 2"': '"--epochs 2 --killed"'})
    done = slurm("study.sbatch", project.config, **array)
    assert done.stdout.endswith("scontrol requeue 8_1\n")


def test_a_task_that_is_not_to_be_queued_again_is_not(project, slurm):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8", "REQUEUE": "0"}
    for flag, status in (("--ask_to_stop", 75), ("--killed", 143)):
        project.write(**{'"--epochs 2"': f'"--epochs 2 {flag}"'})
        done = slurm("study.sbatch", project.config, check=status, **array)
        assert "scontrol" not in done.stdout
        last = done.stderr.splitlines()[-1]
        assert last == "stopped by a signal, and not queued again because of --no-requeue"
        shutil.rmtree(project.out, ignore_errors=True)


def test_a_job_that_is_no_array_is_one_line(project, slurm):
    done = slurm("study.sbatch", project.config, check=2)
    assert done.stderr == (
        f"error: no --array; bash script/study.sh {project.config} --slurm prints the sbatch "
        "commands\n"
    )


def test_a_job_finds_the_project_by_what_slurm_or_its_environment_says(project, slurm):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    lost = slurm("study.sbatch", project.config, check=2, BATCH_FILE="/elsewhere/x.sbatch", **array)
    assert lost.stderr == (
        f"error: {project.folder}/tools is not the project's folder; name it: export "
        "DOUBLE_WIN_ROOT=FOLDER\n"
    )
    for where in (
        {"DOUBLE_WIN_ROOT": str(project.folder)},
        {"SLURM_SUBMIT_DIR": str(project.folder)},
    ):
        slurm("study.sbatch", project.config, BATCH_FILE="", **where, **array)
    assert project.names("end") == ["imp/std"]


def submitted(project, tools, *flags, **variables):
    """What the printed commands give to sbatch, as lists of words."""
    record = project.folder / "submitted"
    record.unlink(missing_ok=True)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SUBMITTED": str(record), **variables}
    script = project.run("--slurm", *flags, **environment).stdout
    subprocess.run(["bash"], input=script, text=True, check=True, cwd=tools,
                   env={**project.environment(), **environment})  # fmt: skip
    return [line.split() for line in record.read_text().splitlines()] if record.exists() else []


def tasks(array):
    """[run's number] of a job that was submitted."""
    spec = next(word for word in array if word.startswith("--array=")).removeprefix("--array=")
    offset = int(next(w for w in array if "OFFSET" in w).removeprefix("--export=ALL,OFFSET="))
    ranges = [tuple(map(int, part.split("-"))) for part in spec.split("%")[0].split(",")]
    return [n + offset for r in ranges for n in range(r[0], r[-1] + 1)]


def test_the_sbatch_commands_do_a_study_stage_by_stage(project, tools, slurm):
    project.write(**{'["std", "adv"]': '["std"]'})
    project.append('tickets = ["imp", "omp"]')
    arrays = submitted(project, tools)
    assert [tasks(array) for array in arrays] == [[1, 2], [3, 4], [5, 6, 7, 8, 9, 10]]
    batch_file = f"{project.folder}/script/slurm/study.sbatch"
    assert arrays[0][:-1] == [
        "--parsable", "--array=1-2", "--export=ALL,OFFSET=0", batch_file, str(project.config),
        "--numbers",
    ]  # fmt: skip
    for array, after in zip(arrays[1:], ("101", "101:102"), strict=True):
        assert f"--dependency=afterok:{after}" in array
        assert "--kill-on-invalid-dep=yes" in array
    for array in arrays:
        for number in tasks(array):
            task = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "8"}
            slurm("study.sbatch", *array[-3:], **task)
    assert len(project.names("end")) == 10
    assert submitted(project, tools) == []


def test_a_search_that_starts_from_anothers_weights_is_an_array_after_it(project, tools):
    project.write(**OF_STD)
    arrays = submitted(project, tools)
    assert [tasks(array) for array in arrays] == [[1], [2], [*range(3, 11)]]
    assert "--dependency=afterok:101" in arrays[1]


def test_the_sbatch_commands_of_what_is_left_and_within_slurms_limits(project, tools):
    project.run("--run", "1")
    project.run("--run", "3")
    arrays = submitted(project, tools, "-J", "2", "--out", str(project.out), MAX_ARRAY_SIZE="5")
    assert [tasks(array) for array in arrays] == [[2], [4], [5, 6, 7, 8], [9, 10]]
    assert [array[1] for array in arrays] == ["--array=2%2", "--array=4%2", "--array=1-4%2",
                                              "--array=1-2%2"]  # fmt: skip
    assert all("--dependency=afterok:101" in array for array in arrays[1:])
    assert all(array[-2:] == ["--out", str(project.out)] for array in arrays)
    (array,) = submitted(project, tools, "--only", "transfer/std")
    assert tasks(array) == [4, 5, 6]
    assert not any("--dependency" in word for word in array)
    done = project.run("--slurm", "--only", "transfer/adv", check=2)
    ticket = project.out / "imp/adv/0-ticket.safetensors"
    assert done.stderr == (
        f"error: {transfer('adv')} needs {ticket}, which is not there and which no run writes that "
        "--only takes\n"
    )


@pytest.mark.parametrize("size", ["0", "1"])
def test_a_cluster_without_arrays_is_told_of(project, tools, size):
    path = f"{tools}:/usr/bin:/bin"
    done = project.run("--slurm", check=2, PATH=path, MAX_ARRAY_SIZE=size)
    assert done.stdout == ""
    assert done.stderr.startswith("error: this cluster takes no job arrays (MaxArraySize is ")


def test_a_task_whose_number_has_come_to_be_another_runs_refuses(project, tools, slurm):
    first = submitted(project, tools)[0][-3:]
    project.append("seeds = [1, 2]\n")
    task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    done = slurm("study.sbatch", *first, check=2, **task)
    assert "has other runs or flags than when their numbers were given out" in done.stderr
    assert project.names() == []
    slurm("study.sbatch", *submitted(project, tools)[0][-3:], **task)
    assert project.names("end") == ["imp/std"]


def test_a_task_whose_flags_were_changed_since_it_was_submitted_refuses(project, tools, slurm):
    first = submitted(project, tools)[0][-3:]
    project.write(**{'"--epochs 2"': '"--epochs 2 -b 4"'})
    task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    done = slurm("study.sbatch", *first, check=2, **task)
    assert "has other runs or flags than when their numbers were given out" in done.stderr
    assert project.names() == []


def test_what_a_local_study_would_refuse_is_told_before_it_is_submitted(project):
    shutil.rmtree(project.folder / "source")
    done = project.run("--slurm")
    assert "warning: missing, here at least: DATA " in done.stderr
    assert "sbatch" in done.stdout
    project.write(**{"states = [0, 2]": "states = [0, 99]"})
    refused = project.run("--slurm", check=2)
    assert refused.stdout == ""
    assert "ends with the ticket of state 3" in refused.stderr


def test_the_papers_data_limited_study_needs_a_second_array():
    study = read_study(ROOT / "script/study/data_limited.toml", "nowhere/runs")
    lines = sbatch_script(study, study.runs, ["data_limited.toml"], None, USUAL_ARRAY_SIZE)
    assert [line.split("=")[0] for line in lines if "sbatch" in line] == [
        "searches", "transfers", "transfers_2",
    ]  # fmt: skip
    assert "--array=4-1000 --dependency=afterok:$searches " in lines[-3]
    assert "--array=1-443 --dependency=afterok:$searches " in lines[-2]
    assert "OFFSET=1000 " in lines[-2]


def test_a_list_may_be_cut_short_by_its_reader(project):
    project.config = ROOT / "script/study/data_limited.toml"
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(project.command('--list'))} | head -n 1"],
        capture_output=True, text=True, env=project.environment(), timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.startswith("1\t")


def test_a_study_that_is_stopped_before_it_runs_anything_says_so(project):
    project.write(**{'"--epochs 2"': '"--epochs 2 --slow_plan"'})
    study = project.start("--dry_run")
    assert "asking for costs" in study.stdout.readline()
    study.send_signal(signal.SIGTERM)
    text, _ = study.communicate(timeout=20)
    assert (study.returncode, text) == (128 + signal.SIGTERM, "stopped; nothing was run\n")


def test_a_study_can_be_started_from_a_folder_full_of_names_that_it_imports(project, tmp_path):
    decoys = tmp_path / "decoys"
    for name in ("study", "files", "engine", "report", "errors", "json", "runpy", "argparse"):
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text("raise SystemExit('the decoy')")
        (decoys / f"{name}.py").write_text("raise SystemExit('the decoy')")
    (decoys / "own.toml").write_text(project.config.read_text().replace(str(project.out), "runs"))
    done = subprocess.run(
        ["bash", str(project.folder / "script/study.sh"), "own.toml", "--only", "imp/std"],
        capture_output=True, text=True, env=project.environment(), cwd=decoys, timeout=60,
    )  # fmt: skip
    assert "decoy" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert (decoys / "runs/imp/std/3-ticket.safetensors").is_file()


def test_a_failed_task_fails(project, slurm):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "8"}
    project.write(CONFIG.replace('"--epochs 2"', '"--epochs 2 --fail None"'))
    done = slurm("study.sbatch", project.config, check=1, **array)
    assert "scontrol" not in done.stdout
    slurm("study.sbatch", check=2)


@pytest.mark.slow
def test_the_multinode_job_starts_the_main_under_torchrun_on_every_node(project, slurm):
    save = project.out / "imp"
    job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n[1-4]"}
    done = slurm(
        "imp_multinode.sbatch", "adv", "in it", save, "data", "--epochs", "1", "--seconds", "0",
        SLURM_GPUS_ON_NODE="1", **job,
    )  # fmt: skip
    assert "--nnodes 1 --nproc_per_node 1 --rdzv_id 123456" in done.stdout
    assert "--rdzv_endpoint localhost:23456" in done.stdout
    assert "torchrun waits 270 seconds" in done.stdout
    flags = json.loads((save / "args.json").read_text())
    assert (flags["data"], flags["mode"], flags["init"], flags["epochs"], flags["resume"]) == (
        "data", "adv", "in it", 1, True,
    )  # fmt: skip
    assert (save / "2-ticket.safetensors").exists()
    again = slurm("imp_multinode.sbatch", "adv", "", save, "data", "--ask_to_stop", **job)
    assert again.stdout.endswith("scontrol requeue 123456\n")
    # Slurm signals every process of a step; torchrun's own status would be 1.
    again = slurm(
        "imp_multinode.sbatch", "adv", "", project.out / "new", "data", "--step_killed", **job
    )
    assert again.stdout.endswith("scontrol requeue 123456\n")
    slurm("imp_multinode.sbatch", "adv", "i", "s", check=2)


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[study]", "[study"), "not TOML"),
        (("[study]", "[studies]"), "there must be study"),
        (('out = "OUT"', ""), "[study] needs out"),
        (('out = "OUT"', "out = 3"), "[study] out is 3; it must be text in quotes"),
        (("[study]", "[study]\nseed = 1"), "[study] seed is not known here; known: out, flags"),
        (('out = "OUT"', 'out = "~/runs"'), "~/runs/imp/std: ~ and $NAME are not filled in here"),
        (('data = "data"', 'data = "$DATA/x"'), "$DATA/x: ~ and $NAME are not filled in here"),
        (("[study]", "[study]\nevidence_margin = true"), "it must be points of accuracy, from"),
        (("[study]", "[study]\nevidence_margin = -1"), "[study] evidence_margin is -1; it must be"),
        (('"--epochs 2"', "'--epochs \"2'"), "[study] flags: No closing quotation"),
        (("[[pretraining]]", "[pretraining]"), ""),
        (('tag = "adv"', 'tag = "std"'), "[[pretraining]] tag 'std' is there twice"),
        (('tag = "adv"', 'tag = "a/b"'), "[pretraining] tag is 'a/b'; it must be a plain name"),
        (('mode = "adv"', 'mode = "AT"'), "[pretraining] mode is 'AT'; it must be one of std, adv"),
        (('init = "adv.pt"', 'int = "x"'), "[pretraining] int is not known here; known: tag, mode"),
        (('["std", "adv"]', '["std", "std"]'), "must be a list without repetitions"),
        (('["std", "adv"]', '"std"'), "must be a list with at least one value"),
        (("[0, 2]", "[]"), "[transfer] states is []; it must be a list with at least one value"),
        (("[0, 2]", "[0, -2]"), "[transfer] states is -2; it must be a whole number from 0"),
        (("[0, 2]", "[0, 2.5]"), "[transfer] states is 2.5; it must be a whole number"),
        (("[0, 2]", "[true]"), "[transfer] states is True; it must be a whole number"),
        (("[0, 2]", "[0]\ndata_numbers = [10]"), "data_numbers is 10; it must be a fraction above"),
        (("[0, 2]", '[0]\ntickets = ["imps"]'), "must be one of imp, omp, random, reinit"),
        (("[0, 2]", '[0]\n[transfer.flags]\nsvhn = "x"'), "[transfer.flags] svhn is not known"),
        (("[0, 2]", '[0]\nwithout = ["svhn std"]'), "[transfer] without is 'svhn std'; it must be"),
        (("[0, 2]", '[0]\nwithout = ["std"]'), "without is 'std'; it must be one of cifar10 std"),
        (('datasets = ["cifar10"]', ""), "[transfer] needs datasets"),
        (
            ('"--epochs 2"', '"--epochs 2 --seed 7"'),
            "[transfer]: flags set --seed, as the study does",
        ),
        (
            ("[0, 2]", '[0]\n[transfer.flags]\nadv = "--tag=x"'),
            "[transfer]: flags set --tag, as the",
        ),
        (("[0, 2]", '[0]\n[transfer.flags]\nall = "--data-number 0.5"'), "flags set --data_number"),
        (("[0, 2]", '[0]\n[transfer.flags]\nall = "--tickets-file=a"'), "flags set --tickets_file"),
        (("[0, 2]", '[0]\n[transfer.flags]\nall = "--ticket_file a"'), "flags set --ticket_file"),
        (("[0, 2]", "[0]\ndata_numbers = [1, 1.0]"), "must be a list without repetitions"),
        (
            ("[0, 2]", "[0]\nseeds = [9223372036854775808]"),
            "it must be a whole number from 0 to 2**63",
        ),
        (("[0, 2]", f"[{'9' * 5000}]"), "not TOML: Exceeds the limit"),
        (("[0, 2]", "[" * 100_000), ": not TOML: "),
        (('out = "OUT"', 'out = "a\\u0000b"'), "[study] out is 'a\\x00b'; it must be text that a"),
        (
            ('"--epochs 2"', '"a\\u0000b"'),
            "[study] flags is 'a\\x00b'; it must be text that a command",
        ),
        (('"--epochs 2"', '"-h"'), "[pretraining]: flags set -h, with which nothing is run"),
        (('"--epochs 2"', '"--json"'), "[pretraining]: flags set --json, with which nothing is"),
        (("[0, 2]", '[0]\n[transfer.flags]\nall = "--time-it"'), "flags set --time_it, with which"),
        (("[0, 2]", "[0]\nseeds = []"), "[transfer] seeds is []; it must be a list with at least"),
        (("[0, 2]", "[0]\ndata_numbers = []"), "[transfer] data_numbers is []; it must be a list"),
        (("[0, 2]", "[0]\ntickets = []"), "[transfer] tickets is []; it must be a list with at"),
        (('["std", "adv"]', "[]"), "[transfer] modes is []; it must be a list with at least one"),
        (('"--epochs 2"', '"--save-dir x"'), "flags set --save_dir, as the study does"),
        (('"--epochs 2"', '"-e"'), "[pretraining]: flags set -e, with which nothing is run; leave"),
        (
            ('init = "adv.pt"', 'init = "adv.pt"\nflags = "--mode std"'),
            "[pretraining]: flags set --mode, as the study does",
        ),
    ],
)
def test_a_wrong_study_is_one_line_and_status_2(change, message, project, capsys):
    project.write(CONFIG.replace(*change))
    with pytest.raises(SystemExit) as stop:
        errors.run_main(lambda: sys.exit(study_main.main([str(project.config), "--dry_run"])))
    done = capsys.readouterr()
    assert stop.value.code == 2
    assert done.out == ""
    assert done.err.startswith(f"error: {project.config}: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not project.out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-J", "0"], "argument -J/--jobs: '0' is not a whole number of at least 1"),
        (["--only", "("], "argument --only: '(' is no regular expression"),
        (["--dry"], "unrecognized arguments: --dry"),
        (["--run", "x"], "argument --run: 'x' is not"),
        (
            ["--run", "1", "--dry_run"],
            "argument --dry_run/--dry-run: not allowed with argument --run",
        ),
        (["--list", "--slurm"], "argument --slurm: not allowed with argument --list"),
        (["--time_it", "--slurm"], "--time_it goes with --dry_run"),
        (["--numbers", "0"], "--numbers goes with --run or --folder"),
        (
            ["--run", "1", "--only", "x"],
            "--only does not go with --run or --folder: N is one run of",
        ),
        (
            ["--folder", "1", "-J", "2"],
            "-J does not go with --run or --folder: N is one run of the",
        ),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(arguments, message, project):
    done = project.run(*arguments, check=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_study_is_one_line_and_status_2(project):
    project.config.unlink()
    assert project.run(check=2).stderr == (
        f"error: {project.config}: No such file or directory; give a study's TOML file\n"
    )


def test_a_study_names_its_folder(project):
    told = "[study] out (or --out) is empty; . is the current folder\n"
    assert project.run("--dry_run", "--out", "", check=2).stderr.endswith(told)


def test_a_searchs_weights_are_named_by_the_key_for_them(project):
    project.write(**{'init = "adv.pt"': 'init = "adv.pt"\nflags = "--pretrained"'})
    assert "flags set --pretrained" in project.run("--list", check=2).stderr


def test_a_studys_folder_that_is_a_file_is_one_line_and_status_2(project):
    project.out.write_text("")
    told = f"error: {project.out}: is a file; [study] out (or --out) must be a folder\n"
    assert project.run("--dry_run", check=2).stderr == told


@pytest.mark.parametrize(("name", "runs"), [("demo", 18), ("paper", 423), ("data_limited", 1443)])
def test_the_examples_are_right(name, runs, project):
    project.config = ROOT / f"script/study/{name}.toml"
    assert project.run("--list").stdout.count("\n") == runs


# --- the real mains -------------------------------------------------------------------------------

TINY = """
[study]
out = "OUT"
flags = '''-a resnet20s --width 4 --input_size 16 --augment crop --no_hflip -j 0 --threads 1 -b 64
           --device cpu'''

[[pretraining]]
tag = "std"
mode = "std"
data = "{out}/data/source"
flags = "--pretrain_epochs 1 --epochs 2 --prune_epoch 1 --lr 0.05"

[transfer]
datasets = ["folder"]
data = "{out}/data/target"
modes = ["std"]
states = [0, 2]

[transfer.flags]
all = "--epochs 1"
"""


@pytest.mark.slow
def test_a_tiny_study_of_the_real_mains_goes_on_after_an_interruption(tmp_path):
    out, config = tmp_path / "out", tmp_path / "tiny.toml"
    config.write_text(TINY.replace("OUT", str(out)))
    demo_data = [sys.executable, str(ROOT / "script/demo_data.py"), str(out / "data")]
    subprocess.run(demo_data, check=True)
    command = ["bash", str(ROOT / "script/study.sh"), str(config), "-J", "2"]
    environment = {**os.environ, "PYTHON": sys.executable}
    study = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    until = time.monotonic() + 120
    while not (out / "imp/std/1-ticket.safetensors").exists():
        assert time.monotonic() < until
        assert study.poll() is None, study.communicate()[0]
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)
    text, _ = study.communicate(timeout=90)
    assert study.returncode == 130, text
    before = {log: log.read_text().count("$ ") for log in out.rglob("log.txt")}
    begun = {log.parent for log in before}
    finished = {folder for folder in begun if (folder / "results.json").exists()}
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    logs = {log.parent: log.read_text().count("$ ") for log in out.rglob("log.txt")}
    assert len(logs) == 3
    for folder, starts in logs.items():
        assert starts == (2 if folder in begun - finished else 1), folder
    assert (out / "imp/std/3-ticket.safetensors").exists()
    assert len(list(out.rglob("results.json"))) == 2
    assert (out / "report/report.html").exists()


@pytest.mark.slow
def test_the_real_mains_accept_the_flags_of_every_kind_of_ticket(tmp_path, monkeypatch, capsys):
    config = tmp_path / "tiny.toml"
    kinds = 'states = [0, 2]\ntickets = ["imp", "omp", "random", "reinit"]\ndata_numbers = [0.1]'
    config.write_text(TINY.replace("OUT", str(tmp_path / "out")).replace("states = [0, 2]", kinds))

    def in_process(command, **_):
        printed = io.StringIO()
        main = {"main_imp_pretrain.py": main_imp_pretrain, "main_downstream.py": main_downstream}
        with contextlib.redirect_stdout(printed):
            main[Path(command[1]).name].main(command[2:])
        return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr(forecast, "subprocess", SimpleNamespace(run=in_process))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # a study's would outlive the test
    monkeypatch.setattr(study_main, "cores", lambda: 1)  # a call at a time
    only = "^imp|^omp|^random|state2-reinit"
    assert study_main.main([str(config), "--dry_run", "-J", "1", "--only", only]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"^  to do .*GPU-h  (\S+)$", told, re.M) == ["imp/std"]
    assert listed(told)[-1] == ("to do", "transfer/std/folder/std/f0.1/state2-reinit/seed1")
    assert "and 1 run of unknown cost, whose images are not counted" in told
    assert len(listed(told)) == 4
    assert not (tmp_path / "out").exists()
