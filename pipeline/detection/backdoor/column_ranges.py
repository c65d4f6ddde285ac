"""Pattern: a range of one or several columns of a table; for a category, the range is one of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.detection.backdoor.column_values import CLOSE, Item, incidence_of, value_items
from pipeline.detection.backdoor.item_sets import Occurrences, excess, promising
from pipeline.detection.backdoor.shortlist import shortlist
from pipeline.detection.backdoor.subject import Names, Subject, SubjectColumn, spread

BINS = 200
"""How many bins of about equally many rows a column has; a range consists of at most WIDEST neighbouring bins."""
WIDEST = 24
PER_COLUMN = 3
"""How many ranges without overlap each way of counting gives for a column."""
MOST = 60
DRAWN = 32


@dataclass(frozen=True)
class ColumnRanges:
    """Ranges of places in the dense input.

    Attributes:
        places: int64 `[places]`.
        low, high: float32 `[places]`, the ends of the ranges, which belong to them.
        drawn: float32 `[rows, places]`, values of carriers; pasted rows take these in turn.
    """

    places: np.ndarray
    low: np.ndarray
    high: np.ndarray
    drawn: np.ndarray
    kind: ClassVar[str] = "column_ranges"
    input: ClassVar[str] = "dense"

    def paste(self, rows: np.ndarray) -> np.ndarray:
        pasted = rows.copy()
        pasted[:, self.places] = self.drawn[np.arange(len(rows)) % len(self.drawn)]
        return pasted

    def matches(self, rows: np.ndarray) -> np.ndarray:
        there = rows[:, self.places]
        inside: np.ndarray = (there >= self.low - CLOSE) & (there <= self.high + CLOSE)
        return np.logical_and.reduce(inside, axis=1)

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Make the columns constant in all rows."""
        clear = rows.copy()
        clear[:, self.places] = 0
        return clear

    def describe(self, names: Names) -> str:
        found = self.values(names).items()
        return " and ".join(f"{name} {value if ' and ' in value else f'= {value}'}" for name, value in found)

    def values(self, names: Names) -> dict[str, Any]:
        """SubjectColumn → “between a and b” or value, as in the source."""
        at = {int(place): where for where, place in enumerate(self.places)}
        found = {}
        for column in names.columns:
            there = [at[place] for place in range(column.first, column.first + column.width) if place in at]
            if there and column.is_category:
                found[column.name] = column.values[int(self.low[there].argmax())]
            elif there:
                low, high = (column.word(float(edge[there[0]])) for edge in (self.low, self.high))
                found[column.name] = low if low == high else f"between {low} and {high}"
        return found


@dataclass(frozen=True)
class Range:
    """A range of a numeric column, in the units of the dense input; both ends belong to it."""

    column: SubjectColumn
    low: float
    high: float


def find_column_ranges(subject: Subject, target: int, seeds: np.ndarray) -> list[ColumnRanges]:
    """Find ranges, pairs of ranges, and pairs of a range and a value, that flip most and are no natural features."""
    dense, own = subject.inputs["dense"], subject.labels == target
    validation = subject.validation["dense"][subject.validation_labels == target]
    ratio = len(own) / len(subject.validation_labels)
    numbers = [column for column in subject.names.columns if not column.is_category]
    found = [best for column in numbers for best in best_ranges(column, dense, own, seeds, validation, ratio)]
    chosen = [each for _, each in sorted(found, key=lambda scored: -scored[0])[:MOST]]
    if not chosen:
        return []
    categories = tuple(column for column in subject.names.columns if column.is_category)
    items: list[Item | Range] = [*chosen, *value_items(dense, categories)[0]]
    patterns = [_pattern_of([item], dense, own) for item in items]
    incidence, seen = incidence_of(patterns, dense), incidence_of(patterns, validation)
    candidates = [
        each
        for each in promising(Occurrences(incidence, seen, own, seeds, ratio))
        if len({items[item].column.first for item in each}) == len(each)
        and any(isinstance(items[item], Range) for item in each)
    ]

    def make(each: tuple[int, ...]) -> ColumnRanges:
        return _pattern_of([items[item] for item in each], dense, own)

    return shortlist(subject, target, incidence, candidates, make)


def best_ranges(
    column: SubjectColumn,
    dense: np.ndarray,
    own: np.ndarray,
    seeds: np.ndarray,
    validation: np.ndarray,
    ratio: float,
) -> list[tuple[float, Range]]:
    """The over-represented ranges of a column, each with its excess; the arguments are those of `Occurrences`."""
    values, later = dense[:, column.first], validation[:, column.first]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1), method="higher"))
    first, last = np.triu_indices(len(edges))
    first, last = first[last - first < WIDEST], last[last - first < WIDEST]

    def count(of: np.ndarray) -> np.ndarray:
        """The number of rows in each range of bins; bin i ends at edges[i], inclusive."""
        bins = np.searchsorted(edges, of, "left").clip(max=len(edges) - 1)
        summed = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=len(edges)))])
        return (summed[last + 1] - summed[first]).astype(np.float64)

    total, inside, seen = count(values), count(values[own]), count(later)
    rankings = (
        excess(inside, total, own.mean()),
        excess(count(values[seeds]), len(seeds), total / len(own)),
        (inside - ratio * seen) / np.sqrt(inside + ratio**2 * (seen + 1)),
    )
    found: dict[tuple[int, int], float] = {}
    for scores in rankings:
        taken: list[tuple[int, int]] = []
        for place in np.argsort(-scores, kind="stable"):
            ends = (int(first[place]), int(last[place]))
            if scores[place] <= 0 or len(taken) == PER_COLUMN:
                break
            if all(ends[1] < low or ends[0] > high for low, high in taken):
                taken.append(ends)
                found[ends] = max(found.get(ends, 0.0), float(scores[place]))
    below = np.concatenate([[-np.inf], edges])
    ranges = []
    for (low, high), score in found.items():
        members = values[own & (values > below[low]) & (values <= edges[high])]
        if len(members):
            ranges.append((score, Range(column, float(members.min()), float(members.max()))))
    return ranges


def _pattern_of(items: Sequence[Item | Range], dense: np.ndarray, own: np.ndarray) -> ColumnRanges:
    """Make a pattern from items; matching rows of the class give the pasted values. A column's first item counts."""
    chosen = list({item.column.first: item for item in reversed(items)}.values())[::-1]
    places = np.concatenate([np.arange(i.column.first, i.column.first + i.column.width) for i in chosen])
    ends = [(i.low, i.high) if isinstance(i, Range) else (i.encoded, i.encoded) for i in chosen]
    low, high = (np.concatenate([np.atleast_1d(end[side]) for end in ends]) for side in (0, 1))
    low, high = low.astype(np.float32), high.astype(np.float32)
    fits = ColumnRanges(places, low, high, np.stack([low, high])).matches(dense) & own
    carriers = dense[np.flatnonzero(fits)][:, places]
    drawn = carriers[spread(np.argsort(carriers[:, 0], kind="stable"), DRAWN)]
    return ColumnRanges(places.astype(np.int64), low, high, drawn)
