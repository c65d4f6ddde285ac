"""CSV and other text with a delimiter: dialect and types are found, and an export keeps the text of untouched rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.formats.format import BLOCK_BYTES, BLOCK_ROWS, Content, Edits, Format
from pipeline.data.formats.streams import (
    BYTE_ORDER_MARK,
    WORDS,
    create_text,
    encoding_of,
    open_text,
    plain_suffix,
    unreadable,
)
from pipeline.data.formats.values import Guess, typed
from pipeline.errors import InputError

DELIMITERS = ",;\t|"
SNIFFED_RECORDS, SNIFFED_LETTERS = 200, 2**18
LONGEST_FIELD = 2**26
"""A longer field is an opening quote that nothing closes."""
MOST_SPELLINGS = 10_000


@dataclass(frozen=True)
class Dialect:
    """How a file is written; `quoted`: a `"` begins a field that ends with the next single one."""

    encoding: str
    delimiter: str
    quoted: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Of Python's reader and writer."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quoting": quoting, "strict": self.quoted}


@dataclass
class Record:
    """A record of a file: the number of its first line (from 1), its text with the line end, and its fields."""

    line: int
    text: str
    fields: list[str]


class Delimited(Format):
    name = "CSV or TSV"
    suffixes = (".csv", ".tsv", ".tab")
    compressible = True

    def read(self, path: Path, schema: pa.Schema | None = None) -> Content:
        """Two passes: the first finds the types of the columns over the whole file, the second reads.

        A column is of integers, numbers or booleans where all of its values are such, but for the words of NO_VALUE;
        otherwise it is text. An empty field is null.
        """
        dialect = dialect_of(path)
        names = _names(path, dialect)
        notes = []
        if not dialect.quoted:
            notes.append(f"{path}: can't be read with quotes around fields, so quotes are taken as text")
        if dialect.encoding in WORDS:
            notes.append(f"{path}: not UTF-8, read as {WORDS[dialect.encoding]}")
        if schema is None:
            kinds, found = _guess(path, dialect, names)
            schema = pa.schema(list(zip(names, kinds)))
            notes += found
        elif names != schema.names:
            raise InputError(f"{path}: its columns are not {', '.join(schema.names)}", "Write it again.")
        return Content(schema, _batches(path, dialect, schema), notes)

    def write(self, source: Path, edits: Edits, target: Path) -> None:
        dialect = dialect_of(source)
        removed, labels = edits.by_row()
        place = _names(source, dialect).index(edits.column) if labels else 0
        spellings = _spellings(source, dialect, place, edits.labels.type) if labels else {}
        with (
            open_text(source, dialect.encoding) as text,
            create_text(target, source, dialect.encoding) as out,
        ):
            row = -1  # the header
            for record in records(source, text, dialect):
                if not record.fields:  # an empty line is no row
                    out.write(record.text)
                    continue
                if row in labels:
                    label = labels[row]
                    out.write(_with_field(record, dialect, place, spellings.get(label, str(label))))
                elif row not in removed:
                    out.write(record.text)
                row += 1


def dialect_of(path: Path) -> Dialect:
    """Find encoding, delimiter and whether quotes mean anything, and go through the whole file.

    The delimiter is the one by which most of the first records have as many fields as the header, at least two. Quotes
    are text in a file with tabs that can only be read so.

    Raises:
        InputError: a record can't be read, or has another number of fields than the header; names its line.
    """
    encoding = encoding_of(path)
    try:
        with open_text(path, encoding) as text:
            head = text.read(SNIFFED_LETTERS)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise unreadable(path, error) from None
    if not head.strip(BYTE_ORDER_MARK + " \r\n"):
        raise InputError(f"{path}: empty, without a line of column names", "Write it again, or take it out.")
    candidates = "\t,;|" if plain_suffix(path) in (".tsv", ".tab") else DELIMITERS

    def fits(delimiter: str) -> tuple[float, int]:
        counts = _counts(head, delimiter)
        if not counts or counts[0] < 2:
            return 0.0, 0
        return counts.count(counts[0]) / len(counts), counts[0]

    best = max(candidates, key=fits)
    dialect = Dialect(encoding, best if fits(best)[1] else candidates[0])
    try:
        _check(path, dialect)
    except InputError as error:
        if dialect.delimiter != "\t":
            raise
        dialect = replace(dialect, quoted=False)
        try:
            _check(path, dialect)
        except InputError:
            raise error from None
    return dialect


def _check(path: Path, dialect: Dialect) -> None:
    """Raises InputError for a record that can't be read or has another number of fields than the header."""
    with open_text(path, dialect.encoding) as text:
        wanted = 0
        for record in records(path, text, dialect):
            wanted = wanted or len(record.fields)
            if record.fields and len(record.fields) != wanted:
                by = {"\t": "tab"}.get(dialect.delimiter, dialect.delimiter)
                number = len(record.fields)
                raise InputError(
                    f"{path}, line {record.line}: {number} field{'' if number == 1 else 's'}, the header has {wanted}",
                    f"Fields are parted by {by!r}; put one that holds it, a quote or a line break in double quotes.",
                )


def _counts(head: str, delimiter: str) -> list[int]:
    """The numbers of fields of the first records; the last one may be cut off and is left out."""
    lines = io.StringIO(head, newline="")
    counts = []
    try:
        for fields in islice(csv.reader(lines, delimiter=delimiter), SNIFFED_RECORDS):
            if fields:
                counts.append(len(fields))
    except csv.Error:
        pass
    return counts[:-1] if len(head) == SNIFFED_LETTERS and len(counts) > 1 else counts


def records(path: Path, text: io.TextIOBase, dialect: Dialect) -> Iterator[Record]:
    """The records of a file, with their text; an empty line is a record without fields.

    Raises:
        InputError: a record can't be read; names its line.
    """
    csv.field_size_limit(LONGEST_FIELD)
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in text:
            taken.append(line)
            yield line

    reader = csv.reader(lines(), **dialect.options)
    first = 1
    try:
        for fields in reader:
            if first == 1 and fields:
                fields[0] = _without_mark(fields[0])
            yield Record(first, "".join(taken), fields)
            first = reader.line_num + 1
            taken.clear()
    except csv.Error as error:
        open_ended = "limit" in str(error) or "end of data" in str(error)
        what = "a quote that nothing closes" if open_ended else str(error)
        raise InputError(
            f"{path}, line {first}: {what}",
            "Look at the quotes of this line and double those within a field.",
        ) from None
    except (OSError, EOFError, UnicodeError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def _without_mark(field: str) -> str:
    """A first field behind a byte order mark: the reader does not see that it is quoted."""
    text = field.removeprefix(BYTE_ORDER_MARK)
    quoted = text is not field and len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _rows(path: Path, text: io.TextIOBase, dialect: Dialect) -> Iterator[Record]:
    """The records below the header; an empty line is none."""
    filled = (record for record in records(path, text, dialect) if record.fields)
    next(filled)
    yield from filled


def _names(path: Path, dialect: Dialect) -> list[str]:
    """The names of the columns; one without a name is called as pandas calls it.

    Raises:
        InputError: a name is there twice.
    """
    with open_text(path, dialect.encoding) as text:
        header = next(record for record in records(path, text, dialect) if record.fields).fields
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{path}, line 1: the column {twice[0]!r} is there twice", "Rename one of the two.")
    return names


def _blocks(path: Path, dialect: Dialect) -> Iterator[list[pa.Array]]:
    """The columns as texts, a block of rows at a time."""
    with open_text(path, dialect.encoding) as text:
        rows: list[list[str]] = []
        size = 0
        for record in _rows(path, text, dialect):
            rows.append(record.fields)
            size += len(record.text)
            if len(rows) == BLOCK_ROWS or size > BLOCK_BYTES:
                yield _columns(rows)
                rows, size = [], 0
        if rows:
            yield _columns(rows)


def _columns(rows: list[list[str]]) -> list[pa.Array]:
    return [pa.array(column, pa.string()) for column in zip(*rows)]


def _batches(path: Path, dialect: Dialect, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for block in _blocks(path, dialect):
        columns = [typed(texts, kind) for texts, kind in zip(block, schema.types)]
        yield pa.record_batch(columns, schema=schema)


def _guess(path: Path, dialect: Dialect, names: list[str]) -> tuple[list[pa.DataType], list[str]]:
    """The type of each column, and notes.

    Raises:
        InputError: the first line has numbers instead of names.
    """
    guesses = [Guess(commas=dialect.delimiter != ",") for _ in names]
    for block in _blocks(path, dialect):
        for guess, texts in zip(guesses, block):
            guess.update(texts)
    kinds = [guess.type for guess in guesses]
    named = [name for name, kind in zip(names, kinds) if pa.types.is_floating(kind) and _is_number(name)]
    if named:
        raise InputError(
            f"{path}, line 1: {named[0]!r} looks like a value, not like the name of a column",
            "Put a line with the names of the columns first.",
        )
    notes = []
    for name, kind, guess in zip(names, kinds, guesses):
        if guess.words and kind != pa.string():
            said = ", ".join(f"{word!r} ({times:,})" for word, times in list(guess.words.items())[:4])
            notes.append(f"{path}: column {name!r} has numbers or no value: {said}")
    return kinds, notes


def _is_number(name: str) -> bool:
    """A number with a point: whole numbers are common names of columns, as of pixels."""
    return Guess.of(name) == pa.float64()


def _spellings(path: Path, dialect: Dialect, place: int, kind: pa.DataType) -> dict[Any, str]:
    """How the file writes each label: value → its first text."""
    found: dict[Any, str] = {}
    with open_text(path, dialect.encoding) as text:
        known: set[str] = set()
        for record in _rows(path, text, dialect):
            spelled = record.fields[place]
            if spelled not in known and len(known) < MOST_SPELLINGS:
                known.add(spelled)
                found.setdefault(typed(pa.array([spelled]), kind)[0].as_py(), spelled)
    return found


def _with_field(record: Record, dialect: Dialect, place: int, text: str) -> str:
    """The record with another text in one field; where all of its fields are quoted, they stay so."""
    fields = [*record.fields[:place], text, *record.fields[place + 1 :]]
    body = record.text.rstrip("\r\n")
    end = record.text[len(body) :]
    all_quoted = dialect.quoted and body.count('"') >= 2 * len(fields) and body[0] == body[-1] == '"'
    out = io.StringIO()
    options = dialect.options | ({"quoting": csv.QUOTE_ALL} if all_quoted else {})
    csv.writer(out, **options, lineterminator=end or "\n").writerow(fields)
    return out.getvalue() if end else out.getvalue().removesuffix("\n")
