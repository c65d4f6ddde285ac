"""Makes the page of a trace: every query with the train rows for and against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import AuditConfig
from pipeline.data.originals import Originals, Place, class_names, read_originals
from pipeline.detection.backdoor.backdoors import read_findings
from pipeline.features.encoder import Encoder
from pipeline.report.content import Content, ContentReader
from pipeline.report.evidence import Bar
from pipeline.report.gallery import Card
from pipeline.report.pages import environment
from pipeline.report.triggers import Trigger, pictures, trigger_values
from pipeline.runs.directory import RunDirectory
from pipeline.text import words
from pipeline.trace.strongest import DIRECTIONS
from pipeline.workers.worker import run_data

MOST_QUERIES = 50
ROWS_SHOWN = 6
"""The page shows so many rows for each query and direction."""
PICTURE_BYTES = 1_500_000
QUERY_PICTURE_BYTES = 500_000
NOT_JUDGED = "not judged"


class Asked(Protocol):
    """The interface of `pipeline.trace.queries.TraceQueries`."""

    @property
    def path(self) -> Any: ...

    @property
    def keys(self) -> list[str]: ...


class Said(Protocol):
    """The interface of `pipeline.trace.trace.TraceAnswers`."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def losses(self) -> np.ndarray: ...

    @property
    def given(self) -> bool: ...

    @property
    def predictions(self) -> np.ndarray: ...

    @property
    def probabilities(self) -> np.ndarray: ...


class Found(Protocol):
    """The interface of `pipeline.detection.backdoor.forensics.Forensics`."""

    @property
    def findings(self) -> list[dict[str, Any]]: ...

    @property
    def notes(self) -> list[str]: ...

    @property
    def path(self) -> Any: ...


@dataclass(frozen=True)
class ShownQuery:
    """A query on the page.

    Attributes:
        key: of the query.
        content: what is shown of it.
        predicted: the predicted label.
        probability: of the predicted label; empty for other tasks than classification.
        given: the label in the file of queries; empty without labels.
        loss: of the query.
        rows: (direction, cards) pairs.
    """

    key: str
    content: Content
    predicted: str
    probability: str
    given: str
    loss: str
    rows: list[tuple[str, list[Card]]]


def trace_page(
    run: RunDirectory,
    config: AuditConfig,
    asked: Asked,
    answers: Said,
    table: pa.Table,
    forensics: Found | None,
    refined: bool,
) -> str:
    """The page as HTML that loads nothing from elsewhere.

    Args:
        run: the run.
        config: its config.
        asked: the queries.
        answers: what the model predicts for them.
        table: influences.parquet, ordered by query, direction and rank.
        forensics: the result of the search for shared triggers; None without one.
        refined: whether queries were solved for with the true Gauss–Newton matrix.
    """
    data = run_data(run.path)
    count = min(len(asked.keys), MOST_QUERIES)
    lines = [
        line for line in table.slice(0, _lines_of(table, count)).to_pylist() if line["rank"] <= ROWS_SHOWN
    ]
    originals = read_originals({_place_of(line): None for line in lines}, list(config.data.features))
    names = class_names(originals.schema, config.data.label)
    reader = ContentReader(originals, data.encoding.features, PICTURE_BYTES)
    contents = _query_contents(asked, originals, data.encoding.features, count)
    decoded = [data.encoding.decode_labels(each[:count]) for each in (answers.predictions, answers.labels)]
    classification = data.encoding.task == "classification"
    shown = []
    for query in range(count):
        mine = [line for line in lines if line["query"] == query]
        predicted, label = (words.label(each[query].as_py(), names) for each in decoded)
        probability = answers.probabilities[query].max() if classification else None
        shown.append(
            ShownQuery(
                words.shorten(asked.keys[query], 100),
                contents[query],
                predicted,
                words.percent(probability) if probability is not None else "",
                label if answers.given else "",
                words.number(float(answers.losses[query])),
                [(words.sentence(each), _cards(mine, each, names, reader)) for each in DIRECTIONS],
            )
        )
    return (
        environment()
        .get_template("trace.html.j2")
        .render(
            title="Which rows are behind these predictions",
            name=config.name,
            run_id=run.run_id,
            file=words.shorten(asked.path.name, 100),
            queries=len(asked.keys),
            left_out=len(asked.keys) - count,
            train_rows=data.count("train"),
            given=answers.given,
            refined=refined,
            unit=data.encoding.target.unit,
            forensics=forensics,
            triggers=_shown_triggers(run, forensics, names) if forensics is not None else [],
            shown=shown,
        )
    )


def _lines_of(table: pa.Table, queries: int) -> int:
    """How many lines of the table belong to the first `queries` queries."""
    return int(np.searchsorted(table["query"].to_numpy(), queries))


def _place_of(line: dict[str, Any]) -> Place:
    return line["shard"], line["row"]


def _query_contents(asked: Asked, train: Originals, features: Sequence[Encoder], count: int) -> list[Content]:
    """What is shown of the first queries.

    Pictures are decoded with the schema of the train rows, and values count as rare if they are rare in train.
    """
    path = str(asked.path)
    own = read_originals([(path, row) for row in range(count)], [each.column for each in features])
    schema = train.schema if len(train.schema) else own.schema
    reference = train.reference if train.reference.num_rows else own.reference
    reader = ContentReader(Originals(schema, own.rows, reference), features, QUERY_PICTURE_BYTES)
    return [reader.read((path, row)) for row in range(count)]


def _cards(
    lines: list[dict[str, Any]], direction: str, names: dict[Any, str], reader: ContentReader
) -> list[Card]:
    strongest = max((abs(line["influence"]) for line in lines), default=0.0)
    return [_card(line, strongest, names, reader) for line in lines if line["direction"] == direction]


def _card(line: dict[str, Any], strongest: float, names: dict[Any, str], reader: ContentReader) -> Card:
    """The card of a train row; `strongest` is the largest absolute influence on the query."""
    place, influence, similarity = _place_of(line), line["influence"], line["representation_similarity"]
    said = f"predicted change of the query’s loss on removal: {words.number(influence)}"
    bars = [
        Bar("influence", abs(influence) / strongest, words.number(influence), said),
        Bar("similarity", max(0.0, similarity), f"{similarity:.2f}", "cosine in the penultimate layer"),
    ]
    return Card(
        key=words.shorten(line["row_key"], 100),
        place=words.shorten(f"{line['shard']}, row {line['row']:,}", 160),
        decision=line["decision"] or NOT_JUDGED,
        given=words.label(line["label"], names),
        other="",
        by="",
        probability="",
        evidence=bars,
        numbers=said,
        content=reader.read(place) if place in reader.originals.rows else None,
    )


def _shown_triggers(run: RunDirectory, found: Found, names: dict[Any, str]) -> list[tuple[Trigger, str]]:
    """The triggers of the forensics, each with the number of queries that carry it, as text."""
    shown = []
    for facts, pattern in read_findings(found.path):
        on_black, pairs = pictures(run, facts["target_class"], pattern)
        content = facts["content"]
        trigger = Trigger(
            target=words.label(facts["target"], names),
            description=facts["description"],
            rows=facts["rows"],
            values=trigger_values(facts),
            on_black=on_black,
            pairs=pairs,
            flip_rate=words.percent(facts["flip_rate"]),
            purity=words.percent(facts["purity"]),
            content=None if content is None else f"{content:.2f} ± {facts['content_error']:.2f}",
            before=None,
            after=None,
        )
        shown.append((trigger, words.count(len(facts["queries"]))))
    return shown
