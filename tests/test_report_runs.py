"""Reading results.json and metrics.jsonl: what is used, what is refused, and what is said."""

import errno
import json
import os
from pathlib import Path

import pytest
from helpers.report_cases import result, run, sha256, write_run

from errors import InputError
from files.results import Accuracy, Group
from report.runs import natural_order, read_curve, read_runs


def test_every_results_json_below_the_folder_is_read_in_natural_order(tmp_path):
    for name in ("b/run10", "b/run9", "a/deep/er"):
        write_run(tmp_path / name, sa=81.5, ra=33.25, seed=3)
    results, problems = read_runs(tmp_path)
    folders = [r.path.parent.relative_to(tmp_path).as_posix() for r in results]
    assert folders == ["a/deep/er", "b/run9", "b/run10"]
    assert problems == []
    first = results[0]
    assert first.group == Group("adv", "cifar10", 1.0, sha256("adv"), sha256("cifar10"))
    assert (first.ticket, first.state, first.density, first.seed) == ("imp", 1, 0.8, 3)
    assert first.ra_best == Accuracy(81.5, 33.25)
    assert first.sa_best == Accuracy(84.5, 28.25)


def test_digits_of_a_name_sort_by_their_value_however_many_there_are():
    names = ["runs", f"run {'1' * 5000}", "run 0011", "run 10", "run 9"]
    assert sorted(names, key=natural_order) == names[::-1]


BAD = {
    "a list": "[1]",
    "cut off": '{"pretraining": "adv", ',
    "nested too deep": "[" * 100_000,
    "without arch": {"arch": ...},
    "without ra_best": {"ra_best": ...},
    "a pair without ra": {"last": {"sa": 3}},
    "accuracy NaN": {"sa_best": {"sa": float("nan"), "ra": 1}},
    "accuracy infinite": {"ra_best": {"sa": float("inf"), "ra": 1}},
    "accuracy above 100": {"ra_best": {"sa": 90, "ra": 100.5}},
    "accuracy below 0": {"last": {"sa": -1, "ra": 1}},
    "accuracy as text": {"sa_best": {"sa": "90", "ra": 1}},
    "no best SA": {"sa_best": {"sa": None, "ra": 1}},
    "density 0": {"density": 0},
    "density in percent": {"density": 80.0},
    "data_number 0": {"data_number": 0},
    "a mode unheard of": {"mode": "AT"},
    "a ticket unheard of": {"ticket": "magic"},
    "seed a bool": {"seed": True},
    "seed a fraction": {"seed": 1.5},
    "state negative": {"state": -1, "density": 0.5},
    "no pretraining": {"pretraining": None},
    "an empty dataset": {"dataset": " "},
    "a name that would move the cursor": {"dataset": "\x1b[2J"},
    "a hash that is none": {"init_sha256": 3},
    "a split that is none": {"test_split": ["a"]},
    "warnings that are no lines": {"warnings": {"a": 1}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_is_not_fatal(tmp_path, name):
    write_run(tmp_path / "good")
    content = BAD[name]
    if isinstance(content, dict):
        data = {key: value for key, value in {**result(), **content}.items() if value is not ...}
        content = json.dumps(data)
    bad = tmp_path / "bad" / "results.json"
    bad.parent.mkdir()
    bad.write_text(content)
    results, problems = read_runs(tmp_path)
    assert len(results) == 1
    assert len(problems) == 1
    assert str(bad) in problems[0]
    assert "\n" not in problems[0]


def test_files_that_are_not_text_or_not_files_are_named_too(tmp_path):
    write_run(tmp_path / "good")
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "results.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder" / "results.json").mkdir(parents=True)
    results, problems = read_runs(tmp_path)
    assert (len(results), len(problems)) == (1, 2)


def test_nothing_usable_is_an_input_error_of_one_line(tmp_path):
    with pytest.raises(InputError, match="no results.json"):
        read_runs(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="usable") as caught:
        read_runs(tmp_path)
    assert "lacks pretraining" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        read_runs(tmp_path / "absent")


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path):
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    write_run(runs / "z/run")
    write_run(elsewhere / "run", seed=2)
    (runs / "disk").symlink_to(elsewhere)
    (runs / "a").symlink_to(runs / "z")  # found by its own name
    (elsewhere / "back").symlink_to(runs)
    (elsewhere / "again").symlink_to(elsewhere)
    results, problems = read_runs(runs)
    folders = [r.path.parent.relative_to(runs).as_posix() for r in results]
    assert (folders, problems) == (["disk/run", "z/run"], [])


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_run(tmp_path / "good")
    closed = write_run(tmp_path / "closed").parent
    scandir = os.scandir

    def refusing(folder):  # root may read what chmod forbids
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    results, problems = read_runs(tmp_path)
    assert [r.path.parent.name for r in results] == ["good"]
    assert problems == [f"{closed} is left out, as it cannot be read: Permission denied"]


@pytest.mark.parametrize("told", ["imp", "random", "dense", None])
def test_density_1_is_the_dense_network_whatever_ticket_says(told):
    dense = run(ticket=told, density=1.0, state=None if told is None else 7)
    assert (dense.ticket, dense.state, dense.density) == ("dense", 0, 1.0)


def test_a_recorded_command_can_be_typed_again():
    assert run(command=["python", "main.py", "a b", "$x"]).command == "python main.py 'a b' '$x'"
    assert run(command="python main.py").command == "python main.py"
    assert run().command is None


# --- curves -------------------------------------------------------------------------------------


def curve(tmp_path: Path, *lines: object):
    path = write_run(tmp_path / "run")
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (path.parent / "metrics.jsonl").write_text("\n".join(texts))
    return read_curve(read_runs(tmp_path)[0][0])


def test_a_curve_is_the_validation_accuracy_by_epoch_whatever_else_was_measured(tmp_path):
    points = curve(
        tmp_path,
        {"epoch": 1, "seconds": 8.0, "val_sa": 60, "val_ra": 30, "test_sa": 1},
        {"epoch": 0, "seconds": 4.0, "val_sa": 50, "train_loss": 2},
        {"epoch": 2, "seconds": 9.0, "test_sa": 1},
    )
    assert points == [(0, 4.0, 50.0, None), (1, 8.0, 60.0, 30.0)]


def test_a_curve_survives_a_resumed_and_a_cut_off_run(tmp_path):
    points = curve(
        tmp_path,
        {"epoch": 0, "val_sa": 10},
        "[1, 2]",
        "",
        "3",
        "null",
        '{"val_sa": 30}',
        '{"epoch": "1", "val_sa": 30}',
        '{"epoch": true, "val_sa": 30}',
        '{"epoch": 2, "val_sa": NaN}',
        '{"epoch": 3, "val_sa": "high"}',
        "[" * 100_000,
        {"epoch": 0, "val_sa": 20},
        {"epoch": 1},
        '{"epoch": 1, "val_s',
    )
    assert [(p.epoch, p.sa) for p in points] == [(0, 20.0)]


def test_no_metrics_file_is_no_curve(tmp_path):
    write_run(tmp_path / "run")
    assert read_curve(read_runs(tmp_path)[0][0]) == []
