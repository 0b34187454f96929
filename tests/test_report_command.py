"""The command, from a folder of runs to the files of the report."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.folder_cases import LATIN
from helpers.report_cases import write_grid, write_run

from errors import InputError, run_main
from files.atomic import sha256_of
from files.tickets import save_ticket
from report.__main__ import main
from report.as_json import verdict_json
from report.write import write_report

pytestmark = pytest.mark.usefixtures("skip_figures")

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = [
    "pretraining", "dataset", "data_number", "mode", "ticket", "state", "density", "sparsity",
    "seed", "arch", "sa_best_sa", "sa_best_ra", "ra_best_sa", "ra_best_ra", "last_sa", "last_ra",
    "ticket_sha256", "folder", "command", "init_sha256", "test_split", "data", "evidence",
    "warnings",
]  # fmt: skip


def status_of(*words):
    """The exit status of the command that these words make."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: sys.exit(main([str(word) for word in words])))
    return stop.value.code


def add_tickets(root, *names):
    for name in names:
        for state in range(4):
            masks = {"conv1.weight_mask": torch.arange(100) >= 20 * state}
            folder = root / f"imp_{name}"
            folder.mkdir(exist_ok=True)
            (folder / "args.json").write_text(json.dumps({"tag": name}))
            save_ticket(
                folder / f"{state}-ticket.safetensors", masks, arch="resnet18", state=state,
                density=1 - 0.2 * state, init_sha256="0",
            )  # fmt: skip


def test_the_command_writes_the_whole_report_and_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # this one draws
    write_grid(tmp_path, "adv")
    write_grid(tmp_path, "std")
    add_tickets(tmp_path, "adv", "std")
    assert main([str(tmp_path)]) == 0
    out = tmp_path / "report"
    stems = ["accuracy-cifar10-100pct", "difference-cifar10-100pct", "time-cifar10-100pct"]
    stems += ["density", "overlap"]
    expected = ["report.html", "results.csv", "tickets.csv", "tickets.tex", "verdict.json"]
    expected += [stem + end for stem in stems for end in (".png", ".svg")]
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    assert all(path.stat().st_size > 0 for path in out.iterdir())
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-len(expected) :] == [f"  {out / name}" for name in expected]
    assert (
        "Sparsest double win: 36.0 % (imp state 2) by the paper\u2019s rule, possibly"
        in printed.out
    )
    assert "minus 0.5 (SA under ST: one dense seed, --margin)" in printed.out
    assert printed.err == ""
    html = (out / "report.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 5
    assert "always is with one seed" in html
    assert "Validation accuracy against time" in html
    assert html.count('<svg class="curve"') == 16


def test_csv_has_one_flat_row_a_run(tmp_path):
    write_grid(tmp_path)
    write_report(tmp_path)
    with (tmp_path / "report" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 8
    row = next(r for r in rows if r["folder"] == "adv-2-adv")
    assert {key: row[key] for key in ("ticket", "mode", "state", "sparsity", "seed")} == {
        "ticket": "imp", "mode": "adv", "state": "2", "sparsity": "0.36", "seed": "1",
    }  # fmt: skip
    assert (row["ra_best_sa"], row["ra_best_ra"], row["sa_best_sa"]) == ("79.8", "40.0", "82.8")
    assert row["command"] == "python main.py --x 'a b'"
    standard = next(r for r in rows if r["folder"] == "adv-0-std")
    assert (standard["ticket"], standard["ra_best_ra"]) == ("dense", "")
    assert (standard["evidence"], row["evidence"]) == ("", "undecided")


def test_a_further_format_of_the_figures_can_be_asked_for(tmp_path):
    write_grid(tmp_path)
    assert main([str(tmp_path), "--format", "pdf"]) == 0
    drawn = sorted(path.suffix for path in (tmp_path / "report").glob("accuracy-*"))
    assert drawn == [".pdf", ".png", ".svg"]


@pytest.mark.parametrize(("count", "told"), [(7, False), (8, True)])
def test_a_figure_with_one_colour_for_two_pretrainings_says_what_tells_them_apart(
    tmp_path, count, told
):
    for number in range(count):
        write_run(tmp_path / str(number), epochs=2, state=0, pretraining=f"p{number}")
    write_report(tmp_path)
    page = (tmp_path / "report/report.html").read_text()
    assert ("Pre-trainings of one colour differ by their markers." in page) == told


def test_a_figure_of_an_earlier_report_is_named(tmp_path):
    write_grid(tmp_path, "adv")
    for name in ("accuracy-gone.png", "density.pdf", "mine.png", "accuracy.txt"):
        (tmp_path / name).write_bytes(b"old")
    verdict, _ = write_report(tmp_path, tmp_path)
    said = f"{tmp_path}: these figures are not of this report: accuracy-gone.png, density.pdf"
    assert said in verdict.warnings
    (tmp_path / "accuracy-gone.png").unlink()
    (tmp_path / "density.pdf").unlink()
    verdict, _ = write_report(tmp_path, tmp_path)
    assert not any("not of this report" in line for line in verdict.warnings)


def test_csv_has_no_row_of_a_copy_that_the_verdict_leaves_out(tmp_path):
    write_grid(tmp_path / "first")
    shutil.copytree(tmp_path / "first/adv-2-adv", tmp_path / "second")
    verdict, _ = write_report(tmp_path)
    assert [line for line in verdict.warnings if f"{tmp_path / 'second'}" in line]
    with (tmp_path / "report" / "results.csv").open(newline="") as stream:
        folders = [row["folder"] for row in csv.DictReader(stream)]
    assert len(folders) == 8
    assert folders == sorted(folders)
    assert "second" not in folders


def test_verdict_json_holds_rows_and_sparsest(tmp_path):
    write_grid(tmp_path)
    verdict, _ = write_report(tmp_path, tmp_path / "else" / "where", margin=0.25)
    data = json.loads((tmp_path / "else" / "where" / "verdict.json").read_text())
    assert data == json.loads(json.dumps(verdict_json(verdict)))
    assert [(row["state"], row["double_win"]) for row in data["rows"]] == [
        (1, True), (2, True), (3, False),
    ]  # fmt: skip
    assert [entry["state"] for entry in data["sparsest"]] == [2]
    assert data["margin"] == 0.25
    assert not (tmp_path / "report").exists()


def test_a_group_without_a_dense_run_is_an_error_after_the_others_are_reported(tmp_path, capsys):
    write_grid(tmp_path / "a")
    write_run(tmp_path / "b", dataset="svhn", state=4)
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "adv, svhn, 100 % of the data: no dense run" in errors[0]
    assert "Sparsest double win: 36.0 % (imp state 2)" in printed.out
    assert (tmp_path / "report" / "report.html").exists()


def test_a_bad_file_is_a_warning_in_the_terminal_and_on_the_page(tmp_path, capsys):
    write_grid(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text('{"sa_best": NaN}')
    assert main([str(tmp_path)]) == 0
    line, *_ = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'broken' / 'results.json'} is left out: it lacks")
    assert line.removeprefix("warning: ") in (tmp_path / "report" / "report.html").read_text()


def test_results_alone_are_enough_and_what_is_left_out_is_said(tmp_path):
    for state in (0, 1):
        for mode in ("std", "adv"):
            write_run(tmp_path / f"{mode}{state}", mode=mode, state=state)
    verdict, files = write_report(tmp_path)
    assert verdict.groups[0].sparsest is not None
    names = [path.name for path in files]
    assert names == [
        "report.html", "results.csv", "tickets.csv", "tickets.tex", "verdict.json",
        "accuracy-cifar10-100pct.png", "accuracy-cifar10-100pct.svg",
        "difference-cifar10-100pct.png", "difference-cifar10-100pct.svg",
    ]  # fmt: skip
    told = "\n".join(verdict.warnings)
    for part in ("4 of 4 runs have no usable metrics.jsonl", "seconds", "K-ticket.safetensors"):
        assert part in told


def test_a_damaged_ticket_is_left_out_and_said(tmp_path):
    write_grid(tmp_path)
    add_tickets(tmp_path, "adv")
    (tmp_path / "imp_adv" / "3-ticket.safetensors").write_bytes(b"damaged")
    verdict, files = write_report(tmp_path)
    assert "overlap.png" in [path.name for path in files]
    assert any("3-ticket.safetensors" in line for line in verdict.warnings)


def test_names_that_make_the_same_file_name_do_not_overwrite_each_other(tmp_path):
    for number, dataset in enumerate(("a/b", "a b", "../../..")):
        write_run(tmp_path / f"d{number}", state=0, dataset=dataset)
    _, files = write_report(tmp_path)
    assert len(set(files)) == len(files) == 11
    assert {path.parent for path in files} == {tmp_path / "report"}
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "RUNS"),
        (["RUNS", "--inspect", "x"], "either"),
        (["RUNS", "--margin", "-1"], "margin"),
        (["RUNS", "--margin", "nan"], "margin"),
        (["RUNS", "--margin", "some"], "margin"),
        (["RUNS", "--nonsense"], "nonsense"),
        (["RUNS/absent"], "no such folder"),
        (["RUNS/file"], "is a file; give the folder"),
        (["RUNS", "--out", "RUNS/file"], "folder to write to"),
        (["--inspect", "RUNS/absent"], "absent"),
        (["--inspect", "RUNS/file", "--input_size", "0"], "at least 8"),
        (["RUNS", "--input_size", "32"], "--input_size goes with --inspect"),
        (["RUNS", "--plan", "--out", "RUNS/new"], "--out has no effect beside --plan; leave it"),
        (["RUNS", "--plan", "--format", "pdf"], "--format has no effect beside --plan"),
        (["--inspect", "RUNS/file", "--out", "RUNS/new"], "--out has no effect beside --inspect"),
        (["--inspect", "RUNS/file", "--plan"], "--plan has no effect beside --inspect"),
        (["--inspect", "RUNS/file", "--margin", "2"], "--margin has no effect beside --inspect"),
    ],
)
def test_bad_usage_is_one_line_and_status_2_and_writes_nothing(tmp_path, capsys, arguments, word):
    write_grid(tmp_path)
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert status_of(*(argument.replace("RUNS", str(tmp_path)) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert word in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_usable_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        write_report(tmp_path)


def test_inspect_runs_as_a_command_from_another_folder(tmp_path):
    add_tickets(tmp_path, "adv")
    path = tmp_path / "imp_adv" / "2-ticket.safetensors"
    told = subprocess.run(
        ["bash", str(ROOT / "script/report.sh"), "--inspect", str(path)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHON": sys.executable},
    ).stdout  # fmt: skip
    assert "60 of 100 masked weights left" in told
    assert "the masks fit no network of the model zoo" in told


OWN_NAMES = ("report", "files", "errors", "torch", "json", "runpy", "runs")


def run_script(folder, *words, old_python=False):
    """Run script/report.sh from `folder`; an old Python is one that knows no PYTHONSAFEPATH."""
    python = sys.executable
    if old_python:
        wrapper = folder / "python"
        wrapper.write_text(f'#!/bin/sh\nunset PYTHONSAFEPATH\nexec "{python}" "$@"\n')
        wrapper.chmod(0o755)
        python = str(wrapper)
    return subprocess.run(
        ["bash", str(ROOT / "script/report.sh"), *words], cwd=folder,
        env={**os.environ, "PYTHON": python}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("old_python", [False, True])
def test_the_script_takes_the_callers_paths_but_never_the_callers_modules(tmp_path, old_python):
    write_run(tmp_path / "my runs" / "dense", mode="std", state=0)
    for name in OWN_NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('took the caller's {name}.py')")
    done = run_script(tmp_path, "my runs", "--out", "out here", old_python=old_python)
    assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
    verdict = json.loads((tmp_path / "out here" / "verdict.json").read_text())
    assert verdict["missing"] == ["adv, cifar10, 100 % of the data: dense, AT, seed 1"]
    assert "  out here/report.html" in done.stdout.splitlines()


def test_the_scripts_help_names_the_script_and_bad_usage_is_status_2(tmp_path):
    assert run_script(tmp_path, "--help").stdout.startswith("usage: bash script/report.sh [-h]")
    done = run_script(tmp_path, "absent")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_folder_whose_name_is_not_utf8_has_its_report(tmp_path):
    write_grid(tmp_path, "adv")
    try:
        (tmp_path / "adv-1-std").rename(tmp_path / LATIN)
    except OSError:
        pytest.skip("names are UTF-8 on this file system")
    write_report(tmp_path)
    out = tmp_path / "report"
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        assert "caf\\udce9" in [row["folder"] for row in csv.DictReader(file)]
    assert "caf\\udce9/results.json" in (out / "report.html").read_text(encoding="utf-8")


def test_a_full_disk_is_one_line_and_status_1_and_leaves_no_part_of_a_figure(
    tmp_path, capsys, monkeypatch
):
    def full(_, path):
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.undo()  # this one draws
    write_grid(tmp_path)
    monkeypatch.setattr("files.atomic.flush", full)
    assert status_of(tmp_path) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'report' / 'accuracy-cifar10-100pct.png'}: cannot")
    assert len(told.splitlines()) == 1
    assert list((tmp_path / "report").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    def refused(*_, **__):  # root may write where chmod forbids it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    write_grid(tmp_path)
    monkeypatch.setattr("files.atomic.tempfile.mkstemp", refused)
    assert status_of(tmp_path, "--out", tmp_path) == 2
    told = capsys.readouterr().err
    assert told == f"error: --out: {tmp_path}/report.html cannot be written (Permission denied)\n"


INTERRUPTED = """
import runpy, sys
import report.write

def stop(*_):
    raise KeyboardInterrupt

report.write.write_report = stop
sys.argv = ["report", "RUNS"]
runpy.run_module("report", run_name="__main__", alter_sys=True)
"""


def test_an_interrupted_report_says_so_and_has_a_status_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_terminal_that_lacks_a_sign_gets_an_escape_for_it(tmp_path):
    write_grid(tmp_path, "adv")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "report", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
    assert b"the rule\\u2019s tolerance" in done.stdout


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path):
    write_grid(tmp_path)
    command = f"bash {ROOT}/script/report.sh {tmp_path} --plan | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHON": sys.executable},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.parametrize(
    ("argv", "told"), [([""], "RUNS is empty"), (["RUNS", "--out", ""], "--out is empty")]
)
def test_an_empty_folder_name_is_not_the_current_folder(tmp_path, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path / "RUNS")
    with pytest.raises(InputError, match=told):
        main(argv)
    assert [path.name for path in tmp_path.iterdir()] == ["RUNS"]


def test_missing_runs_beyond_the_first_lines_are_counted_as_lines(tmp_path, capsys):
    for state in range(12):
        write_run(tmp_path / f"{state}", state=state, mode="std")
    main([str(tmp_path)])
    told = capsys.readouterr().out
    assert "missing:\n  adv, cifar10, 100 % of the data: dense, AT, seed 1\n" in told
    assert "  … (all 12 lines in report.html)\n" in told
    assert "<h2>What is missing</h2>" in (tmp_path / "report/report.html").read_text()


def test_a_baseline_of_other_states_takes_none_of_imps_from_the_pictures(tmp_path, monkeypatch):
    write_grid(tmp_path)
    add_tickets(tmp_path, "adv", "omp")
    for state in (1, 2):
        (tmp_path / f"imp_omp/{state}-ticket.safetensors").unlink()
    (tmp_path / "imp_omp/args.json").write_text('{"tag": "adv", "ticket": "omp"}')
    assert tickets_drawn(tmp_path, monkeypatch) == {
        "adv": ["state 1 (20.0 %)", "state 2 (40.0 %)", "state 3 (60.0 %)"],
        "adv, omp": ["state 3 (60.0 %)"],
    }


def tickets_drawn(folder, monkeypatch):
    """The tickets of each source in the figure of layer densities."""
    drawn = {}
    monkeypatch.setattr("report.pictures.density_figure", lambda found, _: drawn.update(found))
    write_report(folder)
    return {source: list(tickets) for source, tickets in drawn.items()}


def test_a_last_ticket_that_nobody_transferred_is_no_picture_of_the_others(tmp_path, monkeypatch):
    write_grid(tmp_path)
    add_tickets(tmp_path, "adv")
    for run in tmp_path.glob("adv-3-*"):
        shutil.rmtree(run)
    drawn = {"adv": ["state 1 (20.0 %)", "state 2 (40.0 %)"]}
    assert tickets_drawn(tmp_path, monkeypatch) == drawn


def test_tickets_that_nobody_transferred_are_marked_in_the_overlap(tmp_path, monkeypatch):
    add_tickets(tmp_path, "adv")
    sha256 = sha256_of(tmp_path / "imp_adv/2-ticket.safetensors")
    write_grid(tmp_path, ticket_sha256=sha256)
    named = []
    monkeypatch.setattr("report.pictures.overlap_figure", lambda names, *_: named.extend(names))
    write_report(tmp_path)
    assert named == ["adv 1*", "adv 2", "adv 3*"]


def test_what_was_measured_once_has_no_curve_against_time_and_is_named(tmp_path):
    write_grid(tmp_path)
    metrics = tmp_path / "adv-0-adv" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text(lines[0])
    verdict, files = write_report(tmp_path)
    title = "Validation accuracy against time: cifar10, 100 % of the training data"
    assert f"{title} leaves out what was measured once: adv dense under AT." in verdict.warnings
    for path in tmp_path.glob("*/metrics.jsonl"):
        path.write_text(lines[0])
    verdict, files = write_report(tmp_path)
    assert f"{title} is left out: no metrics.jsonl tells seconds of several epochs." in (
        verdict.warnings
    )
    assert not [path for path in files if path.name.startswith("time-")]
