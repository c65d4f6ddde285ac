"""What `winnow trace` prints: the strongest and the nearest rows of the first queries, a trigger, and paths."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from rich.console import Console

from flows.tables import print_columns, print_line
from pipeline.text import words
from pipeline.trace.nearest import SAID
from pipeline.trace.strongest import DIRECTIONS
from pipeline.trace.trace import Trace

MOST_QUERIES = 10


def print_trace(console: Console, found: Trace) -> None:
    decode = found.decode
    lines: list[list[str]] = [["query", "predicted", "for", "influence", "against", "influence"]]
    firsts = _firsts(found.table, "direction", "influence")
    for query in range(min(MOST_QUERIES, len(found.queries))):
        predicted = words.label(decode(found.answers.predictions[query]))
        if found.answers.outputs.shape[1] > 1:
            predicted += f" {words.percent(float(found.answers.probabilities[query].max()), 0)}"
        line = [words.shorten(found.queries.keys[query], 40), predicted]
        for direction in DIRECTIONS:
            line += firsts.get((query, direction), ["–", ""])
        lines.append(line)
    print_columns(console, lines)
    if len(found.queries) > MOST_QUERIES:
        print_line(console, f"and {words.count(len(found.queries) - MOST_QUERIES)} more queries")
    print_line(
        console,
        "\nInfluence: predicted rise of the query's loss when the row is removed, in "
        f"{'nats' if found.answers.outputs.shape[1] > 1 else 'loss units'}"
        f"{', solved for with the true Gauss–Newton matrix' if found.refined else ''}.",
    )
    print_line(console, "")
    _print_nearest(console, found)
    for text in [*found.nearest.said(), *_trigger_lines(found)]:
        print_line(console, text)
    tables = f"table   {found.folder / 'influences.parquet'}\nnearest {found.folder / 'nearest.parquet'}"
    print_line(console, f"page    {found.page}\n{tables}")


def _print_nearest(console: Console, found: Trace) -> None:
    """The row that is most like each query, by each measure."""
    measures = list(found.nearest.agreements)
    firsts = _firsts(found.nearest.table, "measure", "similarity")
    lines = [["query", *(said for each in measures for said in (f"nearest by {SAID[each]}", "cosine"))]]
    for query in range(min(MOST_QUERIES, len(found.queries))):
        line = [words.shorten(found.queries.keys[query], 40)]
        for each in measures:
            line += firsts.get((query, each), ["–", ""])
        lines.append(line)
    print_columns(console, lines)


def _firsts(table: pa.Table, kind: str, number: str) -> dict[tuple[int, str], list[str]]:
    """(query, `kind`) → the first row's key with its label, and its `number`."""
    first = [place for place, rank in enumerate(table["rank"].to_pylist()) if rank == 1]
    return {
        (line["query"], line[kind]): [
            f"{words.shorten(line['row_key'], 40)} ({words.label(line['label'])})",
            words.number(line[number]),
        ]
        for line in table.take(first).to_pylist()
    }


def _trigger_lines(found: Trace) -> list[str]:
    if found.forensics is None:
        return []
    said = [
        f"Trigger for {words.label(facts['target'])}: {facts['description']}; pasting it flips "
        f"{words.percent(facts['flip_rate'])} of validation rows; in {words.rows(facts['rows'])} of the train set and "
        f"{words.count(len(facts['queries']))} of the queries. Carriers: {found.folder / 'carriers.parquet'}"
        for facts in found.forensics.findings
    ]
    return [*(said or ["No common trigger was found in these queries."]), *found.forensics.notes]


def as_json(found: Trace) -> dict[str, Any]:
    """The document of `--json`."""
    return {
        "page": str(found.page),
        "table": str(found.folder / "influences.parquet"),
        "nearest": str(found.folder / "nearest.parquet"),
        "queries": len(found.queries),
        "agreement": {
            measure: {"top": each.most, "share": each.mean, "by_chance": each.by_chance}
            for measure, each in found.nearest.agreements.items()
        },
        "refined": found.refined,
        "triggers": None if found.forensics is None else found.forensics.findings,
        "notes": [
            *([found.nearest.note] if found.nearest.note else []),
            *([] if found.forensics is None else found.forensics.notes),
        ],
    }
