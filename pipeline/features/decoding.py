"""Decoding picture files, as they are stored or to one size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Grey of 16 bits; some files of 16 bits are read as whole numbers of 32 bits."""
DEEPEST = 65535
FINER = 2
"""A JPEG is read at no less than so many times the wanted size: the rest of its detail is never decoded."""


class OtherModeError(ValueError):
    """A picture that is whole, and whose numbers are not 8 bits a channel."""


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """The picture of a file's bytes, of which only the header is read so far.

    Raises:
        ValueError: it is none, or has more pixels than Pillow takes for safe, with words to follow "column x".
    """
    most = Image.MAX_IMAGE_PIXELS or 0
    too_large = f"is an image of more than {most:,} pixels, which are not decoded"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(too_large) from None
    except Exception as error:  # decoders of many formats, each with its own kinds of exception
        raise ValueError(_undecodable(error)) from None
    with image:
        try:
            yield image
        except (OtherModeError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(_undecodable(error)) from None


def _undecodable(error: Exception) -> str:
    return f"does not decode as an image ({type(error).__name__})"


def decode(data: bytes) -> np.ndarray:
    """A picture as it is stored, uint8 `[height, width, 1 or 3]`.

    Raises:
        ValueError: what is wrong, to follow "column x"; OtherModeError for more than 8 bits a channel.
    """
    with opened(data) as image:
        mode = image.mode
        if mode in GREY_MODES:
            return np.asarray(image.convert("L"))[..., None]
        if mode in COLOUR_MODES:
            return np.asarray(image.convert("RGB"))
        raise OtherModeError(f"has an image of the mode {mode}, which is not 8 bits a channel")


def decode_to(data: bytes, height: int, width: int, grey: bool = False) -> np.ndarray:
    """A picture of any size and mode at one size, uint8 `[height, width, 1 or 3]`.

    It is turned as its EXIF says, and stretched: all of it stays, its proportions do not. What is transparent becomes
    white. Of 16 bits the upper 8 stay.

    Args:
        data: the file's bytes.
        height: in pixels.
        width: in pixels.
        grey: whether a coloured picture becomes grey; else it has three channels and a grey one has one.

    Raises:
        ValueError: what is wrong, to follow "column x".
    """
    with opened(data) as image:
        longer = FINER * max(height, width)
        image.draft(None, (longer, longer))  # turned or not
        flat = flattened(ImageOps.exif_transpose(image))
        if flat is None:
            raise OtherModeError(
                f"has an image of the mode {image.mode}, which is neither grey nor coloured pixels"
            )
        flat = flat.convert("L") if grey else flat
        if flat.size != (width, height):
            flat = flat.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=float(FINER))
        pixels = np.asarray(flat)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def flattened(image: Image.Image) -> Image.Image | None:
    """The picture as L or RGB; None for a mode that is no picture."""
    if image.mode in DEEP_MODES:
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > DEEPEST:
            return None
        return Image.fromarray((numbers.astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode not in GREY_MODES + COLOUR_MODES:
        return None
    plain = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(plain)
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert(plain)


def resize_pixels(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[rows, channels, H, W]` → `[rows, channels, height, width]`, stretched."""
    if images.shape[2:] == (height, width):
        return images
    made = np.empty((*images.shape[:2], height, width), dtype=np.uint8)
    for row, image in enumerate(images):
        for channel, pixels in enumerate(image):
            resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
            made[row, channel] = np.asarray(resized)
    return made
