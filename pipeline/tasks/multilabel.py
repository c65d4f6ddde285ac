"""Sets of labels (multi-label): every row has any number of labels, each of which is yes or no by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES
from pipeline.errors import InputError
from pipeline.features.arrow import plain
from pipeline.features.faults import Fault, fault_where
from pipeline.tasks.task import TINY, Probable, clipped, entropy, refuse_single, refuse_unseen

NULL_HINT = (
    "A list holds the labels that a row has: leave the null out. An empty list is a row without labels."
)

if TYPE_CHECKING:
    from torch import Tensor


class Multilabel(Probable):
    """Binary cross-entropy of every label; opinions are probabilities of the labels, `[rows, labels]`."""

    name = "multilabel"
    loss = "binary_cross_entropy"
    metric = "f1"
    label = "a set of labels"
    labels = "sets of labels"
    alike = "predicted numbers of labels"
    lacks = {  # noqa: RUF012
        "detection.repeats": "Leave it out.",
        "training.class_weights": "Leave it out; data.weight gives rows weights of their own.",
    }
    refusal = (
        "holds no sets of labels",
        "Make it a column of lists of strings or integers, or leave data.task out.",
    )

    def codec(self, column: str, of_one: str) -> LabelSets:
        return LabelSets(column, of_one)

    def load(self, state: dict[str, Any]) -> LabelSets:
        return LabelSets(**state)

    def takes(self, kind: pa.DataType) -> bool:
        return is_set(kind)

    def recognises(self, kind: pa.DataType) -> bool:
        return is_set(kind)

    def empty_labels(self, rows: int, outputs: int) -> Tensor:
        import torch

        return torch.empty(rows, outputs, dtype=torch.uint8)

    def contradict(self, one: Tensor, other: Tensor) -> Tensor:
        return (one != other).any(-1)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The rarest label of a set."""
        counts = labels.sum(0)
        rarest = np.where(labels > 0, counts, counts.sum() + 1).argmin(1)
        return np.where(labels.any(1), rarest, labels.shape[1]).astype(np.int64)

    def constant_loss(self, labels: np.ndarray) -> float:
        yes = labels.mean(0, dtype=np.float64)
        return float(entropy(np.stack([yes, 1 - yes])).sum())

    def predictions(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).byte()

    def score(self, measured: dict[str, Tensor], labels: Tensor) -> float:  # noqa: ARG002
        """The mean F1 of the rows."""
        return measured["f1"].double().mean().item()

    def answers(self, opinions: np.ndarray) -> np.ndarray:
        return opinions > 0.5

    def tempered(self, opinions: np.ndarray, temperature: float) -> np.ndarray:
        yes = np.clip(opinions, TINY, 1 - TINY)
        return 1 / (1 + ((1 - yes) / yes) ** (1 / temperature))

    def errors(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.square(opinions - labels).sum(1)

    def mean_opinion(self, opinions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        sure = map(clipped, opinions)
        odds = np.average([np.log(each) - np.log1p(-each) for each in sure], axis=0, weights=weights)
        return 1 / (1 + np.exp(-odds))

    def row_losses(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        given = np.where(labels > 0, opinions, 1 - opinions)
        return -np.log(np.maximum(given, TINY)).mean(1)

    def right(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return ((opinions > 0.5) == (labels > 0)).mean(1)

    def shares(self, labels: np.ndarray, outputs: int) -> np.ndarray:  # noqa: ARG002
        return labels.mean(0)


MULTILABEL = Multilabel()


def is_set(kind: pa.DataType) -> bool:
    """Whether a column of the type can hold sets of labels: lists of strings or integers, of any length."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    of = kind.value_type
    return bool(pa.types.is_integer(of) or pa.types.is_string(of) or pa.types.is_large_string(of))


def as_sets(column: pa.Array) -> pa.Array:
    """Labels sorted, each once, as a list of texts written one after the other; other columns stay as they are.

    What is to be compared, so that neither order nor repetition make two rows differ; null is the empty set.
    """
    column = plain(column)
    if not is_set(column.type):
        return column
    return pa.array([repr(sorted(set(values or ()), key=repr)) for values in column.to_pylist()], pa.string())


@dataclass
class LabelSets:
    """The sorted distinct labels of the train rows; a null instead of a list is the empty set."""

    column: str
    type: str  # Arrow type of one label
    classes: list[Any] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)  # train rows that have each

    def __post_init__(self) -> None:
        self.counts: dict[str, Counter[Any]] = {role: Counter() for role in ROLES}
        self.rows = dict.fromkeys(ROLES, 0)
        self.first: dict[tuple[str, Any], str] = {}

    def update(self, column: pa.Array, roles: np.ndarray, places: Any) -> list[Fault]:
        """Count labels. `roles`: codes [rows]; `places(i)`: the name of a row for messages."""
        rows, labels = _flat(column)
        null = labels.is_null().to_numpy(zero_copy_only=False)
        for row, value in zip(rows[~null].tolist(), labels.drop_null().to_pylist()):
            role = ROLES[roles[row]] if roles[row] < len(ROLES) else None
            if role is not None:
                if value not in self.counts[role]:
                    self.first[role, value] = places(row)
                self.counts[role][value] += 1
        for code, role in enumerate(ROLES):
            self.rows[role] += int((roles == code).sum())
        faulty = np.zeros(len(column), dtype=bool)
        faulty[rows[null]] = True
        return fault_where(faulty, "has a null in its list", NULL_HINT) if faulty.any() else []

    def finish(self) -> None:
        """Fix the labels. Raises InputError for a label of one row, of all rows, or unseen in train, and for none."""
        train = self.counts["train"]
        self.classes = sorted(train)
        self.class_counts = [train[value] for value in self.classes]
        if not train:
            raise InputError(
                f"label {self.column!r}: no train row has any label", "Check data.label and the paths."
            )
        everywhere = [value for value in self.classes if train[value] == self.rows["train"]]
        if everywhere:
            raise InputError(
                f"label {self.column!r}: every train row has the label {everywhere[0]!r}",
                "There is nothing to learn about it: leave it out of the lists.",
            )
        refuse_single(
            train,
            self.first,
            "with the label",
            "labels",
            "A label needs two rows: leave it out of the list, or add such rows.",
        )
        refuse_unseen(self.counts, self.first)

    def encode(self, column: pa.Array) -> np.ndarray:
        """uint8 [rows, labels], 1 where the row has the label. Raises InputError for an unknown label."""
        rows, labels = _flat(column)
        index = pc.index_in(labels, value_set=pa.array(self.classes, self.arrow_type))
        if index.null_count:
            value = labels[int(np.argmax(pc.is_null(index).to_numpy(zero_copy_only=False)))].as_py()
            raise InputError(f"label {value!r} is none of the labels of the train rows", "Drop it.")
        found = np.zeros((len(column), self.outputs), dtype=np.uint8)
        found[rows, index.to_numpy().astype(np.int64)] = 1
        return found

    def decode(self, sets: np.ndarray) -> pa.Array:
        """[rows, labels] → lists of labels in the source's type, ascending."""
        rows, labels = np.nonzero(sets)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(sets)))]).astype(np.int32)
        values = pa.array(self.classes, self.arrow_type).take(pa.array(labels))
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.type_for_alias(self.type)

    @property
    def outputs(self) -> int:
        return len(self.classes)


def _flat(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The row of each label in the lists, int64, and the labels; each label once per row."""
    column = plain(column)
    rows = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    labels = column.flatten()
    pairs = (
        pa.table({"row": rows, "label": labels}).group_by(["row", "label"], use_threads=False).aggregate([])
    )
    return pairs["row"].to_numpy(), pairs["label"].combine_chunks()
