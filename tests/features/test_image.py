from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import InputError

from .fitted import create, faults, fit

RANDOM = np.random.default_rng(0)


def pixels(images: np.ndarray) -> pa.Array:
    flat = images.reshape(len(images), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), pa.uint8()), flat.shape[1])


def encoded_bytes(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("stored", "layout", "order"),
    [((4, 5), "HW", None), ((4, 5, 3), "HWC", (0, 3, 1, 2)), ((3, 4, 5), "CHW", (0, 1, 2, 3))],
)
def test_pixel_lists_become_channels_height_width(stored, layout, order):
    images = RANDOM.integers(0, 256, (6, *stored), dtype=np.uint8)
    expected = images[:, None] if order is None else images.transpose(order)
    encoder = fit(
        "image",
        pixels(images),
        metadata={b"image_shape": str(list(stored)).encode(), b"image_layout": layout.encode()},
    )
    encoded = encoder.encode(pixels(images).slice(2))
    assert encoded.dtype == np.uint8
    assert encoder.shape == expected.shape[1:]
    np.testing.assert_array_equal(encoded, expected[2:])


def test_statistics_are_those_of_the_train_pixels_per_channel():
    images = RANDOM.integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    train = np.arange(300) % 3 > 0
    encoder = fit("image", pixels(images), train, metadata={b"image_shape": b"[4, 4, 3]"})
    np.testing.assert_allclose(encoder.mean, (images[train] / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(encoder.std, (images[train] / 255).std((0, 1, 2)))


def test_the_deviation_of_a_constant_channel_is_one():
    assert fit(
        "image", pixels(np.full((3, 2, 2), 9, np.uint8)), metadata={b"image_shape": b"[2, 2]"}
    ).std == [1.0]


@pytest.mark.parametrize(("size", "shape"), [(49, (1, 7, 7)), (48, (3, 4, 4))])
def test_without_metadata_square_grey_or_rgb_is_taken(size, shape):
    assert create("image", pa.list_(pa.uint8(), size)).shape == shape


def test_a_length_that_is_no_square_is_an_error():
    with pytest.raises(InputError, match="column 'x': 50 pixels are neither"):
        create("image", pa.list_(pa.uint8(), 50))


def test_null_images_and_pixels_are_faults():
    column = pa.array([[1, 2, 3, 4], None, [1, None, 3, 4], [5, 6, 7, 8]], pa.list_(pa.uint8(), 4))
    assert faults("image", column) == [([1], "is null"), ([2], "has a null pixel")]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_png_bytes_are_decoded_without_loss(shape):
    images = RANDOM.integers(0, 256, (3, *shape), dtype=np.uint8)
    column = pa.array([encoded_bytes(image) for image in images])
    expected = images[:, None] if len(shape) == 2 else images.transpose(0, 3, 1, 2)
    encoder = fit("image", column)
    assert encoder.shape == expected.shape[1:]
    np.testing.assert_array_equal(encoder.encode(column), expected)


def test_structs_of_bytes_and_path_are_decoded():
    image = RANDOM.integers(0, 256, (4, 4), dtype=np.uint8)
    column = pa.array([{"bytes": encoded_bytes(image), "path": "a.png"}, None])
    assert faults("image", column) == [([1], "is null")]
    np.testing.assert_array_equal(fit("image", column.slice(0, 1)).encode(column.slice(0, 1))[0, 0], image)


def test_grey_jpeg_keeps_one_channel():
    column = pa.array([encoded_bytes(np.full((8, 8), 200, np.uint8), "JPEG")])
    encoded = fit("image", column).encode(column)
    assert encoded.shape == (1, 1, 8, 8)
    assert abs(encoded.astype(int) - 200).max() <= 2


def test_bytes_that_do_not_decode_are_faults():
    good = encoded_bytes(np.zeros((30, 30), np.uint8))
    column = pa.array([good, b"nonsense", good[: len(good) // 2], b"", None])
    ((null, _), (broken, what)) = faults("image", column)
    assert (null, broken) == ([4], [1, 2, 3])
    assert what == "does not decode as an image (UnidentifiedImageError)"


def test_images_of_another_size_or_depth_are_faults_that_name_both():
    sizes = [(4, 6), (4, 6), (8, 6), (4, 6, 3)]
    column = pa.array([encoded_bytes(np.zeros(size, np.uint8)) for size in sizes])
    expected = "is 6×8 pixels with 1 channel, the first one is 6×4 pixels with 1 channel"
    assert faults("image", column) == [([2, 3], expected)]


def test_sixteen_bits_a_channel_are_a_fault():
    column = pa.array([encoded_bytes(np.zeros((3, 3), np.uint16))])
    ((places, what),) = faults("image", column)
    assert places == [0]
    assert "I;16" in what


def test_encoding_an_image_with_a_fault_raises():
    encoder = fit("image", pa.array([encoded_bytes(np.zeros((3, 3), np.uint8))]))
    with pytest.raises(InputError, match="column 'x' does not decode"):
        encoder.encode(pa.array([b"nonsense"]))
