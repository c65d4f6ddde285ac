from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.features.encoder import Column
from pipeline.features.kinds.image import ImageEncoder
from pipeline.report.thumbnails import SIDE, Thumbnail, encode


def pixels_of(found: Thumbnail | None) -> np.ndarray:
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(b64decode(found.uri.partition(",")[2]))))


def as_scalar(pixels: np.ndarray) -> pa.Scalar:
    flat = pa.array(pixels.reshape(-1), pa.uint8())
    return pa.FixedSizeListArray.from_arrays(flat, pixels.size)[0]


def show(value: pa.Scalar, metadata: dict[str, str] | None = None) -> Thumbnail | None:
    return shown(value, pa.schema([pa.field("image", value.type)], metadata=metadata))


def shown(value: pa.Scalar, schema: pa.Schema) -> Thumbnail | None:
    image = ImageEncoder.picture(value, Column.of(schema, "image"), SIDE)
    return None if image is None else encode(image)


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_small_pictures_keep_every_pixel(colours: np.ndarray) -> None:
    grey = colours[:, :, 0]
    found = show(as_scalar(grey), {"image_shape": "[5, 7]"})
    assert found is not None
    assert found.pixelated
    assert found.uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels_of(found), grey)


@pytest.mark.parametrize("layout", ["HWC", "CHW", None])
def test_layouts(colours: np.ndarray, layout: str | None) -> None:
    stored = colours.transpose(2, 0, 1) if layout == "CHW" else colours
    metadata = {"image_shape": str(list(stored.shape))} | ({"image_layout": layout} if layout else {})
    np.testing.assert_array_equal(pixels_of(show(as_scalar(np.ascontiguousarray(stored)), metadata)), colours)


def test_channels_first_is_recognised_without_a_layout(colours: np.ndarray) -> None:
    stored = np.ascontiguousarray(colours.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels_of(show(as_scalar(stored), {"image_shape": "[3, 5, 7]"})), colours)


def test_shape_of_the_field_is_used(colours: np.ndarray) -> None:
    value = as_scalar(colours)
    entry = pa.field("image", value.type, metadata={"shape": "[5, 7, 3]", "layout": "HWC"})
    np.testing.assert_array_equal(pixels_of(shown(value, pa.schema([entry]))), colours)


def test_slices_show_their_own_pixels() -> None:
    pixels = np.arange(3 * 16, dtype=np.uint8).reshape(3, 16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 16).slice(1)
    np.testing.assert_array_equal(pixels_of(show(column[1])), pixels[2].reshape(4, 4))


def test_structs_with_bytes_and_colour_squares_without_metadata(colours: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG")
    value = pa.scalar({"bytes": file.getvalue(), "path": "a.png"})
    np.testing.assert_array_equal(pixels_of(show(value)), colours)
    square = np.ascontiguousarray(colours[:, :5])
    np.testing.assert_array_equal(pixels_of(show(as_scalar(square))), square)


def test_large_image_files_are_shrunk() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (900, 600), (200, 30, 30, 255)).save(file, "PNG")
    found = show(pa.scalar(file.getvalue()))
    assert found is not None
    assert not found.pixelated
    assert pixels_of(found).shape == (SIDE * 2 // 3, SIDE, 3)


@pytest.mark.parametrize(
    "value",
    [
        pa.scalar(b"no picture"),
        pa.scalar(None, pa.binary()),
        as_scalar(np.zeros(14, dtype=np.uint8)),
    ],
    ids=["bytes", "null", "no square"],
)
def test_what_is_no_picture_gives_none(value: pa.Scalar) -> None:
    assert show(value) is None


def test_impossible_metadata_gives_none() -> None:
    value = as_scalar(np.zeros(16, dtype=np.uint8))
    assert show(value, {"image_shape": "[9, 9]"}) is None
    assert show(value, {"image_shape": "[2, 2, 4]"}) is None
    assert show(value, {"image_shape": "broken"}) is None
    assert show(value, {"image_shape": "4"}) is None
