"""From the runs below a folder to tables, figures and the double-win verdict; also a command.

python report_utils.py RUNS [--out DIR] [--margin POINTS]
python report_utils.py --inspect TICKET
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from errors import InputError
from report_data import (
    BESIDE,
    DEFAULT_MARGIN,
    MEASURES,
    GroupVerdict,
    RunResult,
    TicketRow,
    Verdict,
    judge,
    read_runs,
)
from report_figures import accuracy_figure, save_figure, slug, styles

__all__ = ["RunResult", "Verdict", "collect", "judge", "main", "write_report"]


def collect(runs_dir: str | Path) -> list[RunResult]:
    """Every usable `results.json` below `runs_dir`; the others get a warning line each.

    Raises InputError when nothing is usable.
    """
    results, problems = read_runs(runs_dir)
    for line in problems:
        print(f"warning: {line}", file=sys.stderr)
    return results


def run_record(run: RunResult, runs_dir: Path) -> dict[str, object]:
    """The flat row of `results.csv`."""
    pairs = {"sa_best": run.sa_best, "ra_best": run.ra_best, "last": run.last}
    return {
        **run.group._asdict(),
        "mode": run.mode,
        "ticket": run.ticket,
        "state": run.state,
        "density": run.density,
        "sparsity": round(1 - run.density, 6),
        "seed": run.seed,
        "arch": run.arch,
        **{f"{name}_{key}": value for name, pair in pairs.items()
           for key, value in pair._asdict().items()},
        "ticket_sha256": run.ticket_sha256,
        "folder": run.path.parent.relative_to(runs_dir).as_posix(),
        "command": run.command,
    }  # fmt: skip


def write_report(
    runs_dir: str | Path, out_dir: str | Path | None = None, margin: float = DEFAULT_MARGIN
) -> tuple[Verdict, list[Path]]:
    """Write the whole report into `out_dir` (`runs_dir`/report if None): the verdict, the files."""
    runs_dir = Path(runs_dir)
    results, problems = read_runs(runs_dir)
    verdict = judge(results, margin)
    verdict = Verdict(verdict.margin, verdict.groups, (*problems, *verdict.warnings))
    out = Path(out_dir) if out_dir is not None else runs_dir / "report"
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "results.csv", out / "verdict.json"]
    records = [run_record(run, runs_dir) for run in results]
    with files[0].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    files[1].write_text(json.dumps(verdict.to_json(), indent=1) + "\n", encoding="utf-8")
    look = styles(group.group.pretraining for group in verdict.groups)
    for dataset, fraction in dict.fromkeys(group.group[1:] for group in verdict.groups):
        same = [group for group in verdict.groups if group.group[1:] == (dataset, fraction)]
        stem = out / slug("accuracy", dataset, f"{100 * fraction:g}%")
        files += save_figure(accuracy_figure(same, look), stem)
    return verdict, files


# --- text ---------------------------------------------------------------------------------------


def table(group: GroupVerdict, margin: float) -> str:
    """One group as text: '+' marks a win, '-' a loss, '?' what a missing run leaves open."""
    lines = [str(group.group)]
    head = ["ticket", "sparsity %", *(m.title for m in MEASURES), "best-SA net, AT", "double win"]
    rows = [head, *(_cells(row) for row in [group.dense, *group.rows] if row is not None)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [cell.ljust(w) if i == 0 else cell.rjust(w)
                 for i, (cell, w) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  " + "  ".join(cells).rstrip())
    lines.append(f"  matches = at least the dense mean minus {rule(group, margin)}")
    lines.append(f"  {conclusion(group)}")
    return "\n".join(lines)


def _cells(row: TicketRow) -> list[str]:
    mark = {True: " +", False: " -", None: " ?"}
    dense = row.ticket == "dense"
    cells = [row.name, f"{row.sparsity:.2f}"]
    for measure in MEASURES:
        stat = row.stats[measure.name]
        sign = "  " if dense else mark[row.wins[measure.name]]
        cells.append(("missing" if stat is None else str(stat)) + sign)
    beside = [row.stats[measure.name] for measure in BESIDE]
    cells.append(" / ".join("-" if stat is None else f"{stat.mean:.2f}" for stat in beside))
    cells.append("" if dense else {True: "yes", False: "no", None: "open"}[row.double_win])
    return cells


def rule(group: GroupVerdict, margin: float) -> str:
    """What a ticket may lack on each measure, in words."""
    parts = []
    for measure in MEASURES:
        allowed = group.tolerance[measure.name]
        stat = group.dense.stats[measure.name] if group.dense else None
        if allowed is None or stat is None:
            parts.append(f"nothing known ({measure.title}: no dense run)")
        elif stat.std is None:
            parts.append(f"{margin:g} ({measure.title}: one dense seed, --margin)")
        else:
            parts.append(f"{allowed:.2f} ({measure.title}: std of {stat.n} dense seeds)")
    return ", ".join(parts)


def conclusion(group: GroupVerdict) -> str:
    """The group's verdict as one sentence."""
    best = group.sparsest
    if group.error:
        return "Not judged: there is no dense run to match."
    if best is not None:
        return f"Sparsest double-win ticket: {best.name}, sparsity {best.sparsity:.2f} %."
    if any(row.double_win is None and row.ticket == "imp" for row in group.rows):
        return "No double-win ticket so far; missing runs leave some tickets open."
    return "No double-win ticket."


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Report on the runs below a folder.")
    parser.add_argument("runs", nargs="?", help="folder with results.json files below it")
    parser.add_argument("--out", help="where the report goes (RUNS/report)")
    parser.add_argument(
        "--margin", type=float, default=DEFAULT_MARGIN, metavar="POINTS",
        help="what a ticket may lack where the dense network has one seed (%(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when a group could not be judged, 2 for wrong input."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        if args.runs is None:
            raise InputError("nothing to do: give RUNS")
        verdict, files = write_report(args.runs, args.out, args.margin)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in verdict.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for group in verdict.groups:
        print(table(group, verdict.margin), end="\n\n")
    for line in verdict.errors:
        print(f"error: {line}", file=sys.stderr)
    print("written:")
    for path in files:
        print(f"  {path}")
    return 1 if verdict.errors else 0


if __name__ == "__main__":
    sys.exit(main())
