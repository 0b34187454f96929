"""tickets.csv and tickets.tex: a row a ticket, with what is judged of it."""

import csv
import io
import re

import pytest
from helpers.outcome_cases import SPLIT, right, write_tested
from helpers.report_cases import sha256, ticket

from report.tables import csv_text, escaped, latex_table, ticket_rows
from report.verdict import judge
from report.write import judge_runs

HOSTILE = '\\input{x} 50% & $1_2^3$ #~<|>"'


def read(verdict):
    return list(csv.DictReader(io.StringIO(csv_text(ticket_rows(verdict)))))


def test_tickets_csv_has_a_row_a_ticket_with_the_judged_figures(tmp_path):
    for seed, st in ((1, 1790), (2, 1800), (3, 1804)):
        for state, lost in ((0, 0), (2, 9)):
            own = {"state": state, "seed": seed}
            write_tested(tmp_path / f"{state}{seed}s", right(2000, st - lost), **own)
            at = right(2000, 1600 - lost), right(2000, 800 - lost)
            write_tested(tmp_path / f"{state}{seed}a", *at, **own)
    dense, row = read(judge_runs(tmp_path, evidence_margin=1.0).verdict)
    assert (dense["ticket"], dense["st_sa_n"], dense["double_win"]) == ("dense", "3", "")
    assert dense["st_sa_difference"] == dense["st_sa_rule"] == dense["st_sa_evidence"] == ""
    told = {key: row[key] for key in ("pretraining", "ticket", "state", "sparsity", "seeds")}
    assert told == {
        "pretraining": "adv", "ticket": "imp", "state": "2", "sparsity": "0.36", "seeds": "1 2 3",
    }  # fmt: skip
    assert (row["test_split"], row["init_sha256"], row["density"][:4]) == (SPLIT, "1" * 64, "0.64")
    assert float(row["st_sa_mean"]) == pytest.approx(100 * (1798 - 9) / 2000)
    assert float(row["st_sa_sd"]) == pytest.approx(0.360555)
    assert float(row["at_ra_mean"]) == pytest.approx(39.55)
    assert float(row["at_ra_difference"]) == pytest.approx(-0.45)
    assert float(row["at_ra_low"]) < -0.45 < float(row["at_ra_high"]) < 0
    assert (row["st_sa_rule"], row["at_ra_rule"], row["double_win"]) == ("no", "no", "no")
    kinds = {row[f"{name}_interval"] for name in ("st_sa", "at_sa", "at_ra")}
    assert (kinds, row["double_win_evidence"], row["at_ra_evidence"]) == (
        {"paired"}, "yes", "matches",
    )  # fmt: skip


def test_what_is_not_known_is_empty_and_no_zero():
    runs = [run for run in ticket(0, 90, 80, 40) + ticket(1, 90, 80, 40) if run.mode == "std"]
    _, row = read(judge(runs))
    assert (row["at_sa_mean"], row["at_sa_n"], row["at_sa_difference"]) == ("", "0", "")
    assert (row["st_sa_sd"], row["st_sa_low"], row["double_win"]) == ("", "", "open")
    assert row["init_sha256"] == sha256("adv")


def table(**changes):
    runs = [run for state in (0, 1, 2) for run in ticket(state, 90, 80, 40, **changes)]
    return latex_table(judge(runs[:-1]))


def test_tickets_tex_is_a_tabular_of_equal_rows():
    text = table()
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert (lines[0], lines[-1]) == ("\\begin{tabular}{llrrrrrll}", "\\end{tabular}")
    rules = [line for line in lines if "rule" in line and "&" not in line]
    assert rules == ["\\toprule", "\\midrule", "\\midrule", "\\bottomrule"]
    rows = [line for line in lines if "&" in line]
    assert len(rows) == 4  # the heads, the dense network, two tickets
    assert {line.count("&") for line in rows} == {8}
    assert all(line.endswith(" \\\\") for line in rows)
    assert "adv & imp state 1 & 20.00 & 90.00 & 80.00 & 40.00 & 1 & yes & undecided" in text
    assert "adv & imp state 2 & 36.00 & 90.00 & -- & -- & 1 / 0 / 0 & open & undecided" in text


def test_names_cannot_break_the_table():
    text = table(pretraining=HOSTILE, dataset=HOSTILE)
    body = "".join(line for line in text.splitlines() if not line.startswith("%"))
    for word in ("textbackslash", "textasciitilde", "textasciicircum", "textless", "textbar"):
        assert f"\\{word}{{}}" in body
    plain = re.sub(r"\\[&%$#_{}]|\\\\|\$\\pm\$", "", body)
    assert not re.search(r"[%$#_~^]", plain)
    assert plain.count("{") == plain.count("}")
    assert escaped("a_b") == r"a\_b"
