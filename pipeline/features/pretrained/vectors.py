"""What an encoder has made, by the content of what it was given: computed once, and kept for later runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from xxhash import xxh3_128_digest

from pipeline.attribution.atomic import write_atomically
from pipeline.cache import folder as cache_folder
from pipeline.errors import InputError

FOLDER = "encoders"
"""Where the vectors are, in the cache that all audits share."""
ENDING = ".arrow"
SUM = b"xxh3"


def folder() -> Path:
    """The folder of the vectors of all encoders."""
    return cache_folder().absolute() / FOLDER


def keys_of(contents: Sequence[bytes]) -> np.ndarray:
    """The keys of texts or pictures by their bytes: uint64 `[contents, 2]`."""
    joined = b"".join(map(xxh3_128_digest, contents))
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2) if joined else np.empty((0, 2), dtype=np.uint64)


@cache
def open_vectors(path: Path) -> Vectors:
    """The vectors in a folder; a process reads the keys of each file once."""
    return Vectors(path)


class Vectors:
    """The vectors of one encoder: files in a folder, each whole or absent, which are never changed.

    The keys are held in memory, 24 bytes for each vector. The vectors stay in the files until they are asked for.
    A file is named by the time at which its preparation began; `find` can be told to look only at earlier ones, so
    that what a task finds does not depend on how far other tasks are.
    """

    def __init__(self, path: Path):
        self._path = path
        self._names: list[str] = []
        self._first = np.empty(0, dtype=np.uint64)  # ascending
        self._second = np.empty(0, dtype=np.uint64)
        self._file = np.empty(0, dtype=np.int32)
        self._row = np.empty(0, dtype=np.int32)
        self._damaged: set[str] = set()

    def find(self, keys: np.ndarray, before: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Looks vectors up.

        Args:
            keys: uint64 `[rows, 2]`.
            before: a time in nanoseconds; what was made from then on is not looked at.

        Returns:
            bool `[rows]`, whether there is a vector; and float32 `[found, width]`, in the order of the rows.
        """
        self._refresh()
        known = len(self._first)
        if not known or not len(keys):
            return np.zeros(len(keys), dtype=bool), np.empty((0, 0), dtype=np.float32)
        place = np.minimum(np.searchsorted(self._first, keys[:, 0]), known - 1)
        found = (self._first[place] == keys[:, 0]) & (self._second[place] == keys[:, 1])
        if before is not None:
            late = np.array([_time_of(name) >= before for name in self._names])
            found &= ~late[self._file[place]]
        files, rows = self._file[place[found]], self._row[place[found]]
        parts = {file: self._read(self._names[file])[1] for file in np.unique(files).tolist()}
        width = next(iter(parts.values())).shape[1] if parts else 0
        vectors = np.empty((len(files), width), dtype=np.float32)
        for file, part in parts.items():
            vectors[files == file] = part[rows[files == file]]
        return found, vectors

    def add(self, keys: np.ndarray, vectors: np.ndarray, time: int) -> None:
        """Writes vectors as one file.

        Args:
            keys: uint64 `[rows, 2]`, each once.
            vectors: float32 `[rows, width]`.
            time: when the preparation began, in nanoseconds.

        Raises:
            InputError: the folder can't be written.
        """
        key_bytes, numbers = np.ascontiguousarray(keys).tobytes(), np.ascontiguousarray(vectors).tobytes()
        path = self._path / f"{time:020d}-{xxh3_128_digest(key_bytes).hex()}{ENDING}"
        width = vectors.shape[1]
        schema = pa.schema(
            [("key", pa.binary(16)), ("vector", pa.list_(pa.float32(), width))],
            {SUM: xxh3_128_digest(key_bytes + numbers).hex()},
        )
        flat = pa.Array.from_buffers(pa.float32(), vectors.size, [None, pa.py_buffer(numbers)])
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(key_bytes)]),
            pa.FixedSizeListArray.from_arrays(flat, width),
        ]
        try:
            with (
                write_atomically(path) as temporary,
                pa.OSFile(str(temporary), "wb") as file,
                pa.ipc.new_file(file, schema) as writer,
            ):
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        except OSError as error:
            raise InputError(
                f"{self._path}: vectors of an encoder can't be kept there ({error.strerror or error})",
                "Free some space, or give another folder for the cache by the environment variable WINNOW_CACHE.",
            ) from None

    def _refresh(self) -> None:
        """Reads the keys of new files, and forgets files that are gone."""
        there = sorted(path.name for path in self._path.glob(f"*{ENDING}")) if self._path.is_dir() else []
        there = [name for name in there if name not in self._damaged]
        if there == self._names:
            return
        parts, names = [], []
        kept = dict(zip(self._names, self._keys_by_file()))
        for name in there:
            try:
                keys = kept[name] if name in kept else self._read(name, checked=True)[0]
            except (pa.ArrowException, OSError, ValueError):
                self._damaged.add(name)  # its vectors are computed again
                continue
            parts.append(keys)
            names.append(name)
        self._names = names
        keys = np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.uint64)
        sizes = [len(part) for part in parts]
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # of equal keys, the one in the earliest file is first
        self._first, self._second = keys[order, 0], keys[order, 1]
        self._file = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)[order]
        rows = [np.arange(size, dtype=np.int32) for size in sizes]
        self._row = (np.concatenate(rows) if rows else np.empty(0, dtype=np.int32))[order]

    def _keys_by_file(self) -> list[np.ndarray]:
        """The keys of every file that is known, in the order of its rows."""
        order = np.lexsort((self._row, self._file))
        keys = np.stack([self._first[order], self._second[order]], axis=1)
        return np.split(keys, np.cumsum(np.bincount(self._file, minlength=len(self._names)))[:-1])

    def _read(self, name: str, checked: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Keys and vectors of a file, mapped; `checked`: raises ValueError if the checksum is another."""
        with pa.memory_map(str(self._path / name)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        key, vector = table["key"].chunk(0), table["vector"].chunk(0)
        width = table.schema.field("vector").type.list_size
        key_bytes = key.buffers()[1]
        keys = np.frombuffer(key_bytes, dtype="<u8")[: 2 * len(key)].reshape(-1, 2)
        vectors = vector.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)
        if checked:
            found = xxh3_128_digest(keys.tobytes() + vectors.tobytes()).hex()
            if found.encode() != (table.schema.metadata or {}).get(SUM):
                raise ValueError(f"{name} is damaged")
        return keys, vectors


def _time_of(name: str) -> int:
    return int(name.partition("-")[0])
