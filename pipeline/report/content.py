"""The content of a row on its card: a picture, texts, and the most unusual values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.originals import Originals, Place
from pipeline.features.encoder import Column, Encoder
from pipeline.features.picture_files import why_no_picture
from pipeline.report.thumbnails import SIDE, Thumbnail, encode
from pipeline.text import words

TEXT_LENGTH = 300
MOST_VALUES = 6
MOST_TEXTS = 3
RARE = 0.05


@dataclass(frozen=True)
class Value:
    """A value of a column on a card.

    Attributes:
        name: of the column.
        shown: the value.
        rare: whether fewer than RARE of the rows around it are as unusual.
        words: how unusual the value is, in a sentence.
    """

    name: str
    shown: str
    rare: bool
    words: str


@dataclass(frozen=True)
class Content:
    picture: Thumbnail | None
    no_picture: str
    texts: list[tuple[str, str]]
    values: list[Value]
    more_values: int


class ContentReader:
    """Makes the content of cards from original rows.

    Args:
        originals: the original rows, and rows around them for comparison.
        data: the section `data` of the config.
        picture_bytes: budget for all pictures; later pictures are left out when it is spent.
    """

    def __init__(self, originals: Originals, features: Sequence[Encoder], picture_bytes: int):
        self.originals = originals
        self.bytes_left = picture_bytes
        there = [each for each in features if each.column in originals.schema.names]
        self.pictures = [each for each in there if each.shown_as == "picture"]
        self.texts = [each for each in there if each.shown_as == "text"]
        around = originals.reference
        values = [each.column for each in there if each.shown_as == "value"]
        self.usual = {name: Usual(around[name]) for name in values if name in around.column_names}

    def read(self, place: Place) -> Content:
        row = self.originals.rows[place]
        picture, no_picture = self.picture(row, place)
        texts = [
            (
                each.column if len(self.texts) > 1 else "",
                words.shorten(each.words(row[each.column]), TEXT_LENGTH),
            )
            for each in self.texts[:MOST_TEXTS]
        ]
        values = sorted(
            ((self.usual[name].share(row[name]), name) for name in self.usual if name in row),
            key=lambda entry: entry[0],
        )
        shown = [value(name, row[name].as_py(), share) for share, name in values[:MOST_VALUES]]
        return Content(picture, no_picture, texts, shown, len(values) - len(shown))

    def picture(self, row: dict[str, pa.Scalar], place: Place) -> tuple[Thumbnail | None, str]:
        if not self.pictures:
            return None, ""
        shown = self.pictures[0]
        column = Column.of(self.originals.schema, shown.column)
        cell = pa.array([row[shown.column].as_py()], row[shown.column].type)
        cell = shown.placed(cell, str(Path(place[0]).parent))[0]
        image = shown.picture(cell, column, SIDE)
        if image is None:
            why = why_no_picture(cell)
            return None, "not a readable picture" + (f": {words.shorten(why, TEXT_LENGTH)}" if why else "")
        made = encode(image)
        if len(made.uri) > self.bytes_left:
            return None, "picture left out to keep this page small"
        self.bytes_left -= len(made.uri)
        return made, ""


class Usual:
    """The distribution of a column, which shows how unusual a value is."""

    def __init__(self, column: pa.ChunkedArray):
        self.rows = max(1, len(column))
        self.numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if self.numeric:
            numbers = column.drop_null().to_numpy().astype(np.float64)
            numbers = numbers[np.isfinite(numbers)]
            self.median = float(np.median(numbers)) if len(numbers) else 0.0
            self.distances = np.sort(np.abs(numbers - self.median))
        else:
            counts = pc.value_counts(column)
            self.counts = {entry["values"].as_py(): entry["counts"].as_py() for entry in counts}

    def share(self, scalar: pa.Scalar) -> float:
        """The share of rows that are as unusual as this value; 1 for a null or non-finite number.

        Text: rows with the same value. Numbers: rows at least as far from the median.
        """
        value = scalar.as_py()
        if not self.numeric:
            return self.counts.get(value, 0) / self.rows
        if value is None or not np.isfinite(value):
            return 1.0
        nearer = int(np.searchsorted(self.distances, abs(value - self.median)))
        return (len(self.distances) - nearer) / self.rows


def value(name: str, found: Any, share: float) -> Value:
    said = f"{words.percent(share)} of the rows around it are as unusual here"
    return Value(words.shorten(name, 40), words.shorten(words.label(found), 40), share < RARE, said)
