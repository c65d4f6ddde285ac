"""Preparing datasets whose pictures have many sizes, can't be read, or stand in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from picture_bytes import file_of

from pipeline.data import prepare as module
from pipeline.data.picture_states import picture_states
from pipeline.errors import InputError
from pipeline.stages.stages import fingerprints

from .small import config, run_prepare, write

RANDOM = np.random.default_rng(0)
ROWS = 40
PHOTO: dict[str, Any] = {"features": {"photo": "image"}, "train": "a.parquet"}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pictures(rows: int = ROWS) -> list[bytes]:
    """Pictures of several sizes and modes."""
    sizes = [(8, 9), (7, 7, 3), (12, 5), (6, 10, 3)]
    return [file_of(RANDOM.integers(0, 256, sizes[row % 4], dtype=np.uint8)) for row in range(rows)]


def table(photos: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"photo": pa.array(photos, kind), "label": [row % 2 for row in range(len(photos))]})


def test_rows_that_cannot_be_read_are_set_aside_whatever_else_they_have():
    photos: list[Any] = pictures()
    photos[3], photos[8], photos[20] = None, b"nonsense", photos[20][:30]
    write("a.parquet", table(photos))
    prepared = run_prepare(Path("run"), image_size=[8, 8], **PHOTO)
    assert prepared.data.count("train") == ROWS - 3
    assert prepared.encoding.class_counts == [18, 19]  # of the rows 3, 8 and 20, two have the label 0
    assert prepared.facts["unreadable"] == 3
    assert "3 rows can't be read (the first: a.parquet, row 3" in " ".join(prepared.facts["warnings"])
    catalog = prepared.catalog()
    assert [row for row, role in zip(catalog["row"], catalog["split"]) if role == "aside"] == [3, 8, 20]
    assert catalog["row"] == list(range(ROWS))


def test_the_others_are_what_they_are_without_them():
    good = pictures()
    write("a.parquet", table(good))
    alone = run_prepare(Path("1"), image_size=[8, 8], **PHOTO)
    broken = table([*good, b"nonsense", None])
    write("a.parquet", broken)
    beside = run_prepare(Path("2"), image_size=[8, 8], **PHOTO)
    one, two = (each.data.load_role("train").inputs.numpy() for each in (alone, beside))
    np.testing.assert_array_equal(one, two)
    assert alone.encoding.features == beside.encoding.features


def test_more_than_a_tenth_is_an_error_that_names_the_first_and_where_it_was_looked_for(tmp_path):
    write("d/a.parquet", table([f"img/{row}.png" for row in range(ROWS)]))
    with pytest.raises(InputError) as caught:
        run_prepare(Path("run"), **PHOTO | {"train": "d/a.parquet"})
    assert caught.value.message == (
        f"d/a.parquet, row 0: column 'photo' has no picture: there is no file {tmp_path}/d/img/0.png"
    )
    assert "40 of 40 rows can't be read, more than a tenth" in caught.value.hint
    assert "data.image_root" in caught.value.hint


def test_rows_of_a_role_that_is_declared_right_only_take_no_part():
    photos: list[Any] = pictures()
    write("a.parquet", table(photos))
    write("b.parquet", table([*photos[:20], None]))
    prepared = run_prepare(
        Path("run"), image_size=[8, 8], validation="b.parquet", validation_is_clean=True, **PHOTO
    )
    assert prepared.data.count("validation") == 20
    assert "aside" not in prepared.catalog()["split"]


def test_paths_give_the_rows_that_embedded_pictures_give():
    photos = pictures()
    Path("img").mkdir()
    for row, photo in enumerate(photos):
        Path(f"img/{row}.png").write_bytes(photo)
    fractions = {"split": {"fractions": [0.6, 0.2, 0.2]}}
    found = []
    for name, column in (("in", photos), ("out", [f"img/{row}.png" for row in range(ROWS)])):
        write("a.parquet", table(column))
        found.append(run_prepare(Path(name), image_size=[8, 8], **PHOTO, **fractions))
    inside, outside = found
    for column in ("content_hash", "features_hash", "split"):
        assert inside.catalog()[column] == outside.catalog()[column]
    one, two = (each.data.load_role("train").inputs.numpy() for each in found)
    np.testing.assert_array_equal(one, two)


def test_bytes_that_are_read_a_few_at_a_time_make_the_same_chunks(monkeypatch):
    write("a.parquet", table(pictures()))
    whole = run_prepare(Path("1"), 16, image_size=[8, 8], **PHOTO)
    reads = []
    monkeypatch.setattr(module, "rows_within", lambda *_: 5)
    real = module.read_runs
    monkeypatch.setattr(
        module, "read_runs", lambda shard, columns, rows: reads.append(rows) or real(shard, columns, rows)
    )
    parts = run_prepare(Path("2"), 16, image_size=[8, 8], **PHOTO)
    assert reads == [5, 5]
    assert [chunk.rows for chunk in parts.data.chunks("train")] == [15, 15, 10]
    one, two = (each.data.load_role("train").inputs.numpy() for each in (whole, parts))
    np.testing.assert_array_equal(one, two)


def test_options_about_pictures_need_one():
    write("a.parquet", {"x": [1.0, 2.0], "label": [0, 1]})
    with pytest.raises(InputError, match=r"data\.image_size: no feature is a picture"):
        run_prepare(Path("run"), train="a.parquet", image_size=[8, 8])


def test_a_changed_or_missing_picture_changes_the_fingerprints_of_the_stages(tmp_path):
    folder = tmp_path / "img"
    folder.mkdir()
    for row, picture in enumerate(pictures(6)):
        (folder / f"{row}.png").write_bytes(picture)
    write("a.parquet", table([f"{row}.png" for row in range(6)]))
    audit = config(image_size=[8, 8], image_root="img", **PHOTO)
    seen = [fingerprints(audit)]
    assert fingerprints(audit) == seen[0]
    (folder / "4.png").write_bytes(file_of(np.zeros((3, 3), np.uint8)))
    seen.append(fingerprints(audit))
    (folder / "2.png").unlink()
    seen.append(fingerprints(audit))
    for name in ("prepare", "train", "export"):
        assert len({each[name] for each in seen}) == 3


def test_pictures_beside_their_bytes_are_not_looked_at():
    write("a.parquet", table(pictures(6)))
    assert picture_states(config(**PHOTO).data) is None


def test_the_kind_auto_finds_paths_by_their_endings():
    write("a.parquet", table(["a.png", None, "b.PNG"]))
    write("b.parquet", table(["a word", None, "b.png"]))
    auto = {"features": {"photo": "auto"}}
    assert picture_states(config(**auto, train="a.parquet").data) is not None
    assert picture_states(config(**auto, train="b.parquet").data) is None
