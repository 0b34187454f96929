"""From the runs below a folder to tables, figures and the double-win verdict; also a command.

bash script/report.sh RUNS [--out DIR] [--margin POINTS]
bash script/report.sh --inspect TICKET
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import itertools
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from errors import InputError
from files.atomic import replacing, write_json
from files.tickets import load_ticket
from report.figures import (
    accuracy_figure,
    density_figure,
    overlap_figure,
    save_figure,
    slug,
    styles,
    time_figure,
)
from report.page import Picture, page
from report.runs import Group, Point, RunResult, read_curve, read_runs
from report.tickets import find_tickets, inspect_ticket, layer_densities, overlap_matrix, pick
from report.verdict import (
    BESIDE,
    DEFAULT_MARGIN,
    MEASURES,
    GroupVerdict,
    TicketRow,
    Verdict,
    conclusion,
    judge,
    rule,
)

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
    """Write the whole report into `out_dir` (`runs_dir`/report if None): the verdict, the files.

    Raises InputError, and writes nothing, when there is no usable run or no place to write to.
    """
    runs_dir = Path(runs_dir)
    results, problems = read_runs(runs_dir)
    verdict = judge(results, margin)
    out = Path(out_dir) if out_dir is not None else runs_dir / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; --out must be a folder to write to") from error
    curves = {run.path: points for run in results if (points := read_curve(run))}
    notes: list[str] = []
    if len(curves) < len(results):
        left = len(results) - len(curves)
        notes.append(f"{left} of {len(results)} runs have no usable metrics.jsonl, so no curve.")
    pictures = [
        *_accuracy_pictures(verdict, out),
        *_time_pictures(verdict, curves, out, notes),
        *_ticket_pictures(runs_dir, out, notes),
    ]
    verdict = dataclasses.replace(verdict, warnings=(*problems, *verdict.warnings, *notes))
    files = [out / "report.html", out / "results.csv", out / "verdict.json"]
    _write(files[0], page(verdict, pictures, curves))
    _write(files[1], _csv([run_record(run, runs_dir) for run in results]))
    write_json(files[2], verdict.to_json())
    for picture in pictures:
        files += [picture.stem.with_name(picture.stem.name + end) for end in (".png", ".svg")]
    return verdict, files


def _write(path: Path, content: str) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(content)


def _csv(records: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


# --- figures ------------------------------------------------------------------------------------


def _places(verdict: Verdict) -> Iterator[tuple[str, list[GroupVerdict]]]:
    """The groups of each (dataset, data fraction), with a name that is good for a file."""
    used: set[str] = set()
    for place in dict.fromkeys(group.group[1:] for group in verdict.groups):
        name = base = slug(place[0], f"{100 * place[1]:g}%")
        for number in itertools.count(2):
            if name.lower() not in used:
                break
            name = f"{base}-{number}"
        used.add(name.lower())
        yield name, [group for group in verdict.groups if group.group[1:] == place]


def _title(group: Group) -> str:
    return f"{group.dataset}, {100 * group.data_number:g} % of the training data"


def _look(verdict: Verdict) -> dict[str, tuple[str, str]]:
    return styles(group.group.pretraining for group in verdict.groups)


def _accuracy_pictures(verdict: Verdict, out: Path) -> Iterator[Picture]:
    for name, groups in _places(verdict):
        stem = out / f"accuracy-{name}"
        save_figure(accuracy_figure(groups, _look(verdict)), stem)
        caption = (
            "Mean over seeds, bars are one standard deviation. Dashed: the dense network of the "
            "same colour. Stars: double-win tickets. Thin lines: baselines, which may leave the "
            "panel at the bottom. A gap is a missing run. Each step to the right prunes 20 % of "
            "what is left."
        )
        yield Picture(stem, f"Accuracy against sparsity: {_title(groups[0].group)}", caption)


def _time_pictures(
    verdict: Verdict, curves: Mapping[Path, Sequence[Point]], out: Path, notes: list[str]
) -> Iterator[Picture]:
    """One ticket a pre-training: the sparsest double win, else the sparsest there is."""
    for name, groups in _places(verdict):
        lines: dict[str, list[tuple[str, bool, Sequence[Point]]]] = {}
        for group in groups:
            found = [row for row in group.rows if row.ticket == "imp"]
            chosen = group.sparsest or min(found, key=lambda row: row.density, default=None)
            for row, measure in itertools.product((group.dense, chosen), MEASURES):
                runs = row.runs if row else ()
                timed = [
                    curves[run.path] for run in sorted(runs, key=lambda run: run.seed)
                    if run.mode == measure.mode
                    and any(p.seconds is not None for p in curves.get(run.path, ()))
                ]  # fmt: skip
                if timed:
                    line = (group.group.pretraining, row is group.dense, timed[0])
                    lines.setdefault(measure.name, []).append(line)
        title = f"Accuracy against training time: {_title(groups[0].group)}"
        if not lines:
            notes.append(f"{title} is left out: no metrics.jsonl tells seconds.")
            continue
        stem = out / f"time-{name}"
        save_figure(time_figure(_title(groups[0].group), lines, _look(verdict)), stem)
        caption = (
            "One seed. Solid: the sparsest double-win ticket (without one, the sparsest ticket); "
            "dashed: the dense network. Accuracy on the test set, or on the validation set where "
            "the test set is only measured at the end."
        )
        yield Picture(stem, title, caption)


def _ticket_pictures(runs_dir: Path, out: Path, notes: list[str]) -> Iterator[Picture]:
    sources = find_tickets(runs_dir)
    if not sources:
        notes.append(
            "Layer densities and mask overlap are left out: there are no K-ticket.safetensors "
            f"below {runs_dir}."
        )
        return
    shared = set.intersection(*({t.state for t in files} for files in sources.values()))
    if len(sources) > 16:
        notes.append(f"Tickets of the first 16 of {len(sources)} IMP runs are drawn.")
        sources = dict(itertools.islice(sources.items(), 16))
    names, masks = [], []
    densities: dict[str, dict[int, dict[str, float]]] = {}
    for source, files in sources.items():
        chosen = pick(shared or {t.state for t in files}, max(1, min(4, 16 // len(sources))))
        for ticket in (ticket for ticket in files if ticket.state in chosen):
            try:
                mask = load_ticket(ticket.path)
            except InputError as error:
                notes.append(f"left out: {error}")
                continue
            names.append(f"{source} {ticket.state}")
            masks.append(mask)
            densities.setdefault(source, {})[ticket.state] = layer_densities(mask)
    if not masks:
        return
    save_figure(density_figure(densities), out / "density")
    yield Picture(
        out / "density",
        "Density of each layer",
        "Weights left in each convolution, in the order of the network, for up to four tickets "
        "of each IMP run; darker is sparser.",
    )
    save_figure(overlap_figure(names, overlap_matrix(masks)), out / "overlap")
    yield Picture(
        out / "overlap",
        "Mask overlap",
        "Intersection over union of the surviving weights of two tickets, named by IMP run and "
        "state. Two random masks of density d would overlap by d / (2 - d).",
    )


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
    if group.dense:
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


# --- the command --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = _Parser(description="Report on the runs below a folder, or on one ticket.")
    parser.add_argument("runs", nargs="?", metavar="RUNS", help="folder with results.json below it")
    parser.add_argument("--out", metavar="DIR", help="where the report goes (RUNS/report)")
    parser.add_argument(
        "--margin", type=float, default=DEFAULT_MARGIN, metavar="POINTS",
        help="what a ticket may lack where the dense network has one seed (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--inspect", metavar="TICKET", help="describe this file with masks instead")
    parser.add_argument(
        "--input_size", "--input-size", type=int, metavar="PIXELS",
        help="image size that --inspect counts FLOPs for (224, or 32 for the CIFAR stem)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when a group has no dense run to match, 2 for wrong input."""
    try:
        args = build_parser().parse_args(argv)
        if (args.runs is None) == (args.inspect is None):
            raise InputError("give either RUNS, a folder, or --inspect TICKET, a file")
        if args.input_size is not None and args.input_size < 8:
            raise InputError(f"--input_size is {args.input_size}: it must be at least 8 pixels")
        if args.inspect is not None:
            print(inspect_ticket(args.inspect, args.input_size))
            return 0
        verdict, files = write_report(args.runs, args.out, args.margin)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tell(verdict, files)
    return 1 if verdict.errors else 0


def tell(verdict: Verdict, files: Sequence[Path]) -> None:
    """Print the tables, and name what is missing, what went wrong, and the files."""
    for line in verdict.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for group in verdict.groups:
        print(table(group, verdict.margin), end="\n\n")
    if verdict.missing:
        print(f"{len(verdict.missing)} missing:", *verdict.missing[:10], sep="\n  ")
        print("  … (all in report.html)" if len(verdict.missing) > 10 else "")
    sys.stdout.flush()
    for line in verdict.errors:
        print(f"error: {line}", file=sys.stderr)
    print("written:", *files, sep="\n  ")


if __name__ == "__main__":
    with contextlib.suppress(AttributeError):  # `| head` ends the command quietly; not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
