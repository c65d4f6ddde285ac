"""Numbers, standardised by mean and standard deviation of the train rows; a constant column becomes 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.labels import numbers
from pipeline.data.moments import Moments
from pipeline.data.problems import Fault, fault_where

LARGEST = 1e100  # above it, squares leave float64
HINT = "Numbers have to be finite: correct or drop the row, or set data.missing_features: impute."


@dataclass
class NumericEncoder:
    """Integers, floats and decimals. With `impute`, what is not a finite number becomes the train mean."""

    column: str
    impute: bool
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    kind: ClassVar[str] = "numeric"
    input: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        self.moments: Moments | None = None

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))

    @classmethod
    def create(cls, column: Column, options: Data) -> NumericEncoder:
        return cls(column.name, options.missing_features == "impute")

    def values(self, column: pa.Array) -> np.ndarray:
        """float64 [rows, 1]; null is NaN."""
        return numbers(column)[:, None]

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        values, bad = usable(self.values(column))
        self.moments = self.moments or Moments(values.shape[1])
        self.moments.update(values[train])
        return [] if self.impute else describe(column, bad)

    def finish(self) -> None:
        if self.moments is not None:
            self.moments.finish()
            self.mean, self.std = self.moments.mean.tolist(), self.moments.std.tolist()

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.mean),)

    def encode(self, column: pa.Array) -> np.ndarray:
        values, bad = usable(self.values(column))
        std = np.array(self.std)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
        return np.where(bad, 0.0, (values - self.mean) * scale).astype(np.float32)


def usable(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values with NaN for those that are not usable, and where they are not."""
    bad = ~(np.abs(values) <= LARGEST)
    return np.where(bad, np.nan, values), bad


def describe(column: pa.Array, bad: np.ndarray) -> list[Fault]:
    """The fault of the rows that have an unusable number; names the first one's trouble."""
    rows = bad.sum(axis=1) > 0
    if not rows.any():
        return []
    value = column[int(np.argmax(rows))].as_py()
    if isinstance(value, list):
        element = int(np.argmax(bad[np.argmax(rows)]))
        where, value = f"element {element} ", value[element]
    else:
        where = ""
    return fault_where(rows, f"{where}is {'null' if value is None else value}", HINT)
