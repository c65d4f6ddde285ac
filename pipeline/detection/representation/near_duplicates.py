"""Counts near-duplicates: rows that are almost the same and have different labels."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.data.encoded import EncodedData, Rows
from pipeline.detection.columns import slices

SAME_FEATURES = 0.98
"""Two rows are only compared if the cosine of their features is at least this."""
SAME_INPUTS = 0.98
"""Compared rows are near-duplicates if the similarity of every kind of input is at least this."""
MOST_BYTES = 2**25
"""Upper limit for the bytes of encoded inputs that are compared at a time; every batch reads from many chunks."""


def count_near_duplicates(
    data: EncodedData, rows: Rows, similarity: np.ndarray, contrary: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Count the neighbours of each row that are similar in features and inputs and have a contrary label.

    Args:
        data: the encoded data.
        rows: the rows.
        similarity: cosine of the features, `[rows, neighbours]`.
        contrary: bool `[rows, neighbours]`, whether the labels contradict each other.
        places: of the neighbours among the train rows, int64 `[rows, neighbours]`.

    Returns:
        int64 `[rows]`.
    """
    row, column = np.nonzero((similarity >= SAME_FEATURES) & contrary)
    counts = np.zeros(len(rows), dtype=np.int64)
    for part in slices(len(row), max(1, MOST_BYTES // data.encoding.row_bytes)):
        one, other = _by_kind(rows, data, row[part]), _load_places(data, places[row[part], column[part]])
        alike = np.logical_and.reduce(
            [
                kind.likeness(one[name], other[name], data.encoding.filled_by(name)) >= SAME_INPUTS
                for name, kind in data.encoding.inputs.items()
            ]
        )
        counts += np.bincount(row[part][alike], minlength=len(counts))
    return counts


def _load_places(data: EncodedData, places: np.ndarray) -> dict[str, np.ndarray]:
    """Load the inputs of some train rows by kind, in the order of `places`; no other rows are read."""
    found: dict[str, np.ndarray] = {}
    for chunk in data.chunks("train"):
        inside = chunk.holds(places)
        if len(inside):
            for kind, values in _by_kind(data.load(chunk), data, places[inside] - chunk.first).items():
                empty = np.empty((len(places), *values.shape[1:]), dtype=values.dtype)
                found.setdefault(kind, empty)[inside] = values
    return found


def _by_kind(rows: Rows, data: EncodedData, which: np.ndarray) -> dict[str, np.ndarray]:
    return data.encoding.by_name(rows.select(torch.from_numpy(which)).inputs)
