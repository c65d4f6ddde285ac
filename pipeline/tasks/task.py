"""What every task is: its labels as numbers, its loss and metric, and what an answer to it is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import ROLES, AuditConfig
from pipeline.errors import InputError
from pipeline.features.faults import Fault
from pipeline.text import words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TINY = 1e-12
"""The least probability whose logarithm is taken."""


class Codec(Protocol):
    """The label column: checked and counted in the first pass, encoded in the second.

    A dataclass whose fields are its fitted state, all JSON values.
    """

    column: str
    type: str

    @property
    def classes(self) -> list[Any]:
        """Label values in the source's type, sorted; empty where there are none."""

    @property
    def class_counts(self) -> list[int]:
        """Train rows of each."""

    @property
    def outputs(self) -> int:
        """Outputs of a model."""

    def update(self, column: pa.Array, roles: np.ndarray, places: Any) -> list[Fault]:
        """Check and count. `roles`: codes [rows]; `places(i)`: the name of a row for messages."""

    def finish(self) -> None:
        """Fix the state. Raises InputError for labels that can't be learnt."""

    def encode(self, column: pa.Array) -> np.ndarray:
        """[rows, …]. Raises InputError for an unknown label."""

    def decode(self, labels: np.ndarray) -> pa.Array:
        """What `encode` made, in the source's type."""


class Task(ABC):
    """A kind of target. Opinions are what plain models answer: `[rows, outputs]`, or `[rows]` for numbers.

    Attributes:
        name: the word in `data.task`.
        loss: the name of the objective that is trained.
        metric: the name of what `score` gives.
        label: what a row's label is, to follow "is".
        labels: the same of several rows.
        alike: what the rows of a random removal have in common with those that it stands for.
        unit: of losses and influences.
        lacks: keys of the config that mean nothing for it, and what to do where one is set.
        refusal: of a label column that it does not take, to follow "which", and what to do.
    """

    name: ClassVar[str]
    loss: ClassVar[str]
    metric: ClassVar[str]
    label: ClassVar[str]
    labels: ClassVar[str]
    alike: ClassVar[str]
    unit: ClassVar[str] = "nats"
    lacks: ClassVar[dict[str, str]] = {}
    refusal: ClassVar[tuple[str, str]]

    def check_options(self, config: AuditConfig) -> None:
        """Raises InputError for an option that is set and means nothing for the task."""
        for option, hint in self.lacks.items():
            name, _, key = option.partition(".")
            section = getattr(config, name)
            value = getattr(section, key)
            if value != type(section).model_fields[key].default:
                raise InputError(
                    f"{option} is {value}, but the target {config.data.label!r} is {self.label}: "
                    f"it is not there for {self.labels}",
                    hint,
                )

    # Labels.

    @abstractmethod
    def codec(self, column: str, of_one: str) -> Codec:
        """A codec that has seen no rows; of_one: the Arrow type of one label, as text."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> Codec:
        """The codec of this fitted state."""

    @abstractmethod
    def takes(self, kind: pa.DataType) -> bool:
        """Whether a column of this Arrow type can be the label."""

    @abstractmethod
    def recognises(self, kind: pa.DataType) -> bool:
        """Whether `auto` takes such a label for this task; one task at most does."""

    @abstractmethod
    def empty_labels(self, rows: int, outputs: int) -> Tensor:
        """A tensor to hold the labels of so many rows, as narrow as they allow."""

    @abstractmethod
    def contradict(self, one: Tensor, other: Tensor) -> Tensor:
        """bool: whether labels contradict each other; both as encoded, broadcast over all but a label's own size."""

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """What rows are dealt out evenly by, int64 `[rows]`."""

    @abstractmethod
    def constant_loss(self, labels: np.ndarray) -> float:
        """The mean loss of the best constant prediction, as training measures losses."""

    # What a model gives.

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Encoded labels from outputs `[rows, outputs]`."""

    @abstractmethod
    def score(self, measured: dict[str, Tensor], labels: Tensor) -> float:
        """The metric from what `training/dynamics.measure` gives of all rows."""

    # What plain models answer.

    def opinions_shape(self, rows: int, outputs: int) -> tuple[int, ...]:
        """Of an array of opinions."""
        return (rows, outputs)

    @abstractmethod
    def answers(self, opinions: np.ndarray) -> np.ndarray:
        """The most probable labels, encoded but for their dtype."""

    @abstractmethod
    def tempered(self, opinions: np.ndarray, temperature: float) -> np.ndarray:
        """Probabilities whose logarithms (of sets: log odds) are divided by a temperature; numbers stay as they are."""

    @abstractmethod
    def errors(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Squared error of the probabilities per row, summed over outputs; of numbers the absolute error."""

    @abstractmethod
    def mean_opinion(self, opinions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        """The weighted mean of log probabilities (of sets: log odds; of numbers: of these), as opinions."""


class Probable(Task):
    """A task whose opinions are probabilities."""

    @abstractmethod
    def row_losses(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Nats per row (of sets: the mean over labels), float64 `[rows]`."""

    @abstractmethod
    def right(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Where the most probable answer is the given one: share per row, float64 `[rows]`."""

    @abstractmethod
    def shares(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """How frequent each class or label is, float64 `[outputs]`."""


def clipped(opinions: np.ndarray) -> np.ndarray:
    """float64 probabilities whose logarithms are finite, and those of what is left to 1."""
    return np.clip(opinions.astype(np.float64), TINY, 1 - TINY)


def entropy(shares: np.ndarray) -> np.ndarray:
    """In nats, over the first axis."""
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(0)


def refuse_single(
    train: Counter[Any], first: dict[tuple[str, Any], str], has: str, all_of: str, hint: str
) -> None:
    """Refuse a class or label of one train row, which cannot be both learnt and judged.

    Args:
        train: class or label → the number of its train rows.
        first: (role, class or label) → the name of the first row that has it.
        has: what stands between "the only train row" and the class or label.
        all_of: the word for several of them.
        hint: what to do.

    Raises:
        InputError: there is one. The message names its row.
    """
    single = [value for value in sorted(train) if train[value] == 1]
    if single:
        raise InputError(
            f"{first['train', single[0]]}: the only train row {has} {single[0]!r}",
            f"{hint}\n  ({all_of} with one row: {len(single):,} of {len(train):,})",
        )


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
                f"\n  ({words.plural(rest, f'more {role} row')} with labels that train lacks)",
            )


def narrow(outputs: int) -> torch.dtype:
    """Of class indices: int16 where they fit, else int32."""
    import torch

    return torch.int16 if outputs < 2**15 else torch.int32
