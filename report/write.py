"""Writing a report: the verdict, the page, the table and the figures, into one folder."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import InputError
from files import names
from files.atomic import check_writable, replacing, write_json
from files.results import DENSE, RunResult
from files.study_record import read_study_records
from report.as_json import verdict_json
from report.judged import TicketRow, Verdict
from report.page import page
from report.pictures import draw_pictures
from report.recipes import read_recipes
from report.runs import natural_order, read_curve, read_runs
from report.verdict import DEFAULT_MARGIN, judge
from report.weighing import read_tested
from report.words import BY_EVIDENCE


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
    warnings = (*verdict.warnings, *notes, *omissions)
    verdict = dataclasses.replace(verdict, warnings=warnings)
    _write_text(out / names.PAGE, page(verdict, pictures, curves))
    _write_text(out / names.TABLE, _csv(_table_rows(verdict, runs_dir)))
    write_json(out / names.VERDICT, verdict_json(verdict))
    images = [path for picture in pictures for path in picture.files]
    return verdict, [out / names.PAGE, out / names.TABLE, out / names.VERDICT, *images]


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
    results, problems = read_runs(runs_dir)
    tested, unusable = read_tested(results)
    records, damaged = read_study_records(runs_dir)
    recipes = read_recipes(results)
    verdict = judge(results, margin, tested, evidence_margin, records, recipes)
    warnings = (*problems, *damaged, *unusable, *verdict.warnings)
    return Judged(results, dataclasses.replace(verdict, warnings=warnings))


def _make_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; --out must be a folder to write to") from error
    check_writable(out / names.PAGE, "--out")
    return out


def _write_text(path: Path, content: str) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(content)


# --- results.csv --------------------------------------------------------------------------------


def _table_rows(verdict: Verdict, runs_dir: Path) -> list[dict[str, object]]:
    """The rows of `results.csv`: one for each run that is judged, in the order of their paths."""
    rows = (row for group in verdict.groups for row in group.all_rows)
    judged = [(run, row) for row in rows for run in row.runs]
    judged.sort(key=lambda pair: natural_order(pair[0].path))
    return [_table_row(run, row, runs_dir) for run, row in judged]


def _table_row(run: RunResult, row: TicketRow, runs_dir: Path) -> dict[str, object]:
    """Flatten a run to its row of `results.csv`, by column; the evidence is that of its ticket."""
    networks = {"sa_best": run.sa_best, "ra_best": run.ra_best, "last": run.last}
    accuracies = {
        f"{network}_{key}": value
        for network, accuracy in networks.items()
        for key, value in accuracy._asdict().items()
    }
    return {
        **run.group.columns(),
        "mode": run.mode,
        "ticket": run.ticket,
        "state": run.state,
        "density": run.density,
        "sparsity": round(1 - run.density, 6),
        "seed": run.seed,
        "arch": run.arch,
        **accuracies,
        "ticket_sha256": run.ticket_sha256,
        "folder": run.path.parent.relative_to(runs_dir).as_posix(),
        "command": run.command,
        **run.group.hashes(),
        "evidence": "" if row.ticket == DENSE else BY_EVIDENCE[row.double_win_evidence],
        "warnings": "; ".join(run.warnings),
    }


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
