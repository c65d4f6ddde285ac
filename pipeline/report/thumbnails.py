"""Pictures for cards: turns pixels or image files into small `data:` URIs."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

PIXELATED_BELOW = (
    65  # pixels per side; smaller images keep their pixels, which the browser enlarges without smoothing
)
SIDE = 144  # pixels per side; larger images are shrunk to this


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    pixelated: bool


def thumbnail(value: pa.Scalar, entry: pa.Field, schema: pa.Schema) -> Thumbnail | None:
    """A picture of a value of an image column.

    Args:
        value: a list of pixels, the bytes of an image file, or a struct with such `bytes`.
        entry: the column, whose metadata may have the shape and layout of pixels.
        schema: of the file, whose metadata may have them too.

    Returns:
        None if the value is null or no readable image.
    """
    if isinstance(value, pa.StructScalar):
        value = value["bytes"]
    if not value.is_valid:
        return None
    try:
        if isinstance(value, pa.BinaryScalar):
            with Image.open(io.BytesIO(value.as_py())) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                return encode(image.convert("RGB"))
        pixels = np.asarray(value.values.to_numpy(zero_copy_only=False), dtype=np.uint8)
        return encode(Image.fromarray(as_rows_and_columns(pixels, entry, schema)))
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None


def as_rows_and_columns(pixels: np.ndarray, entry: pa.Field, schema: pa.Schema) -> np.ndarray:
    """Reshape pixels by the shape and layout in the metadata; without metadata the picture is a square.

    Args:
        pixels: uint8 `[n]`.
        entry: the column.
        schema: of the file.

    Returns:
        uint8 `[H, W]` or `[H, W, 3]`.

    Raises:
        ValueError: the pixels do not form a picture.
    """
    of_field, of_schema = entry.metadata or {}, schema.metadata or {}
    found = of_field.get(b"shape") or of_schema.get(b"image_shape")
    layout = of_field.get(b"layout") or of_schema.get(b"image_layout") or b""
    shape = tuple(json.loads(found)) if found else square(len(pixels))
    picture = pixels.reshape(shape)
    channels_first = picture.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)
    if picture.ndim == 3 and (layout == b"CHW" or (not layout and channels_first)):
        picture = picture.transpose(1, 2, 0)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError(f"no picture in the shape {shape}")
    return np.ascontiguousarray(picture)


def square(pixels: int) -> tuple[int, ...]:
    """The shape of a square picture: grey if the number of values is a square number, else RGB."""
    side = math.isqrt(pixels)
    return (side, side) if side * side == pixels else (math.isqrt(pixels // 3), math.isqrt(pixels // 3), 3)


def encode(image: Image.Image) -> Thumbnail:
    """Encode an image: a small one losslessly as PNG, a large one shrunk as JPEG."""
    pixelated = max(image.size) < PIXELATED_BELOW
    file = io.BytesIO()
    if pixelated:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(file, "JPEG", quality=80)
    kind = "png" if pixelated else "jpeg"
    return Thumbnail(f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}", pixelated)
