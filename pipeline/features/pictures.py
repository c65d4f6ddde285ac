"""Pictures in a column: pixels in a list, whose shape the metadata say, or a picture file, embedded or by its path."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.features.decoding import flattened, opened
from pipeline.features.encoder import Column
from pipeline.features.picture_files import contents
from pipeline.features.squares import SMALLEST, square_shape

COARSE = 8
"""Images are pooled to at most 8 × 8 places: a small patch moves one or two of them."""
JUDGED_SIDE = 32
"""Pixels of an image's longer side that plain models look at; a larger image is averaged down."""


def size_text(shape: list[int] | tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width}×{height} pixels with {channels} channel{'s' if channels > 1 else ''}"


def guess_shape(name: str, size: int) -> tuple[int, ...]:
    """Square grey, else square RGB, for a column of `size` pixels. Raises InputError when the length is neither."""
    shape = square_shape(size)
    if shape is None:
        raise InputError(
            f"column {name!r}: {size} pixels are neither a square grey nor a square RGB image",
            "Write image_shape (such as [28, 32]) into the schema's metadata, or use the kind list.",
        )
    return shape


def guess_layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "HW"
    return "HWC" if shape[2] in (1, 3, 4) else "CHW"


def is_pixels(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_uint8(kind.value_type))


def stored_shape(column: Column) -> tuple[tuple[int, ...] | None, str | None]:
    """Shape (`[28, 28]`, `28,28`) and layout (HW, HWC, CHW) from the field's metadata, else the schema's.

    Both are None where there is no shape. Raises InputError for a shape or layout that makes no sense.
    """
    schema, field = column.of_file, column.of_field
    text = field.get(b"shape") or field.get(b"image_shape") or schema.get(b"image_shape")
    layout = field.get(b"layout") or field.get(b"image_layout") or schema.get(b"image_layout")
    if text is None:
        return None, None
    shape = tuple(int(part) for part in re.findall(r"\d+", text.decode(errors="replace")))
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(
            f"image_shape in the metadata of {column.name!r} is {text.decode(errors='replace')!r}",
            "Write it as [height, width] or [height, width, channels].",
        )
    word = layout.decode(errors="replace").upper() if layout else guess_layout(shape)
    if sorted(word) != sorted("HW" if len(shape) == 2 else "HWC") or word not in ("HW", "HWC", "CHW"):
        raise InputError(
            f"image_layout {word!r} does not fit the shape {list(shape)}",
            "Possible layouts: HW for two numbers, HWC or CHW for three.",
        )
    return shape, word


def pixels_size(column: Column) -> tuple[int, int, int] | None:
    """Height, width and channels of a list of pixels, or None where no shape fits it."""
    shape, layout = stored_shape(column)
    if shape is None and column.type.list_size >= SMALLEST:
        shape = square_shape(column.type.list_size)
    if shape is None or math.prod(shape) != column.type.list_size:
        return None
    height, width, channels = (*shape, 1)[:3]
    return (width, channels, height) if layout == "CHW" else (height, width, channels)


def picture_of(value: pa.Scalar, column: Column, side: int) -> Image.Image | None:
    """A picture of an image column's value; None where it is null or can't be read as an image.

    Args:
        value: a list of pixels, an image file's bytes, its absolute path, or a struct of both.
        column: with the metadata that say the shape of a list of pixels; without them it is a square.
        side: a file of a larger image is only read as finely as this needs.
    """
    if not value.is_valid:
        return None
    try:
        if not isinstance(value, pa.ListScalar):
            return _picture_in(pa.array([value.as_py()], value.type), side)
        pixels = np.asarray(value.values.to_numpy(zero_copy_only=False), dtype=np.uint8)
        return Image.fromarray(_as_rows_and_columns(pixels, column))
    except (OSError, ValueError, TypeError, SyntaxError, InputError):
        return None


def _picture_in(cell: pa.Array, side: int) -> Image.Image | None:
    """The picture of a column of one row, turned as its EXIF says."""
    (data,) = contents(cell)
    if data is None or isinstance(data, OSError):
        return None
    with opened(data) as image:
        image.draft(None, (2 * side, 2 * side))
        turned = ImageOps.exif_transpose(image)
        return (flattened(turned) or turned).convert("RGB")


def _as_rows_and_columns(pixels: np.ndarray, column: Column) -> np.ndarray:
    """uint8 `[n]` → `[H, W]` or `[H, W, 3]`.

    Raises ValueError or InputError where the pixels make no picture.
    """
    shape, layout = stored_shape(column)
    shape = shape or guess_shape(column.name, len(pixels))
    picture = pixels.reshape(shape)
    if (layout or guess_layout(shape)) == "CHW":
        picture = picture.transpose(1, 2, 0)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.ndim == 3 and picture.shape[2] != 3:
        raise ValueError(f"no picture in the shape {shape}")
    return np.ascontiguousarray(picture)


def pooled_pixels(images: np.ndarray) -> np.ndarray:
    """float32 `[rows, places]` in 0 to 1."""
    side = max(4, min(COARSE, images.shape[2] // 3))
    parts = [
        functional.adaptive_avg_pool2d(
            torch.from_numpy(images[start : start + 4096]).float() / 255, side
        ).flatten(1)
        for start in range(0, len(images), 4096)
    ]
    return torch.cat(parts).numpy()


def judged_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 `[rows, C, H, W]` → float32 `[rows, pixels]` in 0..1; a side above JUDGED_SIDE is averaged down."""
    rows, channels, height, width = images.shape
    square = -(-max(height, width) // JUDGED_SIDE)
    kept_height, kept_width = max(1, height // square), max(1, width // square)
    if square == 1:
        return images.reshape(rows, -1).astype(np.float32) / 255
    if height < square or width < square:
        square_height, square_width = min(square, height), min(square, width)
    else:
        square_height = square_width = square
    cut = images[:, :, : kept_height * square_height, : kept_width * square_width]
    shape = (rows, channels, kept_height, square_height, kept_width, square_width)
    return cut.reshape(shape).mean((3, 5), dtype=np.float32).reshape(rows, -1) / 255
