"""Selects the strongest rows for and against each query, in one chunk, and merges the rows of several chunks."""

from __future__ import annotations

import numpy as np

DIRECTIONS = ("for", "against")
"""for: removing the row raises the query's loss, so it supports the answer; against: removing it lowers the loss."""
Table = dict[str, np.ndarray]
"""Arrays `[2 directions, queries, at most top]`: places, row_ids, influence and more; the place −1 means no row. The
nearest rows have a measure of similarity for the direction."""


def strongest(influence: np.ndarray, row_ids: np.ndarray, top: int) -> np.ndarray:
    """Select the rows with the largest influence of each sign.

    Args:
        influence: float64 `[queries, rows]`.
        row_ids: int64 `[rows]`; they order rows of equal influence.
        top: how many rows are selected at most for each query and direction.

    Returns:
        Places of the rows, int64 `[2 directions, queries, top]`, filled up with −1.
    """
    return np.stack([largest(sign * influence, row_ids, top) for sign in (1.0, -1.0)])


def largest(values: np.ndarray, row_ids: np.ndarray, top: int) -> np.ndarray:
    """The places of the `top` largest positive values of every query, the largest first.

    Args:
        values: `[queries, rows]`.
        row_ids: int64 `[rows]`; they order rows of equal values.
        top: how many rows are selected at most.

    Returns:
        int64 `[queries, top]`, filled up with −1.
    """
    found = np.full((len(values), top), -1, dtype=np.int64)
    for query, mine in enumerate(values):
        best = _largest_of(mine, row_ids, top)
        found[query, : len(best)] = best
    return found


def _largest_of(values: np.ndarray, row_ids: np.ndarray, top: int) -> np.ndarray:
    places = np.flatnonzero(values > 0)
    if len(places) > top:
        least = np.partition(values[places], -top)[-top]
        places = places[values[places] >= least]
    return places[np.lexsort((row_ids[places], -values[places]))][:top]


def merge(one: Table, other: Table, top: int, by: str = "influence") -> Table:
    """The rows of both tables with the largest absolute numbers `by`."""
    together = {name: np.concatenate([one[name], other[name]], axis=2) for name in one}
    size = np.abs(together[by])
    missing = together["places"] < 0
    order = np.lexsort((together["row_ids"], -size, missing), axis=2)[:, :, :top]
    return {name: np.take_along_axis(values, order, axis=2) for name, values in together.items()}
