"""Columns on disk: one number per row, so that detection of millions of rows needs little memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from pipeline.runs.directory import write_atomically


def columns_directory(run_path: Path) -> Path:
    """The folder for columns while detection runs."""
    return run_path / "detection" / "columns"


class StoredColumn:
    """One number per row in an `.npy` file that is written once, in order.

    `np.asarray` reads the whole column, and slices read parts. Every read maps the file anew, because pages that stay
    mapped would count as memory of the process.
    """

    def __init__(self, path: Path):
        self._path = path

    @classmethod
    def write(cls, path: Path, rows: int, parts: Iterable[np.ndarray]) -> StoredColumn:
        """Write a column part by part.

        Args:
            path: the file.
            rows: how many rows all parts have together.
            parts: at least one array `[rows of the part]`, all of one dtype.

        Raises:
            ValueError: the parts do not have `rows` rows together.
        """
        done = 0
        with write_atomically(path) as temporary:
            for part in parts:
                mode = "r+" if done else "w+"
                open_memmap(temporary, mode, part.dtype, (rows,))[done : done + len(part)] = part
                done += len(part)
            if done != rows:
                raise ValueError(f"{path}: {done} rows were given for a column of {rows}")
        return cls(path)

    @property
    def dtype(self) -> np.dtype:
        return self._mapped().dtype

    def __len__(self) -> int:
        return len(self._mapped())

    def __getitem__(self, place: slice) -> np.ndarray:
        return np.array(self._mapped()[place])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _mapped(self) -> np.ndarray:
        return open_memmap(self._path, "r")


def slices(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover the rows 0 … rows − 1."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
