"""Truth values as 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.features.arrow import numbers
from pipeline.features.dense import DenseEncoder, Place, says_missing, tells_by_gaps
from pipeline.features.encoder import Choice, Column, Options, Sample
from pipeline.features.faults import Fault, fault_where
from pipeline.features.moments import Moments

NULL_HINT = "Drop the row, or set data.missing_features: impute, or give the column the kind category."
VALUE_HINT = "A boolean is true, false, 0 or 1: give the column the kind numeric or category."


@dataclass
class BooleanEncoder(DenseEncoder):
    """Booleans, or integers that are 0 or 1. With `impute`, null becomes the share of true in train.

    Where more than a few train rows are null, a further column says which rows are.
    """

    column: str
    impute: bool
    share: float = 0.0
    missing: bool = False

    def __post_init__(self) -> None:
        self.moments = Moments(1)
        self.rows = 0

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind))

    @classmethod
    def recognises(cls, column: Column) -> bool:
        return bool(pa.types.is_boolean(column.type)) and not column.coded

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        return Choice(cls.kind) if pa.types.is_boolean(sample.column.type) else None

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:
        return bool(values.null_count)

    @classmethod
    def create(cls, column: Column, options: Options) -> BooleanEncoder:
        return cls(column.name, options.missing_features == "impute")

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        values = numbers(column)
        self.moments.update(values[train, None])
        self.rows += int(train.sum())
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        faults = [] if self.impute else fault_where(np.isnan(values), "is null", NULL_HINT)
        if wrong.any():
            faults += fault_where(wrong, f"is {values[np.argmax(wrong)]:g}", VALUE_HINT)
        return faults

    def finish(self) -> None:
        self.moments.finish()
        self.share = float(self.moments.mean[0])
        self.missing = self.impute and tells_by_gaps(self.rows, int(self.moments.count[0]))

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 + self.missing,)

    @property
    def places(self) -> list[Place]:
        return [Place(self.column), *([says_missing(self.column)] if self.missing else [])]

    @property
    def read_again(self) -> bool:
        return self.impute and not self.missing

    def encode(self, column: pa.Array) -> np.ndarray:
        values = numbers(column)
        null = np.isnan(values)
        filled = np.where(null, self.share, values)
        return np.stack([filled, null] if self.missing else [filled], axis=1).astype(np.float32)
