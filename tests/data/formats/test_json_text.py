"""JSON lines and JSON arrays as tables, held against what was written into them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.data.formats.copies import notes_of
from pipeline.data.formats.format import BLOCK_ROWS
from pipeline.data.formats.readers import json_text
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError

ROWS = [
    {"id": 1, "text": 'x "y"\n{é', "tags": ["a", "b"], "by": {"name": "Ann", "age": None}, "score": 1},
    {"id": 2, "text": None, "tags": [], "by": {"name": None, "age": 40}, "score": 2.5},
]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(path: str) -> list[dict]:
    return open_source(path).read().to_pylist()


@pytest.mark.parametrize("piece", [1, 7, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_lines_with_nested_values(
    piece: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "PIECE", piece)
    Path("a.json").write_text(json.dumps(ROWS, indent=indent))
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    Path("a.jsonl").write_text(lines, encoding="utf-8")
    Path("b.json").write_text(lines, encoding="utf-8-sig")
    Path("a.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    for path in ("a.json", "a.jsonl", "b.json", "a.ndjson.gz"):
        assert rows_of(path) == ROWS
    kinds = {field.name: field.type for field in open_source("a.json").schema_arrow}
    assert kinds["by"] == pa.struct({"name": pa.string(), "age": pa.int64()})
    assert [kinds["id"], kinds["score"]] == [pa.int64(), pa.float64()]


def test_fields_and_types_that_only_the_last_block_has() -> None:
    lines = [json.dumps({"n": row}) for row in range(BLOCK_ROWS + 5)] + [
        '{"n": 0.5, "new": {"deep": [true]}}'
    ]
    Path("a.jsonl").write_text("\n".join(lines))
    found = rows_of("a.jsonl")
    assert found[0] == {"n": 0.0, "new": None}
    assert found[-1] == {"n": 0.5, "new": {"deep": [True]}}


def test_values_of_several_types_are_text_and_said() -> None:
    Path("a.jsonl").write_text('{"v": 1, "w": {}}\n{"v": "one", "w": {}}\n')
    assert rows_of("a.jsonl") == [{"v": "1", "w": "{}"}, {"v": "one", "w": "{}"}]
    assert [note.split("'")[1] for note in notes_of("a.jsonl")] == ["v", "w"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n\n{"a": 2\n{"a": 3}\n', r"line 4: not JSON \(Expecting ',' delimiter\)"),
        ('{"a": 1}\n{"a": "x\n', r"line 2: not JSON"),
        ('[{"a": 1},\n {"a": 2}', r"line 2: the array is cut off"),
        ('[{"a": 1},\n {"a" 2}]', r"line 2: not JSON"),
        ('[{"a": 1},\n\n 5]', r"line 3: a number, not an object"),
        ('"a"', r"line 1: a text, not an object"),
        ("[]", r"no rows"),
        ("", r"no rows"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(text: str, words: str) -> None:
    Path("bad.json").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.json.*{words}"):
        open_source("bad.json")
