"""Images as uint8 [channels, height, width]: stored pixel by pixel, or as PNG or JPEG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.features.arrow import is_bytes, is_string
from pipeline.features.broken_images import broken_images, image_marks
from pipeline.features.decoding import OtherModeError, decode, decode_to, resize_pixels
from pipeline.features.encoder import Choice, Column, Encoder, JudgedAs, Options, Sample, ShownAs
from pipeline.features.faults import Fault, fault_where
from pipeline.features.first_pictures import propose_files, propose_pixels
from pipeline.features.input import Input, View, norm_likeness
from pipeline.features.picture_files import AddressError, contents, contents_in_parts, placed
from pipeline.features.pictures import (
    guess_layout,
    guess_shape,
    is_pixels,
    judged_pixels,
    picture_of,
    pixels_size,
    pooled_pixels,
    size_text,
    stored_shape,
)

if TYPE_CHECKING:
    from PIL import Image


NULL_HINT = "Fill in the image, or drop the row."
DECODE_HINT = "Replace the image, or drop the row."
SIZE_HINT = (
    "Without data.image_size all images of a column need one size and the same channels, of 8 bits: "
    "set data.image_size: [height, width], and each is resized and converted as it is read."
)
ADDRESS_HINT = "Nothing is downloaded: download the pictures, and give the paths of their files."
STOPS = (SIZE_HINT, ADDRESS_HINT)
"""Of rows that are not set aside: the config or the column is wrong, and not the row."""
SLICE = 256  # images whose pixels are counted at once
HELD_BYTES = 2**24  # of decoded pictures before they are counted


class Wrong:
    """What is wrong with the rows of a column, by what to do about it."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[int, str]]] = {
            hint: [] for hint in (NULL_HINT, DECODE_HINT, SIZE_HINT)
        }

    def add(self, place: int, what: str, hint: str) -> None:
        self.found.setdefault(hint, []).append((place, what))

    def faults(self) -> list[Fault]:
        """One fault for each hint."""
        return [
            Fault(np.array([place for place, _ in those]), those[0][1], hint, hint not in STOPS)
            for hint, those in self.found.items()
            if those
        ]


class Images(Input):
    """uint8 `[rows, channels, height, width]`."""

    name = "image"
    dtype = "uint8"
    models = ("mlp", "convnet")

    def statistics(self, encoders: Sequence[Encoder]) -> dict[str, Any]:
        """image_mean and image_std: per channel in 0..1."""
        (encoder,) = encoders
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
    """`stored` is the shape of a row in the source: known for pixel lists, the first image's for files.

    With `size`, files of all shapes become `[*size, 1]` if all of them are grey, else `[*size, 3]`.
    """

    column: str
    pixels: bool  # a list of pixels, or files to decode
    stored: list[int] = field(default_factory=list)
    layout: str = "HWC"
    mean: list[float] = field(default_factory=list)  # per channel, in 0..1, over train
    std: list[float] = field(default_factory=list)
    size: list[int] = field(
        default_factory=list
    )  # height and width that every picture gets; empty: as they are
    root: str = ""  # where relative paths start; empty: at their file
    input: ClassVar[Input] = IMAGES
    judged_as: ClassVar[JudgedAs] = "pixels"
    shown_as: ClassVar[ShownAs] = "picture"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "encoded"
    sets_aside: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.coloured = False  # whether any picture that got a size is
        self.histogram: np.ndarray | None = None  # int64 [channels, 256]: exact, whatever the batches

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_pixels(kind) or is_bytes(kind) or is_string(kind)

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
        if not is_pixels(sample.column.type):
            return propose_files(cls.kind, sample)
        size = pixels_size(sample.column)
        return None if size is None else propose_pixels(cls.kind, size)

    @classmethod
    def stored_as(cls, column: Column) -> str:
        if not is_pixels(column.type):
            return ""
        shape, layout = stored_shape(column)
        return "no image shape" if shape is None else f"the image shape {shape}, {layout}"

    @classmethod
    def create(cls, column: Column, options: Options) -> ImageEncoder:
        size = list(options.image_size or [])
        if not is_pixels(column.type):
            root = options.image_root or ""
            if root and not Path(root).is_dir():
                raise InputError(
                    f"data.image_root: {root}: no such folder", f"Relative paths start from {Path.cwd()}."
                )
            return cls(column.name, False, size=size, root=root)
        shape, layout = stored_shape(column)
        if shape is not None and math.prod(shape) != column.type.list_size:
            raise InputError(
                f"column {column.name!r} has {column.type.list_size} pixels, by its metadata {list(shape)}",
                "Correct image_shape in the schema's metadata.",
            )
        shape = shape or guess_shape(column.name, column.type.list_size)
        return cls(column.name, True, list(shape), layout or guess_layout(shape), size=size)

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

    def placed(self, column: pa.Array, folder: str) -> pa.Array:
        return column if self.pixels else placed(column, self.root or folder)

    def hashed(self, column: pa.Array) -> Iterator[pa.Array]:
        """The pictures' bytes, wherever they stand."""
        return iter([column]) if self.pixels else contents_in_parts(column)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        if self.pixels:
            images, good, faults = self.read_pixels(column)
            self.count(images[train[good]])
            return faults
        wrong = Wrong()
        held: list[np.ndarray] = []
        for place, image in self.read_files(column, wrong):
            if train[place]:
                held.append(image)
            if len(held) * image.nbytes >= HELD_BYTES:
                self.count_each(held)
                held = []
        self.count_each(held)
        return wrong.faults()

    def count_each(self, images: list[np.ndarray]) -> None:
        """Count pictures `[channels, height, width]`; one size may have grey ones and coloured ones."""
        for channels in (1, 3):
            alike = [image for image in images if len(image) == channels]
            if alike:
                found = np.stack(alike)
                self.count(np.repeat(found, 3, axis=1) if self.size and channels == 1 else found)

    def count(self, images: np.ndarray) -> None:
        if self.histogram is None:
            self.histogram = np.zeros((images.shape[1], 256), dtype=np.int64)
        for start in range(0, len(images), SLICE):
            for channel, counts in enumerate(self.histogram):
                counts += np.bincount(images[start : start + SLICE, channel].reshape(-1), minlength=256)

    def finish(self) -> None:
        if self.size and not self.pixels:
            self.stored = [*self.size, 3 if self.coloured else 1]
        if self.histogram is not None:
            if self.shape[0] == 1:
                self.histogram = self.histogram[:1]  # all three channels of grey pictures are equal
            grey = np.arange(256) / 255
            total = np.maximum(self.histogram.sum(axis=1), 1)
            mean = self.histogram @ grey / total
            self.mean = mean.tolist()
            std = np.sqrt((self.histogram * (grey - mean[:, None]) ** 2).sum(axis=1) / total)
            self.std = np.where(std > 0, std, 1.0).tolist()  # of a constant channel 1, as it is divided by

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout == "CHW":
            channels, height, width = self.stored
        else:
            height, width, channels = (*self.stored, 1)[:3]
        return (channels, *(self.size or (height, width)))

    def encode(self, column: pa.Array) -> np.ndarray:
        """uint8 [rows, channels, height, width]. Raises InputError for an image with a fault."""
        if self.pixels:
            images, _, faults = self.read_pixels(column)
        else:
            wrong = Wrong()
            images = np.empty((len(column), *self.shape), dtype=np.uint8)
            for place, image in self.read_files(column, wrong):
                images[place] = image
            faults = wrong.faults()
        if faults:
            raise InputError(f"column {self.column!r} {faults[0].what}", faults[0].hint)
        return images

    def read_pixels(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
        """Images of the rows without fault [good, C, H, W], places of these rows, and the faults."""
        size = column.type.list_size
        null = pc.is_null(column).to_numpy(zero_copy_only=False)
        flat = column.flatten()  # a view unless there are nulls; leaves null lists out
        good = np.flatnonzero(~null)
        faults = fault_where(null, "is null", NULL_HINT, unreadable=True)
        if flat.null_count:
            holes = pc.is_null(flat).to_numpy(zero_copy_only=False).reshape(-1, size).any(axis=1)
            faults.append(Fault(good[holes], "has a null pixel", NULL_HINT, unreadable=True))
            flat, good = flat.fill_null(0), good[~holes]
            pixels = flat.to_numpy(zero_copy_only=False).reshape(-1, size)[~holes]
        else:
            pixels = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
        images = self.channels_first(pixels.reshape(-1, *self.stored))
        return resize_pixels(images, *self.size) if self.size else images, good, faults

    def read_files(self, column: pa.Array, wrong: Wrong) -> Iterator[tuple[int, np.ndarray]]:
        """Places and pictures `[channels, height, width]` of the rows without fault, one at a time.

        Args:
            column: of bytes, or `placed`.
            wrong: gets the faults.
        """
        for place, data in enumerate(contents(column)):
            if data is None:
                wrong.add(place, "is null", NULL_HINT)
            elif isinstance(data, OSError):
                wrong.add(place, f"has no picture: {data}", self.file_hint(data))
            else:
                try:
                    image = self.decoded(data)
                except ValueError as error:
                    convertible = isinstance(error, OtherModeError) and not self.size
                    wrong.add(place, str(error), SIZE_HINT if convertible else DECODE_HINT)
                    continue
                if not self.size and list(image.shape) != self.stored:
                    what = f"is {size_text(image.shape)}, the first one is {size_text(self.stored)}"
                    wrong.add(place, what, SIZE_HINT)
                else:
                    yield place, np.ascontiguousarray(image.transpose(2, 0, 1))

    def decoded(self, data: bytes) -> np.ndarray:
        """uint8 `[height, width, channels]`; the first one says how all have to be where there is no `size`."""
        if self.size:
            height, width = self.size
            image = decode_to(data, height, width, grey=self.stored[2:] == [1])
            self.coloured |= image.shape[2] > 1
            return image
        image = decode(data)
        self.stored = self.stored or list(image.shape)
        return image

    def file_hint(self, error: OSError) -> str:
        """What to do about a file that can't be read."""
        if isinstance(error, AddressError):
            return ADDRESS_HINT
        start = f"data.image_root, {self.root}" if self.root else "the folder of their file"
        return f"Relative paths start from {start}: copy the picture there, or correct data.image_root."

    def channels_first(self, images: np.ndarray) -> np.ndarray:
        """[n, *stored] → [n, C, H, W], contiguous."""
        if self.layout == "CHW":
            return images
        if images.ndim == 3:
            return images[:, None]
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def plain_numbers(self, part: np.ndarray, source: pa.Array | None) -> np.ndarray:  # noqa: ARG002
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
