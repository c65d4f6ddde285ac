"""CSV and TSV as tables, held against what was written into them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.data.formats.copies import notes_of
from pipeline.data.formats.format import BLOCK_ROWS
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError

ROWS = [
    {"id": 1, "price": 3.5, "text": 'a "quoted"\nword; and, more', "ok": True, "name": "José"},
    {"id": 2, "price": -1e-3, "text": "b", "ok": None, "name": "007"},
    {"id": 3, "price": None, "text": "NA", "ok": False, "name": "1"},
]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_csv(rows: list[dict], **dialect: object) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def rows_of(path: str) -> list[dict]:
    return open_source(path).read().to_pylist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
def test_values_types_delimiter_and_encoding_are_found(delimiter: str, encoding: str) -> None:
    Path("a.csv").write_bytes(as_csv(ROWS, delimiter=delimiter).encode(encoding))
    assert rows_of("a.csv") == ROWS
    kinds = dict(zip(ROWS[0], (pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.string())))
    assert open_source("a.csv").schema_arrow == pa.schema(list(kinds.items()))
    assert bool(notes_of("a.csv")) == (encoding in ("cp1252", "latin-1"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind(end: str) -> None:
    Path("a.tsv").write_bytes(f"a\tb{end}1\tx{end}2\ty".encode())
    assert rows_of("a.tsv") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_compressed_files() -> None:
    text = as_csv(ROWS).encode()
    with gzip.open("a.csv.gz", "wb") as file:
        file.write(text)
    with pa.CompressedOutputStream("b.csv.zst", "zstd") as file:
        file.write(text)
    assert rows_of("a.csv.gz") == rows_of("b.csv.zst") == ROWS


@pytest.mark.parametrize(
    ("late", "kind"),
    [
        ("N/A", pa.int64()),
        ("2.5", pa.float64()),
        ("many", pa.string()),
        ("007", pa.string()),
        ("", pa.int64()),
    ],
)
def test_a_value_in_the_last_block_decides_the_type_too(late: str, kind: pa.DataType) -> None:
    lines = [f"{row},x" for row in range(BLOCK_ROWS + 5)] + [f"{late},x"]
    Path("a.csv").write_text("\n".join(["n,t", *lines]))
    column = open_source("a.csv").read()["n"]
    assert column.type == kind
    wanted = {pa.int64(): None, pa.float64(): 2.5, pa.string(): late}[kind]
    assert [column[0].as_py(), column[-1].as_py()] == ["0" if pa.types.is_string(kind) else 0, wanted]
    assert notes_of("a.csv") == (
        ["a.csv: column 'n' has numbers or no value: 'N/A' (1)"] if late == "N/A" else []
    )


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["3,5", "1e3", "-0,25"], [3.5, 1000.0, -0.25]),  # a decimal comma
        (["1,234", "10,000", "5"], ["1,234", "10,000", "5"]),  # thousands, or thousandths: text
        (["12345678901234567890", "1", "2"], ["12345678901234567890", "1", "2"]),  # a float would lose digits
        ([" 4", "5 ", "+6"], [4, 5, 6]),
        (["inf", "-Infinity", "1"], [float("inf"), float("-inf"), 1.0]),
        (["2024-01-01", "2024-01-02", ""], ["2024-01-01", "2024-01-02", None]),
    ],
)
def test_what_a_number_is(texts: list[str], values: list[object]) -> None:
    Path("a.csv").write_text("v;w\n" + "".join(f"{text};x\n" for text in texts))
    assert [row["v"] for row in rows_of("a.csv")] == values


def test_quotes_that_mean_nothing_are_text() -> None:
    Path("a.tsv").write_text('t\tn\nsay "yes\t1\n"no\t2\n6" nails\t3\n')
    assert [row["t"] for row in rows_of("a.tsv")] == ['say "yes', '"no', '6" nails']
    assert notes_of("a.tsv") == [
        "a.tsv: can't be read with quotes around fields, so quotes are taken as text"
    ]


def test_an_index_without_a_name_is_called_as_pandas_calls_it() -> None:
    Path("a.csv").write_text(",x\n0,a\n1,b\n")
    assert open_source("a.csv").schema_arrow.names == ["Unnamed: 0", "x"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n\n3\n", r"bad\.csv, line 4: 1 field, the header has 2"),
        ('a,b\n"x\ny",2\n3,4,5\n', r"bad\.csv, line 4: 3 fields, the header has 2"),
        ('a,b\n1,"2\n3,4\n', r"bad\.csv, line 2: a quote that nothing closes"),
        ("", r"bad\.csv: empty"),
        ("a,b,a\n1,2,3\n", r"bad\.csv, line 1: the column 'a' is there twice"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", r"bad\.csv, line 1: '5\.1' looks like a value"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(text: str, words: str) -> None:
    Path("bad.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        open_source("bad.csv")


def test_a_damaged_byte_among_utf8_is_no_other_encoding() -> None:
    Path("bad.csv").write_bytes("a,b\nJosé,1\nÄÖÜ,2\n".encode() + b"\xff,3\n")
    with pytest.raises(InputError, match=r"bad\.csv, line 4: a byte that is not UTF-8"):
        open_source("bad.csv")


def test_a_compressed_file_that_is_cut_short() -> None:
    Path("bad.csv.gz").write_bytes(gzip.compress(as_csv(ROWS * 100).encode())[:-20])
    with pytest.raises(InputError, match=r"bad\.csv\.gz: can't be read"):
        open_source("bad.csv.gz")
