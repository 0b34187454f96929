"""Runs that are killed, stopped, or run out of disk, and go on as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.hostile_cases import flip, headers
from helpers.main_cases import (
    HERE,
    TINY,
    assert_same_run,
    contents,
    load,
    metrics,
    names,
    read_json,
    replace,
    skip_pictures,
    steady,
    write_images,
)
from helpers.process_cases import MAINS, Process

import attack_utils
import dataset
import errors
import main_downstream
import main_imp_pretrain
import pruning_utils
from engine import steps, training
from engine.training import StopSignals
from errors import InputError, RunFailed
from files import checkpoints, imp_run, transfer_run
from files.atomic import write_json
from files.checkpoints import save_checkpoint
from files.names import previous
from input_pipeline import loader, workers
from models import build_model

pytestmark = pytest.mark.slow

ATTACK = ["--train_step", "1"]
STATES = ["--epochs", "6", "--prune_epoch", "2", "--save_every_steps", "1", *ATTACK]
EPOCHS = ["--epochs", "4", "--eval_from", "0", "--save_every_steps", "1", "--test_step", "2"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


def imp(root: Path, save: Path, *flags: str) -> list[str]:
    init = ["--init", str(root / "init.pth.tar"), "--save_dir", str(save)]
    return [str(root / "data"), *TINY, *HERE, *STATES, *init, *flags]


def transfer(root: Path, save: Path, *flags: str) -> list[str]:
    data = ["--dataset", "folder", "--data", str(root / "data"), "--save_dir", str(save)]
    ticket = ["--tickets_file", str(root / "imp" / "2-ticket.safetensors")]
    init = ["--init", str(root / "imp" / "init.pth.tar"), "--eval_batch_size", "4"]
    return [*data, *TINY, *steady(flags), *HERE, *EPOCHS, *ATTACK, *init, *ticket, *flags]


GROUP_SIGNALS = 3  # each kind once
TASKS = {"imp": imp, "transfer": transfer}
FILES = {"imp": imp_run, "transfer": transfer_run}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Both runs undisturbed, and how many batches each trained on or evaluated."""
    root = tmp_path_factory.mktemp("whole")
    write_images(root / "data")
    model = build_model("resnet20s", 3, *dataset.mean_std("imagenet"), "cifar", 4)
    save_checkpoint(root / "init.pth.tar", model.state_dict())
    batches = {}
    for task, make in TASKS.items():
        process = Process(task, make(root, root / task))
        batches[task] = process.wait()
        assert process.end() == 0, process.output
    return SimpleNamespace(root=root, batches=batches)


def last_file(task: str) -> str:
    return {"imp": "4-ticket.safetensors", "transfer": "results.json"}[task]


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "kills"), [("imp", 20), ("transfer", 10)])
def test_a_run_killed_at_random_moments_ends_as_the_undisturbed_one(whole, tmp_path, task, kills):
    """Kill k comes a random while after a random number of batches, before the next one is done;
    even if no batch had to be done again, those of all kills together would not finish the run."""
    moments = random.Random(task)
    start = time.monotonic()
    Process(task, [*TASKS[task](whole.root, tmp_path / "x"), "--dry_run"]).end()
    startup = time.monotonic() - start
    done, argv = 0, [*TASKS[task](whole.root, tmp_path / "run"), "--resume"]
    share = 1.4 * whole.batches[task] / kills
    for _ in range(kills):
        batches = int(moments.random() * share)
        done += batches
        assert done < whole.batches[task]
        process = Process(task, argv, batches=batches)
        assert process.wait() == batches, process.output
        time.sleep(moments.random() * (0.05 if batches else 2 * startup))
        assert process.kill(), process.output
        assert not (tmp_path / "run" / last_file(task)).exists()
    process = Process(task, argv)
    assert process.end() == 0, process.output
    assert_same_run(tmp_path / "run", whole.root / task)
    assert not list((tmp_path / "run").glob(".*.tmp"))


# --- signals --------------------------------------------------------------------------------------


def stopped(process: Process, folder: Path, number: int, group: bool = False) -> None:
    (process.signal_group if group else process.signal)(number)
    assert process.end() == 75, process.output
    name = signal.Signals(number).name
    assert (folder / "PREEMPTED").read_text() == f"{name}; go on with --resume\n"
    assert f"stopped by {name} after saving" in process.output


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_signals_stop_a_run_after_its_step_and_it_goes_on_to_the_same_bits(whole, tmp_path, task):
    """In the first epoch, in an evaluation, in a later epoch, and in what ends a run."""
    folder, done = tmp_path / "run", 0
    argv = [*TASKS[task](whole.root, folder), "--resume"]
    argv[argv.index("--save_every_steps") + 1] = "1000"  # nothing but the signal makes it save
    at = {"imp": (2, 4, 5), "transfer": (2, 5, 3)}[task]
    for number, batches in zip((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), at, strict=True):
        process = Process(task, argv, batches=batches)
        assert process.wait() == batches, process.output
        stopped(process, folder, number)
        saved = FILES[task].load_newest(newest(folder, task), pytest.fail)
        now = saved["epoch"] * 3 + saved["resume"]["step"]
        assert now >= done
        done = now
    assert 0 < done < 12
    process = Process(task, argv)
    assert process.end() == 0, process.output
    assert not (folder / "PREEMPTED").exists()
    assert_same_run(folder, whole.root / task)


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_a_signal_to_the_whole_group_leaves_loader_processes_to_their_run(whole, tmp_path, task):
    """At random moments of a run that mostly waits for its loader processes."""
    folder, moments = tmp_path / "run", random.Random(task)
    short = ["-b", "3", "--epochs", "2", "--save_every_steps", "1000"]
    undisturbed = Process(task, [*TASKS[task](whole.root, tmp_path / "whole"), *short])
    share = undisturbed.wait() / GROUP_SIGNALS
    assert undisturbed.end() == 0, undisturbed.output
    argv = [*TASKS[task](whole.root, folder), *short, "--resume", "-j", "2"]
    for call in range(GROUP_SIGNALS):
        process = Process(task, argv, before=slow_workers)
        batches = 1 + int(moments.random() * share / 2)
        assert process.wait(batches) == batches, process.output
        time.sleep(moments.random() * 0.2)
        stopped(process, folder, workers.STOP_SIGNALS[call % 3], group=True)
    process = Process(task, argv)
    assert process.end() == 0, process.output
    assert_same_run(folder, tmp_path / "whole")


def slow_workers() -> None:
    """A batch takes a loader process a fifth of a second."""
    make = loader._Batches._make

    def slow(batches, plan):
        time.sleep(0.2)
        return make(batches, plan)

    loader._Batches._make = slow  # type: ignore[method-assign]


def signal_group_at_every_start() -> None:
    """Send SIGTERM to the group right after a loader process has been forked."""
    start = multiprocessing.process.BaseProcess.start

    def starting(process):
        start(process)
        # by a stranger: a loader process does end by a SIGTERM of the run itself
        subprocess.run(["sh", "-c", f"kill -TERM -{os.getpgrp()}"], check=False)

    multiprocessing.process.BaseProcess.start = starting  # type: ignore[method-assign]


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_a_signal_while_loader_processes_start_stops_the_run_after_its_step(whole, tmp_path, task):
    argv = [*TASKS[task](whole.root, tmp_path / "run"), "--resume", "-j", "2"]
    process = Process(task, argv, before=signal_group_at_every_start)
    assert process.end() == 75, process.output
    assert load(newest(tmp_path / "run", task))["resume"]["step"] == 1
    process = Process(task, argv)
    assert process.end() == 0, process.output
    assert_same_run(tmp_path / "run", whole.root / task)


def stopped_in(monkeypatch, function, task: str, argv: list[str]) -> None:
    """Run until a SIGTERM that comes when `function` is called has stopped the run."""

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        replace(patch, function, signalled)
        with pytest.raises(SystemExit) as stop:
            MAINS[task](argv)
    assert stop.value.code == 75


@pytest.mark.parametrize("task", TASKS)
def test_a_signal_in_an_evaluation_saves_what_was_trained_before_it(
    whole, tmp_path, monkeypatch, task
):
    argv = TASKS[task](whole.root, tmp_path / "run", "--resume", "--save_every_steps", "1000")
    stopped_in(monkeypatch, steps.evaluate, task, argv)
    saved = load(newest(tmp_path / "run", task))
    assert (saved["epoch"], saved["resume"]["step"]) == (0, 3)  # all steps of the first epoch
    checkpoint = newest(tmp_path / "run", task)
    saved["resume"]["seconds"] += 1000
    save_checkpoint(checkpoint, saved)
    MAINS[task](argv)
    assert_same_run(tmp_path / "run", whole.root / task)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["seconds"] > 1000  # what the epoch took before it was stopped


@pytest.mark.parametrize("task", TASKS)
def test_a_signal_while_the_data_load_stops_the_run_after_its_first_step(
    whole, tmp_path, monkeypatch, task
):
    argv = TASKS[task](whole.root, tmp_path / "run", "--resume")
    before = signal.getsignal(signal.SIGTERM)
    stopped_in(monkeypatch, dataset.build_loaders, task, argv)
    assert (tmp_path / "run" / "PREEMPTED").exists()
    assert metrics(tmp_path / "run") == []
    assert signal.getsignal(signal.SIGTERM) == before
    MAINS[task](argv)
    assert_same_run(tmp_path / "run", whole.root / task)


def newest(folder: Path, task: str) -> Path:
    path = FILES[task].newest_checkpoint(folder)
    assert path is not None
    return path


def test_a_signal_in_the_final_pgd_test_is_heeded_and_the_test_starts_again(whole, tmp_path):
    folder = tmp_path / "run"
    argv = [*transfer(whole.root, folder), "--resume"]
    wanted = whole.batches["transfer"] - 2
    process = Process("transfer", argv, batches=wanted)
    assert process.wait() == wanted, process.output
    stopped(process, folder, signal.SIGTERM)
    assert load(folder / "checkpoint.pth.tar")["epoch"] == 4  # trained; only the test is missing
    process = Process("transfer", argv)
    assert process.end() == 0, process.output
    assert_same_run(folder, whole.root / "transfer")


def die_at_prune(call: int) -> None:
    """End the process at a prune, before it or after it, as kill -9 would."""
    original, calls = pruning_utils.prune_by_magnitude, [0]

    def dying(*args):
        calls[0] += 1
        if calls[0] == abs(call):
            if call < 0:
                original(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args)

    pruning_utils.prune_by_magnitude = dying


def die_at_first_prune() -> None:
    die_at_prune(1)


def die_after_second_prune() -> None:
    die_at_prune(-2)


@pytest.mark.parametrize("where", [die_at_first_prune, die_after_second_prune])
def test_a_run_killed_between_prune_and_rewind_goes_on(whole, tmp_path, where):
    process = Process("imp", imp(whole.root, tmp_path / "run"), before=where)
    assert process.end() == -signal.SIGKILL, process.output
    process = Process("imp", [*imp(whole.root, tmp_path / "run"), "--resume"])
    assert process.end() == 0, process.output
    assert_same_run(tmp_path / "run", whole.root / "imp")


# --- one folder, one run --------------------------------------------------------------------------


def test_a_second_run_is_refused_while_the_first_lives_and_not_after(whole, tmp_path):
    argv = [*imp(whole.root, tmp_path / "run", "--resume"), "-j", "2"]
    first = Process("imp", argv, batches=2)
    assert first.wait() == 2
    first.signal(signal.SIGSTOP)
    second = Process("imp", argv)
    assert second.end() == 2
    line = second.output.splitlines()[-1]
    assert "another run is working in it; wait, or name another folder" in line
    first.signal(signal.SIGCONT)
    assert first.kill()
    # at once, whatever the first one's loaders still do
    third = Process("imp", argv, batches=1)
    assert third.wait() == 1, third.output
    assert third.kill()


def test_a_stale_tail_of_metrics_is_cut_to_where_the_run_goes_on(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole.root / "imp", folder)
    for name in ("4-ticket.safetensors", "3-checkpoint.pth.tar", "3-checkpoint.pth.tar.previous"):
        (folder / name).unlink()
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"epoch": 3, "val_sa": 1}\n{"epoch": 9}\n[]\n7\n\xff\n{"epoch": 5, "val')
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    lines.remove(b'{"epoch": 3, "val_sa": 1}')
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
    main_imp_pretrain.main(imp(whole.root, folder, "--resume"))
    assert_same_run(folder, whole.root / "imp")
    (line,) = capsys.readouterr().err.splitlines()  # nothing about the figures
    assert line.endswith("not used: test/")


# --- damage ---------------------------------------------------------------------------------------


def cut_short(whole, folder: Path, task: str) -> Path:
    """A copy of a run without its end; gives its newest checkpoint, which has one before it."""
    shutil.copytree(whole.root / task, folder)
    (folder / last_file(task)).unlink()
    path = newest(folder, task)
    assert previous(path).is_file()
    return path


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_the_checkpoint_before_a_damaged_one_is_used_and_named(whole, tmp_path, capsys, task):
    path = cut_short(whole, tmp_path / "run", task)
    unseen = set(headers(path))  # where a change may be harmless
    place = next(at for at in range(path.stat().st_size // 3, 10**6) if at not in unseen)
    flip(path, path, place, 2)
    MAINS[task]([*TASKS[task](whole.root, tmp_path / "run"), "--resume"])
    told = capsys.readouterr().err
    assert f"warning: {path}: damaged" in told
    assert f"trying {previous(path).name}" in told
    if task == "transfer":  # whose results keep the warning
        forget_the_warning(tmp_path / "run" / "results.json", f"{path}: damaged")
    assert_same_run(tmp_path / "run", whole.root / task)


def forget_the_warning(results: Path, told: str) -> None:
    found = read_json(results)
    (line,) = found["warnings"]
    assert line.startswith(told)
    write_json(results, found | {"warnings": []})


def test_without_a_good_file_of_its_state_the_state_before_is_used(whole, tmp_path, capsys):
    path = cut_short(whole, tmp_path / "run", "imp")
    for damaged in (path, previous(path)):
        damaged.write_bytes(damaged.read_bytes()[:-7])
    main_imp_pretrain.main(imp(whole.root, tmp_path / "run", "--resume"))
    assert "trying 2-checkpoint.pth.tar" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", whole.root / "imp")


def test_without_any_good_file_the_run_is_refused_and_nothing_is_touched(whole, tmp_path, capsys):
    cut_short(whole, tmp_path / "run", "transfer")
    for damaged in (tmp_path / "run").glob("checkpoint*"):
        damaged.write_bytes(b"")
    before = contents(tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(InputError, match=r"checkpoint.pth.tar.previous is an empty file"):
        main_downstream.main(transfer(whole.root, tmp_path / "run", "--resume"))
    assert contents(tmp_path / "run") == before


# --- a full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["imp", "transfer"])
def test_a_full_disk_ends_a_run_with_a_clear_error_and_its_files_whole(whole, tmp_path, task):
    folder = tmp_path / "run"
    argv = [*TASKS[task](whole.root, folder), "--resume"]
    process = Process(task, argv, batches=3)
    assert process.wait() == 3
    stopped(process, folder, signal.SIGTERM)
    path = newest(folder, task)
    before, size = path.read_bytes(), path.stat().st_size
    for limit in (size // 2, size - 1):
        process = Process(task, argv, limit=limit)
        assert process.end() == 1, process.output
        line = process.output.splitlines()[-1]
        assert line.startswith(f"error: {folder}"), line
        assert ": cannot be written (File too large); what was there is whole" in line
        assert "Traceback" not in process.output
        assert path.read_bytes() == before
        names(folder)  # no half-written file is left
    process = Process(task, argv)
    assert process.end() == 0, process.output
    assert_same_run(folder, whole.root / task)


class Failing:
    """A file whose N-th write fails, counted from 1, as on a full disk."""

    def __init__(self, file, call: int) -> None:
        self.file, self.left = file, call

    def write(self, content):
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")
        return self.file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def failing_writes(monkeypatch, path: Path, payload: dict) -> int:
    """Fail at every write of a checkpoint in turn, then at every other call; count the failures."""
    save_checkpoint(path, {"epoch": 1})
    failures = 0
    while True:
        with monkeypatch.context() as patch:
            opened: list[Failing] = []

            def opening(name, mode, call=failures + 1, opened=opened):
                opened.append(Failing(open(name, mode), call))  # noqa: SIM115
                return opened[-1]

            patch.setattr(checkpoints, "open", opening, raising=False)
            try:
                save_checkpoint(path, payload, keep_previous=True)
                break
            except RunFailed as error:
                told = str(error)
        assert f"{path}: cannot be written (No space left on device)" in told
        failures += 1
        assert load(path) == {"epoch": 1}
        assert names(path.parent) == {path.name}
    for name in ("fsync", "link", "replace"):
        save_checkpoint(path, {"epoch": 1})
        previous(path).unlink(missing_ok=True)

        def refuse(*_):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(RunFailed, match="Input/output error"):
                save_checkpoint(path, payload, keep_previous=True)
        assert load(path) == {"epoch": 1}
        assert names(path.parent) == {path.name}
        failures += 1
    return failures


def test_a_write_that_fails_anywhere_leaves_the_file_before_whole(tmp_path, monkeypatch):
    payload = {"epoch": 2, "state_dict": {str(k): torch.ones(k) for k in range(3)}}
    assert failing_writes(monkeypatch, tmp_path / "c.pth.tar", payload) > 15


# --- while it trains ------------------------------------------------------------------------------


def spoil(monkeypatch, call: int, what: str) -> list[int]:
    """Make the loss of a training step, counted from 1, no number; or its weights.

    The list holds how many steps there were.
    """
    step, calls = steps.training_step, [0]

    def spoiled(model, *args, **rest):
        calls[0] += 1
        loss, logits = step(model, *args, **rest)
        if calls[0] == call and what == "weights":
            next(model.parameters()).data[0] = float("inf")
        return (loss * float("nan") if calls[0] == call and what == "loss" else loss), logits

    replace(monkeypatch, step, spoiled)
    return calls


def failure(main, argv, capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        errors.run_main(lambda: main(argv))
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed.splitlines()[-1]


@pytest.mark.parametrize("every", ["1", "2", "1000"])
def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(
    whole, tmp_path, monkeypatch, capsys, every
):
    folder = tmp_path / "run"
    argv = imp(whole.root, folder, "--save_every_steps", every)
    spoil(monkeypatch, 3 + 2, "loss")
    line = failure(main_imp_pretrain.main, argv, capsys)
    path = folder / "1-checkpoint.pth.tar"
    assert f"the loss is not finite in epoch 2, step 2 of 3; the last good file is {path}" in line
    saved = load(path)
    assert (saved["epoch"], saved["resume"]["step"]) == (1, 1 if every == "1" else 0)
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_the_step_is_right_in_an_epoch_that_was_resumed(whole, tmp_path, monkeypatch, capsys):
    argv = transfer(whole.root, tmp_path / "run")
    process = Process("transfer", argv, batches=1)
    assert process.wait() == 1
    stopped(process, tmp_path / "run", signal.SIGTERM)
    done = load(tmp_path / "run" / "checkpoint.pth.tar")["resume"]["step"]
    spoil(monkeypatch, 1, "loss")
    line = failure(main_downstream.main, [*argv, "--resume"], capsys)
    assert f"epoch 1, step {done + 1} of 3; the last good file is " in line


def test_a_long_epoch_does_not_go_on_for_long_once_its_loss_is_no_number(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "LOOKED_AT_EVERY", 2)
    calls = spoil(monkeypatch, 1, "loss")
    argv = imp(whole.root, tmp_path / "run", "--save_every_steps", "1000")
    assert "epoch 1, step 1 of 3" in failure(main_imp_pretrain.main, argv, capsys)
    assert calls == [2]


def test_weights_that_are_no_numbers_reach_no_checkpoint(whole, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, 1, "weights")
    line = failure(main_imp_pretrain.main, imp(whole.root, tmp_path / "run"), capsys)
    assert "the weights are not finite after epoch 1, step 1 of 3" in line
    assert "no checkpoint was written yet" in line
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_an_attack_that_leaves_its_ball_stops_the_run(whole, tmp_path, monkeypatch, capsys):
    def too_far(*_):
        return lambda images, labels: (images + 0.1).clamp(0, 1)

    replace(monkeypatch, attack_utils.make_pgd, too_far)
    line = failure(main_imp_pretrain.main, imp(whole.root, tmp_path / "run"), capsys)
    assert "attack: a perturbation of 0.1" in line
    assert "more than eps 0.0313725" in line


def lose_worker() -> None:
    """The loader process that makes the second batch of an epoch ends at once."""
    make = loader._Batches._make

    def dying(batches, plan):
        if batches.train and plan.first == 12:
            os._exit(7)
        return make(batches, plan)

    loader._Batches._make = dying  # type: ignore[method-assign]


def test_a_dead_loader_process_ends_the_run_within_seconds(whole, tmp_path):
    argv = [*imp(whole.root, tmp_path / "run"), "-j", "2"]
    start = time.monotonic()
    process = Process("imp", argv, before=lose_worker)
    assert process.end() == 1, process.output
    assert time.monotonic() - start < 60
    told = "error: a loader process died (exit status 7); if memory ran out, lower --workers"
    assert process.output.splitlines()[-1] == told
    assert "Traceback" not in process.output


class DyingAtOne:
    """The loader process that makes batch 1 ends a while after it was asked to."""

    def __getitem__(self, plan: int) -> int:
        if plan == 1:
            time.sleep(0.5)
            os._exit(7)
        return plan


def test_the_death_of_a_loader_process_is_told_where_a_batch_is_waited_for():
    batches = workers.loaded(DyingAtOne(), [0, 1, 2, 3], 2, pin_memory=False)
    assert next(batches) == 0
    time.sleep(1.5)  # it dies now; an error must not come out of here
    with pytest.raises(RunFailed, match="exit status 7"):
        list(batches)


def hang_in_worker() -> None:
    """A loader process is stuck, as one that reads from a network that is gone."""
    make = loader._Batches._make

    def stuck(batches, plan):
        while batches.train and plan.first >= 24:
            time.sleep(1)
        return make(batches, plan)

    loader._Batches._make = stuck  # type: ignore[method-assign]


def test_a_stuck_loader_process_does_not_keep_a_stopped_run_alive(whole, tmp_path):
    argv = [*imp(whole.root, tmp_path / "run"), "-j", "2", "--resume"]
    process = Process("imp", argv, before=hang_in_worker, batches=1)
    assert process.wait() == 1
    start = time.monotonic()
    process.signal_group(signal.SIGTERM)
    assert process.end() == 75, process.output
    assert time.monotonic() - start < 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(process: Process) -> list[int]:
    """The ranks that a main has spawned, in their order."""
    found = []
    for task in Path(f"/proc/{process.process.pid}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
    return sorted(pid for pid in found if b"spawn_main" in lines[pid])


def two_ranks(whole, folder: Path, *more: str) -> list[str]:
    spawn = ["--multiprocessing_distributed", "--dist_backend", "gloo"]
    url = f"tcp://127.0.0.1:{free_port()}"
    argv = imp(whole.root, folder, *spawn, "--dist_url", url, "--epochs", "200", "--resume")
    return [*argv, "--rate", "0.05", "-j", "2", *more]  # weights for a hundred states


def wait_for_file(path: Path, process: Process) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, process.output
        time.sleep(0.05)


def test_a_dead_rank_ends_the_run_within_seconds_and_a_signal_stops_all(whole, tmp_path):
    folder = tmp_path / "run"
    process = Process("imp", two_ranks(whole, folder, "--nproc", "2"))
    wait_for_file(folder / "1-checkpoint.pth.tar", process)
    recorded = json.loads((folder / "args.json").read_text())
    assert (recorded["processes"], recorded["micro_batch"]) == (2, 256)
    start = time.monotonic()
    os.kill(children(process)[1], signal.SIGKILL)
    assert process.end() == 1, process.output
    assert time.monotonic() - start < 30
    assert "error: " in process.output.splitlines()[-1]
    assert "ended by SIGKILL" in process.output or "another process" in process.output
    assert "Traceback" not in process.output
    assert " for each of 2 processes (--nproc)\n" in process.output
    # what was saved by both is taken up by both, unasked, and a signal to the first one stops them
    process = Process("imp", two_ranks(whole, folder))
    wait_for_file(folder / "3-checkpoint.pth.tar", process)
    process.signal(signal.SIGTERM)
    assert process.end() == 75, process.output
    told = "processes: 2 on this node, as the run began with (--nproc N: others)\n"
    assert told in process.output
    assert (folder / "PREEMPTED").read_text() == "SIGTERM; go on with --resume\n"
    assert len(load(newest(folder, "imp"))["resume"]["ranks"]) == 2


def test_a_second_ctrl_c_does_not_wait_for_the_step_and_a_second_sigterm_does():
    with StopSignals() as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
            assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_runs_have_the_lengths_that_the_other_tests_count_on(whole):
    assert [line["epoch"] for line in metrics(whole.root / "imp")] == list(range(6))
    assert load(whole.root / "transfer" / "checkpoint.pth.tar")["epoch"] == 4


def test_only_the_newest_state_has_a_copy_of_its_checkpoint_before(whole):
    copies = (whole.root / "imp").glob("*.previous")
    assert [path.name for path in copies] == ["3-checkpoint.pth.tar.previous"]
