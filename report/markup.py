"""Pieces of a web page; everything that is read from files is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Cell(NamedTuple):
    """HTML to show, and the value to sort by (None: a missing one, always last)."""

    html: str
    value: str | float | None
    css: str = ""


def text(value: object) -> str:
    """Escape a value for element content and quoted attributes; None is empty."""
    return escape("" if value is None else str(value), quote=True)


def listing(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>None.</p>"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Build a table whose heads are buttons that sort it."""
    top = "".join(f'<th scope="col"><button type="button">{text(h)}</button></th>' for h in heads)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="sortable"><caption>{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    css = f' class="{cell.css}"' if cell.css else ""
    return f'<td{css} data-v="{text(cell.value)}">{cell.html}</td>'


def words(value: object) -> Cell:
    return Cell(text(value), str(value))


def number(value: float | None, shape: str = "{:.2f}") -> Cell:
    if value is None:
        return Cell("–", None, "num")
    return Cell(text(shape.format(value)), value, "num")
