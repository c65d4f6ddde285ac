"""Files that people make, read line by line: CSV as spreadsheets write it, or Parquet."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")


def read_entries(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and values, as text, of each line of a CSV or Parquet file; lists are written as JSON.

    Raises InputError for a file that can't be read, and for a spreadsheet.
    """
    if path.suffix.lower() in SPREADSHEETS:
        raise InputError(
            f"{path}: a spreadsheet, which is not read here",
            "Save it as CSV (in Excel: File, Save As, CSV UTF-8) and give that file.",
        )
    try:
        if path.suffix.lower() == ".csv":
            yield from _csv_entries(path)
        else:
            for row, entry in enumerate(pq.read_table(path, partitioning=None).to_pylist()):
                yield f"{path}, row {row}", {name: _as_text(value) for name, value in entry.items()}
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: can't be read ({reason})", "Give a Parquet or a CSV file.") from None


def _csv_entries(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    _check_utf8(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=separator(header))
        if not reader.fieldnames:
            raise InputError(f"{path}: empty", "Its first line names the columns.")
        for entry in reader:
            yield f"{path}, line {reader.line_num}", entry


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)


def _check_utf8(path: Path) -> None:
    """Raises InputError for the encodings of text that some spreadsheets write."""
    with path.open("rb") as file:
        first = file.read(4)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
        raise InputError(f"{path}: UTF-16 text, not UTF-8", "Save it as CSV in UTF-8 (`CSV UTF-8` in Excel).")


def separator(header: str) -> str:
    """Of a CSV file's values: spreadsheets write semicolons where the comma is the decimal sign, or tabs."""
    return next((each for each in ",;\t" if each in header), ",")
