"""Classification: one of several classes a row."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES
from pipeline.errors import InputError
from pipeline.features.arrow import is_categorical, plain
from pipeline.features.faults import Fault
from pipeline.tasks.task import TINY, Probable, clipped, entropy, narrow, refuse_single, refuse_unseen

if TYPE_CHECKING:
    from torch import Tensor


class Classification(Probable):
    """Softmax cross-entropy; opinions are probabilities of the classes, `[rows, classes]`."""

    name = "classification"
    loss = "cross_entropy"
    metric = "accuracy"
    label = "a class"
    labels = "classes"
    alike = "classes"
    refusal = ("can't be a class", "Convert it to integers or strings, or set data.task: regression.")

    def codec(self, column: str, of_one: str) -> ClassLabel:
        return ClassLabel(column, of_one)

    def load(self, state: dict[str, Any]) -> ClassLabel:
        return ClassLabel(**state)

    def takes(self, kind: pa.DataType) -> bool:
        """Floats too, where they are asked for as classes."""
        return is_categorical(kind) or pa.types.is_floating(kind)

    def recognises(self, kind: pa.DataType) -> bool:
        return is_categorical(kind)

    def empty_labels(self, rows: int, outputs: int) -> Tensor:
        import torch

        return torch.empty(rows, dtype=narrow(outputs))

    def contradict(self, one: Tensor, other: Tensor) -> Tensor:
        return one != other

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The classes."""
        return labels.astype(np.int64)

    def constant_loss(self, labels: np.ndarray) -> float:
        return float(entropy(np.bincount(labels) / len(labels)))

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def score(self, measured: dict[str, Tensor], labels: Tensor) -> float:
        """The share of rows whose most probable class is the given one."""
        return (measured["top_class"][:, 0] == labels.cpu()).double().mean().item()

    def answers(self, opinions: np.ndarray) -> np.ndarray:
        return opinions.argmax(1)

    def tempered(self, opinions: np.ndarray, temperature: float) -> np.ndarray:
        return _normalised(np.log(np.maximum(opinions, TINY)) / temperature)

    def errors(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.square(opinions - np.eye(opinions.shape[1])[labels]).sum(1)

    def mean_opinion(self, opinions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        logs = [np.log(clipped(each)) for each in opinions]
        return _normalised(np.average(logs, axis=0, weights=weights))

    def row_losses(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(opinions[np.arange(len(labels)), labels], TINY))

    def right(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (opinions.argmax(1) == labels).astype(np.float64)

    def shares(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        return np.bincount(labels, minlength=outputs) / len(labels)


CLASSIFICATION = Classification()


def _normalised(logs: np.ndarray) -> np.ndarray:
    """Logarithms `[rows, classes]`, up to a constant per row → probabilities."""
    raised = np.exp(logs - logs.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def one_spelling(value: str) -> str:
    """What spellings of one word have in common: without blanks around it, in one case, composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).strip().casefold())


@dataclass
class ClassLabel:
    """Classes: the sorted distinct labels of the train rows, in the source's type.

    With `merge`, spellings that are equal after strip, casefold and NFC are one class, called by the one that most
    train rows have; `spellings` has the others.
    """

    column: str
    type: str  # Arrow type of the source, without dictionary encoding
    classes: list[Any] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)  # train rows of each
    merge: bool = False
    spellings: dict[str, str] = field(default_factory=dict)  # spelling → name of its class

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

    def alike(self) -> list[list[str]]:
        """Labels that are one after strip, casefold and NFC, of all roles; the most frequent spelling first."""
        total: Counter[Any] = sum(self.counts.values(), Counter())
        groups: dict[str, list[str]] = {}
        for value in sorted(value for value in total if isinstance(value, str)):
            groups.setdefault(one_spelling(value), []).append(value)
        train = self.counts["train"]
        several = [group for group in groups.values() if len(group) > 1]
        return [sorted(group, key=lambda value: (-train[value], -total[value], value)) for group in several]

    def of_classes(self) -> dict[str, Counter[Any]]:
        """Role → class → rows, with spellings merged if they are to be."""
        self.spellings = (
            {other: first for first, *others in self.alike() for other in others} if self.merge else {}
        )
        found: dict[str, Counter[Any]] = {role: Counter() for role in ROLES}
        for role, counts in self.counts.items():
            for value, rows in counts.items():
                found[role][self.spellings.get(value, value)] += rows
        return found

    def finish(self) -> None:
        """Fix the classes.

        Raises:
            InputError: there is a single class, a class of one row, a label that train lacks, or a number that is not
                whole.
        """
        self._refuse_fractions()
        counts = self.of_classes()
        for (role, value), place in list(self.first.items()):
            self.first.setdefault((role, self.spellings.get(value, value)), place)
        train = counts["train"]
        self.classes = sorted(train)
        self.class_counts = [train[value] for value in self.classes]
        if len(train) == 1:
            raise InputError(
                f"label {self.column!r}: every train row has the label {self.classes[0]!r}",
                "A classifier needs two classes: check data.label and the paths.",
            )
        refuse_single(
            train,
            self.first,
            "of the class",
            "classes",
            "A class needs two rows: add some or drop this one; for numbers set data.task: regression.",
        )
        refuse_unseen(counts, self.first)

    def _refuse_fractions(self) -> None:
        for (role, value), place in self.first.items():
            if isinstance(value, float) and not value.is_integer():
                raise InputError(
                    f"{place}: the {role} label {value:g} is no class: it is not a whole number",
                    "Set data.task: regression, or make the labels whole numbers or strings.",
                )

    def named(self, column: pa.Array) -> pa.Array:
        """The labels by the names of their classes, without dictionary encoding."""
        column = plain(column)
        if not self.spellings:
            return column
        at = pc.index_in(column, value_set=pa.array(list(self.spellings), column.type))
        names = pa.array(list(self.spellings.values()), column.type)
        return pc.coalesce(names.take(at), column)

    def encode(self, column: pa.Array) -> np.ndarray:
        """Class indices, int64 [rows]. Raises InputError for an unknown label."""
        column = self.named(column)
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
