"""Chooses the flagged rows that the report shows, and makes their cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.data.encode import features_of
from pipeline.data.originals import Originals, Place, class_names, read_originals
from pipeline.report.breakdown import read_rows
from pipeline.report.content import Content, ContentReader
from pipeline.report.evidence import Bar, evidence
from pipeline.report.signals import ShownSignal
from pipeline.report.suggestion import is_likely
from pipeline.runs.directory import RunDirectory
from pipeline.text import words
from pipeline.text.reasons import BACKDOOR, precedence, reason_of

MOST_REASONS = 8
PICTURE_BYTES = 1_500_000


@dataclass(frozen=True)
class Card:
    """One row on the page.

    Attributes:
        key, place: the row key; shard and row number.
        decision: of the row.
        given: its label, for display.
        other: another label for display; empty if there is none.
        by: where `other` comes from: `suggested` or only `predicted`; `unlikely` means that the suggestion is too
            improbable to be shown.
        probability: of the suggested label; empty if unknown.
        evidence: a bar for each signal.
        numbers: the scores in a line.
        content: of the original row; None if the row can't be read any more.
    """

    key: str
    place: str
    decision: str
    given: str
    other: str
    by: str
    probability: str
    evidence: list[Bar]
    numbers: str
    content: Content | None


@dataclass(frozen=True)
class Gallery:
    """The cards of one reason: `top` has the most suspicious rows, `edge` the least suspicious of the flagged ones."""

    code: str
    title: str
    explanation: str
    rows: int
    top: list[Card]
    edge: list[Card]


@dataclass(frozen=True)
class Chosen:
    code: str
    rows: int
    top: list[str]
    edge: list[str]


def choose(flagged: pa.Table, cards: int) -> list[Chosen]:
    """Choose the rows to show for each reason; no row is chosen twice.

    Two thirds are the most suspicious rows (for backdoors, those with the highest backdoor_score). One third are the
    least suspicious ones, which show first if a threshold is too low.

    Args:
        flagged: with the columns row_key, reasons, suspicion and backdoor_score.
        cards: how many rows each reason gets at most.
    """
    flagged = flagged.combine_chunks()
    shown = np.zeros(flagged.num_rows, dtype=bool)
    of_reason = _rows_by_reason(flagged["reasons"].combine_chunks())
    chosen = []
    for code in sorted(of_reason, key=precedence)[:MOST_REASONS]:
        rows = of_reason[code]
        score = "backdoor_score" if code == BACKDOOR.code else "suspicion"
        left = flagged.select(["row_key", score]).take(pa.array(rows[~shown[rows]]))
        left = left.append_column("pressing", pc.fill_null(left[score], 0.0))
        order = pc.sort_indices(left, [("pressing", "descending"), ("row_key", "ascending")]).to_numpy()
        few = len(order) <= cards
        top = order if few else order[: cards - cards // 3]
        edge = order[:0] if few else order[len(order) - cards // 3 :]
        shown[rows[~shown[rows]][np.concatenate([top, edge])]] = True
        keys = [left["row_key"].take(pa.array(part)).to_pylist() for part in (top, edge)]
        chosen.append(Chosen(code, len(rows), *keys))
    return chosen


def _rows_by_reason(reasons: pa.ListArray) -> dict[str, np.ndarray]:
    """Reason → the places of the rows with this reason, int64."""
    rows, codes = pc.list_parent_indices(reasons), pc.list_flatten(reasons)
    return {
        code: rows.filter(pc.equal(codes, code)).to_numpy().astype(np.int64)
        for code in codes.unique().to_pylist()
    }


def galleries(
    run: RunDirectory, data: Data, signals: Sequence[ShownSignal], cards: int, pictures: bool
) -> list[Gallery]:
    """The galleries of a run, in the order of REASONS, at most MOST_REASONS of them.

    Args:
        run: the run.
        data: the section `data` of the config.
        signals: the signals that are shown as bars.
        cards: how many cards each reason gets at most.
        pictures: whether cards have pictures.
    """
    path = run / "rows.parquet"
    flagged = read_rows(path, ["row_key", "reasons", "suspicion", "backdoor_score"], flagged=True)
    chosen = choose(flagged, cards)
    keys = pa.array([key for one in chosen for key in one.top + one.edge], pa.string())
    table = pq.read_table(path, filters=pc.field("row_key").isin(keys), partitioning=None)
    rows = {row["row_key"]: row for row in table.to_pylist()}
    originals = read_originals([_place_of(row) for row in rows.values()], list(data.features))
    bars = evidence(run / "signals.parquet", signals, keys)
    names = class_names(originals.schema, data.label)
    reader = ContentReader(originals, features_of(run), PICTURE_BYTES if pictures else 0)
    made: dict[str, Card] = {}
    for key in in_turns([one.top + one.edge for one in chosen]):
        made[key] = _card(rows[key], names, bars.get(key, []), originals, reader)
    return [
        Gallery(
            one.code,
            reason_of(one.code).title,
            reason_of(one.code).explanation,
            rows=one.rows,
            top=[made[key] for key in one.top],
            edge=[made[key] for key in one.edge],
        )
        for one in chosen
    ]


def in_turns(lists: list[list[str]]) -> list[str]:
    """The first of each list, then the second of each, and so on; pictures take their budget in this order."""
    longest = max(map(len, lists), default=0)
    return [keys[at] for at in range(longest) for keys in lists if at < len(keys)]


def _place_of(row: dict[str, Any]) -> Place:
    return row["shard"], row["row"]


def _card(
    row: dict[str, Any], names: dict[Any, str], bars: list[Bar], originals: Originals, reader: ContentReader
) -> Card:
    by = "predicted" if row["suggested_label"] is None else "suggested" if is_likely(row) else "unlikely"
    other = None if by == "unlikely" else row[f"{by}_label"]
    probability = row.get("suggested_probability") if by == "suggested" else None
    differs = other is not None and other != row["label"]
    place = _place_of(row)
    return Card(
        key=words.shorten(row["row_key"], 100),
        place=words.shorten(f"{row['shard']}, row {row['row']:,}", 160),
        decision=row["decision"],
        given=words.label(row["label"], names),
        other=words.label(other, names) if differs else "",
        by=by,
        probability=words.percent(probability, 0) if differs and probability is not None else "",
        evidence=bars,
        numbers=numbers(row),
        content=reader.read(place) if place in originals.rows else None,
    )


def numbers(row: dict[str, Any]) -> str:
    """The scores of a row in a line; self-influence and harm are in nats."""
    parts = [f"suspicion {row['suspicion']:.3f}"]
    if row["split"] != "train":
        parts.insert(0, f"{row['split']} row")
    if row["final_loss"] is not None:
        parts.append(f"final loss {words.number(row['final_loss'])}")
    if row["self_influence"] is not None:
        parts.append(f"self-influence {words.number(row['self_influence'])}")
    if row["validation_harm"] is not None:
        parts.append(f"harm {words.number(row['validation_harm'])}")
    if row["backdoor_score"]:
        parts.append(f"backdoor {words.number(row['backdoor_score'])}")
    return " · ".join(parts)
