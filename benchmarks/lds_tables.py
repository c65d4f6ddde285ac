"""The tables of the faithfulness benchmark: LDS by task and method beside the truth's ceiling, and slopes."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import Rows, table

QUERIES = {"margins": "single queries' margins", "validation_loss": "the mean validation loss"}
METRICS = {"lds": "LDS", "slope": "Slope of the measured on the predicted change"}
Column = tuple[str, str | None, bool]


def lds(rows: Rows) -> str:
    """A table per metric, question and truth, with a line per task and a column per method."""
    asked = dict.fromkeys(
        (row["metric"], row["query"], row["removed"], row["truth"])
        for row in rows
        if row["metric"] in METRICS
    )
    parts = []
    for metric, query, removed, truth in sorted(asked, key=list(asked).index):
        some = [
            row for row in rows if (row["query"], row["removed"], row["truth"]) == (query, removed, truth)
        ]
        title = f"{METRICS[metric]}, {QUERIES[query]}, {100 * removed:g} % of the rows removed, measured at "
        title += "the tail average:" if truth == "tail" else "the final weights:"
        parts.append(f"{title}\n\n{of_question(some, metric)}")
    return "\n\n".join(parts)


def of_question(rows: Rows, metric: str) -> str:
    """A line per method and where the query's gradient was taken, a column per task; ensembled behind a slash."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found = {(row["task"], row["metric"], *column(row)): row for row in rows}
    lines = []
    if metric == "lds":
        best = [number(found.get((task, "ceiling", "truth", None, False))) for task in tasks]
        lines.append(["ceiling of the truth", "", *best])
    for method, at, ensembled in dict.fromkeys(column(row) for row in rows if row["metric"] == metric):
        if ensembled:
            continue
        cells = []
        for task in tasks:
            one, several = (found.get((task, metric, method, at, each)) for each in (False, True))
            cells.append(number(one) + (f" / {several['value']:.2f}" if several else ""))
        lines.append([method, at or "", *cells])
    return table(["method", "query at", *tasks], lines)


def column(row: dict[str, Any]) -> Column:
    return row["method"], row.get("at"), row.get("ensembled", False)


def number(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['value']:.2f} ({row['low']:.2f} – {row['high']:.2f})"
