"""The harm of rows to classes and slices of the validation rows, and rows that are right for the wrong reason."""

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
"""The least share that harm in a row's slice alone has in the row's influence on the four parts (`find_spurious`)."""
LEAST_TIE = 0.15
LEAST_TIE_ERRORS = 4.0
"""Train must tie a slice to a label more than validation does, by LEAST_TIE (a difference of shares) and by
LEAST_TIE_ERRORS standard errors."""


def read_group_harm(run_path: Path, data: EncodedData, groups: Groups) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield, chunk by chunk, the places of train rows and their harm to every group, float64 `[rows, groups]`."""
    for chunk in data.chunks("train"):
        lists = pq.read_table(scores_path(run_path, chunk), columns=["group_harm"])[
            "group_harm"
        ].combine_chunks()
        values = lists.flatten().to_numpy().reshape(chunk.rows, len(groups.groups))
        yield slice(chunk.first, chunk.first + chunk.rows), values.astype(np.float64)


def find_spurious(run_path: Path, data: EncodedData, labels: np.ndarray) -> np.ndarray:
    """Find train rows that support their label in their slice at the expense of the slice's other labels.

    The validation rows are split into four parts, by the row's class and by its slice. A row is spurious if

    - train ties its slice to its label, and validation does not (`tied_rows`);
    - it helps its own class in its own slice;
    - it harms the other classes in its slice, and this harm minus its harm to the other classes elsewhere is more than
      SPURIOUS_SHARE of the sum of its absolute harms to the four parts.

    A row with a wrong label harms the other classes inside and outside of the slice; a right one helps or does little.
    Every part needs FEWEST_CELL_ROWS rows. The influence alone is not enough: rows are most similar to the rows of
    their slice, so that half of the rows of a table harm the other classes there most.

    Args:
        run_path: the run directory.
        data: the encoded data.
        labels: class indices `[train rows]`.

    Returns:
        bool `[train rows]`.
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
    """Find train rows whose label is more frequent in their slice than elsewhere in train but not in validation.

    The measure is the label's share in train minus its share in validation, inside the slice minus outside. With two
    slices and two labels, one change implies the other; the tied slice is the one in which the share changed more.

    Returns:
        bool `[train rows]`.
    """
    found = np.zeros(len(labels), dtype=bool)
    for value, label in sorted(set(zip(codes.tolist(), labels.tolist()))):
        counts = _part_counts(groups, (column, value, label))
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
    """The share that is compared with SPURIOUS_SHARE, float64 `[rows]` in −1 … 1.

    It is −1 if a part has too few validation rows or the row does not help its own class in its slice.
    """
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
    """The mean harm of rows to the four parts of the validation rows.

    Args:
        groups: of the validation rows.
        cell: column, value and label.
        harm: `[rows, groups]`.

    Returns:
        `[4, rows]`: the label inside and outside of the slice, other labels inside and outside. None if a part has
        fewer than FEWEST_CELL_ROWS rows.
    """
    rows = _part_counts(groups, cell)
    if rows is None:
        return None
    sums = harm * np.array([group.rows for group in groups.groups])
    return _in_four(groups, cell, sums) / rows[:, None]


def _part_counts(groups: Groups, cell: tuple[int, int, int]) -> np.ndarray | None:
    """How many validation rows the four parts have, int64 `[4]`; None if one has fewer than FEWEST_CELL_ROWS."""
    column, value, label = cell
    if None in [groups.place(*which) for which in (cell, (None, None, label), (column, value, None))]:
        return None
    rows = _in_four(groups, cell, np.array([[group.rows for group in groups.groups]]))[:, 0]
    return rows if rows.min() >= FEWEST_CELL_ROWS else None


def _in_four(groups: Groups, cell: tuple[int, int, int], sums: np.ndarray) -> np.ndarray:
    """Turn sums over the rows of the groups, `[n, groups]`, into sums over the rows of the four parts, `[4, n]`."""
    column, value, label = cell
    places = [groups.place(*which) for which in (cell, (None, None, label), (column, value, None))]
    own, of_class, of_slice = (sums[:, place] for place in places)
    total = sums[:, [place for place, group in enumerate(groups.groups) if group.column is None]].sum(1)
    return np.stack([own, of_class - own, of_slice - own, total - of_class - of_slice + own])
