"""Categories as one-hot vectors: the most frequent values, "other", and "missing" if train has nulls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.labels import plain
from pipeline.data.problems import Fault


@dataclass
class CategoryEncoder:
    """Text, integers or booleans, compared as text. Equally frequent values rank by alphabet."""

    column: str
    most: int
    categories: list[str] = field(default_factory=list)
    missing: bool = False
    kind: ClassVar[str] = "category"
    input: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        self.counts: Counter[str | None] = Counter()

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
        )

    @classmethod
    def create(cls, column: Column, options: Data) -> CategoryEncoder:
        return cls(column.name, options.max_categories)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        for entry in pc.value_counts(text(column.filter(pa.array(train)))).to_pylist():
            self.counts[entry["values"]] += entry["counts"]
        return []

    def finish(self) -> None:
        self.missing = self.counts.pop(None, 0) > 0
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0] or ""))
        self.categories = [value for value, _ in ranked[: self.most] if value is not None]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.categories) + 1 + self.missing,)

    def encode(self, column: pa.Array) -> np.ndarray:
        """One-hot float32; a null goes to "other" when train has none."""
        other = len(self.categories)
        values = text(column)
        known = pa.array(self.categories, pa.string())
        places = pc.index_in(values, value_set=known).fill_null(other).to_numpy()
        if self.missing:
            places = np.where(pc.is_null(values).to_numpy(zero_copy_only=False), other + 1, places)
        return np.eye(self.shape[0], dtype=np.float32)[places]


def text(column: pa.Array) -> pa.Array:
    return plain(column).cast(pa.string())
