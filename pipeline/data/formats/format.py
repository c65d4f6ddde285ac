"""What a file format has to say: which files are of it, how they become rows, and how rows go back into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

BLOCK_ROWS = 16_384
BLOCK_BYTES = 2**25
"""A block of rows that is converted at once has at most BLOCK_ROWS rows and about BLOCK_BYTES bytes."""


@dataclass
class Content:
    """The rows of a source.

    Attributes:
        schema: of all batches.
        batches: the rows in the order of the source, a block at a time. They may be read once.
        notes: sentences about what was found or changed on the way; complete when the batches have been read.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Edits:
    """What an export changes in a source.

    Attributes:
        removed: int64, ascending row numbers of the rows that are left out.
        relabelled: int64, ascending row numbers of the rows that get another label.
        labels: the new labels, one for each of `relabelled`, in the type of the label column.
        column: the label column.
    """

    removed: np.ndarray
    relabelled: np.ndarray
    labels: pa.Array
    column: str

    def stays(self, first: int, rows: int) -> np.ndarray:
        """bool `[rows]`: which of the rows from `first` on stay."""
        kept = np.ones(rows, dtype=bool)
        begin, end = np.searchsorted(self.removed, [first, first + rows])
        kept[self.removed[begin:end] - first] = False
        return kept

    def new_labels(self, first: int, rows: int) -> tuple[np.ndarray, pa.Array]:
        """Places among the rows from `first` on, and their new labels."""
        begin, end = np.searchsorted(self.relabelled, [first, first + rows])
        return self.relabelled[begin:end] - first, self.labels[begin:end]

    def by_row(self) -> tuple[set[int], dict[int, object]]:
        """The removed rows, and row → new label, for formats that are written row by row."""
        return set(self.removed.tolist()), dict(zip(self.relabelled.tolist(), self.labels.to_pylist()))


class Format(ABC):
    """A format. `registry.py` says where its file belongs.

    Attributes:
        name: in messages, as "CSV".
        suffixes: the ends of its file names, in lower case, before an end such as `.gz`; empty for folders.
        compressible: whether its files may be compressed as a whole, with an end such as `.gz`.
    """

    name: str
    suffixes: tuple[str, ...]
    compressible: bool = False

    @abstractmethod
    def read(self, path: Path, schema: pa.Schema | None = None) -> Content:
        """Read a source from its beginning.

        Args:
            path: the file or folder.
            schema: the columns and types that an earlier reading found; None finds them.

        Raises:
            InputError: something can't be read; the message names file and line.
        """

    def beside(self, path: Path) -> list[Path]:  # noqa: ARG002
        """Files outside of a source that say something of its rows."""
        return []

    @abstractmethod
    def write(self, source: Path, edits: Edits, target: Path) -> None:
        """Write `source` with the edits to `target`, in the same dialect.

        Args:
            source: the file or folder.
            edits: its changes.
            target: the file to write, or an empty folder that is there.
        """


class ReorderingFormat(Format):
    """A format whose exports may have the rows in another order."""

    @abstractmethod
    def row_hashes(self, batch: pa.RecordBatch) -> list[str]:
        """What has to be the same in each row of an export."""
