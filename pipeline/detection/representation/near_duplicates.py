"""Rows that are almost the same and have different labels."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.data.encoded import EncodedData, Rows
from pipeline.detection.columns import slices

SAME_FEATURES = 0.98
"""Cosine of the model's features from which two rows are compared at all."""
SAME_INPUTS = 0.98
"""Likeness of the inputs from which they are near-duplicates, in each kind of input."""
MOST_BYTES = 2**25
"""Encoded inputs that are compared at a time: few turns, since each reads from many chunks."""


def count_near_duplicates(
    data: EncodedData, rows: Rows, similarity: np.ndarray, contrary: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """int64 `[rows]`: neighbours that are like the row in features and inputs and have a contrary label.

    similarity: cosine of the features, contrary: bool, places: of the neighbours among the train rows; all
    `[rows, neighbours]`.
    """
    row, column = np.nonzero((similarity >= SAME_FEATURES) & contrary)
    counts = np.zeros(len(rows), dtype=np.int64)
    for part in slices(len(row), max(1, MOST_BYTES // data.encoding.row_bytes)):
        one, other = by_kind(rows, data, row[part]), load_places(data, places[row[part], column[part]])
        alike = np.logical_and.reduce(
            [
                kind.likeness(one[name], other[name], data.encoding.filled_by(name)) >= SAME_INPUTS
                for name, kind in data.encoding.inputs.items()
            ]
        )
        counts += np.bincount(row[part][alike], minlength=len(counts))
    return counts


def load_places(data: EncodedData, places: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of train rows by kind, in the order of `places`, of which only these rows are read."""
    found: dict[str, np.ndarray] = {}
    for chunk in data.chunks("train"):
        inside = chunk.holds(places)
        if len(inside):
            for kind, values in by_kind(data.load(chunk), data, places[inside] - chunk.first).items():
                empty = np.empty((len(places), *values.shape[1:]), dtype=values.dtype)
                found.setdefault(kind, empty)[inside] = values
    return found


def by_kind(rows: Rows, data: EncodedData, which: np.ndarray) -> dict[str, np.ndarray]:
    return data.encoding.by_name(rows.select(torch.from_numpy(which)).inputs)
