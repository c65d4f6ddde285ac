"""Lists of numbers of one length, each element standardised by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.encoders.numeric import NumericEncoder
from pipeline.data.hashing import is_list, is_number
from pipeline.data.labels import numbers
from pipeline.data.problems import Fault, fault_where

LENGTH_HINT = "All lists of a column need one length: pad, cut or drop them."
NULL_HINT = "A list may not be null: drop the row, or set data.missing_features: impute."


@dataclass
class ListEncoder(NumericEncoder):
    """Fixed-size lists, or lists that all have the length of the first one. `impute` works per element."""

    length: int | None = None
    kind: ClassVar[str] = "list"

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return (pa.types.is_fixed_size_list(kind) or is_list(kind)) and is_number(kind.value_type)

    @classmethod
    def create(cls, column: Column, options: Data) -> ListEncoder:
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
