"""From texts or pictures to vectors: what is kept is looked up, the rest is computed and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.features.pretrained.models import BATCH, Pretrained, load
from pipeline.features.pretrained.vectors import Vectors, folder, open_vectors

BLOCK = 512
"""Rows that are computed and kept together."""
TRIAL_ROWS = 32
Read = Callable[[np.ndarray], list[Any]]


@dataclass(frozen=True)
class Material:
    """Rows of a column to embed.

    Attributes:
        keys: of their contents, uint64 `[rows, 2]`.
        read: the texts or RGB pictures at some places; None for a picture that can't be read.
    """

    keys: np.ndarray
    read: Read


class Embedder:
    """Makes vectors of rows.

    Args:
        asked: the encoder.
        identity: of its weights, from `models.identity`.
        device: on which it is called.
        began: when the preparation began, in nanoseconds; vectors that were made later are not looked at. None looks
            at all of them.
    """

    def __init__(self, asked: Pretrained, identity: str, device: str = "cpu", began: int | None = None):
        self._asked, self._device, self._began = asked, device, began
        self._identity = identity

    @property
    def vectors(self) -> Vectors:
        """What the encoder has made so far, in this run and before."""
        return open_vectors(folder() / f"{self._asked.title()}-{self._identity[:16]}")

    def __call__(self, rows: Material) -> np.ndarray:
        """float32 `[rows, width]`; NaN for pictures that can't be read."""
        found, known = self.vectors.find(rows.keys, self._began)
        missing = np.flatnonzero(~found)
        if not len(missing) and len(found):
            return known
        _, firsts, which = np.unique(rows.keys[missing], axis=0, return_index=True, return_inverse=True)
        order = np.argsort(firsts)  # in the order of the rows
        places = missing[firsts[order]]
        made = [self._make(rows, places[start : start + BLOCK]) for start in range(0, len(places), BLOCK)]
        if not made:
            made = [np.empty((0, self.width()), dtype=np.float32)]
        new = np.concatenate(made)
        result = np.empty((len(found), new.shape[1]), dtype=np.float32)
        if found.any():
            result[found] = known
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        result[missing] = new[rank[which.reshape(-1)]]
        return result

    def width(self) -> int:
        """How many numbers the encoder makes of a row."""
        return self.blank().shape[1]

    def blank(self) -> np.ndarray:
        """float32 `[1, width]`, of an empty text or a grey picture."""
        return self.encode([self._asked.blank])

    def encode(self, values: list[Any]) -> np.ndarray:
        """Texts or pictures → float32 `[values, width]`, without looking anything up."""
        return load(self._asked, self._device)(values)

    def _make(self, rows: Material, places: np.ndarray) -> np.ndarray:
        """Compute the vectors of some places, and keep them."""
        parts, readable = [], np.zeros(len(places), dtype=bool)
        step = len(places) if self._asked.kind == "text" else BATCH  # pictures are large
        for start in range(0, len(places), step):
            values = rows.read(places[start : start + step])
            readable[start : start + step] = [value is not None for value in values]
            if any(value is not None for value in values):
                parts.append(self.encode([value for value in values if value is not None]))
        width = parts[0].shape[1] if parts else self.width()
        made = np.full((len(places), width), np.nan, dtype=np.float32)
        if parts:
            made[readable] = np.concatenate(parts)
            self.vectors.add(rows.keys[places[readable]], made[readable], self._began or time.time_ns())
        return made


class Trial:
    """Stands for an embedder in `winnow check`: a few rows are computed, and their vectors stand for all others.

    Attributes:
        rows: how many rows were asked for.
        missing: of how many there is no vector yet.
        row_seconds: to compute one row; None before the first.
    """

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self._sample: np.ndarray | None = None
        self.rows = self.missing = 0
        self.row_seconds: float | None = None

    @property
    def width(self) -> int:
        """How many numbers the encoder makes of a row."""
        return self._embedder.width() if self._sample is None else self._sample.shape[1]

    def __call__(self, rows: Material) -> np.ndarray:
        found, known = self._embedder.vectors.find(rows.keys)
        self.rows += len(found)
        self.missing += int((~found).sum())
        if self._sample is None:
            self._sample = self._try(rows)
        vectors = self._sample[np.arange(len(found)) % len(self._sample)]
        if found.any():
            vectors[found] = known
        return vectors

    def _try(self, rows: Material) -> np.ndarray:
        """Compute a few rows; the time is that of a second call."""
        places = np.arange(min(TRIAL_ROWS, len(rows.keys)))
        values = [value for value in rows.read(places) if value is not None]
        if not values:
            return self._embedder.blank()
        self._embedder.encode(values[:1])
        begin = time.perf_counter()
        sample = self._embedder.encode(values)
        self.row_seconds = (time.perf_counter() - begin) / len(values)
        return sample
