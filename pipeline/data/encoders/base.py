"""What every encoder is: a column's checks, its statistics over train rows, and its way to numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.problems import Fault


@dataclass(frozen=True)
class Column:
    """A feature column of the source."""

    name: str
    type: pa.DataType
    kind: str
    image_shape: tuple[int, ...] | None = None  # as stored
    image_layout: str | None = None  # HW, HWC or CHW


class Encoder(Protocol):
    """A dataclass whose fields are its fitted state, all JSON values; registered in `encoders/__init__`."""

    kind: ClassVar[str]  # the word in data.features
    input: ClassVar[str]  # the model input it fills: dense, image or tokens
    column: str

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        """True for Arrow types that it can encode; dictionary types are asked for by their values."""

    @classmethod
    def create(cls, column: Column, options: Data) -> Encoder:
        """An encoder that has seen nothing. Raises InputError when the column can't be of this kind."""

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        """Check all rows; learn from those of `train` (bool [rows]) that have no fault."""

    def finish(self) -> None:
        """Fix the state; comes after the last update."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an encoded row."""

    def encode(self, column: pa.Array) -> np.ndarray:
        """[rows, *shape]: float32 (dense), uint8 (image) or int32 (tokens)."""
