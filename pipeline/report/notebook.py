"""Displays a result in a notebook: the lines of the terminal's box, and the most suspicious rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report.pages import environment
from pipeline.report.suggestion import suggestion
from pipeline.report.summary import headline

if TYPE_CHECKING:
    from pipeline.results.result import AuditResult

ROWS = 8
COLUMNS = ("row_key", "label", "suggested_label", "suspicion", "decision")


def result_box(result: AuditResult) -> str:
    """The result as HTML without scripts; values of rows are escaped."""
    rows = [row | {"suggested_label": suggestion(row)} for row in result.flagged.slice(0, ROWS).to_pylist()]
    return (
        environment()
        .get_template("notebook.html.j2")
        .render(
            title=f"{result.summary['name']} / {result.run.run_id}",
            lines=headline(result.summary),
            columns=COLUMNS,
            rows=[[_cell(row[name]) for name in COLUMNS] for row in rows],
        )
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
