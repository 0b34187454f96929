"""The report's tables as files: a row a run, and a row a ticket, the latter for a paper too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from files.results import DENSE, RunResult
from report.judged import MEASURES, GroupVerdict, Measure, TicketRow, Verdict
from report.runs import natural_order
from report.setting import setting_lines
from report.words import BY_EVIDENCE, BY_RULE, accuracy, not_compared, of_data

# --- results.csv ----------------------------------------------------------------------------------


def run_rows(verdict: Verdict, runs_dir: Path) -> list[dict[str, object]]:
    """The rows of `results.csv`: one for each run that is judged, in the order of their paths."""
    rows = (row for group in verdict.groups for row in group.all_rows)
    judged = [(run, row) for row in rows for run in row.runs]
    judged.sort(key=lambda pair: natural_order(pair[0].path))
    return [_run_row(run, row, runs_dir) for run, row in judged]


def _run_row(run: RunResult, row: TicketRow, runs_dir: Path) -> dict[str, object]:
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
        **run.group.further_columns(),
        "evidence": "" if row.ticket == DENSE else BY_EVIDENCE[row.double_win_evidence],
        "warnings": "; ".join(run.warnings),
    }


# --- tickets.csv ----------------------------------------------------------------------------------


def ticket_rows(verdict: Verdict) -> list[dict[str, object]]:
    """The rows of `tickets.csv`: one for each ticket and each dense network; "" is unknown.

    The columns of a measure begin with its name: mean, sd and n over seeds in percent; the
    difference to the dense network in points, its 95 % interval and what that covers; whether it
    matches by the rule, and what the evidence says.
    """
    return [_ticket_row(group, row) for group in verdict.groups for row in group.all_rows]


def _ticket_row(group: GroupVerdict, row: TicketRow) -> dict[str, object]:
    judged = row is not group.dense
    measured: dict[str, object] = {}
    for measure in MEASURES:
        measured |= _measured(row, measure, judged)
    return {
        **row.group.columns(),
        **row.group.further_columns(),
        "ticket": row.ticket,
        "which": row.which,
        "state": row.state,
        "density": row.density,
        "sparsity": round(1 - row.density, 6),
        "seeds": " ".join(map(str, sorted({run.seed for run in row.runs}))),
        **measured,
        "double_win": BY_RULE[row.double_win] if judged else "",
        "double_win_evidence": BY_EVIDENCE[row.double_win_evidence] if judged else "",
    }


def _measured(row: TicketRow, measure: Measure, judged: bool) -> dict[str, object]:
    stat, found = row.stats[measure.name], row.differences.get(measure.name)
    low, high = found.interval() if found else (None, None)
    values = {
        "mean": stat and stat.mean,
        "sd": stat and stat.std,
        "n": stat.n if stat else 0,
        "difference": found and found.mean,
        "low": low,
        "high": high,
        "interval": found.kind if found else None,
        "rule": BY_RULE[row.wins[measure.name]] if judged else None,
        "evidence": row.evidence[measure.name] if judged else None,
    }
    rounded = (round(v, 6) if isinstance(v, float) else v for v in values.values())
    return {f"{measure.name}_{key}": value for key, value in zip(values, rounded, strict=True)}


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


# --- tickets.tex ----------------------------------------------------------------------------------

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def latex_table(verdict: Verdict) -> str:
    """Lay every ticket out as a `tabular` for LaTeX with `booktabs` and T1 fonts.

    Comments before it say what it was measured on; names are escaped.
    """
    heads = ["pre-training", "ticket", "sparsity (\\%)", *(m.title for m in MEASURES), "seeds"]
    lines = [
        "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.",
        "% Mean and standard deviation over seeds, in percent; the number of seeds, of each",
        "% measure where they differ; double wins by the rule and with evidence.",
        *(f"% {line}" for line in (*_of_settings(verdict), *_of_groups(verdict))),
        "\\begin{tabular}{llrrrrrll}",
        "\\toprule",
        " & ".join([*heads, "double win", "evidence"]) + " \\\\",
    ]
    for place in dict.fromkeys(group.group.place for group in verdict.groups):
        lines += ["\\midrule", f"\\multicolumn{{9}}{{l}}{{{escaped(of_data(*place))}}} \\\\"]
        for group in verdict.groups:
            if group.group.place == place:
                lines += ["\\midrule", *(_latex_row(group, row) for row in group.all_rows)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _of_settings(verdict: Verdict) -> Iterator[str]:
    for setting in verdict.settings:
        yield f"{of_data(*setting.place)}:"
        yield from (f"  {' '.join(line.split())}" for line in setting_lines(setting))


def _of_groups(verdict: Verdict) -> Iterator[str]:
    for group in verdict.groups:
        if said := not_compared(group):
            yield " ".join(f"{group.group}: {said}".split())


def _latex_row(group: GroupVerdict, row: TicketRow) -> str:
    judged = row is not group.dense
    cells = [escaped(group.group.name), escaped(row.name), f"{row.sparsity:.2f}"]
    for measure in MEASURES:
        shown = "--" if row.stats[measure.name] is None else accuracy(group, row, measure.name)
        cells.append(shown.replace("±", "$\\pm$"))
    seeds = [str(stat.n if stat else 0) for stat in (row.stats[m.name] for m in MEASURES)]
    cells.append(seeds[0] if len(set(seeds)) == 1 else " / ".join(seeds))
    cells.append(BY_RULE[row.double_win] if judged else "--")
    cells.append(BY_EVIDENCE[row.double_win_evidence] if judged else "--")
    return " & ".join(cells) + " \\\\"


def escaped(text: str) -> str:
    """Escape what means something to LaTeX."""
    return "".join(SPECIAL.get(char, char) for char in text)
