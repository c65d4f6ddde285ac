"""What a row does to classes and slices of the validation rows, and rows that are right for the wrong reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.data.encoded import EncodedData
from pipeline.data.slices import read_slices
from pipeline.scoring.attribute import scores_path
from pipeline.scoring.groups import FEWEST_CELL_ROWS, Groups, scored_groups

SPURIOUS_SHARE = 0.1
"""Of a row's influence on the four parts of the validation rows: the harm that it does in its slice alone."""
LEAST_TIE = 0.15
LEAST_TIE_ERRORS = 4.0
"""By how much more train ties a slice to a label than validation does, as a share of rows and in standard errors."""


def read_group_harm(run_path: Path, data: EncodedData, groups: Groups) -> Iterator[tuple[slice, np.ndarray]]:
    """Places of the train rows and their harm to every group, float64 `[rows, groups]`, chunk by chunk."""
    for chunk in data.chunks("train"):
        lists = pq.read_table(scores_path(run_path, chunk), columns=["group_harm"])[
            "group_harm"
        ].combine_chunks()
        values = lists.flatten().to_numpy().reshape(chunk.rows, len(groups.groups))
        yield slice(chunk.first, chunk.first + chunk.rows), values.astype(np.float64)


def find_spurious(run_path: Path, data: EncodedData, labels: np.ndarray) -> np.ndarray:
    """bool `[train rows]`: supports its label in its slice at the expense of the slice's other labels.

    labels: class indices `[train rows]`. Validation rows are parted in four, by the row's class and its slice. A row is
    spurious when train ties its slice to its label and validation does not, and when it helps its own class in its
    own slice, harms the other classes there, and the excess of that over its harm to the other classes elsewhere is
    more than SPURIOUS_SHARE of the four parts' harms in size: a row with a wrong label harms on both sides of the
    slice, a right one helps or does little. Every part needs FEWEST_CELL_ROWS. The influence alone won't do: rows are
    likest to those of their slice, so that half of a table's rows harm the other classes there most.
    """
    found, groups = np.zeros(len(labels), dtype=bool), scored_groups(run_path)
    if groups is None or data.encoding.task != "classification":
        return found
    all_codes = read_slices(run_path, "train")
    tied = [tied_rows(groups, column, labels, codes) for column, codes in enumerate(all_codes)]
    for rows, harm in read_group_harm(run_path, data, groups):
        for column, codes in enumerate(all_codes):
            share = spurious_share(groups, column, harm, labels[rows], codes[rows])
            found[rows] |= tied[column][rows] & (share > SPURIOUS_SHARE)
    return found


def tied_rows(groups: Groups, column: int, labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """bool `[train rows]`: those whose label is more frequent in their slice than elsewhere, but not in validation.

    What counts is the label's share in train less that in validation, within the slice less elsewhere. Of two slices
    and two labels, the change of one comes with that of the other: the tied one is where the share changed more.
    """
    found = np.zeros(len(labels), dtype=bool)
    for value, label in sorted(set(zip(codes.tolist(), labels.tolist()))):
        counts = part_counts(groups, (column, value, label))
        inside, of_class = codes == value, labels == label
        if counts is None or inside.all():
            continue
        own, own_elsewhere, others, others_elsewhere = counts
        hits = np.array([(inside & of_class).sum(), (~inside & of_class).sum(), own, own_elsewhere])
        rows = np.array([inside.sum(), (~inside).sum(), own + others, own_elsewhere + others_elsewhere])
        share = (hits + 0.5) / (rows + 1)
        here, elsewhere = share[:2] - share[2:]
        error = np.sqrt((share * (1 - share) / rows).sum())
        if here - elsewhere >= max(LEAST_TIE, LEAST_TIE_ERRORS * error) and here > abs(elsewhere):
            found |= inside & of_class
    return found


def spurious_share(
    groups: Groups, column: int, harm: np.ndarray, labels: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """float64 `[rows]` in −1 … 1; −1 where a part has too few validation rows or the row does not help its own."""
    share = np.full(len(labels), -1.0)
    for value, label in sorted(set(zip(codes.tolist(), labels.tolist()))):
        mine = np.flatnonzero((codes == value) & (labels == label))
        parts = four_parts(groups, (column, value, label), harm[mine])
        if parts is not None:
            own, _, others, others_elsewhere = parts
            size = np.abs(parts).sum(0)
            excess = np.divide(others - others_elsewhere, size, out=np.zeros(len(mine)), where=size > 0)
            share[mine] = np.where((own < 0) & (others > 0), excess, -1.0)
    return share


def four_parts(groups: Groups, cell: tuple[int, int, int], harm: np.ndarray) -> np.ndarray | None:
    """Harm to the cell's class within its slice and elsewhere, then to the other classes there: `[4, rows]`.

    cell: column, value and label; harm: `[rows, groups]`. None where a part has fewer than FEWEST_CELL_ROWS.
    """
    rows = part_counts(groups, cell)
    if rows is None:
        return None
    sums = harm * np.array([group.rows for group in groups.groups])
    return in_four(groups, cell, sums) / rows[:, None]


def part_counts(groups: Groups, cell: tuple[int, int, int]) -> np.ndarray | None:
    """Validation rows in the four parts, int64 `[4]`; None where one has fewer than FEWEST_CELL_ROWS."""
    column, value, label = cell
    if None in [groups.place(*which) for which in (cell, (None, None, label), (column, value, None))]:
        return None
    rows = in_four(groups, cell, np.array([[group.rows for group in groups.groups]]))[:, 0]
    return rows if rows.min() >= FEWEST_CELL_ROWS else None


def in_four(groups: Groups, cell: tuple[int, int, int], sums: np.ndarray) -> np.ndarray:
    """Sums over the groups' rows, `[n, groups]`, → over the four parts' rows, `[4, n]`."""
    column, value, label = cell
    places = [groups.place(*which) for which in (cell, (None, None, label), (column, value, None))]
    own, of_class, of_slice = (sums[:, place] for place in places)
    total = sums[:, [place for place, group in enumerate(groups.groups) if group.column is None]].sum(1)
    return np.stack([own, of_class - own, of_slice - own, total - of_class - of_slice + own])
