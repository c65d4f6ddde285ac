"""Images as uint8 [channels, height, width]: stored pixel by pixel, or as PNG or JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.features.arrow import is_bytes
from pipeline.features.broken_images import broken_images, image_marks
from pipeline.features.encoder import Choice, Column, Encoder, JudgedAs, Options, Sample, ShownAs
from pipeline.features.faults import Fault, fault_where
from pipeline.features.input import Input, View, norm_likeness
from pipeline.features.pictures import (
    decode,
    guess_layout,
    guess_shape,
    is_pixels,
    judged_pixels,
    picture_of,
    pooled_pixels,
    size_of,
    size_text,
    stored_shape,
)

if TYPE_CHECKING:
    from PIL import Image


NULL_HINT = "An image may not be null: drop the row."
DECODE_HINT = "Images have to be PNG or JPEG with 8 bits a channel: replace the image or drop the row."
SIZE_HINT = "All images of a column need one size and the same channels: resize or convert them."
SLICE = 256  # images whose pixels are counted at once
SMALL = 32  # pixels; up to it a grey image needs no convolutions
SMALL_RECIPE = "{name: auto, channels: [32, 64], hidden: [256, 128]}"
RECIPE = "{name: convnet, channels: [32, 64], hidden: [128]}"


class Images(Input):
    """uint8 `[rows, channels, height, width]`."""

    name = "image"
    dtype = "uint8"
    models = ("mlp", "convnet")

    def statistics(self, encoder: Encoder) -> dict[str, Any]:
        """image_mean and image_std: per channel in 0..1."""
        return {"image_mean": encoder.mean, "image_std": encoder.std}  # type: ignore[attr-defined]

    def likeness(self, one: np.ndarray, other: np.ndarray, encoders: Sequence[Encoder]) -> np.ndarray:
        """Without their channels' means, so that a common background is no likeness."""
        mean = 255 * np.array(encoders[0].mean)[:, None, None]  # type: ignore[attr-defined]
        return norm_likeness(one - mean, other - mean)

    def mix(self, rows: np.ndarray, partners: np.ndarray, random: np.random.RandomState) -> np.ndarray:  # noqa: ARG002
        """The mean of both."""
        return ((rows.astype(np.uint16) + partners) // 2).astype(np.uint8)

    def view(self, rows: np.ndarray, seed: int) -> View:  # noqa: ARG002
        from pipeline.features.views import Components  # sklearn takes a second to load

        return Components(pooled_pixels, rows)

    def content(self, rows: np.ndarray) -> np.ndarray:
        from pipeline.features.views import standardised

        return standardised(pooled_pixels(rows))


IMAGES = Images()


@dataclass
class ImageEncoder(Encoder):
    """`stored` is the shape of a row in the source: known for pixel lists, the first image's for bytes."""

    column: str
    pixels: bool  # a list of pixels, or bytes to decode
    stored: list[int] = field(default_factory=list)
    layout: str = "HWC"
    mean: list[float] = field(default_factory=list)  # per channel, in 0..1, over train
    std: list[float] = field(default_factory=list)
    input: ClassVar[Input] = IMAGES
    judged_as: ClassVar[JudgedAs] = "pixels"
    shown_as: ClassVar[ShownAs] = "picture"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "encoded"

    def __post_init__(self) -> None:
        self.histogram: np.ndarray | None = None  # int64 [channels, 256]: exact, whatever the batches

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_pixels(kind) or is_bytes(kind)

    @classmethod
    def recognises(cls, column: Column) -> bool:
        """Bytes, and lists of pixels whose shape stands in the metadata."""
        if not is_pixels(column.type):
            return is_bytes(column.type)
        shape, _ = stored_shape(column)
        return shape is not None and math.prod(shape) == column.type.list_size

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        if not cls.supports(sample.column.type):
            return None
        size = size_of(sample.column)
        if size is None:
            return None if is_pixels(sample.column.type) else Choice(None, "bytes, not images")
        height, width, channels = size
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        small = max(height, width) <= SMALL and channels == 1
        return Choice(cls.kind, f"{width}×{height} {colours}", recipe=SMALL_RECIPE if small else RECIPE)

    @classmethod
    def stored_as(cls, column: Column) -> str:
        if not is_pixels(column.type):
            return ""
        shape, layout = stored_shape(column)
        return "no image shape" if shape is None else f"the image shape {shape}, {layout}"

    @classmethod
    def create(cls, column: Column, options: Options) -> ImageEncoder:  # noqa: ARG003
        if not is_pixels(column.type):
            return cls(column.name, False)
        shape, layout = stored_shape(column)
        if shape is not None and math.prod(shape) != column.type.list_size:
            raise InputError(
                f"column {column.name!r} has {column.type.list_size} pixels, by its metadata {list(shape)}",
                "Correct image_shape in the schema's metadata.",
            )
        shape = shape or guess_shape(column)
        return cls(column.name, True, list(shape), layout or guess_layout(shape))

    def misfit(self, kind: pa.DataType) -> tuple[str, str] | None:
        if self.pixels == is_pixels(kind) and self.supports(kind):
            if not self.pixels or kind.list_size == math.prod(self.stored):
                return None
            return (
                f"has {kind.list_size:,} pixels, the run's images have {' × '.join(map(str, self.stored))}",
                "Give the queries' images the shape of the train images.",
            )
        return (
            f"is {kind}, which the run's encoding as {self.kind} can't take",
            "Give the column the type that it has in the train shards.",
        )

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

    def plain_numbers(self, part: np.ndarray) -> np.ndarray:
        return judged_pixels(part)

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:
        return image_marks(values)

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """Of one colour throughout or nearly all black or white, or cut off."""
        empty, rows, columns = marks
        _, height, width = self.shape
        return broken_images(empty, rows, columns, height, width)

    @classmethod
    def picture(cls, value: pa.Scalar, column: Column, side: int) -> Image.Image | None:
        return picture_of(value, column, side)
