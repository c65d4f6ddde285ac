"""Columns that give the label away: how well one column alone tells the label, out of sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.first_look.columns import count_distinct
from pipeline.features.arrow import is_numeric, numbers

FEWEST = 50
"""Rows; of fewer, nothing is concluded."""
LEAVES, LEAF = 64, 5
"""Of the tree that cuts a column of more than LEAVES numbers: how many, and the rows of each."""
SAME = 0.995
"""Of the rows in which the column's value and the label stand for each other: above it, they are one thing.

Where some labels are wrong, a column that was there before the label does not get so far.
"""
SAME_ORDER = 0.999
"""The same for numbers: the rank correlation."""
SUSPICIOUS = 0.75
"""Of the errors of always giving the most frequent label, the share that the column alone avoids (of numbers: R²)."""


@dataclass(frozen=True)
class Told:
    """What a column says of the label.

    Attributes:
        share: of the rows whose label is the most frequent one of the value in other rows; of numbers, R².
        skill: share of the errors of always giving the most frequent label that the column avoids; of numbers, R².
        same: whether column and label stand for each other one to one.
        number: whether the label is a number.
    """

    share: float
    skill: float
    same: bool
    number: bool

    @property
    def words(self) -> str:
        """To follow "alone"."""
        return (
            f"explains the label with R² {self.share:.3f}"
            if self.number
            else f"tells the label in {self.percent}"
        )

    @property
    def percent(self) -> str:
        return f"{100 * self.share:.1f} % of the rows"


def told(column: pa.Array, label: pa.Array, task: str) -> Told | None:
    """How much a column alone tells of the label.

    Args:
        column: some values of numbers, booleans or categories, without dictionary encoding.
        label: of the same rows.
        task: classification or regression; nothing is said of other tasks.

    Returns:
        None where nothing can be said: few rows, a single label, or mostly different words.
    """
    if task not in ("classification", "regression"):
        return None
    known = pc.is_valid(label) if task == "classification" else pa.array(np.isfinite(numbers(label)))
    column, label = column.filter(known), label.filter(known)
    many = count_distinct(column) > (LEAVES if is_numeric(column.type) else len(column) / 2)
    if len(label) < FEWEST or count_distinct(label) < 2 or (many and not is_numeric(column.type)):
        return None
    said = _ranks(column) if many else _codes(column)
    if task == "regression":
        return _of_number(column, said, numbers(label), many)
    return _of_class(column, said, _codes(label), many)


def giveaways(columns: Mapping[str, pa.Array], label: pa.Array, task: str) -> dict[str, Told]:
    """The columns that alone tell the label well enough to ask whether they may be features."""
    found = {name: told(column, label, task) for name, column in columns.items()}
    return {name: each for name, each in found.items() if each and (each.same or each.skill >= SUSPICIOUS)}


def _of_class(column: pa.Array, said: np.ndarray, labels: np.ndarray, many: bool) -> Told:
    share = _agreement(said, labels, many)
    baseline = np.bincount(labels).max() / len(labels)
    skill = (share - baseline) / (1 - baseline)
    same = False
    if count_distinct(column) <= 2 * (labels.max() + 1) and skill >= SUSPICIOUS:
        codes = _codes(column)
        same = min(_agreement(codes, labels), _agreement(labels, codes)) >= SAME
    return Told(share, skill, same, number=False)


def _of_number(column: pa.Array, said: np.ndarray, target: np.ndarray, many: bool) -> Told:
    left = np.square(target - _guesses(said, target, many)).sum()
    share = float(1 - left / np.square(target - target.mean()).sum())
    same = False
    if many:
        values = numbers(column)
        known = np.isfinite(values)
        same = known.mean() >= SAME and abs(_rank_correlation(said[known], target[known])) >= SAME_ORDER
    return Told(share, share, bool(same), number=True)


def _codes(column: pa.Array) -> np.ndarray:
    """Each value as a code from 0 on, int64; null is one too."""
    coded = column.dictionary_encode(null_encoding="encode").indices
    return coded.to_numpy(zero_copy_only=False).astype(np.int64)


def _ranks(column: pa.Array) -> np.ndarray:
    """Numbers by their order, float64; NaN where there is none."""
    values = numbers(column)
    finite = np.isfinite(values)
    order = np.searchsorted(np.unique(values[finite]), values).astype(np.float64)
    return np.where(finite, order, np.nan)


def _agreement(said: np.ndarray, labels: np.ndarray, many: bool = False) -> float:
    """The share of rows whose label is the usual one of their value, by the other half of the rows."""
    if many:
        return float((_by_tree(said, labels, number=False) == labels).mean())
    guessed = np.empty_like(labels)
    for fitted, judged in _halves(len(labels)):
        counts = np.zeros((said.max() + 1, labels.max() + 1), dtype=np.int64)
        np.add.at(counts, (said[fitted], labels[fitted]), 1)
        usual = np.where(counts.any(1), counts.argmax(1), counts.sum(0).argmax())
        guessed[judged] = usual[said[judged]]
    return float((guessed == labels).mean())


def _guesses(said: np.ndarray, target: np.ndarray, many: bool) -> np.ndarray:
    """The mean target of a row's value, by the other half of the rows."""
    if many:
        return _by_tree(said, target, number=True)
    guessed = np.empty(len(target))
    for fitted, judged in _halves(len(target)):
        rows = np.bincount(said[fitted], minlength=said.max() + 1)
        sums = np.bincount(said[fitted], target[fitted], said.max() + 1)
        means = np.where(rows > 0, sums / np.maximum(rows, 1), target[fitted].mean())
        guessed[judged] = means[said[judged]]
    return guessed


def _by_tree(said: np.ndarray, target: np.ndarray, number: bool) -> np.ndarray:
    """Guesses for every row by a tree that learnt from the other half of the rows."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor  # sklearn takes a second to load

    kind = DecisionTreeRegressor if number else DecisionTreeClassifier
    guessed = np.empty_like(target)
    for fitted, judged in _halves(len(target)):
        tree = kind(max_leaf_nodes=LEAVES, min_samples_leaf=LEAF, random_state=0)
        guessed[judged] = tree.fit(said[fitted, None], target[fitted]).predict(said[judged, None])
    return guessed


def _halves(rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to judge, drawn, and the other way round."""
    order = np.random.default_rng(0).permutation(rows)
    one, other = order[: rows // 2], order[rows // 2 :]
    return [(one, other), (other, one)]


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; equal numbers share a rank."""
    first, second = (
        np.searchsorted(np.sort(each), each) + np.searchsorted(np.sort(each), each, "right")
        for each in (one, other)
    )
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) and np.ptp(second) else 0.0
