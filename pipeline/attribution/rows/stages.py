"""The training rows of each stage of training. Row numbers allow a row to be in several stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch

# About the number of rows whose batches are held in memory at once while they are scored.
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class StageData:
    """The training data of one stage.

    Attributes:
        batches: the stage's rows as batches of (inputs, labels), always in the same order. They are iterated several
            times.
        row_ids: int ``[rows]``, the place of every row in the scores, from 0. Rows of several stages with the same
            number are one row. None continues the numbers of the stages before.
        loss: the stage's loss, in the form that ``attribute`` takes; None is the loss that ``attribute`` is given.
    """

    batches: Iterable[tuple[Inputs, Tensor]]
    row_ids: Sequence[int] | Tensor | None = None
    loss: str | Objective | None = None


@dataclass(frozen=True)
class StageRows:
    """A stage's rows with their numbers. They can be iterated several times.

    Attributes:
        batches: batches of (inputs, labels).
        objective: the training objective of the stage.
        row_ids: int64 ``[rows]``, the rows' numbers; None numbers them from 0.
        train_rows: the number of rows that the stage trained on. An iteration raises AttributionError if the number of
            rows differs; None doesn't compare.
    """

    batches: Iterable[tuple[Inputs, Tensor]]
    objective: Objective
    row_ids: Tensor | None = None
    train_rows: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for inputs, labels in self.batches:
            numbers = torch.arange(first, first + len(labels))
            yield Batch(inputs, labels, numbers if self.row_ids is None else self.row_ids[numbers])
            first += len(labels)
        if self.train_rows not in (None, first):
            raise AttributionError(
                f"Training had {self.train_rows} rows, but {first} are given.",
                "Give all rows that it was recorded with, each once; no drop_last.",
            )

    def in_groups(self) -> Iterator[list[Batch]]:
        """Yields groups of consecutive batches. Each but the last has at least ``_ROWS_AT_ONCE`` rows."""
        group: list[Batch] = []
        for batch in self:
            group.append(batch)
            if sum(len(held.row_ids) for held in group) >= _ROWS_AT_ONCE:
                yield group
                group = []
        if group:
            yield group


def number_rows(stages: Sequence[StageData]) -> list[Tensor | None]:
    """Returns the row numbers of every stage, int64 ``[rows]``.

    The result is None for a single stage that has no ``row_ids``.

    Raises:
        AttributionError: a stage has more or fewer numbers than rows, a number is negative, or the numbers of all
            stages have a gap.
    """
    if len(stages) == 1 and stages[0].row_ids is None:
        return [None]
    found: list[Tensor] = []
    first = 0
    for place, stage in enumerate(stages):
        rows = sum(len(labels) for _, labels in stage.batches)
        if stage.row_ids is None:
            numbers = torch.arange(first, first + rows)
        else:
            numbers = torch.as_tensor(stage.row_ids, dtype=torch.int64, device="cpu")
        if numbers.shape != (rows,) or (rows and int(numbers.min()) < 0):
            raise AttributionError(
                f"Stage {place} has {rows} rows but row_ids of shape {tuple(numbers.shape)}, or negative ones.",
                "Give each row a number from 0.",
            )
        first = max(first, int(numbers.max()) + 1 if rows else 0)
        found.append(numbers)
    if len(torch.cat(found).unique()) != first:
        raise AttributionError(
            f"The row_ids go up to {first - 1} but some numbers below it have no row.",
            "Number the rows from 0 without gaps.",
        )
    return list(found)
