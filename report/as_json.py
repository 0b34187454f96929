"""The contents of `verdict.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from report.evidence import Difference
from report.judged import Contrast, GroupVerdict, Setting, TicketRow, Verdict


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Build the contents of `verdict.json`; density and sparsity are fractions."""
    return {
        "rows": [_row_json(row, group) for group in verdict.groups for row in group.rows],
        "sparsest": _places_json(group.sparsest for group in verdict.groups),
        "margin": verdict.margin,
        "errors": list(verdict.errors),
        "warnings": list(verdict.warnings),
        "missing": list(verdict.missing),
        "sparsest_evidence": _places_json(group.sparsest_evidence for group in verdict.groups),
        "evidence_margin": verdict.evidence_margin,
        "contrasts": [_contrast_json(contrast) for contrast in verdict.contrasts],
        "setting": [_setting_json(setting) for setting in verdict.settings],
    }


def _row_json(row: TicketRow, group: GroupVerdict) -> dict[str, Any]:
    return {
        **row.group.columns(),
        "state": row.state,
        "density": row.density,
        "ticket": row.ticket,
        "wins": row.wins,
        "double_win": row.double_win,
        **row.group.further_columns(),
        "warnings": list(row.warnings),
        "difference": {
            name: None if found is None else difference_json(found)
            for name, found in row.differences.items()
        },
        "evidence": dict(row.evidence),
        "double_win_evidence": row.double_win_evidence,
        "look": group.look_at(row),
        "evidence_margin": group.evidence_margin,
        "tickets_sha256": list(row.hashes),
    }


def _places_json(rows: Iterable[TicketRow | None]) -> list[dict[str, Any]]:
    return [
        {
            **row.group.columns(),
            "state": row.state,
            "sparsity": round(1 - row.density, 6),
            **row.group.further_columns(),
        }
        for row in rows
        if row is not None
    ]


def difference_json(found: Difference) -> dict[str, Any]:
    """Lay a difference out; what is in points has six decimals."""
    mean, low, high = (None if v is None else round(v, 6) for v in (found.mean, *found.interval()))
    how = {"seeds": found.seeds, "images": found.images, "kind": found.kind}
    return {"mean": mean, "low": low, "high": high, **how}


def _contrast_json(contrast: Contrast) -> dict[str, Any]:
    sides = {
        side: {"pretraining": group.pretraining, "init_sha256": group.init_sha256}
        for side, group in (("a", contrast.a), ("b", contrast.b))
    }
    data = {key: getattr(contrast.a, key) for key in ("dataset", "data_number", "test_split")}
    at = {"state": contrast.state, "measure": contrast.measure}
    return {**data, **sides, **at, **difference_json(contrast.difference), "look": contrast.look}


def _setting_json(setting: Setting) -> dict[str, Any]:
    """Lay a setting out: what is known is a list each, of one value unless runs differ."""
    dataset, data_number = setting.place
    told = {name: list(values) for name, values in setting.told.items()}
    return {"dataset": dataset, "data_number": data_number, **told}
