from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Data
from pipeline.data.files import (
    SourceFile,
    check_unchanged,
    find_files,
    open_shard,
    open_shards,
    packs,
    read_runs,
    source_fingerprint,
)
from pipeline.errors import InputError

from .small import config, write


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def found(**paths: object) -> list[tuple[str, str | None]]:
    data = Data.model_validate({"features": {"x": "auto"}, "label": "y"} | paths)
    return [(file.path, file.role) for file in find_files(data)]


def test_files_folders_and_globs_are_found_sorted_and_stay_relative():
    for name in (
        "d/b.parquet",
        "d/a.parquet",
        "d/deep/c.parquet",
        "d/_meta.parquet",
        "d/x.csv",
        "one.parquet",
    ):
        write(name, {"x": [1]})
    assert found(train="d") == [
        ("d/a.parquet", "train"),
        ("d/b.parquet", "train"),
        ("d/deep/c.parquet", "train"),
    ]
    assert found(train="d/*.parquet", holdout=["one.parquet"]) == [
        ("d/_meta.parquet", "train"),
        ("d/a.parquet", "train"),
        ("d/b.parquet", "train"),
        ("one.parquet", "holdout"),
    ]
    assert found(train="d/**/c.parquet") == [("d/deep/c.parquet", "train")]


def test_a_file_that_two_patterns_match_counts_once():
    write("d/a.parquet", {"x": [1]})
    assert found(train=["d/a.parquet", "d", "./d/*"]) == [("d/a.parquet", "train")]


def test_a_file_may_have_brackets_in_its_name():
    write("a[1].parquet", {"x": [1]})
    assert found(train="a[1].parquet") == [("a[1].parquet", "train")]


def test_the_role_is_open_when_rows_are_split():
    write("a.parquet", {"x": [1]})
    assert found(train="a.parquet", split={"column": "s"}) == [("a.parquet", None)]


@pytest.mark.parametrize("pattern", ["none.parquet", "*.nothing", "missing/"])
def test_a_pattern_without_files_is_an_error(pattern):
    with pytest.raises(InputError, match=r"data\.train: .*no file matches"):
        found(train=pattern)


def test_a_folder_without_parquet_files_is_an_error():
    Path("empty").mkdir()
    with pytest.raises(InputError, match=r"data\.train: empty: a folder without Parquet files"):
        found(train="empty")


def test_a_file_given_for_two_roles_is_an_error_even_under_another_name():
    write("a.parquet", {"x": [1]})
    Path("link.parquet").symlink_to("a.parquet")
    with pytest.raises(InputError, match=r"link\.parquet: given for both train and holdout"):
        found(train="a.parquet", holdout="link.parquet")


def damaged(kind: str) -> str:
    path = Path(write("bad.parquet", {"x": np.arange(1000)}))
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"a,b\n1,2\n",
        "footer": content[:-60] + b"\xff" * 50 + content[-10:],
    }[kind]
    path.write_bytes(changed)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", r"bad\.parquet: empty \(0 bytes\)"),
        ("truncated", r"bad\.parquet: cut short"),
        ("text", r"bad\.parquet: not a Parquet file"),
        ("footer", r"bad\.parquet: the Parquet footer is damaged"),
    ],
)
def test_unreadable_files_are_told_apart(kind, words):
    with pytest.raises(InputError, match=words):
        open_shard(0, SourceFile(damaged(kind), "train"))


def test_all_unreadable_files_are_counted():
    good = write("good.parquet", {"x": [1]})
    files = [SourceFile(path, "train") for path in (good, damaged("empty"), damaged("text"))]
    with pytest.raises(InputError) as caught:
        open_shards([*files, SourceFile("gone.parquet", "train")])
    assert caught.value.message.startswith("bad.parquet")
    assert "(2 more files can't be read)" in str(caught.value)


def test_a_damaged_page_is_named_by_file_and_row_group():
    table = pa.table({"x": np.random.default_rng(0).integers(0, 255, 4000)})
    pq.write_table(table, "bad.parquet", row_group_size=1000, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile("bad.parquet").metadata.row_group(2).column(0)
    start, size = column.data_page_offset, column.total_compressed_size
    content = bytearray(Path("bad.parquet").read_bytes())
    content[start + 100 : start + size] = b"\xff" * (size - 100)
    Path("bad.parquet").write_bytes(content)
    shard = open_shard(0, SourceFile("bad.parquet", "train"))
    with pytest.raises(InputError, match=r"bad\.parquet, row group 2: a page is damaged"):
        list(read_runs(shard, ["x"], 1000))


def test_a_flipped_byte_in_a_page_with_checksum_is_found():
    table = pa.table({"x": np.arange(1000)})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, "bad.parquet", **options)
    column = pq.ParquetFile("bad.parquet").metadata.row_group(0).column(0)
    content = bytearray(Path("bad.parquet").read_bytes())
    content[column.data_page_offset + 4000] ^= 1
    Path("bad.parquet").write_bytes(content)
    with pytest.raises(InputError, match="row group 0: a page is damaged"):
        list(read_runs(open_shard(0, SourceFile("bad.parquet", "train")), ["x"], 1000))


def test_text_that_is_not_utf8_is_a_damaged_page():
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    shard = open_shard(0, SourceFile(write("bad.parquet", {"x": text}), "train"))
    with pytest.raises(InputError, match="row group 0: a page is damaged"):
        list(read_runs(shard, ["x"], 10))


def test_row_groups_are_joined_while_they_fit():
    assert list(packs([3, 3, 3, 10, 1, 0, 4, 5], 6)) == [[0, 1], [2], [3], [4, 5, 6], [7]]


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 200), group=st.integers(1, 80), chunk_rows=st.integers(1, 250))
def test_runs_cover_every_row_once_in_order(tmp_path_factory, rows, group, chunk_rows):
    path = tmp_path_factory.mktemp("d") / "a.parquet"
    write(path, {"x": np.arange(rows), "y": [str(i) for i in range(rows)]}, group)
    runs = list(read_runs(open_shard(0, SourceFile(str(path), "train")), ["y", "x"], chunk_rows))
    assert all(0 < run.batch.num_rows <= chunk_rows for run in runs)
    values = [value for run in runs for value in run.batch.column("x").to_pylist()]
    assert values == list(range(rows))
    assert [run.first for run in runs] == [run.batch.column("x")[0].as_py() for run in runs]


def test_rows_know_their_row_group():
    pq.write_table(pa.table({"x": np.arange(10)}), "a.parquet", row_group_size=4)
    shard = open_shard(0, SourceFile("a.parquet", "train"))
    assert shard.row_group_of(np.arange(10)).tolist() == [0] * 4 + [1] * 4 + [2] * 2


def test_an_empty_row_group_holds_no_row():
    table = pa.table({"x": [1, 2]})
    with pq.ParquetWriter("a.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table, table.slice(0, 0), table):
            writer.write_table(part, row_group_size=2)
    shard = open_shard(0, SourceFile("a.parquet", "train"))
    expected = [group for group, rows in enumerate(shard.row_groups) for _ in range(rows)]
    assert shard.row_group_of(np.arange(4)).tolist() == expected


def test_a_file_that_was_written_to_is_noticed():
    shard = open_shard(0, SourceFile(write("a.parquet", {"x": [1]}), "train"))
    check_unchanged([shard])
    write("a.parquet", {"x": [1, 2]})
    with pytest.raises(InputError, match=r"a\.parquet: changed while it was being read"):
        check_unchanged([shard])


def test_the_fingerprint_follows_the_files():
    write("d/a.parquet", {"x": [1]})
    settings = config(train="d")
    first = source_fingerprint(settings)
    assert source_fingerprint(settings) == first
    os.utime("d/a.parquet", ns=(1, 1))
    touched = source_fingerprint(settings)
    shutil.copy("d/a.parquet", "d/b.parquet")
    assert len({first, touched, source_fingerprint(settings)}) == 3
