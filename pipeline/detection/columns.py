"""Numbers per row that lie on disk while they aren't needed: what detection keeps of millions of rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from pipeline.runs.directory import write_atomically


def columns_directory(run_path: Path) -> Path:
    """Where columns lie while detection runs."""
    return run_path / "detection" / "columns"


class Column:
    """One number per row in an `.npy` file, written once, in order.

    It is read whole by `np.asarray` or in part by slices. The file is mapped anew for every part: pages that stayed
    mapped would count as memory of the process.
    """

    def __init__(self, path: Path):
        self._path = path

    @classmethod
    def write(cls, path: Path, rows: int, parts: Iterable[np.ndarray]) -> Column:
        """The parts, `[rows of it]` each and of one dtype, one after the other; `rows` rows in all, at least one."""
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
    """0 … rows − 1 in pieces of at most `size`."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
