"""Writing a report: the verdict, the page, the table and the figures, into one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from errors import InputError
from files import names
from files.atomic import check_writable, replacing, write_json
from files.results import RunResult
from files.study_record import read_study_records
from report.as_json import verdict_json
from report.drawing import ALWAYS, ON_REQUEST
from report.judged import Verdict
from report.page import page
from report.pictures import FIGURES, draw_pictures
from report.recipes import read_recipes
from report.runs import read_curve, read_runs
from report.tables import csv_text, latex_table, run_rows, ticket_rows
from report.verdict import DEFAULT_MARGIN, judge
from report.weighing import read_tested


def write_report(
    runs_dir: str | Path,
    out_dir: str | Path | None = None,
    margin: float = DEFAULT_MARGIN,
    evidence_margin: float | None = None,
    formats: Sequence[str] = (),
) -> tuple[Verdict, list[Path]]:
    """Judge the runs below `runs_dir` and write the whole report.

    The report goes into `out_dir`, or `runs_dir`/report without one; its figures are PNG and SVG,
    and of further `formats`. Returns the verdict and the files. Raises InputError, and writes
    nothing, when there is no usable run or no place to write; RunFailed for a full disk and the
    like.
    """
    runs_dir = Path(runs_dir)
    results, verdict = judge_runs(runs_dir, margin, evidence_margin)
    out = _make_folder(runs_dir / names.REPORT if out_dir is None else Path(out_dir))
    curves = {run.path: points for run in results if (points := read_curve(run))}
    notes = []
    if len(curves) < len(results):
        left = len(results) - len(curves)
        notes.append(f"{left} of {len(results)} runs have no usable metrics.jsonl, so no curve.")
    pictures, omissions = draw_pictures(verdict, curves, runs_dir, out, formats)
    images = [path for picture in pictures for path in picture.files]
    warnings = (*verdict.warnings, *notes, *omissions, *_of_earlier_reports(out, images))
    verdict = dataclasses.replace(verdict, warnings=warnings)
    _write_text(out / names.PAGE, page(verdict, pictures, curves))
    _write_text(out / names.TABLE, csv_text(run_rows(verdict, runs_dir)))
    _write_text(out / names.TICKETS_TABLE, csv_text(ticket_rows(verdict)))
    _write_text(out / names.TICKETS_LATEX, latex_table(verdict))
    write_json(out / names.VERDICT, verdict_json(verdict))
    texts = (names.PAGE, names.TABLE, names.TICKETS_TABLE, names.TICKETS_LATEX, names.VERDICT)
    return verdict, [*(out / name for name in texts), *images]


class Judged(NamedTuple):
    """The runs below a folder, and what is said of them."""

    results: list[RunResult]
    verdict: Verdict


def judge_runs(
    runs_dir: Path, margin: float = DEFAULT_MARGIN, evidence_margin: float | None = None
) -> Judged:
    """Read the runs below a folder and judge them; what could not be read is among the warnings.

    Without an `evidence_margin` it is the one that a group's study has fixed, if it has. Raises
    InputError when there is no usable run, or when a group's studies have fixed different margins.
    """
    found, problems = read_runs(runs_dir)
    results, tested, unusable = read_tested(found)
    if not results:
        raise InputError(f"{runs_dir}: no usable run: {unusable[0]}")
    records, damaged = read_study_records(runs_dir)
    recipes = read_recipes(results)
    verdict = judge(results, margin, tested, evidence_margin, records, recipes)
    warnings = (*problems, *damaged, *unusable, *verdict.warnings)
    return Judged(results, dataclasses.replace(verdict, warnings=warnings))


def _of_earlier_reports(out: Path, drawn: Sequence[Path]) -> list[str]:
    """A line for the figures in the folder that this report did not draw: they show other runs."""
    files = [f"{name}.{kind}" for name in FIGURES for kind in (*ALWAYS, *ON_REQUEST)]
    there = {path for pattern in files for path in out.glob(pattern)}
    left = sorted(path.name for path in there - set(drawn))
    return [f"{out}: these figures are not of this report: {', '.join(left)}"] if left else []


def _make_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; --out must be a folder to write to") from error
    check_writable(out / names.PAGE, "--out")
    return out


def _write_text(path: Path, content: str) -> None:
    """Write a file in UTF-8; what is none, as a folder's name may be, is written as escapes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace"))
