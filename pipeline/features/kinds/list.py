"""Lists of numbers of one length, each element standardised by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import is_fixed_width, is_list, numbers, plain
from pipeline.features.encoder import MOST_SHARE, Choice, Column, JudgedAs, Options, Sample, ShownAs
from pipeline.features.faults import Fault, fault_where
from pipeline.features.kinds.image import ImageEncoder
from pipeline.features.kinds.numeric import NumericEncoder

LENGTH_HINT = "All lists of a column need one length: pad, cut or drop them."
SHORTEST_LIST = 4
"""Elements; a shorter list can be of one value by chance."""
MOSTLY = 0.5
NULL_HINT = "A list may not be null: drop the row, or set data.missing_features: impute."


@dataclass
class ListEncoder(NumericEncoder):
    """Fixed-size lists, or lists that all have the length of the first one. `impute` works per element."""

    length: int | None = None
    judged_as: ClassVar[JudgedAs] = "lists"
    says_missing: ClassVar[bool] = False
    shown_as: ClassVar[ShownAs] = "nothing"

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return (pa.types.is_fixed_size_list(kind) or is_list(kind)) and is_fixed_width(kind.value_type)

    @classmethod
    def recognises(cls, column: Column) -> bool:
        return cls.supports(column.type) and not ImageEncoder.recognises(column)

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        """Lists that all have one length, but for images."""
        kind = sample.column.type
        if not cls.supports(kind) or ImageEncoder.propose(sample) is not None:
            return None
        if pa.types.is_fixed_size_list(kind):
            return Choice(cls.kind, f"{kind.list_size} numbers")
        lengths = pc.unique(pc.list_value_length(sample.values)).drop_null()
        return Choice(cls.kind, "of one length") if len(lengths) == 1 else None

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:
        return values.null_count > 0 or super().has_gaps(values.flatten())

    @classmethod
    def create(cls, column: Column, options: Options) -> ListEncoder:
        fixed = pa.types.is_fixed_size_list(column.type)
        impute = options.missing_features == "impute"
        return cls(column.name, impute, length=column.type.list_size if fixed else None)

    def values(self, column: pa.Array) -> np.ndarray:
        """float64 [rows, length]; null lists and elements are NaN. Lists of another length are left NaN."""
        fits = self.lengths(column) == self.length
        kept = column if fits.all() else column.filter(pa.array(fits))
        values = np.full((len(column), self.length or 0), np.nan)
        values[fits] = numbers(kept.flatten()).reshape(fits.sum(), self.length or 0)
        return values

    @property
    def read_again(self) -> bool:
        return False

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:
        return _list_marks(self.values(plain(values)))

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """All of one value, mostly at the column's largest, or half missing."""
        return _unusual_lists(*marks)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        lengths = self.lengths(column)
        null = lengths < 0
        if self.length is None and not null.all():
            self.length = int(lengths[~null][0])
        if self.length is None:
            return [] if self.impute else fault_where(null, "is null", NULL_HINT)
        ragged = ~null & (lengths != self.length)
        faults = [] if self.impute else fault_where(null, "is null", NULL_HINT)
        if ragged.any():
            what = f"has {lengths[np.argmax(ragged)]} elements, the first row has {self.length}"
            faults += fault_where(ragged, what, LENGTH_HINT)
        places = np.flatnonzero(~null & ~ragged)
        for fault in super().update(column.take(pa.array(places)), train[places]):
            faults.append(Fault(places[fault.places], fault.what, fault.hint))
        return faults

    @staticmethod
    def lengths(column: pa.Array) -> np.ndarray:
        """int64 [rows]; −1 for a null list."""
        return column.value_lengths().cast(pa.int64()).fill_null(-1).to_numpy()


def _list_marks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of `[rows, length]`, by row: all of one value, the largest one, the share that has it, and the share missing."""
    rows, length = values.shape
    if length < SHORTEST_LIST:
        return np.zeros(rows, dtype=bool), np.full(rows, -np.inf), np.zeros(rows), np.zeros(rows)
    known = np.isfinite(values)
    largest = np.where(known, values, -np.inf).max(1)
    same = known & (values == largest[:, None])
    return same.all(1), largest, same.mean(1), 1 - known.mean(1)


def _unusual_lists(
    constant: np.ndarray, largest: np.ndarray, at_largest: np.ndarray, missing: np.ndarray
) -> np.ndarray:
    """bool `[rows]` from the marks of all rows; what holds for more than MOST_SHARE is the dataset's way."""
    saturated = ~constant & (largest == largest.max()) & (at_largest >= MOSTLY)
    marks = (constant, saturated, missing >= MOSTLY)
    found = np.zeros(len(constant), dtype=bool)
    for mark in marks:
        found |= mark & (mark.mean() <= MOST_SHARE)
    return found
