"""Truth values as 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.labels import numbers
from pipeline.data.moments import Moments
from pipeline.data.problems import Fault, fault_where

NULL_HINT = "Drop the row, or set data.missing_features: impute, or give the column the kind category."
VALUE_HINT = "A boolean is true, false, 0 or 1: give the column the kind numeric or category."


@dataclass
class BooleanEncoder:
    """Booleans, or integers that are 0 or 1. With `impute`, null becomes the share of true in train."""

    column: str
    impute: bool
    share: float = 0.0
    kind: ClassVar[str] = "boolean"
    input: ClassVar[str] = "dense"
    shape: ClassVar[tuple[int, ...]] = (1,)

    def __post_init__(self) -> None:
        self.moments = Moments(1)

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind))

    @classmethod
    def create(cls, column: Column, options: Data) -> BooleanEncoder:
        return cls(column.name, options.missing_features == "impute")

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        values = numbers(column)
        self.moments.update(values[train, None])
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        faults = [] if self.impute else fault_where(np.isnan(values), "is null", NULL_HINT)
        if wrong.any():
            faults += fault_where(wrong, f"is {values[np.argmax(wrong)]:g}", VALUE_HINT)
        return faults

    def finish(self) -> None:
        self.moments.finish()
        self.share = float(self.moments.mean[0])

    def encode(self, column: pa.Array) -> np.ndarray:
        values = numbers(column)
        return np.where(np.isnan(values), self.share, values)[:, None].astype(np.float32)
