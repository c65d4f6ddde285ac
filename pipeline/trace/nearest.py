"""The train rows that are most like each query, by plain similarity, and how far they are the rows with influence.

Similarity knows neither labels nor training. It is a baseline: what attribution says beyond it is what attribution is
worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.text import words
from pipeline.trace.strongest import Table, largest

SAID = {"words": "words", "representation": "the model’s features"}
"""Measure → what it compares: TF-IDF of the text columns, the inputs of the model's last layer; both by the cosine."""


BASELINE = (
    "Similarity is a baseline: it knows nothing of training, yet on some tasks it names the rows behind a prediction "
    "as well as influence does."
)


@dataclass(frozen=True)
class Agreement:
    """How far the rows with the strongest influence are the nearest rows, by one measure.

    Attributes:
        most: k, the rows of a query that are compared at most.
        shares: for every query, the share of its k strongest rows that are among its k nearest, float64 `[queries]`;
            k is smaller where a list has fewer rows, and the share is NaN where one has none.
        by_chance: this share for rows that are drawn at random.
    """

    most: int
    shares: np.ndarray
    by_chance: float

    @property
    def mean(self) -> float | None:
        """Over the queries that have rows in both lists; None if none has."""
        known = self.shares[~np.isnan(self.shares)]
        return float(known.mean()) if len(known) else None


@dataclass(frozen=True)
class Nearest:
    """The rows that are most like the queries, by plain similarity.

    Attributes:
        table: nearest.parquet.
        agreements: measure → how far the rows with influence are the nearest ones.
        note: why words are not compared where there are texts; else empty.
    """

    table: pa.Table
    agreements: dict[str, Agreement]
    note: str

    def said(self) -> list[str]:
        """How far both lists agree, and what that means, in sentences."""
        known = {name: each for name, each in self.agreements.items() if each.mean is not None}
        found = [self.note] if self.note else []
        if known:
            shares = [f"{words.percent(each.mean or 0.0, 0)} by {SAID[name]}" for name, each in known.items()]
            most, chance = next((each.most, each.by_chance) for each in known.values())
            found.append(
                f"Of the {words.rows(most)} with the strongest influence on a query, these shares are among its "
                f"{words.count(most)} nearest rows: {', '.join(shares)} ({words.percent(chance, 0)} by chance)."
            )
        return [*found, BASELINE]


def nearest(
    similarities: Mapping[str, np.ndarray],
    influence: np.ndarray,
    row_ids: np.ndarray,
    labels: np.ndarray,
    top: int,
    first: int,
) -> Table:
    """The rows of a chunk with the largest similarity above 0.

    Args:
        similarities: measure → `[queries, rows]`.
        influence: `[queries, rows]`.
        row_ids: int64 `[rows]`; they order rows that are equally alike.
        labels: encoded, `[rows]`.
        top: how many rows are kept at most for each measure and query.
        first: the place of the chunk's first row among the train rows.

    Returns:
        Arrays `[measures, queries, top]`: places, row_ids, similarity, influence, labels; the place −1 means no row.
    """
    places = np.stack([largest(each, row_ids, top) for each in similarities.values()])
    there, query = places >= 0, np.arange(len(influence))[None, :, None]
    similarity = np.stack([each[query[0], places[at]] for at, each in enumerate(similarities.values())])
    return {
        "places": np.where(there, places + first, -1),
        "row_ids": row_ids[places],
        "similarity": np.where(there, similarity.astype(np.float64), 0.0),
        "influence": np.where(there, influence[query, places], 0.0),
        "labels": labels[places],
    }


def agreements(found: Table, near: Table, measures: list[str], train_rows: int) -> dict[str, Agreement]:
    """Measure → how far the strongest rows are the nearest ones.

    Args:
        found: the strongest rows for and against every query.
        near: the nearest rows.
        measures: of `near`, in order.
        train_rows: how many train rows there are.
    """
    top = near["places"].shape[2]
    strong = [_strongest_of(found, query) for query in range(near["places"].shape[1])]
    said = {}
    for at, measure in enumerate(measures):
        shares = [
            _shared(mine, places[places >= 0])
            for mine, places in zip(strong, near["places"][at], strict=True)
        ]
        said[measure] = Agreement(top, np.array(shares), min(1.0, top / train_rows))
    return said


def _strongest_of(found: Table, query: int) -> np.ndarray:
    """The places of the rows with influence on a query, in either direction, the strongest first."""
    places, size, row_ids = (found[name][:, query].ravel() for name in ("places", "influence", "row_ids"))
    order = np.lexsort((row_ids, -np.abs(size), places < 0))
    return places[order][: np.count_nonzero(places >= 0)]


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    most = min(len(one), len(other))
    return float(np.isin(one[:most], other[:most]).mean()) if most else float("nan")
