"""Displays a result in a notebook: the lines of the terminal's box, and the most suspicious rows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pipeline.report.suggestion import suggestion
from pipeline.report.summary import headline

if TYPE_CHECKING:
    from pipeline.results.result import AuditResult

ROWS = 8
COLUMNS = ("row_key", "label", "suggested_label", "suspicion", "decision")


def result_box(result: AuditResult) -> str:
    """The result as HTML without scripts; values of rows are escaped."""
    lines = "<br>".join(escape(line) for line in headline(result.summary))
    title = escape(f"{result.summary['name']} / {result.run.run_id}")
    rows = result.flagged.slice(0, ROWS).to_pylist()
    rows = [row | {"suggested_label": suggestion(row)} for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(row[name]))}</td>" for name in COLUMNS) + "</tr>" for row in rows
    )
    return (
        f'<div style="border:1px solid #999;padding:8px 12px;max-width:60em"><b>{title}</b><br>{lines}</div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
