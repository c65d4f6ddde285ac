"""Classes of which train would get fewer than two rows: their rows go to train, or are set aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES
from pipeline.data.formats.sources import open_source
from pipeline.data.splits import drawn
from pipeline.tasks.classification import ClassLabel

if TYPE_CHECKING:
    from pipeline.data.survey import ShardRows, Survey

NEEDED = 2
"""Train rows of a class: one to learn from while the other is judged."""
MOST_ASIDE = 0.05
"""Of all rows: if more would be set aside, the labels are hardly classes, and the first of them is an error."""


@dataclass(frozen=True)
class Rare:
    """What happens to rows of rare classes.

    Attributes:
        to_train: ids of features, int64; their rows are train rows whatever their hash says.
        moved: the classes whose rows these are.
        aside: labels whose rows take no part.
    """

    to_train: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    moved: tuple[Any, ...] = ()
    aside: tuple[Any, ...] = ()

    def is_aside(self, labels: pa.Array) -> np.ndarray:
        """bool `[rows]`, from labels without dictionary encoding."""
        if not self.aside:
            return np.zeros(len(labels), dtype=bool)
        found = pc.is_in(labels, value_set=pa.array(self.aside, labels.type))
        return found.to_numpy(zero_copy_only=False)


def rare_classes(survey: Survey) -> Rare | None:
    """What must happen to the rows of rare classes, after a first pass; None if nothing must.

    The role of a row stays a hash of its features. Where train gets fewer than two rows of a class, the rows with the
    lowest hashes go to train, with all rows of equal features. A class that has fewer than two rows, or a single one in
    train where files or a column give the roles, is set aside.
    """
    label = survey.encoding.label
    if not isinstance(label, ClassLabel):
        return None
    counts = label.of_classes()
    train, total = counts["train"], sum(counts[role].total() for role in ROLES)
    everywhere = {
        value: sum(counts[role][value] for role in ROLES) for role in ROLES for value in counts[role]
    }
    split = survey.data.split
    if split is not None and split.fractions is not None:
        short = [value for value, rows in everywhere.items() if train[value] < NEEDED <= rows]
        alone = [value for value, rows in everywhere.items() if rows < NEEDED]
    else:
        short, alone = [], [value for value, rows in train.items() if rows < NEEDED]
    if sum(everywhere[value] for value in alone) > MOST_ASIDE * total:
        alone = []
    spelled = [value for value, name in label.spellings.items() if name in alone]
    if not short and not alone:
        return None
    to_train = _lowest(survey, short, label) if short else np.empty(0, np.int64)
    return Rare(to_train, tuple(sorted(short)), tuple(sorted([*alone, *spelled])))


def _lowest(survey: Survey, classes: list[Any], label: ClassLabel) -> np.ndarray:
    """The ids of the features that go to train, int64: of each class the lowest, until two rows have them."""
    split = survey.data.split
    assert split is not None
    found: dict[Any, list[np.ndarray]] = {value: [] for value in classes}
    for kept in survey.shards:
        for first, labels in _labels(kept, label):
            ids = kept.features[first : first + len(labels)]
            there = kept.roles[first : first + len(labels)] < len(ROLES)
            index = pc.index_in(labels, value_set=pa.array(classes, labels.type))
            places = index.fill_null(-1).to_numpy(zero_copy_only=False)
            for place in np.unique(places[(places >= 0) & there]):
                found[classes[place]].append(ids[(places == place) & there])
    taken = []
    for parts in found.values():
        ids = np.concatenate(parts)
        order = np.argsort(drawn(ids, split), kind="stable")
        taken.append(ids[order[:NEEDED]])
    return np.unique(np.concatenate(taken))


def _labels(kept: ShardRows, label: ClassLabel) -> Iterator[tuple[int, pa.Array]]:
    """The labels of a shard by the names of their classes, some at a time, with the place of the first."""
    first = 0
    with open_source(kept.shard.path) as parquet:
        for batch in parquet.iter_batches(columns=[label.column]):
            labels = label.named(kept.shard.read_as(label.column, batch.column(0)))
            yield first, labels
            first += len(labels)
