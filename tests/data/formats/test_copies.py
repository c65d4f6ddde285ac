"""The copies of sources of other formats, and the sources of a folder."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.data.files import matches, source_fingerprint
from pipeline.data.formats.copies import folder, parquet_of
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))


def test_a_copy_is_made_once_and_anew_for_a_changed_source() -> None:
    Path("a.csv").write_text("x,y\n1,2\n")
    first = parquet_of("a.csv")
    made = first.stat().st_mtime_ns
    assert parquet_of(Path("a.csv").absolute()) == first
    assert first.stat().st_mtime_ns == made
    Path("a.csv").write_text("x,y\n1,2\n3,4\n")
    assert open_source("a.csv").metadata.num_rows == 2
    assert [path.name for path in folder().iterdir()] == [parquet_of("a.csv").name]
    parquet_of("a.csv").unlink()
    assert open_source("a.csv").metadata.num_rows == 2


def test_a_source_that_is_being_read_in_two_threads_is_whole_in_both() -> None:
    Path("a.csv").write_text("x,y\n" + "1,2\n" * 5000)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: open_source("a.csv").metadata.num_rows, range(4))) == {5000}
    assert len(list(folder().iterdir())) == 1


def test_a_failed_conversion_leaves_nothing() -> None:
    Path("a.csv").write_text("x,y\n1\n")
    with pytest.raises(InputError):
        parquet_of("a.csv")
    assert not folder().exists() or not list(folder().iterdir())


def test_parquet_is_read_as_it_is_whatever_its_name() -> None:
    pq.write_table(pa.table({"x": [1]}), "a.parquet")
    os.link("a.parquet", "a.data")
    assert [parquet_of(name) for name in ("a.parquet", "a.data")] == [Path("a.parquet"), Path("a.data")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xlsx", r"a\.xlsx: a workbook\n  Save the sheet as CSV UTF-8, and give that"),
        ("a.pkl", r"a\.pkl: a pickle"),
        ("a.what", r"a\.what: not a Parquet file.*\n  Give Parquet, .*CSV"),
    ],
)
def test_what_is_no_known_format_is_refused_in_words(name: str, words: str) -> None:
    Path(name).write_bytes(b"something")
    with pytest.raises(InputError) as caught:
        open_source(name)
    assert re.search(words, str(caught.value))


def test_a_folder_of_one_format() -> None:
    Path("d/deep").mkdir(parents=True)
    for name in ("d/b.csv", "d/deep/a.csv", "d/_left.csv", "d/notes.txt"):
        Path(name).write_text("x,y\n1,2\n")
    assert matches("d", "train") == ["d/b.csv", "d/deep/a.csv"]
    Path("d/c.jsonl").write_text('{"x": 1}')
    with pytest.raises(InputError, match=r"d: has files of several formats, as b\.csv and c\.jsonl"):
        matches("d", "train")
    pq.write_table(pa.table({"x": [1]}), "d/a.parquet")
    assert matches("d", "train") == ["d/a.parquet"]


def test_a_run_notices_a_changed_file_by_its_fingerprint() -> None:
    Path("a.csv").write_text("x,y\n1,2\n")
    data = {"train": "a.csv", "features": {"x": "numeric"}, "label": "y"}
    config = AuditConfig.model_validate({"name": "t", "data": data})
    before = source_fingerprint(config)
    assert source_fingerprint(config) == before
    Path("a.csv").write_text("x,y\n1,3\n")
    assert source_fingerprint(config) != before
