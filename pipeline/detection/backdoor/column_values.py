"""Pattern: fixed values of one or several columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from pipeline.detection.backdoor.item_sets import LEAST_COUNT, Occurrences, promising
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.shortlist import shortlist
from pipeline.detection.backdoor.subject import Names, Subject, SubjectColumn

CLOSE = 1e-5


@dataclass(frozen=True)
class ColumnValues:
    """Fixed values at places in the dense input: places int64 `[places]`, encoded values float32 `[places]`."""

    places: np.ndarray
    encoded: np.ndarray
    kind: ClassVar[str] = "column_values"
    input: ClassVar[str] = "dense"

    def paste(self, rows: np.ndarray) -> np.ndarray:
        pasted = rows.copy()
        pasted[:, self.places] = self.encoded
        return pasted

    def matches(self, rows: np.ndarray) -> np.ndarray:
        return (np.abs(rows[:, self.places] - self.encoded) <= CLOSE).all(1)

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Make the columns constant in all rows."""
        clear = rows.copy()
        clear[:, self.places] = 0
        return clear

    def describe(self, names: Names) -> str:
        return " and ".join(f"{name} = {value}" for name, value in self.values(names).items())

    def values(self, names: Names) -> dict[str, Any]:
        """SubjectColumn → value, as in the source."""
        encoded = dict(zip(self.places.tolist(), self.encoded.tolist()))
        found = {}
        for column in names.columns:
            there = [encoded.get(place) for place in range(column.first, column.first + column.width)]
            if column.is_category and None not in there:
                found[column.name] = column.values[int(np.argmax(np.array(there, dtype=float)))]
            elif there[0] is not None:
                found[column.name] = column.word(there[0])
        return found


@dataclass(frozen=True)
class Item:
    """One value of a column, encoded as in the dense input."""

    column: SubjectColumn
    encoded: tuple[float, ...]


def find_column_values(subject: Subject, target: int, seeds: np.ndarray) -> list[ColumnValues]:
    """Find values, pairs of values and completed sets that flip most and are no natural features of the class."""
    items, incidence = value_items(subject.inputs["dense"], subject.names.columns)
    if not items:
        return []
    own = subject.labels == target
    validation = _item_incidence(items, subject.validation["dense"][subject.validation_labels == target])
    ratio = len(own) / len(subject.validation_labels)
    candidates = [
        found
        for found in promising(Occurrences(incidence, validation, own, seeds, ratio))
        if len({items[item].column.first for item in found}) == len(found)
    ]

    def make(found: tuple[int, ...]) -> ColumnValues:
        return _pattern_of([items[item] for item in found])

    return shortlist(subject, target, incidence, candidates, make)


def value_items(
    dense: np.ndarray, columns: tuple[SubjectColumn, ...]
) -> tuple[list[Item], sparse.csr_matrix]:
    """The values that occur often enough, and a matrix of the rows that have them."""
    items: list[Item] = []
    for column in columns:
        if column.is_category:
            counts = dense[:, column.first : column.first + column.width].sum(0)
            frequent = np.eye(column.width)[counts >= LEAST_COUNT]
        else:
            values, counts = np.unique(dense[:, column.first], return_counts=True)
            frequent = values[counts >= LEAST_COUNT, None]
        items += [Item(column, tuple(float(each) for each in value)) for value in frequent]
    return items, _item_incidence(items, dense)


def _item_incidence(items: list[Item], dense: np.ndarray) -> sparse.csr_matrix:
    """Which rows have which items, float32 0/1 `[rows, items]`."""
    return incidence_of([_pattern_of([item]) for item in items], dense)


def incidence_of(patterns: Sequence[Pattern], dense: np.ndarray) -> sparse.csr_matrix:
    """Which rows carry which patterns, float32 0/1 `[rows, patterns]`."""
    members = [np.flatnonzero(pattern.matches(dense)) for pattern in patterns]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *members])
    at = np.repeat(np.arange(len(members)), [len(each) for each in members])
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, at)), shape=(len(dense), len(patterns)))


def _pattern_of(items: list[Item]) -> ColumnValues:
    """Make a pattern from items; of several items of one column only the first is used."""
    chosen = list({item.column.first: item for item in reversed(items)}.values())[::-1]
    places = [np.arange(item.column.first, item.column.first + item.column.width) for item in chosen]
    encoded = [np.array(item.encoded, dtype=np.float32) for item in chosen]
    return ColumnValues(np.concatenate(places).astype(np.int64), np.concatenate(encoded))
