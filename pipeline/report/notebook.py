"""Displays a result in a notebook: the lines of the terminal's box, and the most suspicious rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.report.pages import environment
from pipeline.report.suggestion import suggestion
from pipeline.report.summary import headline

ROWS = 8
COLUMNS = ("row_key", "label", "suggested_label", "suspicion", "decision")


def result_box(summary: dict[str, Any], run_id: str, flagged: Sequence[dict[str, Any]]) -> str:
    """The result as HTML without scripts; values of rows are escaped.

    Args:
        summary: what `summary.json` says.
        run_id: the name of the run.
        flagged: rows of rows.parquet, the most suspicious first.
    """
    rows = [row | {"suggested_label": suggestion(row)} for row in flagged[:ROWS]]
    return (
        environment()
        .get_template("notebook.html.j2")
        .render(
            title=f"{summary['name']} / {run_id}",
            lines=headline(summary),
            columns=COLUMNS,
            rows=[[_cell(row[name]) for name in COLUMNS] for row in rows],
        )
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
