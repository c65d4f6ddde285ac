"""Pictures for cards: pixels or image files as small data: URIs."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

PIXELATED_BELOW = 65  # pixels a side: shown as they are, enlarged without smoothing
SIDE = 144  # larger ones are shrunk to this


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    pixelated: bool


def thumbnail(value: pa.Scalar, entry: pa.Field, schema: pa.Schema) -> Thumbnail | None:
    """A picture of an image column's value; None where it is null or can't be read as an image.

    The value is a list of pixels, an image file's bytes, or a struct with such `bytes`.
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
    """uint8 [n] → [H, W] or [H, W, 3] by the shape and layout in the metadata; without them a square.

    Raises ValueError where the pixels make no picture.
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
    """Grey where the number of pixels allows it, else RGB."""
    side = math.isqrt(pixels)
    return (side, side) if side * side == pixels else (math.isqrt(pixels // 3), math.isqrt(pixels // 3), 3)


def encode(image: Image.Image) -> Thumbnail:
    """Small images losslessly and enlarged by the browser, large ones shrunk, as JPEG."""
    pixelated = max(image.size) < PIXELATED_BELOW
    file = io.BytesIO()
    if pixelated:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(file, "JPEG", quality=80)
    kind = "png" if pixelated else "jpeg"
    return Thumbnail(f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}", pixelated)
