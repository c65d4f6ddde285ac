"""Encoders of feature columns, one per kind."""

from __future__ import annotations

from pipeline.data.encoders.base import Column, Encoder
from pipeline.data.encoders.boolean import BooleanEncoder
from pipeline.data.encoders.category import CategoryEncoder
from pipeline.data.encoders.image import ImageEncoder
from pipeline.data.encoders.list import ListEncoder
from pipeline.data.encoders.numeric import NumericEncoder
from pipeline.data.encoders.text import TextEncoder

REGISTERED: tuple[type[Encoder], ...] = (
    NumericEncoder,
    BooleanEncoder,
    CategoryEncoder,
    ListEncoder,
    ImageEncoder,
    TextEncoder,
)
ENCODERS: dict[str, type[Encoder]] = {encoder.kind: encoder for encoder in REGISTERED}

__all__ = ["ENCODERS", "Column", "Encoder"]
