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
from pipeline.trace.nearest import SAID, Nearest
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
        rows: (title, cards) pairs.
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
    nearest: Nearest,
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
        nearest: the rows that are most like the queries.
        forensics: the result of the search for shared triggers; None without one.
        refined: whether queries were solved for with the true Gauss–Newton matrix.
    """
    data = run_data(run.path)
    count = min(len(asked.keys), MOST_QUERIES)
    lines, near = (_first_lines(each, count) for each in (table, nearest.table))
    originals = read_originals({_place_of(line): None for line in lines + near}, list(config.data.features))
    names = class_names(originals.schema, config.data.label)
    reader = ContentReader(originals, data.encoding.features, PICTURE_BYTES)
    contents = _query_contents(asked, originals, data.encoding.features, count)
    decoded = [data.encoding.decode_labels(each[:count]) for each in (answers.predictions, answers.labels)]
    classification = data.encoding.task == "classification"
    shown = []
    for query in range(count):
        mine = [line for line in lines if line["query"] == query]
        alike = [line for line in near if line["query"] == query]
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
                _groups(mine, alike, list(nearest.agreements), names, reader),
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
            agreement=nearest.said(),
            unit=data.encoding.target.unit,
            forensics=forensics,
            triggers=_shown_triggers(run, forensics, names) if forensics is not None else [],
            shown=shown,
        )
    )


def _first_lines(table: pa.Table, queries: int) -> list[dict[str, Any]]:
    """The lines that the page shows of the first queries."""
    lines = int(np.searchsorted(table["query"].to_numpy(), queries))
    return [line for line in table.slice(0, lines).to_pylist() if line["rank"] <= ROWS_SHOWN]


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


def _groups(
    mine: list[dict[str, Any]],
    alike: list[dict[str, Any]],
    measures: Sequence[str],
    names: dict[Any, str],
    reader: ContentReader,
) -> list[tuple[str, list[Card]]]:
    """The titles and cards of a query: the strongest rows in both directions, then the nearest by every measure."""
    strongest = max((abs(line["influence"]) for line in mine + alike), default=0.0)
    groups = [
        (
            words.sentence(each),
            "cosine in the penultimate layer",
            "representation_similarity",
            [line for line in mine if line["direction"] == each],
        )
        for each in DIRECTIONS
    ] + [
        (
            f"Nearest by {SAID[each]}",
            f"cosine of {SAID[each]}",
            "similarity",
            [line for line in alike if line["measure"] == each],
        )
        for each in measures
    ]
    return [
        (title, [_card(line, strongest, line[similarity], said, names, reader) for line in lines])
        for title, said, similarity, lines in groups
    ]


def _card(
    line: dict[str, Any],
    strongest: float,
    similarity: float,
    alike: str,
    names: dict[Any, str],
    reader: ContentReader,
) -> Card:
    """The card of a train row.

    Args:
        line: of a table.
        strongest: the largest absolute influence on the query.
        similarity: of the row and the query.
        alike: what the similarity is.
        names: of classes.
        reader: of contents.
    """
    place, influence = _place_of(line), line["influence"]
    said = f"predicted change of the query’s loss on removal: {words.number(influence)}"
    bars = [
        Bar("influence", abs(influence) / (strongest or 1.0), words.number(influence), said),
        Bar("similarity", max(0.0, similarity), f"{similarity:.2f}", alike),
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
