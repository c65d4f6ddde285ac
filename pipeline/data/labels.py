"""What the label column and the weights of the rows have to be, whatever the task."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import numbers, plain
from pipeline.features.faults import Fault, fault_where
from pipeline.features.moments import Moments

DROP_HINT = "The label column may not have nulls. Drop the row, or set data.missing_label: drop."
CLASS_HINT = (
    "The classes have names, and no other number is one. Correct the row, or set data.missing_label: drop."
)
WEIGHT_HINT = "Weights have to be positive, finite numbers: correct or drop the row."


def missing_labels(column: pa.Array, names: Collection[Any] = ()) -> np.ndarray:
    """True where a label is null or NaN: bool [rows]. A null instead of a list of labels is an empty list.

    names: the classes of integers that have names, by the schema; where there are any, other integers are no labels, as
    the −1 of Hugging Face datasets.
    """
    column = plain(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return np.zeros(len(column), dtype=bool)
    missing = pc.is_null(column, nan_is_null=True)
    if names:
        missing = pc.or_(missing, pc.invert(pc.is_in(column, pa.array(list(names), column.type))))
    return missing.to_numpy(zero_copy_only=False)


@dataclass
class RowWeight:
    """Positive weights, scaled to mean 1 over the train rows."""

    column: str
    mean: float = 1.0

    def __post_init__(self) -> None:
        self.moments = Moments(1)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        """Check all rows; average those of `train` (bool [rows])."""
        values = numbers(column)
        bad = ~((values > 0) & np.isfinite(values))
        self.moments.update(values[train & ~bad, None])
        if not bad.any():
            return []
        value = column[int(np.argmax(bad))].as_py()
        return fault_where(bad, f"is {'null' if value is None else value}", WEIGHT_HINT)

    def finish(self) -> None:
        self.moments.finish()
        self.mean = float(self.moments.mean[0])

    def encode(self, column: pa.Array) -> np.ndarray:
        """float32 [rows]."""
        return (numbers(column) / self.mean).astype(np.float32)
