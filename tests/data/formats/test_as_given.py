"""The export in the format of the source, held against edits of its text by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.exports import config, make_run
from pipeline.data.formats.format import Edits
from pipeline.data.formats.readers.delimited import Delimited
from pipeline.errors import WinnowError
from pipeline.export.export import export_rows
from pipeline.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exported(path: str, remove: int, relabel: int, label: object) -> RunDirectory:
    run = make_run([path], {(path, remove): ("remove", None), (path, relabel): ("relabel", label)})
    facts = export_rows(run, config())
    assert [facts[f"rows_{what}"] for what in ("removed", "relabelled")] == [1, 1]
    assert facts["as_given"]
    return run


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_csv_keeps_every_byte_of_untouched_rows(encoding: str) -> None:
    lines = [
        'x;"t";label\r\n',
        '1,50;"é;\n""a""";YES\r\n',
        "\r\n",
        "2,5;b;no\r\n",
        "3;  c ;yes\r\n",
        "4;d;YES",
    ]
    Path("a.csv").write_bytes("".join(lines).encode(encoding))
    run = exported("a.csv", remove=1, relabel=2, label="YES")
    wanted = "".join([*lines[:3], "3;  c ;YES\r\n", lines[5]])
    assert (run / "cleaned_as_given/a.csv").read_bytes() == wanted.encode(encoding)
    assert pq.read_table(run / "cleaned/a.parquet")["label"].to_pylist() == ["YES", "YES", "YES"]
    assert pq.read_table(run / "quarantine/a.parquet")["label"].to_pylist() == ["no", "yes"]


def test_a_label_is_written_as_the_file_writes_it() -> None:
    Path("a.csv").write_text('"x","label"\n"1","True"\n"2","FALSE"\n"3","FALSE"\n')
    run = exported("a.csv", remove=0, relabel=1, label=True)
    assert (run / "cleaned_as_given/a.csv").read_text() == '"x","label"\n"2","True"\n"3","FALSE"\n'


def test_json_lines_and_arrays_keep_the_text_of_untouched_rows() -> None:
    lines = ['{"x":1.50,"label":0}\n', '{"x": 2, "label": 1, "é": {"y": []}}\n', "\n", '{"x":3,"label":0}\n']
    Path("a.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    run = exported("a.jsonl.gz", remove=2, relabel=0, label=1)
    text = gzip.decompress((run / "cleaned_as_given/a.jsonl.gz").read_bytes()).decode()
    assert text == '{"x":1.5,"label":1}\n' + lines[1] + lines[2].removesuffix("\n")

    rows = [{"x": row, "label": row % 2} for row in range(4)]
    Path("a.json").write_text(json.dumps(rows, indent=1))
    run = exported("a.json", remove=0, relabel=3, label=0)
    rows[3]["label"] = 0
    assert (run / "cleaned_as_given/a.json").read_text() == json.dumps(rows[1:], indent=1)
    run = exported("a.json", remove=3, relabel=1, label=0)
    assert json.loads((run / "cleaned_as_given/a.json").read_text()) == [
        rows[0],
        {"x": 1, "label": 0},
        rows[2],
    ]


def test_files_without_changes_are_copied_and_names_do_not_clash() -> None:
    Path("a.csv").write_text("x,label\n1,0\n2,1\n")
    Path("a.tsv").write_text("x\tlabel\n1\t0\n2\t1\n")
    run = make_run(["a.csv", "a.tsv"], {})
    export_rows(run, config())
    assert sorted(path.name for path in (run / "cleaned").iterdir()) == ["a.csv.parquet", "a.tsv.parquet"]
    for name in ("a.csv", "a.tsv"):
        assert (run / "cleaned_as_given" / name).read_bytes() == Path(name).read_bytes()


def test_a_wrong_value_in_the_export_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_text("x,label\n1,0\n2,1\n3,1\n")
    write = Delimited.write

    def damaged(self: Delimited, source: Path, edits: Edits, target: Path) -> None:
        write(self, source, edits, target)
        target.write_text(target.read_text().replace("3,1", "3,0"))

    monkeypatch.setattr(Delimited, "write", damaged)
    run = make_run(["a.csv"], {("a.csv", 0): ("remove", None)})
    with pytest.raises(
        WinnowError, match=r"a\.csv: the export in its own format failed its check: label differs"
    ):
        export_rows(run, config())
    assert not (run / "cleaned_as_given/a.csv").exists()
    assert not (run / "cleaned.json").exists()
