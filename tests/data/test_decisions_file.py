"""Files of decisions by people, as text."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.decisions_file import merge, read_decisions, write_decisions
from pipeline.errors import InputError


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(path: str) -> list[tuple[str, str, str | None]]:
    return [(line.key, line.word, line.label) for line in read_decisions(Path(path))]


def test_csv_and_parquet_say_the_same() -> None:
    columns = {
        "row_key": ["a", "b", "c", "d", "e", "f"],
        "decision": ["keep", "remove", "relabel", "right", "wrong", "unsure"],
        "label": [None, None, "ham", None, "spam", None],
        "by": ["anna"] * 6,
    }
    pq.write_table(pa.table(columns), "d.parquet")
    lines = [",".join(value or "" for value in row) for row in zip(*columns.values())]
    Path("d.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    wanted = list(zip(*(columns[name] for name in ("row_key", "decision", "label"))))
    assert said("d.csv") == said("d.parquet") == wanted
    assert {line.by for line in read_decisions(Path("d.csv"))} == {"anna"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_spreadsheets_may_write_other_separators_and_capitals(separator: str) -> None:
    lines = ["row_key,decision,label", "a,Wrong , ham ", "b,RIGHT,"]
    Path("d.csv").write_text("\n".join(lines).replace(",", separator), encoding="utf-8-sig")
    assert said("d.csv") == [("a", "wrong", "ham"), ("b", "right", None)]


def test_a_review_sheet_is_a_file_of_decisions() -> None:
    Path("sheet.csv").write_text(
        "row_key,label,suggested_label,suspicion,reasons,preview,verdict,stratum,sample\n"
        "a,ham,spam (83 %),0.9,mislabelled,text,wrong,top 57,12ab\n"
        "b,ham,,0.8,,text,,top 57,12ab\n"
        "c,ham,,0.7,,text,unsure,top 57,12ab\n"
    )
    assert said("sheet.csv") == [("a", "wrong", "ham"), ("b", "", "ham"), ("c", "unsure", "ham")]


WRONG = {
    "unknown column": ("row_key,decision,lable\na,keep,x", r"unknown column 'lable'.*"),
    "unknown decision": ("row_key,decision\na,drop", "line 2: unknown decision 'drop'"),
    "no decision": ("row_key,decision\na,keep\nb,", "line 3: no decision"),
    "no key": ("row_key,decision\n,keep", "line 2: no row_key"),
    "no key column": ("key,decision\na,keep", "unknown column 'key'"),
    "no decision column": ("row_key,label\na,x", "no column 'decision'"),
    "both words": ("row_key,decision,verdict\na,keep,right", "has the columns decision and verdict"),
    "a suggestion": ("row_key,decision,suggested_label\na,relabel,x", "'suggested_label' belongs to review"),
    "contradiction": ("row_key,decision\na,keep\na,remove", "line 3: contradicts .*line 2"),
    "too many values": ("row_key,decision\na,keep,x", "line 2: more values than columns"),
    "nothing": ("row_key,decision\n", "no decision is filled in"),
    "an empty sheet": ("row_key,label,verdict\na,ham,", "no decision is filled in"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_by_file_and_line(text: str, message: str) -> None:
    Path("d.csv").write_text(text)
    with pytest.raises(InputError, match=rf"d\.csv.*{message}"):
        read_decisions(Path("d.csv"))


def test_an_unknown_column_names_the_nearest_known_one() -> None:
    Path("d.csv").write_text("row_key,decision,lable\na,keep,x")
    with pytest.raises(InputError) as error:
        read_decisions(Path("d.csv"))
    assert error.value.hint == "Did you mean `label`?"


@pytest.mark.parametrize("name", ["d.xlsx", "d.ods"])
def test_a_spreadsheet_is_to_be_saved_as_csv(name: str) -> None:
    Path(name).write_bytes(b"PK")
    with pytest.raises(InputError, match="a spreadsheet") as error:
        read_decisions(Path(name))
    assert "CSV" in (error.value.hint or "")


def test_what_is_no_table_is_an_error() -> None:
    Path("d.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"d\.parquet: can't be read"):
        read_decisions(Path("d.parquet"))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        Path("d.csv").write_text("row_key,decision\na,keep\n", encoding=encoding)
        with pytest.raises(InputError, match=r"d\.csv: UTF-16 text, not UTF-8"):
            read_decisions(Path("d.csv"))
    with pytest.raises(InputError, match="no such file"):
        read_decisions(Path("missing.csv"))


def test_later_decisions_hold_and_the_merged_file_is_read_as_it_was_written() -> None:
    Path("one.csv").write_text('row_key,decision,label,note\na,keep,,\n"b, c",relabel,"x ""y""",first\n')
    Path("two.csv").write_text("row_key,decision,label\na,wrong,ham\nd,unsure,\n")
    merged = merge(read_decisions(Path("one.csv")), read_decisions(Path("two.csv")))
    write_decisions(Path("all.csv"), merged)
    assert said("all.csv") == [("b, c", "relabel", 'x "y"'), ("a", "wrong", "ham"), ("d", "unsure", None)]
    assert [line.note for line in read_decisions(Path("all.csv"))] == ["first", "", ""]
