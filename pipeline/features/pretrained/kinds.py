"""The kinds of features that a pretrained encoder makes: dense columns, standardised as lists are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipeline.features.arrow import plain
from pipeline.features.dense import Place
from pipeline.features.encoder import MOST_SHARE, Choice, Column, JudgedAs, Options, Sample, ShownAs
from pipeline.features.faults import Fault, fault_where
from pipeline.features.kinds.image import DECODE_HINT, ImageEncoder
from pipeline.features.kinds.numeric import NumericEncoder
from pipeline.features.kinds.text import TextEncoder, without_letters
from pipeline.features.picture_files import contents, contents_in_parts, placed
from pipeline.features.pictures import is_pixels, picture_of, stored_shape
from pipeline.features.pretrained.embed import Embedder, Material
from pipeline.features.pretrained.models import Pretrained, identity
from pipeline.features.pretrained.vectors import keys_of

if TYPE_CHECKING:
    from PIL import Image

WHOLE = 10**6
"""Pixels: no picture has a longer side, so none is read more coarsely than it is."""


@dataclass
class EncodedColumn(NumericEncoder, word=""):
    """What both kinds share; `identity` tells the weights by which the vectors were made."""

    encoder: str = ""
    identity: str = ""
    what: ClassVar[str]
    judged_as: ClassVar[JudgedAs] = "lists"
    says_missing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.embed: Callable[[Material], np.ndarray] = self.embedder()
        """Makes the vectors; `winnow check` puts a trial in its place."""

    @property
    def asked(self) -> Pretrained:
        """The encoder; it has been found, so that nothing is downloaded."""
        return Pretrained(self.column, self.what, self.encoder)

    def embedder(self, device: str = "cpu", began: int | None = None) -> Embedder:
        """See Embedder."""
        return Embedder(self.asked, self.identity, device, began)

    @classmethod
    def recognises(cls, column: Column) -> bool:  # noqa: ARG003
        return False

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:  # noqa: ARG003
        return None

    @classmethod
    def create(cls, column: Column, options: Options) -> EncodedColumn:
        asked = options.features[column.name]
        found = Pretrained(column.name, cls.what, asked.encoder, asked.download)
        return cls(
            column.name,
            options.missing_features == "impute",
            encoder=asked.encoder,
            identity=identity(found),
            **cls.stored_in(column),
        )

    @classmethod
    def stored_in(cls, column: Column) -> dict[str, Any]:  # noqa: ARG003
        """Further fields, which say how the column is stored."""
        return {}

    @abstractmethod
    def material(self, column: pa.Array) -> Material:
        """The rows of a column, to be embedded."""

    def values(self, column: pa.Array) -> np.ndarray:
        """float64 `[rows, width]`; NaN for what can't be read."""
        return self.embed(self.material(column)).astype(np.float64)

    @classmethod
    def faults(cls, column: pa.Array, bad: np.ndarray) -> list[Fault]:  # noqa: ARG003
        return fault_where(bad.sum(axis=1) > 0, "does not decode as an image", DECODE_HINT, unreadable=True)

    @property
    def places(self) -> list[Place]:
        (width,) = self.shape
        return [Place(f"{self.column}[{at}]") for at in range(width)]

    @property
    def read_again(self) -> bool:
        return False


@dataclass
class EncodedText(EncodedColumn, word="encoded text"):
    """Strings; a null is an empty text."""

    what: ClassVar[str] = "text"
    judged_as: ClassVar[JudgedAs] = "lists and texts"
    shown_as: ClassVar[ShownAs] = "text"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "source"

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return TextEncoder.supports(kind)

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:  # noqa: ARG003
        return False

    @property
    def read_again(self) -> bool:
        return True

    def material(self, column: pa.Array) -> Material:
        texts = plain(column).fill_null("").to_pylist()
        return Material(
            keys_of([text.encode() for text in texts]), lambda places: [texts[place] for place in places]
        )

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:
        return (without_letters(values),)

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """No letters and no symbols."""
        (bad,) = marks
        return bad & (bad.mean() <= MOST_SHARE)


@dataclass
class EncodedImage(EncodedColumn, word="encoded image"):
    """Pictures as RGB in their own size; `stored` and `layout` are of lists of pixels whose metadata say them."""

    stored: list[int] = field(default_factory=list)
    layout: str = ""
    root: str = ""  # where relative paths start; empty: at their file
    what: ClassVar[str] = "image"
    shown_as: ClassVar[ShownAs] = "picture"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = ""
    sets_aside: ClassVar[bool] = True

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return ImageEncoder.supports(kind)

    @classmethod
    def create(cls, column: Column, options: Options) -> EncodedColumn:
        found = super().create(column, options)
        assert isinstance(found, cls)
        found.root = options.image_root or ""
        return found

    def placed(self, column: pa.Array, folder: str) -> pa.Array:
        return column if is_pixels(column.type) else placed(column, self.root or folder)

    def hashed(self, column: pa.Array) -> Iterator[pa.Array]:
        return iter([column]) if is_pixels(column.type) else contents_in_parts(column)

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:
        return values.null_count > 0

    @classmethod
    def stored_in(cls, column: Column) -> dict[str, Any]:
        shape, layout = stored_shape(column) if is_pixels(column.type) else (None, None)
        return {"stored": list(shape or ()), "layout": layout or ""}

    @classmethod
    def stored_as(cls, column: Column) -> str:
        return ImageEncoder.stored_as(column)

    def material(self, column: pa.Array) -> Material:
        about = {b"image_shape": str(self.stored).encode(), b"image_layout": self.layout.encode()}
        of = Column(self.column, column.type, self.kind, about if self.stored else {})
        return Material(
            keys_of([_bytes_of(value) for value in column]), lambda places: _pictures(column, of, places)
        )

    @classmethod
    def picture(cls, value: pa.Scalar, column: Column, side: int) -> Image.Image | None:
        return ImageEncoder.picture(value, column, side)


def _bytes_of(value: pa.Scalar) -> bytes:
    """What a picture is known by; empty for a null."""
    if not value.is_valid:
        return b""
    if isinstance(value, pa.ListScalar):
        return value.values.to_numpy(zero_copy_only=False).tobytes()
    (found,) = contents(pa.array([value.as_py()], value.type))
    return found if isinstance(found, bytes) else b""


def _pictures(column: pa.Array, of: Column, places: np.ndarray) -> list[Image.Image | None]:
    found = [picture_of(column[int(place)], of, WHOLE) for place in places]
    return [None if picture is None else picture.convert("RGB") for picture in found]
