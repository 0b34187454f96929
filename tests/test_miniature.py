"""results/miniature: what it says follows from the outcomes and tickets that lie beside it."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from files.atomic import sha256_of
from files.fingerprints import weights_sha256
from files.outcomes import CLEAN, PGD, Outcomes, read_outcomes, save_outcomes
from files.results import RunResult, read_results
from models import load_network
from report.write import write_report

MINIATURE = ROOT / "results" / "miniature"
PATHS = sorted((MINIATURE / "runs").rglob("results.json"))
NAMES = [path.parent.relative_to(MINIATURE / "runs" / "transfer").as_posix() for path in PATHS]


def differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Where two JSON values differ; numbers may do so by rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {*one, *other}:
            yield from differences(one.get(key), other.get(key), f"{at}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        for index, pair in enumerate(zip_longest(one, other)):
            yield from differences(*pair, f"{at}/{index}")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{at}: {one}, {other}"
    elif one != other:
        yield f"{at}: {one}, {other}"


@pytest.mark.usefixtures("skip_figures")
def test_the_verdict_and_the_tables_are_those_of_the_runs_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # warnings name files as the command was given them
    write_report("results/miniature/runs", tmp_path)
    recorded = json.loads((MINIATURE / "report" / "verdict.json").read_text())
    assert list(differences(json.loads((tmp_path / "verdict.json").read_text()), recorded)) == []
    for name in ("results.csv", "tickets.csv", "tickets.tex"):
        table = (MINIATURE / "report" / name).read_text().splitlines()
        assert (tmp_path / name).read_text().splitlines() == table
    table = (MINIATURE / "report" / "results.csv").read_text().splitlines()
    assert len(table) == 1 + len(PATHS) > 1


def test_the_readmes_tables_are_those_of_the_report(monkeypatch):
    monkeypatch.syspath_prepend(str(MINIATURE))
    tables = importlib.import_module("tables")
    text = (MINIATURE / "README.md").read_text()
    assert tables.filled(text) == text


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_accuracies_are_those_of_the_outcomes_and_of_a_ticket_that_is_here(path):
    run = read_results(path)
    outcomes = read_outcomes(path.with_name("outcomes.safetensors"))
    assert outcomes.images == 8000
    assert outcomes.split == run.group.test_split
    judged_by = {"std": "sa_best", "adv": "ra_best"}[run.mode]
    accuracy = getattr(run, judged_by)
    assert accuracy.sa == outcomes.accuracy(judged_by, CLEAN)
    if run.mode == "adv":
        assert accuracy.ra == outcomes.accuracy(judged_by, PGD)
    source = MINIATURE / "runs" / run.ticket / run.group.pretraining
    assert run.ticket_sha256 == (
        sha256_of(source / f"{run.state}-ticket.safetensors") if run.state else None
    )


@pytest.mark.parametrize("side", ["adv", "std"])
def test_the_source_accuracies_are_those_of_the_outcomes_and_of_the_weights_that_are_here(side):
    found = json.loads((MINIATURE / "source" / side / "eval.json").read_text())
    outcomes = read_outcomes(MINIATURE / "source" / side / "eval.outcomes.safetensors")
    accuracies = [outcomes.accuracy("init", measure) for measure in (CLEAN, PGD)]
    assert [found["sa"], found["ra"]] == accuracies
    epochs = (MINIATURE / "runs" / "imp" / side / "metrics.jsonl").read_text().splitlines()
    dense = [epoch for epoch in map(json.loads, epochs) if epoch["state"] == 0]
    assert found["sa"] == dense[-1]["val_sa"]
    network = load_network(str(MINIATURE / "runs" / "imp" / side / "init.pth.tar"))
    assert found["weights_sha256"] == weights_sha256(network.state_dict())
    assert "| {:.1f} / {:.1f} |".format(*accuracies) in (MINIATURE / "README.md").read_text()


def flipped(outcomes: Outcomes, measure: str, images: int) -> Outcomes:
    """The test of ra_best alone, with other outcomes for the first images."""
    bits = {key: of.copy() for key, of in outcomes.bits.items() if key[0] == "ra_best"}
    bits["ra_best", measure][:images] ^= True
    return replace(outcomes, bits=bits)


def first_half(outcomes: Outcomes) -> Outcomes:
    bits = {key: of[: outcomes.images // 2] for key, of in flipped(outcomes, PGD, 0).bits.items()}
    return replace(outcomes, bits=bits)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        (lambda run: flipped(run, CLEAN, 8), 0, "99.9000% clean, 100.0000% under PGD"),
        (lambda run: flipped(run, CLEAN, 9), 1, "99.8875% clean"),
        (lambda run: all_wrong(run, 40), 0, "-0.5000 points"),
        (lambda run: all_wrong(run, 41), 1, "-0.5125 points"),
        (lambda run: replace(run, split="others"), 1, "other images than those of the record"),
        (lambda run: run, 2, "must be the test of one network of"),
        (first_half, 2, "is not there twice, of all 8000 images"),
    ],
)
def test_the_check_compares_images_clean_outcomes_and_ra(change, status, told, tmp_path):
    (recorded, *_) = [path for path in PATHS if path.match("adv/f0.1/state0/seed1/*")]
    recorded = recorded.with_name("outcomes.safetensors")
    save_outcomes(tmp_path / "again.safetensors", change(read_outcomes(recorded)))
    command = [sys.executable, MINIATURE / "compare.py", recorded, tmp_path / "again.safetensors"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == status
    assert told in ended.stdout + ended.stderr


def all_wrong(outcomes: Outcomes, images: int) -> Outcomes:
    """The test of ra_best alone, where that many fewer images withstand PGD."""
    robust = np.flatnonzero(outcomes.bits["ra_best", PGD])[:images]
    found = flipped(outcomes, PGD, 0)
    found.bits["ra_best", PGD][robust] = False
    return found


def test_all_networks_were_tested_on_the_same_images_and_transferred_alike():
    runs = [read_results(path) for path in PATHS]
    assert len({run.group.test_split for run in runs}) == 1
    for mode in {run.mode for run in runs}:
        assert len({alike(run) for run in runs if run.mode == mode}) == 1


def alike(run: RunResult) -> str:
    """The flags of a transfer without those that tell one from another.

    Nor with what the images are, which the code of the first runs did not record yet.
    """
    args = json.loads(run.path.with_name("args.json").read_text())
    own = ("tag", "seed", "init", "init_content", "init_sha256", "tickets_file", "save_dir",
           "tickets_file_content", "command", "code", "hardware", "packages",
           "images_content", "bytes_content")  # fmt: skip
    return json.dumps({key: value for key, value in args.items() if key not in own})
