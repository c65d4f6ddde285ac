"""Images as uint8 [channels, height, width]: stored pixel by pixel, or as PNG or JPEG."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.problems import Fault, fault_where
from pipeline.errors import InputError

GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
NULL_HINT = "An image may not be null: drop the row."
DECODE_HINT = "Images have to be PNG or JPEG with 8 bits a channel: replace the image or drop the row."
SIZE_HINT = "All images of a column need one size and the same channels: resize or convert them."
SLICE = 256  # images whose pixels are counted at once


@dataclass
class ImageEncoder:
    """`stored` is the shape of a row in the source: known for pixel lists, the first image's for bytes."""

    column: str
    pixels: bool  # a list of pixels, or bytes to decode
    stored: list[int] = field(default_factory=list)
    layout: str = "HWC"
    mean: list[float] = field(default_factory=list)  # per channel, in 0..1, over train
    std: list[float] = field(default_factory=list)
    kind: ClassVar[str] = "image"
    input: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        self.histogram: np.ndarray | None = None  # int64 [channels, 256]: exact, whatever the batches

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_pixels(kind) or is_bytes(kind)

    @classmethod
    def create(cls, column: Column, options: Data) -> ImageEncoder:  # noqa: ARG003
        if not is_pixels(column.type):
            return cls(column.name, False)
        shape = column.image_shape or guess_shape(column)
        return cls(column.name, True, list(shape), column.image_layout or guess_layout(shape))

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        images, good, faults = self.read(column)
        if len(images):
            self.count(images[train[good]])
        return faults

    def count(self, images: np.ndarray) -> None:
        if self.histogram is None:
            self.histogram = np.zeros((images.shape[1], 256), dtype=np.int64)
        for start in range(0, len(images), SLICE):
            for channel, counts in enumerate(self.histogram):
                counts += np.bincount(images[start : start + SLICE, channel].reshape(-1), minlength=256)

    def finish(self) -> None:
        if self.histogram is not None:
            grey = np.arange(256) / 255
            total = np.maximum(self.histogram.sum(axis=1), 1)
            mean = self.histogram @ grey / total
            self.mean = mean.tolist()
            std = np.sqrt((self.histogram * (grey - mean[:, None]) ** 2).sum(axis=1) / total)
            self.std = np.where(std > 0, std, 1.0).tolist()  # of a constant channel 1, as it is divided by

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout == "CHW":
            return tuple(self.stored)
        height, width, *channels = self.stored
        return (channels[0] if channels else 1, height, width)

    def encode(self, column: pa.Array) -> np.ndarray:
        """uint8 [rows, channels, height, width]. Raises InputError for an image with a fault."""
        images, _, faults = self.read(column)
        if faults:
            raise InputError(f"column {self.column!r} {faults[0].what}", faults[0].hint)
        return images

    def read(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
        """Images of the rows without fault [good, C, H, W], places of these rows, and the faults."""
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")  # null where the struct is
        null = pc.is_null(column).to_numpy(zero_copy_only=False)
        if self.pixels:
            return self.read_pixels(column, null)
        return self.read_bytes(column, null)

    def read_pixels(self, column: pa.Array, null: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
        size = column.type.list_size
        flat = column.flatten()  # a view unless there are nulls; leaves null lists out
        good = np.flatnonzero(~null)
        faults = fault_where(null, "is null", NULL_HINT)
        if flat.null_count:
            holes = pc.is_null(flat).to_numpy(zero_copy_only=False).reshape(-1, size).any(axis=1)
            faults.append(Fault(good[holes], "has a null pixel", NULL_HINT))
            flat, good = flat.fill_null(0), good[~holes]
            pixels = flat.to_numpy(zero_copy_only=False).reshape(-1, size)[~holes]
        else:
            pixels = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
        return self.channels_first(pixels.reshape(-1, *self.stored)), good, faults

    def read_bytes(self, column: pa.Array, null: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
        faults = fault_where(null, "is null", NULL_HINT)
        images, good = [], []
        broken: list[tuple[int, str, str]] = []
        for place, data in enumerate(column.to_pylist()):
            if data is None:
                continue
            try:
                image = decode(data)
            except ValueError as error:
                broken.append((place, str(error), DECODE_HINT))
                continue
            self.stored = self.stored or list(image.shape)
            if list(image.shape) == self.stored:
                images.append(image)
                good.append(place)
            else:
                what = f"is {size_text(image.shape)}, the first one is {size_text(self.stored)}"
                broken.append((place, what, SIZE_HINT))
        for hint in (DECODE_HINT, SIZE_HINT):
            these = [(place, what) for place, what, why in broken if why == hint]
            if these:
                faults.append(Fault(np.array([place for place, _ in these]), these[0][1], hint))
        stacked = np.stack(images) if images else np.empty((0, *self.stored), dtype=np.uint8)
        return self.channels_first(stacked), np.array(good, dtype=np.int64), faults

    def channels_first(self, images: np.ndarray) -> np.ndarray:
        """[n, *stored] → [n, C, H, W], contiguous."""
        if self.layout == "CHW" or not self.stored:
            return images
        if images.ndim == 3:
            return images[:, None]
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def decode(data: bytes) -> np.ndarray:
    """uint8 [height, width, 1 or 3]. Raises ValueError with what is wrong, to follow "column x"."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            if mode in GREY_MODES:
                return np.asarray(image.convert("L"))[..., None]
            if mode in COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders of many formats, each with its own kinds of exception
        raise ValueError(f"does not decode as an image ({type(error).__name__})") from None
    raise ValueError(f"has an image of the mode {mode}, which is not 8 bits a channel")


def size_text(shape: list[int] | tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width}×{height} pixels with {channels} channel{'s' if channels > 1 else ''}"


def guess_shape(column: Column) -> tuple[int, ...]:
    """Square grey, else square RGB. Raises InputError when the length is neither."""
    size = column.type.list_size
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if side * side * channels == size:
            return (side, side) if channels == 1 else (side, side, channels)
    raise InputError(
        f"column {column.name!r}: {size} pixels are neither a square grey nor a square RGB image",
        "Write image_shape (such as [28, 32]) into the schema's metadata, or use the kind list.",
    )


def guess_layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "HW"
    return "HWC" if shape[2] in (1, 3, 4) else "CHW"


def is_pixels(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_uint8(kind.value_type))


def is_bytes(kind: pa.DataType) -> bool:
    """Binary columns, and the struct of bytes and path that Hugging Face datasets write."""
    if pa.types.is_struct(kind):
        places = kind.get_all_field_indices("bytes")
        return len(places) == 1 and is_bytes(kind.field(places[0]).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
