"""files/results.py: what a transfer writes into results.json is what the report reads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.report_cases import FAILED_CHECK, result

from engine.log import provenance
from files.results import (
    MODES,
    NETWORKS,
    REQUIRED,
    TICKETS,
    UNMEASURED,
    Accuracy,
    Group,
    build_results,
    parse_result,
    read_results,
    write_results,
)

ROOT = Path(__file__).resolve().parent.parent
SCORES = {"last": Accuracy(70.5, 30.0), "sa_best": Accuracy(90.0, 38.25)}
PROVENANCE = {"command": "python main.py --x 'a b'", "code": "abc", "packages": {"torch": "2"}}


def build(**changes):
    values = {
        "pretraining": "adv", "ticket": "omp", "state": 2, "density": 0.64,
        "ticket_sha256": "ab" * 32, "dataset": "svhn", "mode": "adv", "data_number": 0.1,
        "seed": 3, "arch": "resnet18", "scores": {**SCORES, "ra_best": Accuracy(88.0, 40.0)},
        "attack": None, "further": {}, "init": "adv.pt", "init_sha256": "cd" * 32,
        "test_split": "ef" * 32,
        "class_names": ("cat", "dog"), "warnings": ("look",), "provenance": PROVENANCE,
    }  # fmt: skip
    return build_results(**{**values, **changes})


@pytest.mark.parametrize("ticket", TICKETS)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_what_is_read(tmp_path, ticket, mode):
    further = {"restarts": 5, "masking_checks": FAILED_CHECK}
    write_results(tmp_path, build(ticket=ticket, mode=mode, further=further))
    run = read_results(tmp_path / "results.json")
    assert run.path == tmp_path / "results.json"
    assert run.group == Group("adv", "svhn", 0.1, "cd" * 32, "ef" * 32)
    assert run.init == "adv.pt"
    assert (run.ticket, run.state, run.density, run.ticket_sha256) == (ticket, 2, 0.64, "ab" * 32)
    assert (run.mode, run.seed, run.arch) == (mode, 3, "resnet18")
    assert (run.sa_best, run.last) == (SCORES["sa_best"], SCORES["last"])
    assert run.ra_best == Accuracy(88.0, 40.0)
    assert run.command == PROVENANCE["command"]
    failed = "gradients may be masked: more steps failed (RA 40 % to 50 %)"
    assert run.warnings == ("look", failed)


def test_the_file_of_a_standard_transfer_without_a_ticket_is_this():
    scores = {"sa_best": Accuracy(82.5, None), "last": Accuracy(81.0, None)}
    built = build(
        pretraining="", ticket="imp", state=0, density=1.0, ticket_sha256=None, mode="std",
        scores=scores, further={"restarts": 5},
    )  # fmt: skip
    expected = {
        "pretraining": "unnamed", "ticket": "imp", "state": 0, "density": 1.0,
        "ticket_sha256": None, "dataset": "svhn", "mode": "std", "data_number": 0.1, "seed": 3,
        "arch": "resnet18", "ra_best": {"sa": None, "ra": None},
        "sa_best": {"sa": 82.5, "ra": None}, "last": {"sa": 81.0, "ra": None},
        "attack": None, "init": "adv.pt", "init_sha256": "cd" * 32, "test_split": "ef" * 32,
        "class_names": ["cat", "dog"], "warnings": ["look"], "restarts": 5,
        **PROVENANCE,
    }  # fmt: skip
    assert json.dumps(built) == json.dumps(expected)  # the order of the keys too
    run = parse_result(built, Path("results.json"))
    assert (run.ticket, run.state, run.ra_best) == ("dense", 0, UNMEASURED)


def test_every_key_that_the_reader_requires_is_one_that_is_written():
    assert tuple(build())[: len(REQUIRED)] == REQUIRED
    for key in REQUIRED:
        with pytest.raises(ValueError, match=f"it lacks {key}$"):
            parse_result({k: v for k, v in build().items() if k != key}, Path("results.json"))


def test_the_manual_lists_the_keys_that_are_written_in_their_order():
    text = (ROOT / "docs" / "results.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    sometimes = ["restarts", "autoattack", "masking_checks"]
    assert [key for key in listed if key not in sometimes] == [*build(provenance=provenance())]
    assert [key for key in listed if key in sometimes] == sometimes


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_was_not_kept_is_read_as_unmeasured(network):
    data = {**result(), network: None}
    if network == "sa_best":
        with pytest.raises(ValueError, match="sa_best.sa is null"):
            parse_result(data, Path("results.json"))
    else:
        assert getattr(parse_result(data, Path("results.json")), network) == UNMEASURED


def test_a_figure_that_is_not_finite_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_results(tmp_path, build(density=float("nan")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "[" * 100_000, '{\n"sa_best": NaN\n}'])
def test_an_unreadable_file_is_one_line_of_a_value_error(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_results(path)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_of_that_name_is_no_file_and_not_waited_for(tmp_path, make):
    make(tmp_path / "results.json")
    with pytest.raises(ValueError, match="it is no file"):
        read_results(tmp_path / "results.json")


def test_results_are_read_and_written_without_pytorch():
    script = "import sys, files.results; print(*sorted({'torch', 'numpy'} & set(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout == "\n"
