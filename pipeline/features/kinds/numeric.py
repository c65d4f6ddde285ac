"""Numbers, standardised by mean and standard deviation of the train rows; a constant column becomes 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipeline.features.arrow import is_numeric, numbers
from pipeline.features.dense import DenseEncoder, Place, says_missing, tells_by_gaps, usable
from pipeline.features.encoder import MOST_SHARE, Choice, Column, Options, Sample
from pipeline.features.faults import Fault, fault_where
from pipeline.features.moments import Moments
from pipeline.features.quantiles import Quantiles

FAR = 1000.0
"""Interquartile ranges from the median beyond which a number is impossible, if it stands alone there …"""
ALONE = 10.0
"""… this many times as far out as any number that is not."""
REPEATED = 3
SENTINEL_FAR, SENTINEL_ALONE, SENTINEL_SHARE = 10.0, 5.0, 0.1
"""Of a value that occurs REPEATED times or more and has no other value beside it, in at most a tenth of the rows."""
BINS = 8
"""Parts of a column, with about as many train rows each, that the model `table` tells apart."""
HINT = "Numbers have to be finite: correct or drop the row, or set data.missing_features: impute."


@dataclass
class NumericEncoder(DenseEncoder):
    """Integers, floats and decimals. With `impute`, what is not a finite number becomes the train mean.

    Where that is so in more than a few train rows, a further column says which rows these are.
    """

    column: str
    impute: bool
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    missing: bool = False
    edges: list[float] = field(default_factory=list)
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "source"
    says_missing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.moments: Moments | None = None
        self.quantiles = Quantiles()
        self.rows = 0

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_numeric(kind)

    @classmethod
    def recognises(cls, column: Column) -> bool:
        whole = pa.types.is_integer(column.type)
        return is_numeric(column.type) and not (column.coded and whole)

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        fits = is_numeric(sample.column.type) and not sample.column.names_categories
        return Choice(cls.kind) if fits else None

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:
        return values.null_count > 0 or not np.isfinite(numbers(values)).all()

    @classmethod
    def create(cls, column: Column, options: Options) -> NumericEncoder:
        return cls(column.name, options.missing_features == "impute")

    def values(self, column: pa.Array) -> np.ndarray:
        """float64 [rows, 1]; null is NaN."""
        return numbers(column)[:, None]

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        values, bad = usable(self.values(column))
        self.moments = self.moments or Moments(values.shape[1])
        self.moments.update(values[train])
        self.rows += int(train.sum())
        if values.shape[1] == 1:
            self.quantiles.update(values[train, 0])
        return [] if self.impute else self.faults(column, bad)

    @classmethod
    def faults(cls, column: pa.Array, bad: np.ndarray) -> list[Fault]:
        """The fault of the rows that have an unusable number, bool `[rows, width]`; names the first one's trouble."""
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

    def finish(self) -> None:
        if self.moments is not None:
            self.moments.finish()
            self.mean, self.std = self.moments.mean.tolist(), self.moments.std.tolist()
            asked = self.impute and self.says_missing
            self.missing = asked and tells_by_gaps(self.rows, int(self.moments.count[0]))
            self.edges = self.quantiles.at(BINS)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.mean) + self.missing,)

    @property
    def places(self) -> list[Place]:
        width = len(self.mean)
        titles = [self.column] if width == 1 else [f"{self.column}[{at}]" for at in range(width)]
        found = [
            Place(title, (), mean, std, tuple(self.edges))
            for title, mean, std in zip(titles, self.mean, self.std)
        ]
        return [*found, says_missing(self.column)] if self.missing else found

    @property
    def read_again(self) -> bool:
        return self.impute and not self.missing

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:
        return (numbers(values),)

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """Impossible numbers and sentinels."""
        (values,) = marks
        return impossible(values)

    def encode(self, column: pa.Array) -> np.ndarray:
        values, bad = usable(self.values(column))
        std = np.array(self.std)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
        scaled = np.where(bad, 0.0, (values - self.mean) * scale).astype(np.float32)
        return np.hstack([scaled, bad.astype(np.float32)]) if self.missing else scaled


def impossible(values: np.ndarray) -> np.ndarray:
    """bool `[rows]` for float64 `[rows]`; what is not finite is not judged."""
    finite = np.isfinite(values)
    known = values[finite]
    bad = np.zeros(len(values), dtype=bool)
    if len(known) == 0:
        return bad
    middle = np.median(known)
    distance = np.abs(known - middle)
    spread = _spread_of(known, middle)
    if spread > 0:
        far = _far_and_alone(distance / spread)
        found = far.copy()
        found[~far] = _sentinel(known[~far], distance[~far] / spread)
        bad[finite] = found
    return bad


def _spread_of(values: np.ndarray, middle: float) -> float:
    """The interquartile range; where most values are equal, that of the others."""
    low, high = np.quantile(values, [0.25, 0.75])
    others = values[values != middle]
    if high > low or len(others) == 0:
        return float(high - low)
    low, high = np.quantile(np.append(others, middle), [0.25, 0.75])
    return float(high - low)


def _far_and_alone(distance: np.ndarray) -> np.ndarray:
    """bool `[rows]`: beyond FAR, and beyond a gap; the gap may lie anywhere out there."""
    ordered = np.sort(distance)
    first = np.flatnonzero((ordered[1:] > FAR) & (ordered[1:] > ALONE * np.maximum(ordered[:-1], 1.0)))
    if len(first) == 0:
        return np.zeros(len(distance), dtype=bool)
    bad = distance >= ordered[first[0] + 1]
    return bad & (bad.mean() <= MOST_SHARE)


def _sentinel(values: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """bool `[rows]`: the farthest value, if it is repeated and stands alone (−999 among ages)."""
    farthest = values[np.argmax(distance)]
    same = values == farthest
    rest = distance[~same]
    alone = len(rest) > 0 and distance.max() > max(SENTINEL_FAR, SENTINEL_ALONE * rest.max())
    return same & bool(alone and same.sum() >= REPEATED and same.mean() <= SENTINEL_SHARE)
