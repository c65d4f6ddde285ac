"""Columns of pictures of many kinds, embedded or in files of their own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from picture_bytes import file_of

from pipeline.data.hashing import ids_of_parts
from pipeline.errors import InputError

from .fitted import create, fit

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_grey_and_coloured_pictures_get_three_channels_with_the_statistics_of_all():
    column = pa.array([file_of(GREY), file_of(RGB)])
    encoder = fit("image", column, image_size=[6, 5])
    pixels = np.stack([np.repeat(GREY[..., None], 3, axis=2), RGB])
    np.testing.assert_array_equal(encoder.encode(column), pixels.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(encoder.mean, (pixels / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(encoder.std, (pixels / 255).std((0, 1, 2)))


def test_pictures_that_are_all_grey_get_one_channel_and_later_colours_become_grey():
    encoder = fit("image", pa.array([file_of(GREY)] * 2), image_size=[6, 5])
    assert encoder.shape == (1, 6, 5)
    assert encoder.mean == [pytest.approx((GREY / 255).mean())]
    later = encoder.encode(pa.array([file_of(RGB)]))
    assert np.abs(later[0, 0] - RGB @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_a_coloured_picture_that_is_not_of_train_makes_three_channels():
    column = pa.array([file_of(GREY), file_of(RGB)])
    encoder = fit("image", column, np.array([True, False]), image_size=[6, 5])
    assert encoder.shape == (3, 6, 5)
    assert encoder.mean == [pytest.approx((GREY / 255).mean())] * 3


def test_pictures_that_cannot_be_read_are_told_from_those_that_need_another_config():
    wide = file_of(np.zeros((6, 9), np.uint8))
    column = pa.array([file_of(GREY), None, b"nonsense", wide, file_of(GREY.astype(np.uint16))])
    found = create("image", column.type).update(column, np.ones(5, bool))
    assert [(fault.places.tolist(), fault.unreadable) for fault in found] == [
        ([1], True), ([2], True), ([3, 4], False)
    ]  # fmt: skip
    assert "data.image_size" in found[2].hint
    sized = create("image", column.type, image_size=[4, 4]).update(column, np.ones(5, bool))
    assert [fault.places.tolist() for fault in sized] == [[1], [2]]


def test_paths_start_at_their_file_or_at_the_root_and_hash_as_the_bytes_do(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(file_of(GREY))
    (tmp_path / "img/copy.png").write_bytes(file_of(GREY))
    paths = pa.array(["a.png", "copy.png", str(tmp_path / "img/a.png"), None]).dictionary_encode()
    inside = pa.array([file_of(GREY)] * 3 + [None])
    structs = pa.array([{"bytes": None, "path": "a.png"}] * 2 + [{"bytes": file_of(GREY), "path": "x"}, None])
    for column, root in ((paths, ""), (paths, str(tmp_path / "img")), (structs, "")):
        encoder = create("image", pa.string(), **({"image_root": root} if root else {}))
        placed = encoder.placed(column, "/nowhere" if root else str(tmp_path / "img"))
        (null,) = encoder.update(placed, np.ones(4, bool))
        assert (null.places.tolist(), null.what) == ([3], "is null")
        encoder.finish()
        np.testing.assert_array_equal(encoder.encode(placed.slice(0, 3)), np.stack([GREY[None]] * 3))
        ids = ids_of_parts([encoder.hashed(placed)])
        np.testing.assert_array_equal(ids, ids_of_parts([[inside]]))


def test_what_is_no_file_says_where_it_was_looked_for(tmp_path):
    column = pa.array(["none.png", "https://example.org/a.png"])
    encoder = create("image", pa.string(), image_root=str(tmp_path))
    gone, address = encoder.update(encoder.placed(column, "x"), np.ones(2, bool))
    assert gone.what == f"has no picture: there is no file {tmp_path}/none.png"
    assert gone.unreadable
    assert f"data.image_root, {tmp_path}" in gone.hint
    assert "is a web address" in address.what
    assert not address.unreadable
    assert "Nothing is downloaded" in address.hint
    structs = pa.array([{"bytes": None, "path": "a.png"}])
    (lost,) = encoder.update(encoder.placed(structs, "x"), np.ones(1, bool))
    assert "the bytes are not embedded, and there is no file" in lost.what


def test_a_root_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match=r"data\.image_root: nowhere: no such folder"):
        create("image", pa.string(), image_root="nowhere")
