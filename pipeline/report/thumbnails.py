"""Pictures for cards, as small `data:` URIs."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass

from PIL import Image

PIXELATED_BELOW = 65  # pixels per side; smaller images are not resampled, and enlarged without smoothing
SIDE = 144  # pixels per side; larger images are shrunk to this


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    pixelated: bool


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
