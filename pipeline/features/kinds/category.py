"""Categories as one-hot vectors: the most frequent values, "other", and "missing" if train has nulls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import is_categorical, is_numeric, is_string, plain
from pipeline.features.dense import DenseEncoder, Place
from pipeline.features.encoder import Choice, Column, Options, Sample
from pipeline.features.faults import Fault
from pipeline.features.kinds.text import are_texts

FEW_VALUES = 20
UNIQUE_SHARE = 0.5
"""Of distinct values in short strings: above it, and above FEW_VALUES, they are names and not categories."""


@dataclass
class CategoryEncoder(DenseEncoder):
    """Text, integers or booleans, compared as text. Equally frequent values rank by alphabet."""

    column: str
    most: int
    categories: list[str] = field(default_factory=list)
    missing: bool = False

    def __post_init__(self) -> None:
        self.counts: Counter[str | None] = Counter()

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_categorical(kind)

    @classmethod
    def recognises(cls, column: Column) -> bool:
        """Short strings, and whatever the source has as a dictionary."""
        if column.coded:
            return is_categorical(column.type)
        return is_string(column.type) and not are_texts(column.values())

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        """Short strings that are not nearly all different, and numbers that stand for categories in the metadata."""
        remark = f"{sample.distinct} values"
        if is_numeric(sample.column.type):
            return Choice(cls.kind, remark) if sample.column.names_categories else None
        if not is_string(sample.column.type) or sample.values is None or are_texts([sample.values]):
            return None
        if sample.distinct > max(FEW_VALUES, UNIQUE_SHARE * len(sample.values.drop_null())):
            return Choice(None, "nearly every value is another")
        return Choice(cls.kind, remark)

    @classmethod
    def create(cls, column: Column, options: Options) -> CategoryEncoder:
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

    @property
    def places(self) -> list[Place]:
        return [Place(self.column, (*self.categories, "(other)", *(["(missing)"] * self.missing)))]

    def ordinals(self, part: np.ndarray) -> np.ndarray:
        """The rank of the value among the kept ones."""
        return part.argmax(1)[:, None].astype(np.float32)

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
