"""The input `dense`: the columns of a table, as numbers side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.features.arrow import numbers
from pipeline.features.encoder import Encoder, JudgedAs
from pipeline.features.input import Input, View

LARGEST = 1e100  # above it, squares leave float64
FEWEST_GAPS = 10
"""Train rows that lack a value, and that have one: from so many on, a column of its own says which rows lack it."""


class Dense(Input):
    """float32 `[rows, columns]`."""

    name = "dense"
    joins = True
    models = ("mlp", "table")

    def view(self, rows: np.ndarray, seed: int) -> View:  # noqa: ARG002
        return Ranks(rows)


class Ranks:
    """Each column as its rank among the fitted rows, −½ to ½; ties take the middle."""

    def __init__(self, rows: np.ndarray):
        self._sorted = np.sort(rows, axis=0)

    def embed(self, rows: np.ndarray) -> np.ndarray:
        ranks = np.empty(rows.shape, dtype=np.float32)
        for place in range(rows.shape[1]):
            column = self._sorted[:, place]
            low = np.searchsorted(column, rows[:, place], "left")
            high = np.searchsorted(column, rows[:, place], "right")
            ranks[:, place] = (low + high) / (2 * len(column)) - 0.5
        return ranks


DENSE = Dense()


@dataclass(frozen=True)
class Place:
    """Consecutive columns of the dense input that mean one thing.

    Attributes:
        title: what they are called.
        values: words of each column of a category; else there is one column, a number `value · std + mean`.
        mean: of the source's numbers.
        std: of the source's numbers.
        edges: of the bins of a number, in its own unit, ascending; empty where it has none.
    """

    title: str
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    edges: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        return len(self.values) or 1


class DenseEncoder(Encoder):
    """A kind that becomes columns of the dense input."""

    input: ClassVar[Input] = DENSE
    judged_as: ClassVar[JudgedAs] = "columns"

    @property
    def places(self) -> list[Place]:
        """What its columns mean, in their order."""
        (width,) = self.shape
        return [Place(self.column if width == 1 else f"{self.column}[{at}]") for at in range(width)]

    def ordinals(self, part: np.ndarray) -> np.ndarray:
        """The columns as trees see them, float32 `[rows, width]`, from its part of the encoded rows."""
        return part

    @staticmethod
    def unusable(source: pa.Array) -> np.ndarray:
        """bool `[rows, 1]`: no usable number; asked for where the source is read again."""
        return usable(numbers(source)[:, None])[1]


def usable(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values with NaN for those that are not usable, and where they are not."""
    bad = ~(np.abs(values) <= LARGEST)
    return np.where(bad, np.nan, values), bad
