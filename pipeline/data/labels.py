"""Labels and row weights: checked and counted in the first pass, encoded in the second."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.files import ROLES, counted
from pipeline.errors import InputError
from pipeline.features.arrow import numbers, plain
from pipeline.features.faults import Fault, fault_where
from pipeline.features.moments import Moments

DROP_HINT = "The label column may not have nulls. Drop the row, or set data.missing_label: drop."
FINITE_HINT = "A target has to be a finite number: correct or drop the row."
WEIGHT_HINT = "Weights have to be positive, finite numbers: correct or drop the row."


def missing_labels(column: pa.Array) -> np.ndarray:
    """True where a label is null or NaN: bool [rows]. A null instead of a list of labels is an empty list."""
    column = plain(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return np.zeros(len(column), dtype=bool)
    return pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)


def refuse_unseen(counts: dict[str, Counter[Any]], first: dict[tuple[str, Any], str]) -> None:
    """Raises InputError for a label of validation or holdout that train lacks.

    counts: role -> label -> rows; first: (role, label) -> the name of the first row that has it.
    """
    for role in ROLES[1:]:
        unseen = {value: n for value, n in counts[role].items() if value not in counts["train"]}
        if unseen:
            value = next(iter(unseen))
            rest = sum(unseen.values()) - 1
            raise InputError(
                f"{first[role, value]}: the {role} label {value!r} does not occur in train",
                "Correct or drop the row, or add such rows to train."
                f"\n  ({counted(rest, f'more {role} row')} with labels that train lacks)",
            )


@dataclass
class ClassLabel:
    """Classes: the sorted distinct labels of the train rows, in the source's type."""

    column: str
    type: str  # Arrow type of the source, without dictionary encoding
    classes: list[Any] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)  # train rows of each
    task: ClassVar[str] = "classification"

    def __post_init__(self) -> None:
        self.counts: dict[str, Counter[Any]] = {role: Counter() for role in ROLES}
        self.first: dict[tuple[str, Any], str] = {}

    def update(self, column: pa.Array, roles: np.ndarray, places: Any) -> list[Fault]:
        """Count labels. `roles`: codes [rows]; `places(i)`: the name of a row for messages."""
        column = plain(column)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        for code, role in enumerate(ROLES):
            rows = np.flatnonzero((roles == code) & valid)
            labels = column.take(pa.array(rows))
            for entry in pc.value_counts(labels).to_pylist():
                value = entry["values"]
                if value not in self.counts[role]:
                    where = pc.index(labels, pa.scalar(value, labels.type)).as_py()
                    self.first[role, value] = places(int(rows[where]))
                self.counts[role][value] += entry["counts"]
        return []

    def finish(self) -> None:
        """Fix the classes. Raises InputError for a single class, a class of one row, an unseen label."""
        train = self.counts["train"]
        self.classes = sorted(train)
        self.class_counts = [train[value] for value in self.classes]
        if len(train) == 1:
            raise InputError(
                f"label {self.column!r}: every train row has the label {self.classes[0]!r}",
                "A classifier needs two classes: check data.label and the paths.",
            )
        single = [value for value in self.classes if train[value] == 1]
        if single:
            raise InputError(
                f"{self.first['train', single[0]]}: the only train row of the class {single[0]!r}",
                "A class needs two rows: add some or drop this one; for numbers set data.task: regression."
                f"\n  (classes with one row: {len(single):,} of {len(train):,})",
            )
        refuse_unseen(self.counts, self.first)

    def encode(self, column: pa.Array) -> np.ndarray:
        """Class indices, int64 [rows]. Raises InputError for an unknown label."""
        column = plain(column)
        index = pc.index_in(column, value_set=self.decode(np.arange(len(self.classes))))
        if index.null_count:
            value = column[int(np.argmax(pc.is_null(index).to_numpy(zero_copy_only=False)))].as_py()
            raise InputError(f"label {value!r} is none of the classes of the train rows", "Drop such rows.")
        return index.to_numpy().astype(np.int64)

    def decode(self, indices: np.ndarray) -> pa.Array:
        """Class indices [rows] → labels in the source's type."""
        return pa.array(self.classes, self.arrow_type).take(pa.array(indices))

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.type_for_alias(self.type)

    @property
    def outputs(self) -> int:
        return len(self.classes)


@dataclass
class TargetLabel:
    """A number, standardised by mean and standard deviation of the train rows."""

    column: str
    type: str
    mean: float = 0.0
    std: float = 1.0
    task: ClassVar[str] = "regression"
    outputs: ClassVar[int] = 1
    classes: ClassVar[list[Any]] = []
    class_counts: ClassVar[list[int]] = []

    def __post_init__(self) -> None:
        self.moments = Moments(1)

    def update(self, column: pa.Array, roles: np.ndarray, places: Any) -> list[Fault]:  # noqa: ARG002
        values = numbers(column)
        bad = np.isinf(values)
        self.moments.update(values[(roles == 0) & ~bad, None])
        return fault_where(bad, "is infinite", FINITE_HINT)

    def finish(self) -> None:
        """Fix mean and deviation. Raises InputError when all targets are equal."""
        self.moments.finish()
        self.mean, self.std = float(self.moments.mean[0]), float(self.moments.std[0])
        if self.std == 0:
            raise InputError(
                f"label {self.column!r}: every train row has the target {self.mean:g}",
                "There is nothing to learn: check data.label and the paths.",
            )

    def encode(self, column: pa.Array) -> np.ndarray:
        """Standardised targets, float32 [rows]."""
        return ((numbers(column) - self.mean) / self.std).astype(np.float32)

    def decode(self, targets: np.ndarray) -> pa.Array:
        """Standardised targets [rows] → float64 in the source's unit."""
        return pa.array(targets.astype(np.float64) * self.std + self.mean)


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
