"""The tables of the faithfulness benchmark: LDS by task and method beside the truth's ceiling, and slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.markdown import Rows, table

QUERIES = {"margins": "single queries", "validation_loss": "the mean validation loss"}
METRICS = {"lds": "LDS", "slope": "Slope of the measured on the predicted change"}
WORDS = {
    "lds": "LDS",
    "slope": "slope",
    "share_of_ceiling": "LDS, share of the ceiling",
    "lds_difference": "difference of LDS",
    "harmful_change": "change without the 2 % most harmful",
}
HARMFUL = (
    "Without the 2 % most harmful rows by each method, the query at the tail average: forecast and measured change of "
    "the mean validation loss in nats, at the tail average, means over base models, intervals over seeds:"
)
TOP = (
    "Without the 1 % of the rows that help a single query most by each method, in the order of the first base model: "
    "how far the query's loss rises above its mean without a random 1 %, mean over queries, intervals over queries and "
    "random removals; last the best SOURCE method minus the best similarity, paired:"
)
# Metric, query, share removed, truth: the tables that are shown first.
CHOSEN = (
    ("lds", "validation_loss", 0.5, "final"),
    ("lds", "validation_loss", 0.5, "tail"),
    ("lds", "validation_loss", 0.1, "tail"),
    ("slope", "validation_loss", 0.1, "tail"),
    ("lds", "validation_loss", 0.1, "same_order"),
    ("lds", "validation_loss", 0.01, "same_order"),
    ("lds", "margins", 0.01, "same_order"),
    ("lds", "margins", 0.0002, "same_order"),
    ("lds", "margins", 0.5, "final"),
    ("lds", "margins", 0.5, "tail"),
)
MEASURED_AT = {
    "tail": "the tail average",
    "final": "the final weights",
    "same_order": "the mean of the last half, in the base models' own order",
}
Column = tuple[str, str | None, bool]


def lds(rows: Rows) -> str:
    """What the page shows: targets that were missed, the tables of `CHOSEN`, and removals."""
    parts, targets = [], [row for row in rows if "target" in row]
    if targets:
        missed = [row for row in targets if not row["met"]]
        parts.append(f"{len(targets) - len(missed)} of {len(targets)} targets are met. The others:")
        parts.append(of_targets(missed))
    parts += tables_of(rows, lambda *asked: asked in CHOSEN)
    return "\n\n".join([*parts, *of_removals(rows), *of_top(rows)])


def lds_whole(rows: Rows) -> str:
    """All targets; then a table per metric, question and truth, with a line per method and a column per task."""
    parts = [of_targets([row for row in rows if "target" in row])]
    parts += tables_of(rows, lambda *_: True)
    return "\n\n".join([*parts, *of_removals(rows), *of_top(rows)])


def tables_of(rows: Rows, wanted: Callable[..., bool]) -> list[str]:
    """The tables of the questions that are `wanted(metric, query, removed, truth)`."""
    plain, parts = [row for row in rows if "target" not in row], []
    asked = dict.fromkeys(
        (row["metric"], row["query"], row["removed"], row["truth"])
        for row in plain
        if row["metric"] in METRICS
    )
    for metric, query, removed, truth in filter(lambda each: wanted(*each), asked):
        some = [
            row
            for row in plain
            if "query" in row and (row["query"], row["removed"], row["truth"]) == (query, removed, truth)
        ]
        title = f"{METRICS[metric]}, {QUERIES[query]}, {100 * removed:g} % of the rows removed, measured at "
        title += f"{MEASURED_AT[truth]}:"
        parts.append(f"{title}\n\n{of_question(some, metric)}")
    return parts


def of_targets(rows: Rows) -> str:
    lines = []
    for row in rows:
        about = [f"{100 * row['removed']:g} % removed", row["truth"]]
        about = [QUERIES[row["query"]], *about] if "query" in row else about
        target = row["target"]
        numbers = " – ".join(f"{one:.2f}" for one in (target if isinstance(target, list) else [target]))
        aim = row["sense"] if row["sense"] in ("ahead", "not behind") else f"{row['sense']} {numbers}"
        verdict = "yes" if row["met"] else f"**no** ({missed_by(row):.2f})"
        lines.append([row["task"], ", ".join(about), what(row), number(row), aim, verdict])
    return table(["task", "question, truth", "what", "value", "target", "met (else missed by)"], lines)


def what(row: dict[str, Any]) -> str:
    ensembled = ", ensembled" if row.get("ensembled") else ""
    against = f" − {row['against']}" if "against" in row else ""
    return f"{row['method']} @{row['at']}{against}{ensembled}: {WORDS[row['metric']]}"


def missed_by(row: dict[str, Any]) -> float:
    """How far the value is from the target; the interval's end where that counts."""
    target = row["target"] if isinstance(row["target"], list) else [row["target"]] * 2
    value = {"ahead": row["low"], "not behind": row["high"]}.get(row["sense"], row["value"])
    return float(
        max(target[0] - value, value - target[1]) if len(set(target)) > 1 else abs(value - target[0])
    )


def of_removals(rows: Rows) -> list[str]:
    """A table with a line per task and method, where anything was removed."""
    found = {(row["task"], row["method"], row["metric"]): row for row in rows if "target" not in row}
    lines = [
        [task, method, f"{found[task, method, 'harmful_forecast']['value']:+.3f}", signed(row)]
        for (task, method, metric), row in found.items()
        if metric == "harmful_change"
    ]
    return [HARMFUL, table(["task", "method", "forecast", "measured"], lines)] if lines else []


def of_top(rows: Rows) -> list[str]:
    """A table with a line per task and method: the rise of a query's loss over random removals."""
    some = [row for row in rows if row["metric"] in ("topk_removal", "topk_difference")]
    lines = []
    for row in some:
        what = f"{row['method']} @{row['at']}" + (f" − {row['against']}" if "against" in row else "")
        lines.append([row["task"], str(row["n"]), what, signed(row)])
    return [TOP, table(["task", "queries", "method", "rise of the loss"], lines)] if lines else []


def signed(row: dict[str, Any]) -> str:
    return f"{row['value']:+.3f} ({row['low']:+.3f} – {row['high']:+.3f})"


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


def banks(rows: Rows) -> str:
    """A line per bank and question at the tail average: the ceiling, and what methods reached with one model."""
    some = [row for row in rows if row["truth"] == "tail"]
    lines = []
    for task, query in dict.fromkeys((row["task"], row["query"]) for row in some):
        found = {row["method"]: row for row in some if (row["task"], row["query"]) == (task, query)}
        size = (
            f"{found['truth']['train_rows']:,} rows, {found['truth']['n']} × {found['truth']['retrainings']}"
        )
        figures = [found.get(method) for method in BANKED]
        cells = ["–" if each is None else f"{each['value']:.2f}" for each in figures]
        best = max((name for name in found if name != "truth"), key=lambda name: found[name]["value"])
        lines.append([task, size, QUERIES[query], *cells, f"{best}: {number(found[best])}"])
    head = [
        "bank",
        "size, masks × retrainings",
        "question",
        "ceiling",
        *BANKED[1:],
        "best, with its interval",
    ]
    return table(head, lines)


BANKED = (
    "truth",
    "source @tail",
    "source_refined @tail",
    "influence @final",
    "kronfluence_default @final",
    "representation_by_label @final",
    "bm25 @final",
)
