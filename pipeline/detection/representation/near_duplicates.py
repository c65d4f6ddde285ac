"""Rows that are almost the same and have different labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encode import INPUTS
from pipeline.data.encoded import EncodedData, Rows
from pipeline.detection.columns import slices

SAME_FEATURES = 0.98
"""Cosine of the model's features from which two rows are compared at all."""
SAME_INPUTS = 0.98
"""Likeness of the inputs from which they are near-duplicates, in each kind of input."""
OTHER_TARGET = 1.0
"""Standard deviations between two targets from which they contradict each other (regression)."""
MOST_BYTES = 2**25
"""Encoded inputs that are compared at a time: few turns, since each reads from many chunks."""


def differ(labels: Tensor, found: Tensor, task: str) -> Tensor:
    """bool `[rows, neighbours]`: the neighbours' labels contradict the rows'."""
    if task == "regression":
        return (found - labels[:, None]).abs() > OTHER_TARGET
    differs = found != labels[:, None]
    return differs.any(2) if labels.dim() == 2 else differs


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
            [likeness(kind, one[kind], other[kind], data) >= SAME_INPUTS for kind in one]
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
    chosen = rows.select(torch.from_numpy(which)).inputs
    if isinstance(chosen, Tensor):
        return {next(iter(data.encoding.input_shapes)): chosen.numpy()}
    return {kind: chosen[kind].numpy() for kind in INPUTS if kind in chosen}


def likeness(kind: str, one: np.ndarray, other: np.ndarray, data: EncodedData) -> np.ndarray:
    """float64 `[pairs]`, 1 for equal inputs: shared tokens ÷ all tokens of both, or 1 − |a − b|² / (|a|² + |b|²).

    Images are taken without their channels' means, so that a common background is no likeness.
    """
    if kind == "tokens":
        return np.array([jaccard(a, b) for a, b in zip(one, other)])
    a, b = (
        values.reshape(len(values), -1).astype(np.float64) for values in without_mean(kind, one, other, data)
    )
    return 1 - ((a - b) ** 2).sum(1) / np.maximum((a**2).sum(1) + (b**2).sum(1), 1e-12)


def without_mean(kind: str, one: np.ndarray, other: np.ndarray, data: EncodedData) -> Iterator[np.ndarray]:
    mean = 255 * np.array(data.encoding.statistics["image_mean"])[:, None, None] if kind == "image" else 0
    yield one - mean
    yield other - mean


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two rows of token numbers; 0 is padding."""
    a, b = set(one[one > 0].tolist()), set(other[other > 0].tolist())
    return len(a & b) / len(a | b) if a | b else 1.0
