"""JSON lines, and a JSON array of objects: an object a row, nested values kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from pipeline.data.formats.format import BLOCK_BYTES, BLOCK_ROWS, Content, Edits, Format
from pipeline.data.formats.streams import (
    BYTE_ORDER_MARK,
    create_text,
    encoding_of,
    open_text,
    unreadable,
)
from pipeline.errors import InputError

PIECE = 2**20
LONGEST_OBJECT = 2**28
LONGEST_WORD = 16
"""More letters than `false` or an escape has, which the end of a piece may cut."""
HINT = "Give an object a line ({…}), or one array of objects ([{…}, {…}])."


@dataclass
class Row:
    """An object: the number of its line (from 1), the text before it (separators and white space), its own text, and
    its value.
    """

    line: int
    before: str
    text: str
    value: dict[str, Any]


class Json(Format):
    name = "JSON lines or a JSON array"
    suffixes = (".jsonl", ".ndjson", ".json")
    compressible = True

    def read(self, path: Path, schema: pa.Schema | None = None) -> Content:
        """Two passes: the first finds the types over the whole file, the second reads.

        A column has the narrowest type that takes all of its values. Where none does, as with numbers and texts, it is
        text: what is not text stands there as JSON. A missing field is null.
        """
        encoding = encoding_of(path)
        notes: list[str] = []
        if schema is None:
            schema, notes = _guess(path, encoding)
        return Content(schema, _batches(path, encoding, schema), notes)

    def write(self, source: Path, edits: Edits, target: Path) -> None:
        encoding = encoding_of(source)
        removed, labels = edits.by_row()
        with open_text(source, encoding) as text, create_text(target, source, encoding) as out:
            written = False
            first = ""
            for number, row in enumerate(rows := _Reader(source, text)):
                first = first if number else row.before
                if number in removed:
                    continue
                body = row.text
                if number in labels:
                    body = _dumped(row.value | {edits.column: labels[number]}, like=row.text)
                out.write((row.before if number and written else first) + body)
                written = True
            out.write(rows.rest if written or not rows.is_array else f"[{rows.rest}")


class _Reader:
    """Iterates over the objects; `rest` is the text behind the last one, once it is reached."""

    def __init__(self, path: Path, text: TextIO):
        self.path, self.text = path, text
        self.rest = ""
        self.is_array = False

    def __iter__(self) -> Iterator[Row]:
        try:
            head = self.text.read(PIECE)
            while head and not head.strip(BYTE_ORDER_MARK + " \t\r\n") and (more := self.text.read(PIECE)):
                head += more
            self.is_array = head.lstrip(BYTE_ORDER_MARK + " \t\r\n").startswith("[")
            yield from self._objects(head)
        except (OSError, EOFError, UnicodeError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from None

    def _objects(self, buffer: str) -> Iterator[Row]:
        """Decode one object after the other, and read on where the text ends within one."""
        decode, line, at, done = json.JSONDecoder().raw_decode, 1, 0, False
        while True:
            begin = _skip(buffer, at)
            if begin < len(buffer) and buffer[begin] in ",[]" and self.is_array:
                begin = _skip_separators(buffer, begin)
            if begin < len(buffer):
                try:
                    value, end = decode(buffer, begin)
                    if done or end < len(buffer):  # a number at the end may go on
                        line += buffer.count("\n", at, begin)
                        yield Row(line, buffer[at:begin], buffer[begin:end], self._checked(value, line))
                        line += buffer.count("\n", begin, end)
                        at = end
                        continue
                except json.JSONDecodeError as error:
                    wrong = error
                    if done or len(buffer) - begin > LONGEST_OBJECT or not self._may_go_on(error, buffer):
                        break
            elif done:
                self._check_end(buffer[at:], line)
                self.rest = buffer[at:]
                return
            buffer, at = buffer[at:], 0
            more = self.text.read(max(PIECE, len(buffer)))
            done = not more
            buffer += more
        number = line + buffer.count("\n", at, wrong.pos)
        raise InputError(f"{self.path}, line {number}: not JSON ({wrong.msg})", HINT)

    def _may_go_on(self, error: json.JSONDecodeError, buffer: str) -> bool:
        """Whether reading on may mend the error; in JSON lines an object ends with its line."""
        if not self.is_array:
            return "\n" not in buffer[error.pos :]
        return error.msg.startswith("Unterminated string") or error.pos > len(buffer) - LONGEST_WORD

    def _check_end(self, rest: str, line: int) -> None:
        if self.is_array and "]" not in rest:
            raise InputError(
                f"{self.path}, line {line}: the array is cut off, its ] is missing", "Copy it again."
            )

    def _checked(self, value: Any, line: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise InputError(f"{self.path}, line {line}: {_kind(value)}, not an object", HINT)
        return value


def _skip(text: str, at: int) -> int:
    """The place of the next letter that is no white space."""
    while at < len(text) and text[at] in BYTE_ORDER_MARK + " \t\r\n":
        at += 1
    return at


def _skip_separators(text: str, at: int) -> int:
    while at < len(text) and text[at] in ",[] \t\r\n":
        at += 1
    return at


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _dumped(value: dict[str, Any], like: str) -> str:
    """An object as JSON, in the manner of another text: line breaks, spaces and escapes."""
    margins = [line[: len(line) - len(line.lstrip())] for line in like.split("\n")]
    inner = margins[1].removeprefix(margins[-1]) if len(margins) > 1 else None
    separators = None if inner is not None or '": ' in like else (",", ":")
    text = json.dumps(value, ensure_ascii=like.isascii(), indent=inner, separators=separators)
    return text.replace("\n", f"\n{margins[-1]}")


def _blocks(path: Path, encoding: str) -> Iterator[list[Row]]:
    with open_text(path, encoding) as text:
        rows: list[Row] = []
        size = 0
        for row in _Reader(path, text):
            rows.append(row)
            size += len(row.text)
            if len(rows) == BLOCK_ROWS or size > BLOCK_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows


def _guess(path: Path, encoding: str) -> tuple[pa.Schema, list[str]]:
    """The columns in the order in which they first occur, and notes about those that are text for want of a type.

    Raises:
        InputError: there is no object.
    """
    kinds: dict[str, pa.DataType | None] = {}  # None: no type takes all values
    for rows in _blocks(path, encoding):
        for name in dict.fromkeys(name for row in rows for name in row.value):
            kinds[name] = _wider(kinds.get(name, pa.null()), [row.value.get(name) for row in rows])
    if not kinds:
        raise InputError(f"{path}: no rows", HINT)
    mixed = [name for name, kind in kinds.items() if kind is None]
    fields = [
        (name, pa.string() if kind is None or pa.types.is_null(kind) else kind)
        for name, kind in kinds.items()
    ]
    notes = [f"{path}: column {name!r} has values of several types and is read as text" for name in mixed]
    return pa.schema(fields), notes


def _wider(kind: pa.DataType | None, values: list[Any]) -> pa.DataType | None:
    """The narrowest type that takes a type and these values; None if there is none that Parquet can hold."""
    if kind is None:
        return None
    try:
        found = pa.array(values).type
        schemas = [pa.schema([("", each)]) for each in (kind, found)]
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError, TypeError):
        return None
    return None if _has(both, _is_bare) else both


def _has(kind: pa.DataType, test: Any) -> bool:
    """Whether the type or one within it passes the test."""
    return test(kind) or any(_has(kind.field(place).type, test) for place in range(kind.num_fields))


def _is_bare(kind: pa.DataType) -> bool:
    """A struct without fields, which Parquet can't hold."""
    return pa.types.is_struct(kind) and kind.num_fields == 0


def _batches(path: Path, encoding: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for rows in _blocks(path, encoding):
        place = f"{path}, lines {rows[0].line} to {rows[-1].line}"
        columns = [_column([row.value.get(field.name) for row in rows], field, place) for field in schema]
        yield pa.record_batch(columns, schema=schema)


def _column(values: list[Any], field: pa.Field, place: str) -> pa.Array:
    if pa.types.is_string(field.type):
        values = [each if each is None or isinstance(each, str) else json.dumps(each) for each in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise InputError(f"{place}: column {field.name!r} is no {field.type} ({error})", HINT) from None
