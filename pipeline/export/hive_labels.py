"""The export of files whose label is the name of a Hive folder: `label=spam/part-0.parquet`.

In `cleaned/` and `quarantine/` such files have the label as a column, and stand in folders without `=`, so that no
reader takes the name of a folder for the label of a relabelled row. In the layout of the source a relabelled row moves
to the folder of its new label.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.formats.copies import parquet_of
from pipeline.data.formats.format import Edits
from pipeline.data.formats.hive import NULL, columns_of
from pipeline.data.formats.registry import format_of
from pipeline.data.formats.sources import open_source
from pipeline.errors import WinnowError
from pipeline.export.rewrite import Changes
from pipeline.runs.directory import remove, write_atomically

COMPARED_ROWS = 8192


def is_in_folder(shard: Path, label: str) -> bool:
    """Whether the label of a shard's rows is the name of a folder above it."""
    if label not in [field.name for field, _ in columns_of(shard)]:
        return False
    return label not in pq.read_schema(parquet_of(shard)).names


@contextmanager
def with_label(shard: Path, temporary: Path) -> Iterator[Path]:
    """A Parquet file with the rows of a shard and the columns of its folders; it is removed at the end."""
    try:
        with (
            open_source(shard) as file,
            write_atomically(temporary) as written,
            pq.ParquetWriter(written, file.schema_arrow, compression="zstd") as writer,
        ):
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        yield temporary
    finally:
        remove(temporary)


def write_layout(shard: Path, changes: Changes, cleaned: Path, target: Path) -> list[Path]:
    """Write the rows of a shard into the folders of their labels, in its own format, and check them.

    Args:
        shard: the source.
        changes: of its rows.
        cleaned: the Parquet file with the cleaned rows and their labels.
        target: the file in the folder of the label as given.

    Returns:
        `target`, and a file in the folder of each label that rows got.

    Raises:
        WinnowError: the files do not have the rows of `cleaned`.
    """
    key = f"{changes.label_column}="
    folder = next(each.name for each in shard.parents if each.name.startswith(key))
    new = np.array([str(label) for label in changes.labels.to_pylist()], dtype=object)
    files = [(target, changes.places)]
    rows = pq.read_metadata(parquet_of(shard)).num_rows
    for label in sorted(set(new[changes.relabel])):
        moved = changes.places[changes.relabel & (new == label)]
        parts = [f"{key}{quote(label)}" if part == folder else part for part in target.parts]
        name = f"{target.name.partition('.')[0]}-from-{folder.removeprefix(key)}{''.join(target.suffixes)}"
        files.append((Path(*parts).with_name(name), np.setdiff1d(np.arange(rows), moved)))
    for path, left_out in files:
        with write_atomically(path) as temporary:
            _write(shard, left_out, changes.label_column, temporary)
    written = [path for path, _ in files]
    found = Counter(row for path in written for row in _rows(shard, changes.label_column, path))
    keys = {field.name for field, _ in columns_of(shard)} - {changes.label_column}
    with pq.ParquetFile(cleaned) as file:
        names = [name for name in file.schema_arrow.names if name not in keys]
        wanted = Counter(
            row for batch in file.iter_batches(COMPARED_ROWS, columns=names) for row in _texts(batch)
        )
    if found != wanted:
        for path in written:
            remove(path)
        raise WinnowError(
            f"{shard}: the export in its own folders failed its check: the set of rows differs from {cleaned.name}",
            "The Parquet files in cleaned/ passed theirs. Run the same command again; if it fails again, use them.",
        )
    return written


def _write(shard: Path, left_out: np.ndarray, column: str, target: Path) -> None:
    """The rows of a shard without some, in its own format."""
    kind = format_of(shard)
    nothing = np.array([], dtype=np.int64)
    edits = Edits(left_out, nothing, pa.array([], pa.string()), column)
    if kind is not None:
        kind.write(shard, edits, target)
        return
    with pq.ParquetFile(shard) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            kept = rows.filter(pa.array(edits.stays(first, rows.num_rows)))
            writer.write_table(kept, row_group_size=max(1, kept.num_rows))
            first += rows.num_rows


def _rows(shard: Path, column: str, path: Path) -> Iterator[str]:
    """The rows of a written file as texts, with the label that its folder names."""
    key = f"{column}="
    text = unquote(next(each.name for each in path.parents if each.name.startswith(key)).removeprefix(key))
    kind = format_of(shard)
    with pq.ParquetFile(parquet_of(shard)) as file:
        schema = file.schema_arrow
    if kind is not None:
        batches: Iterable[pa.RecordBatch] = kind.read(path, schema).batches
    else:
        batches = pq.ParquetFile(path).iter_batches(COMPARED_ROWS)
    for batch in batches:
        yield from _texts(
            batch.append_column(column, pa.repeat(None if text == NULL else text, batch.num_rows))
        )


def _texts(batch: pa.RecordBatch) -> list[str]:
    """A text for each row; the label as a text, since folders of other labels may have another type."""
    rows = batch.to_pylist()
    return [json.dumps({name: str(row[name]) for name in sorted(row)}) for row in rows]
