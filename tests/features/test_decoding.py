"""Pictures of all modes and sizes become one, compared with what their pixels are known to be."""

from __future__ import annotations

import numpy as np
import pytest
from picture_bytes import file_of
from PIL import Image

from pipeline.features.decoding import OtherModeError, decode, decode_to, resize_pixels

SHADES = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)


def read(data: bytes, height: int = 3, width: int = 4, **options: bool) -> np.ndarray:
    return decode_to(data, height, width, **options)


def test_a_picture_of_the_size_keeps_its_pixels_and_channels():
    np.testing.assert_array_equal(read(file_of(SHADES))[..., 0], SHADES)
    np.testing.assert_array_equal(read(file_of(COLOURS)), COLOURS)


def test_a_palette_is_looked_up():
    image = Image.fromarray(SHADES).convert("P")
    image.putpalette([255 - shade for shade in range(256) for _ in range(3)])
    np.testing.assert_array_equal(read(file_of(image)), np.repeat(255 - SHADES[..., None], 3, axis=2))


def test_the_upper_8_of_16_bits_stay():
    deep = SHADES.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(read(file_of(deep))[..., 0], SHADES)


def test_cmyk_becomes_rgb():
    found = read(file_of(Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_becomes_white_and_half_of_it_half_white(mode):
    alpha = np.array([[0, 255, 128, 0]] * 3, np.uint8)
    image = Image.fromarray(np.zeros((3, 4), np.uint8)).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    found = read(file_of(image))
    assert found.shape[2] == len(mode) - 1
    np.testing.assert_array_equal(found[0, :, 0], [255, 0, 127, 255])


def test_a_picture_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees, clockwise
    shown = np.rot90(SHADES, k=-1)
    np.testing.assert_array_equal(read(file_of(SHADES, exif=exif), 4, 3)[..., 0], shown)


def test_the_whole_picture_is_stretched():
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, 40:] = 200
    found = read(file_of(halves), 10, 10)
    assert found.shape == (10, 10, 3)
    np.testing.assert_array_equal(found[:, :4], 0)
    np.testing.assert_array_equal(found[:, 6:], 200)


def test_colours_become_grey_where_that_is_asked():
    grey = COLOURS @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    assert np.abs(read(file_of(COLOURS), grey=True)[..., 0] - grey).max() <= 1


def test_decimal_pixels_are_refused_in_words():
    with pytest.raises(ValueError, match="has an image of the mode F, which is neither grey nor coloured"):
        read(file_of(np.ones((3, 4), np.float32), "TIFF"))


@pytest.mark.parametrize("reader", [decode, read])
def test_a_truncated_picture_and_a_bomb_say_what_they_are(reader, monkeypatch):
    noise = file_of(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"does not decode as an image \(OSError\)"):
        reader(noise[:5000])
    for size in (12, 25):  # Pillow warns of the first, and raises for the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(ValueError, match="is an image of more than 10 pixels, which are not decoded"):
            reader(file_of(np.zeros((1, size), np.uint8)))


def test_sixteen_bits_are_another_mode_where_pictures_stay_as_they_are():
    with pytest.raises(OtherModeError, match="mode I;16, which is not 8 bits a channel"):
        decode(file_of(np.zeros((3, 3), np.uint16)))


def test_lists_of_pixels_are_resized_channel_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 6), dtype=np.uint8)
    found = resize_pixels(images, 4, 3)
    one = np.asarray(Image.fromarray(images[1, 1]).resize((3, 4), Image.Resampling.BILINEAR))
    assert found.shape == (3, 2, 4, 3)
    np.testing.assert_array_equal(found[1, 1], one)
