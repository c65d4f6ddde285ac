"""Columns of the source for the rows of a role, as a stream in the order of the encoded rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.catalog import catalog_tables
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError
from pipeline.features.arrow import joined, taken

BATCH_ROWS = 4096


def source_batches(
    run_path: Path, role: str, first: int, sizes: Sequence[int], columns: Sequence[str]
) -> Iterator[dict[str, pa.Array]]:
    """Yield columns of consecutive rows of a role, in batches of the given sizes.

    Args:
        run_path: the run directory.
        role: train, validation or holdout.
        first: the place of the first row among the role's rows.
        sizes: the rows of each batch.
        columns: of the source; without any, the batches are empty dicts and nothing is read.

    Raises:
        InputError: a shard can't be read any more.
    """
    if not columns:
        yield from ({} for _ in sizes)
        return
    tables = _wanted_rows(run_path, role, first, first + sum(sizes), columns)
    waiting: dict[str, list[pa.Array]] = {name: [] for name in columns}
    ready = 0
    for size in sizes:
        while ready < size:
            table = next(tables)
            for name in columns:
                waiting[name] += table[name].chunks
            ready += table.num_rows
        yield {name: _taken(waiting, name, size) for name in columns}
        ready -= size


def _taken(waiting: dict[str, list[pa.Array]], name: str, rows: int) -> pa.Array:
    """Take the first rows of a waiting column and remove them from it."""
    whole = joined(waiting[name])
    waiting[name] = [whole.slice(rows)]
    return whole.slice(0, rows)


def _wanted_rows(
    run_path: Path, role: str, first: int, last: int, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the source rows of a role's rows first … last − 1, in their order."""
    before = 0
    for table in catalog_tables(run_path, role, ["shard", "row"]):
        inside = table.slice(
            max(0, first - before), max(0, min(last, before + table.num_rows) - max(first, before))
        )
        before += table.num_rows
        shards, rows = inside["shard"].to_pylist(), inside["row"].to_numpy()
        begins = [0, *(place for place in range(1, len(shards)) if shards[place] != shards[place - 1])]
        for begin, end in zip(begins, [*begins[1:], len(shards)]):
            if end > begin:
                yield from _shard_rows(shards[begin], rows[begin:end], columns)


def _shard_rows(path: str, rows: np.ndarray, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield rows (ascending row numbers) of one shard.

    Raises:
        InputError: the shard can't be read any more.
    """
    try:
        with open_source(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = [g for g in range(len(sizes)) if ((rows >= starts[g]) & (rows < starts[g + 1])).any()]
            for group in groups:
                begin = int(starts[group])
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
                    inside = rows[(rows >= begin) & (rows < begin + batch.num_rows)] - begin
                    begin += batch.num_rows
                    if len(inside):
                        yield taken(pa.Table.from_batches([batch]), inside)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: can't be read any more ({type(error).__name__})",
            "Put the file back as it was, and run the same command again.",
        ) from None
