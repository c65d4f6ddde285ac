"""Columns on disk: one number per row, so that detection of millions of rows needs little memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.runs.directory import write_atomically


def columns_directory(run_path: Path) -> Path:
    """The folder for columns while detection runs."""
    return run_path / "detection" / "columns"


class Column:
    """One number per row in a file that is written once, in order; `np.asarray` reads it whole, slices read parts."""

    def __init__(self, path: Path, dtype: np.dtype):
        self._path, self.dtype = path, dtype

    @classmethod
    def write(cls, path: Path, parts: Iterable[np.ndarray]) -> Column:
        """Write a column part by part.

        Args:
            path: the file.
            parts: at least one array `[rows of the part]`, all of one dtype.
        """
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            for part in parts:
                part.tofile(file)
        return cls(path, part.dtype)

    def __len__(self) -> int:
        return self._path.stat().st_size // self.dtype.itemsize

    def __getitem__(self, place: slice) -> np.ndarray:
        start, stop, _ = place.indices(len(self))
        return np.fromfile(self._path, self.dtype, max(0, stop - start), offset=start * self.dtype.itemsize)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def slices(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover the rows 0 … rows − 1."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
