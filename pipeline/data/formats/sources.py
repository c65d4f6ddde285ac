"""Opening a source, whatever its format: every reader of the user's files comes through here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.formats.copies import parquet_of
from pipeline.data.formats.hive import columns_of


def open_source(path: str | Path, **options: Any) -> pq.ParquetFile:
    """The rows of a source as a Parquet file, with a column for each Hive folder above it.

    Args:
        path: the user's file or folder, of any format.
        options: of pyarrow's ParquetFile.

    Raises:
        InputError: the source can't be converted.
        OSError, ArrowException: it can't be read.
    """
    file = pq.ParquetFile(parquet_of(path), **options)
    keys = [
        (field, value) for field, value in columns_of(Path(path)) if field.name not in file.schema_arrow.names
    ]
    return _WithKeys(file, keys) if keys else file


def source_schema(path: str | Path) -> pa.Schema:
    """The schema of a source; raises as `open_source`."""
    with open_source(path) as file:
        return file.schema_arrow


class _WithKeys:
    """A Parquet file with columns of one value each, behind its own."""

    def __init__(self, file: pq.ParquetFile, keys: list[tuple[pa.Field, Any]]):
        self._file, self._keys = file, keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _WithKeys:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    @property
    def schema_arrow(self) -> pa.Schema:
        schema = self._file.schema_arrow
        return pa.schema([*schema, *(field for field, _ in self._keys)], metadata=schema.metadata)

    def read(self, columns: list[str] | None = None, **options: Any) -> pa.Table:
        return self._with_keys(self._file.read(self._own(columns), **options), columns)

    def read_row_group(self, group: int, columns: list[str] | None = None, **options: Any) -> pa.Table:
        return self._with_keys(self._file.read_row_group(group, self._own(columns), **options), columns)

    def iter_batches(
        self, batch_size: int = 65536, columns: list[str] | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        for batch in self._file.iter_batches(batch_size, columns=self._own(columns), **options):
            yield self._with_keys(batch, columns)

    def _own(self, columns: list[str] | None) -> list[str] | None:
        """Of the columns those of the file; one of it, for the number of rows, where only keys are asked for."""
        names = self._file.schema_arrow.names
        if columns is None:
            return None
        return [name for name in columns if name in names] or names[:1]

    def _with_keys(self, rows: Any, columns: list[str] | None) -> Any:
        """The table or batch with the keys, in the order that was asked for."""
        for field, value in self._keys:
            if columns is None or field.name in columns:
                rows = rows.append_column(field, pa.repeat(pa.scalar(value, field.type), rows.num_rows))
        return (
            rows if columns is None else rows.select([name for name in columns if name in rows.schema.names])
        )
