"""Rewrites a Parquet file without some of its rows; everything else stays the same.

The new file keeps the schema with all metadata, the order of columns and rows, the row groups without the removed rows,
the codec and encoding of each column, the format version, the page version, checksums and the page index. One row group
is in memory at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import WinnowError
from pipeline.features.arrow import plain, with_values
from pipeline.runs.directory import write_atomically

ENCODINGS = {"BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"}
DATA_PAGE_V2 = 3
COMPARED_ROWS = 8192


@dataclass(frozen=True)
class Changes:
    """The k removed and relabelled rows of one file, ordered by their place.

    Attributes:
        places: int64 `[k]`, row numbers in the file, ascending.
        relabel: bool `[k]`, True for relabelled rows, False for removed ones.
        labels: Arrow array `[k]`, the new labels; only those of relabelled rows are used.
        evidence: k lines with the columns that the quarantine adds.
        label_column: the column of the file that gets the new labels.
    """

    places: np.ndarray
    relabel: np.ndarray
    labels: pa.Array
    evidence: pa.Table
    label_column: str

    def __len__(self) -> int:
        return len(self.places)

    def between(self, start: int, stop: int) -> Changes:
        """The changes of rows start … stop − 1; their places are counted from `start`."""
        first, last = np.searchsorted(self.places, [start, stop])
        piece = slice(first, last)
        return Changes(
            self.places[piece] - start,
            self.relabel[piece],
            self.labels[piece],
            self.evidence.slice(first, last - first),
            self.label_column,
        )


def _open_parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


def rewrite(source: Path, changes: Changes, cleaned: Path, quarantine: Path) -> None:
    """Write `source` with the changes to `cleaned`, and the originals of the changed rows to `quarantine`.

    Neither file appears before both are written.

    Raises:
        WinnowError: no settings of the Parquet writer keep the schema of the source.
    """
    with _open_parquet(source) as file, ExitStack() as stack:
        options = _writer_options(file, source)
        schema = file.schema_arrow
        away_schema = pa.schema([*schema, *changes.evidence.schema], metadata=schema.metadata)
        away_options = options | _with_evidence(options, changes)
        outputs = [(cleaned, schema, options), (quarantine, away_schema, away_options)]
        kept_writer, away_writer = (
            stack.enter_context(pq.ParquetWriter(stack.enter_context(write_atomically(path)), columns, **how))
            for path, columns, how in outputs
        )
        for table, piece in row_groups(file, changes):
            kept = _apply(table, piece)
            kept_writer.write_table(kept, row_group_size=max(1, kept.num_rows))
            if piece:
                away_writer.write_table(_originals(table, piece), row_group_size=len(piece))


def row_groups(file: pq.ParquetFile, changes: Changes) -> Iterator[tuple[pa.Table, Changes]]:
    start = 0
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group)
        yield table, changes.between(start, start + table.num_rows)
        start += table.num_rows


def _originals(table: pa.Table, changes: Changes) -> pa.Table:
    """The changed rows as they were in the source, with the columns of the evidence."""
    away = table.take(changes.places)
    for field, column in zip(changes.evidence.schema, changes.evidence.columns):
        away = away.append_column(field, column)
    return away


def _apply(table: pa.Table, changes: Changes) -> pa.Table:
    """The rows of `cleaned`: rows that are not removed, with the new labels."""
    if changes.relabel.any():
        at = table.schema.get_field_index(changes.label_column)
        labels = changes.labels.filter(pa.array(changes.relabel))
        column = table.column(at)
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries().combine_chunks()
        column = with_values(column, changes.places[changes.relabel], labels)
        table = table.set_column(at, table.schema.field(at), column)
    removed = changes.places[~changes.relabel]
    if not len(removed):
        return table
    stays = np.ones(table.num_rows, dtype=bool)
    stays[removed] = False
    return table.filter(pa.array(stays))


def _writer_options(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    """Find settings with which the Parquet writer writes files like this one.

    Empty files are written with all combinations of settings, to find one that gives the same Parquet schema (physical
    types, names of nested fields).

    Raises:
        WinnowError: no settings keep the Arrow schema.
    """
    schema, stores = file.schema_arrow, b"ARROW:schema" in (file.metadata.metadata or {})
    versions = dict.fromkeys((file.metadata.format_version, "2.6"))
    close: tuple[dict[str, Any], pq.ParquetSchema] | None = None
    for version, compliant, decimal, int96 in product(versions, (True, False), (False, True), (False, True)):
        options = {
            "version": version,
            "use_compliant_nested_type": compliant,
            "store_decimal_as_integer": decimal,
            "use_deprecated_int96_timestamps": int96,
            "store_schema": stores,
        }
        probe = _empty_file(schema, options)
        if not probe.schema_arrow.equals(schema, check_metadata=True):
            continue
        close = close or (options, probe.schema)
        if probe.schema.equals(file.schema):
            close = (options, probe.schema)
            break
    if close is None:
        raise WinnowError(
            f"{path}: its schema can't be written back unchanged",
            "Rewrite the source with pyarrow.parquet.write_table and audit that file.",
        )
    options, written = close
    return options | _column_options(file, path, [written.column(i).path for i in range(len(written))])


def _empty_file(schema: pa.Schema, options: dict[str, Any]) -> pq.ParquetFile:
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer, **options)
    return pq.ParquetFile(buffer)


def _column_options(file: pq.ParquetFile, path: Path, leaves: list[str]) -> dict[str, Any]:
    """Settings for codec, encoding and pages, by the leaf paths of the new file.

    If the row groups of the source differ, those of the first one are used.
    """
    metadata = file.metadata
    if metadata.num_row_groups == 0 or not leaves:
        return {}
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = {leaf: [group.column(i) for group in groups] for i, leaf in enumerate(leaves)}
    first = {leaf: columns[0] for leaf, columns in chunks.items()}
    dictionary = [leaf for leaf, columns in chunks.items() if any(c.has_dictionary_page for c in columns)]
    encodings = {
        leaf: sorted(ENCODINGS & set(column.encodings))[0]
        for leaf, column in first.items()
        if leaf not in dictionary and ENCODINGS & set(column.encodings)
    }
    page_type, checksum = _page_header(path, first[leaves[0]].data_page_offset)
    return {
        "compression": {
            leaf: column.compression.lower().replace("uncompressed", "none") for leaf, column in first.items()
        },
        "use_dictionary": dictionary or False,
        "column_encoding": encodings or None,
        "write_statistics": [leaf for leaf, column in first.items() if column.is_stats_set] or False,
        "write_page_index": any(c.has_offset_index or c.has_column_index for c in first.values()),
        "write_page_checksum": checksum,
        "data_page_version": "2.0" if page_type == DATA_PAGE_V2 else "1.0",
    }


def _with_evidence(options: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """The compression settings with the columns that the quarantine adds, which get the codec of the label column."""
    codecs = options.get("compression", {})
    label = codecs.get(changes.label_column, "snappy")
    leaves = _empty_file(changes.evidence.schema, options).schema
    return {"compression": codecs | {leaves.column(i).path: label for i in range(len(leaves))}}


def _page_header(path: Path, offset: int) -> tuple[int, bool]:
    """The type of the page at byte `offset`, and whether the page has a checksum.

    A page header is a struct in Thrift's compact protocol (parquet.thrift, PageHeader). Fields 1 to 3 are int32 (type,
    uncompressed and compressed size), the optional field 4 is the CRC. The byte 0x15 means that the next field follows
    and is an int32.
    """
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(32)
    at, values = 0, []
    for _ in range(3):
        if head[at : at + 1] != b"\x15":
            return 0, False
        value, shift = 0, 0
        while True:
            at += 1
            value |= (head[at] & 0x7F) << shift
            shift += 7
            if head[at] < 0x80:
                break
        values.append((value >> 1) ^ -(value & 1))
        at += 1
    return values[0], head[at : at + 1] == b"\x15"


def difference(source: Path, changes: Changes, cleaned: Path, quarantine: Path) -> str | None:
    """Read all three files again and check "cleaned + quarantine = source, row for row".

    Returns:
        What differs, in words, or None.
    """
    with _open_parquet(source) as before, _open_parquet(cleaned) as after, _open_parquet(quarantine) as away:
        if not after.schema_arrow.equals(before.schema_arrow, check_metadata=True):
            return f"{cleaned.name}: the schema differs from the source"
        if codecs(before) != codecs(after):
            return f"{cleaned.name}: the compression differs from the source"
        if before.metadata.num_row_groups != after.metadata.num_row_groups:
            return f"{cleaned.name}: the row groups differ from the source"
        away_groups = iter(range(away.metadata.num_row_groups))
        for group, (table, piece) in enumerate(row_groups(before, changes)):
            problem = _wrong_in_cleaned(table, piece, after.read_row_group(group))
            if problem is not None:
                return f"{cleaned.name}, row group {group}: {problem} differs from the source"
            away_group = next(away_groups, None) if piece else None
            if piece and away_group is None:
                return f"{quarantine.name} in quarantine: a row group is missing"
            if away_group is not None:
                problem = differing(_originals(table, piece), away.read_row_group(away_group))
                if problem is not None:
                    return f"{quarantine.name} in quarantine, row group {away_group}: {problem} differs"
        if next(away_groups, None) is not None:
            return f"{quarantine.name} in quarantine: too many row groups"
    return None


def _wrong_in_cleaned(table: pa.Table, changes: Changes, found: pa.Table) -> str | None:
    """What differs between a cleaned row group, `found`, and the row group `table` of the source, or None."""
    stays = np.setdiff1d(np.arange(table.num_rows), changes.places[~changes.relabel])
    wanted, relabelled = table.take(stays), np.isin(stays, changes.places[changes.relabel])
    if not relabelled.any() or wanted.num_rows != found.num_rows:
        return differing(wanted, found)
    untouched, new = pa.array(~relabelled), pa.array(relabelled)
    labels = plain(found[changes.label_column].filter(new).combine_chunks())
    if not same(labels, changes.labels.filter(pa.array(changes.relabel)).cast(labels.type)):
        return changes.label_column
    features = [name for name in wanted.column_names if name != changes.label_column]
    return differing(wanted.filter(untouched), found.filter(untouched)) or differing(
        wanted.filter(new).select(features), found.filter(new).select(features)
    )


def codecs(file: pq.ParquetFile) -> list[str]:
    if file.metadata.num_row_groups == 0:
        return []
    group = file.metadata.row_group(0)
    return [group.column(i).compression for i in range(group.num_columns)]


def differing(one: pa.Table, two: pa.Table) -> str | None:
    """What differs between two tables, in words (columns, number of rows, or the name of a column), or None."""
    if one.column_names != two.column_names:
        return "the set of columns"
    if one.num_rows != two.num_rows:
        return f"the number of rows ({two.num_rows}, not {one.num_rows})"
    for name, first, second in zip(one.column_names, one.columns, two.columns):
        for at in range(0, len(first), COMPARED_ROWS):
            pieces = (column.slice(at, COMPARED_ROWS).combine_chunks() for column in (first, second))
            if not same(*pieces):
                return name
    return None


def same(one: pa.Array, two: pa.Array) -> bool:
    """Whether two arrays have equal values; NaN equals NaN, and the order of a dictionary's values does not matter."""
    kind = one.type
    if one.equals(two):
        return True
    if kind != two.type or len(one) != len(two) or not one.is_null().equals(two.is_null()):
        return False
    if isinstance(one, pa.ExtensionArray):
        return same(one.storage, two.storage)
    if pa.types.is_dictionary(kind):
        return same(plain(one), plain(two))
    if pa.types.is_floating(kind):
        nan = pc.is_nan(one)
        return nan.equals(pc.is_nan(two)) and _all_equal(one, two, nan)
    if pa.types.is_struct(kind):
        return all(same(a, b) for a, b in zip(one.flatten(), two.flatten()))
    if pa.types.is_map(kind):
        entries = pa.list_(pa.struct([kind.key_field, kind.item_field]))
        return same(one.cast(entries), two.cast(entries))
    if pa.types.is_fixed_size_list(kind):
        return same(one.flatten(), two.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(one).equals(pc.list_value_length(two))
        return lengths and same(one.flatten(), two.flatten())
    return False


def _all_equal(one: pa.Array, two: pa.Array, skip: pa.Array) -> bool:
    blank = pa.scalar(None, one.type)
    return pc.if_else(skip, blank, one).equals(pc.if_else(skip, blank, two))
