"""Collecting what is wrong with single rows, so that one message can name the first and count the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.files import Shard, counted
from pipeline.errors import InputError
from pipeline.features.faults import Fault


@dataclass
class Problem:
    shard: Shard
    row: int
    text: str
    hint: str
    count: Counter[str] = field(default_factory=Counter)  # wrong rows per path


class Problems:
    """All faults of a pass over the data, by column and kind. Holds one entry per kind, not per row."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Problem] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, shard: Shard, rows: np.ndarray, subject: str, faults: list[Fault]) -> None:
        """Note `faults` of a column; `rows` maps places in the column to rows of the shard."""
        for fault in faults:
            row = int(rows[fault.places[0]])
            new = Problem(shard, row, f"{subject} {fault.what}", fault.hint)
            problem = self.found.setdefault((subject, fault.hint), new)
            problem.count[shard.path] += len(fault.places)

    @property
    def total(self) -> int:
        """Wrong rows; one that is wrong in two ways counts twice."""
        return sum(problem.count.total() for problem in self.found.values())

    @property
    def first(self) -> Problem | None:
        """The problem that comes first in the data."""
        return min(self.found.values(), key=lambda p: (p.shard.index, p.row), default=None)

    def raise_first(self) -> None:
        """Raises InputError for the problem that comes first in the data, if there is any."""
        if not self.found:
            return
        first, *others = sorted(self.found.values(), key=lambda p: (p.shard.index, p.row))
        lines = [first.hint, f"  ({self.rest(first)})"]
        for other in others[:3]:
            more = f" ({other.count.total() - 1:,} more)" if other.count.total() > 1 else ""
            lines.append(f"  also: {place(other.shard, other.row)}: {other.text}{more}")
        raise InputError(f"{place(first.shard, first.row)}: {first.text}", "\n".join(lines))

    @staticmethod
    def rest(problem: Problem) -> str:
        here = problem.count[problem.shard.path]
        elsewhere = problem.count.total() - here
        return f"{counted(here - 1, 'more row')} in this file, {elsewhere:,} in the others"


def place(shard: Shard, row: int) -> str:
    """`path, row 8,113`; rows count from 0, as in the catalog and in row keys."""
    return f"{shard.path}, row {row:,}"
