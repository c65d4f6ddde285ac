"""Groups of validation rows whose losses are attributed separately: classes, slices, and classes within slices.

One pass sums the gradients of *cells*, which do not overlap: the classes, or for each column of `data.slices` the
combinations of class and value. A group is a union of cells, so that the harm to it is the mean of the harms to its
cells, weighted by their rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.encoded import EncodedData
from pipeline.data.slices import read_slice_columns, read_slices
from pipeline.runs.directory import read_json, write_json
from pipeline.text import words
from pipeline.training.main_run import role_labels
from pipeline.workers.kept import keep
from pipeline.workers.worker import run_config, run_data

FEWEST_ROWS = 5
"""A class or a slice with fewer validation rows is no group."""
FEWEST_CELL_ROWS = 10
"""A class within a slice with fewer validation rows is no group."""
MOST_CELLS = 32
"""With `attribution.group_harm: auto`, at most so many cells are scored. Ten cells take 1.8 to 2.0 times the CPU time
of scoring without them, 32 cells 3.6 to 3.9 times (MLP 784-256-128-10, six checkpoints, one segment)."""
MOST_NUMBERS = 2**27
"""Upper limit of numbers in the gradients of all cells, whose partial sums lie on disk and in memory."""


@dataclass(frozen=True)
class RowGroup:
    """The validation rows of one class, of one slice, or of one class within a slice.

    Attributes:
        column, value: place of the column in `data.slices` and code of its value; None for a class.
        label: index of the class; None for a slice.
        rows: how many there are.
    """

    column: int | None
    value: int | None
    label: int | None
    rows: int

    def has(self, cell: RowGroup) -> bool:
        return self.label in (None, cell.label) and self.value in (None, cell.value)


@dataclass(frozen=True)
class Groups:
    """The groups of a run.

    Attributes:
        groups: the groups that are scored.
        names: of the groups, for people.
        cells: the queries of which the groups consist.
    """

    groups: list[RowGroup]
    names: list[str]
    cells: list[RowGroup]

    def shares(self) -> np.ndarray:
        """The share of each cell in each group, float64 `[groups, cells]`; every row sums to 1."""
        first = self.cells[0].column
        found = np.zeros((len(self.groups), len(self.cells)))
        for place, group in enumerate(self.groups):
            column = first if group.column is None else group.column
            for other, cell in enumerate(self.cells):
                if cell.column == column and group.has(cell):
                    found[place, other] = cell.rows / group.rows
        return found

    def place(self, column: int | None, value: int | None, label: int | None) -> int | None:
        """The place of a group in `groups`; None if the group has too few rows."""
        wanted = (column, value, label)
        return next((p for p, g in enumerate(self.groups) if (g.column, g.value, g.label) == wanted), None)

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(group) | {"name": name} for group, name in zip(self.groups, self.names)]

    def save(self, path: Path) -> None:
        write_json(path, {"groups": self.as_json(), "cells": [asdict(cell) for cell in self.cells]})

    @classmethod
    def load(cls, path: Path) -> Groups:
        tree = read_json(path)
        names = [entry.pop("name") for entry in tree["groups"]]
        return cls([RowGroup(**e) for e in tree["groups"]], names, [RowGroup(**e) for e in tree["cells"]])


def scored_groups(run_path: Path) -> Groups | None:
    """The groups of a run whose factors are fitted; None if harm to groups is not scored."""
    path = groups_path(run_path)
    return keep("groups", path, lambda: Groups.load(path)) if path.exists() else None


def groups_path(run_path: Path) -> Path:
    return run_path / "factors" / "groups.json"


def find_groups(run_path: Path, parameters: int) -> tuple[Groups | None, str | None]:
    """Find the groups of a run.

    Args:
        run_path: the run directory.
        parameters: of the covered layers, counted once for each gradient of a query.

    Returns:
        The groups and None; or None and the reason why there are none, which is None if the config asks for none.
    """
    data, config = run_data(run_path), run_config(run_path)
    wanted = config.attribution.group_harm
    unasked = wanted == "auto" and not config.data.slices
    if wanted is False or unasked or not data.count("validation"):
        return None, None
    cells = find_cells(run_path, data)
    if not cells:
        return None, None
    if wanted == "auto" and (len(cells) > MOST_CELLS or len(cells) * parameters > MOST_NUMBERS):
        return None, (
            f"The harm to groups was not scored: {len(cells):,} groups of {parameters:,} parameters are more than "
            "attribution.group_harm: auto allows."
        )
    groups = [group for group in unions(cells) if group.rows >= FEWEST_ROWS]
    groups += [
        cell
        for cell in cells
        if cell.column is not None and cell.label is not None and cell.rows >= FEWEST_CELL_ROWS
    ]
    return Groups(groups, [_name_of(run_path, data, group) for group in groups], cells), None


def find_cells(run_path: Path, data: EncodedData) -> list[RowGroup]:
    """The cells, column by column, ordered by class and value; cells of one column do not overlap."""
    found = []
    for column, codes in _partitions(run_path, "validation"):
        counted = Counter(zip(*(code.tolist() for code in codes)))
        for (label, value), rows in sorted(counted.items()):
            of_class = label if data.encoding.task == "classification" else None
            found.append(RowGroup(column, None if column is None else value, of_class, rows))
    return found


def _partitions(run_path: Path, role: str) -> list[tuple[int | None, tuple[np.ndarray, np.ndarray]]]:
    """The partitions of a role's rows: the column (None for classes alone), and the class and slice codes of the rows.

    For regression, all rows have one class.
    """
    data, slices = run_data(run_path), read_slices(run_path, role)
    rows = data.count(role)
    classes = data.encoding.task == "classification"
    labels = role_labels(data, role).numpy() if classes else np.zeros(rows, dtype=np.int64)
    if not slices:
        return [(None, (labels, np.zeros(rows, dtype=np.uint8)))] if classes else []
    return [(column, (labels, codes)) for column, codes in enumerate(slices)]


def unions(cells: list[RowGroup]) -> list[RowGroup]:
    """The classes, then the slices, with their numbers of rows."""
    classes: Counter[int] = Counter()
    slices: Counter[tuple[int, int]] = Counter()
    for cell in cells:
        if cell.label is not None and cell.column == cells[0].column:
            classes[cell.label] += cell.rows
        if cell.column is not None and cell.value is not None:
            slices[cell.column, cell.value] += cell.rows
    found = [RowGroup(None, None, label, rows) for label, rows in sorted(classes.items())]
    return found + [RowGroup(column, value, None, rows) for (column, value), rows in sorted(slices.items())]


def _name_of(run_path: Path, data: EncodedData, group: RowGroup) -> str:
    """`class 3`, `sex = Female`, or `class 3, sex = Female`."""
    parts = []
    if group.label is not None:
        parts.append(f"class {words.label(data.encoding.classes[group.label])}")
    if group.column is not None and group.value is not None:
        column = read_slice_columns(run_path)[group.column]
        parts.append(f"{column.name} = {column.values[group.value]}")
    return ", ".join(parts)


def cell_rows(run_path: Path, cells: list[RowGroup], first: int, rows: int) -> list[np.ndarray]:
    """The places within a chunk of every cell's validation rows; the chunk begins at row `first` of the role."""
    of_column = dict(_partitions(run_path, "validation"))
    place, found = slice(first, first + rows), []
    for cell in cells:
        labels, values = (codes[place] for codes in of_column[cell.column])
        mine = np.ones(len(labels), dtype=bool) if cell.label is None else labels == cell.label
        found.append(np.flatnonzero(mine if cell.value is None else mine & (values == cell.value)))
    return found
