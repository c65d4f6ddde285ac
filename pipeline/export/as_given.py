"""Writes the cleaned data once more in the format of the source, and checks it against the cleaned Parquet file."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.attribution.atomic import write_folder_atomically
from pipeline.data.formats.format import Edits, Format, ReorderingFormat
from pipeline.data.formats.registry import format_of
from pipeline.errors import WinnowError
from pipeline.export.rewrite import Changes, differing
from pipeline.features.arrow import plain, value_type
from pipeline.runs.directory import remove, write_atomically

COMPARED_ROWS = 8192


def write_as_given(source: Path, changes: Changes, cleaned: Path, target: Path) -> None:
    """Write `target`, a file in the format of `source` with the rows of `cleaned`, and read it again to compare.

    Args:
        source: the user's file or folder.
        changes: of its rows.
        cleaned: the Parquet file with the cleaned rows.
        target: the file or folder to write.

    Raises:
        WinnowError: the comparison fails.
    """
    kind = format_of(source)
    assert kind is not None, "only what is not Parquet comes here"
    edits = edits_of(changes, pq.read_schema(cleaned))
    if source.is_dir():
        with write_folder_atomically(target) as folder:
            kind.write(source, edits, folder)
    else:
        with write_atomically(target) as temporary:
            if changes:
                kind.write(source, edits, temporary)
            else:
                shutil.copyfile(source, temporary)
    problem = _problem(kind, cleaned, target)
    if problem is not None:
        remove(target)
        raise WinnowError(
            f"{source}: the export in its own format failed its check: {problem} differs from {cleaned.name}",
            "The Parquet files in cleaned/ passed theirs. Run the same command again; if it fails again, use them.",
        )


def _problem(kind: Format, cleaned: Path, target: Path) -> str | None:
    """What differs between the cleaned rows and an export of them, in words, or None."""
    with pq.ParquetFile(cleaned) as wanted:
        rows, found = wanted.iter_batches(COMPARED_ROWS), kind.read(target, wanted.schema_arrow).batches
        if not isinstance(kind, ReorderingFormat):
            return _difference(rows, found)
        counts = [Counter(each for batch in of for each in kind.row_hashes(batch)) for of in (rows, found)]
        return None if counts[0] == counts[1] else "the set of rows"


def edits_of(changes: Changes, schema: pa.Schema) -> Edits:
    """The changes of one source in the terms of its format."""
    kind = value_type(schema.field(changes.label_column).type)
    labels = plain(changes.labels.filter(pa.array(changes.relabel))).cast(kind)
    removed, relabelled = changes.places[~changes.relabel], changes.places[changes.relabel]
    return Edits(removed, relabelled, labels, changes.label_column)


def _difference(wanted: Iterable[pa.RecordBatch], found: Iterable[pa.RecordBatch]) -> str | None:
    """What differs between two streams of rows, in words, or None."""
    there = _Rows(iter(found))
    for batch in wanted:
        table = there.take(batch.num_rows)
        if table is None or table.num_rows != batch.num_rows:
            return "the number of rows"
        problem = differing(pa.Table.from_batches([batch]), table)
        if problem is not None:
            return problem
    return None if there.take(1) is None else "the number of rows"


class _Rows:
    """A stream of batches from which any number of rows is taken."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self._batches = batches
        self._held: list[pa.RecordBatch] = []

    def take(self, rows: int) -> pa.Table | None:
        """The next rows, as many as there are; None at the end."""
        while sum(batch.num_rows for batch in self._held) < rows:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held.append(batch)
        if not self._held:
            return None
        table = pa.Table.from_batches(self._held)
        self._held = table.slice(rows).to_batches()
        return table.slice(0, rows) if table.num_rows else None
