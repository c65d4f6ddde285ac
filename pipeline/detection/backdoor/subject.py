"""The subject of the search: encoded rows, the predictions of a trained model, and names of columns and tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.data.encode import Encoding
from pipeline.features.dense import DENSE, DenseEncoder
from pipeline.features.kinds.text import TOKENS

Inputs = dict[str, np.ndarray]
"""Kind of input → image uint8 `[rows, C, H, W]`, tokens int `[rows, length]`, dense float32 `[rows, columns]`."""

FIRST_TOKEN = 2
MOST_BATCH = 1024
VICTIMS = 200
"""A pattern is pasted onto at most so many validation rows of other classes."""


@dataclass(frozen=True)
class SubjectColumn:
    """A column of the source within the dense input.

    Attributes:
        name: of the column.
        first, width: its places in the dense input.
        values: the category of each place; empty for numbers.
        mean, std: a number in the source is `value · std + mean`.
    """

    name: str
    first: int
    width: int
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def is_category(self) -> bool:
        return self.width > 1

    def word(self, value: float) -> str:
        """A number in the units of the source, with the precision of float32."""
        number = value * self.std + self.mean
        return f"{number if abs(number) > 1e-6 * self.std else 0:.6g}"


@dataclass(frozen=True)
class Names:
    """Names of tokens and columns.

    Attributes:
        vocabulary: token number − FIRST_TOKEN → token.
        columns: of the dense input, in order.
    """

    vocabulary: tuple[str, ...] = ()
    columns: tuple[SubjectColumn, ...] = ()

    def token(self, number: int) -> str:
        return self.vocabulary[number - FIRST_TOKEN] if number >= FIRST_TOKEN else "(unknown)"


@dataclass(frozen=True)
class Subject:
    """The searched rows and the trained model.

    Attributes:
        inputs: of the searched rows.
        labels: int64 `[rows]`.
        probabilities: of the model, float32 `[rows, classes]`.
        features: of the penultimate layer, float32 `[rows, width]`.
        validation, validation_labels: rows onto which patterns are pasted.
        predict: inputs → probabilities.
        names: of tokens and columns.
        seed: of the search.
    """

    inputs: Inputs
    labels: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray
    validation: Inputs
    validation_labels: np.ndarray
    predict: Callable[[Inputs], np.ndarray]
    names: Names
    seed: int

    @cached_property
    def validation_predictions(self) -> np.ndarray:
        """The predicted classes of the validation rows, int64 `[validation rows]`."""
        return self.predict(self.validation).argmax(1)

    def victims(self, target: int, count: int = VICTIMS) -> Victims:
        """Some validation rows of other classes that the model does not predict as the target."""
        places = np.flatnonzero((self.validation_labels != target) & (self.validation_predictions != target))
        return Victims(select(self.validation, spread(places, count)), target)

    def flip_rate(self, victims: Victims, paste: Callable[[np.ndarray], np.ndarray], kind: str) -> float:
        """The share of the victims that are predicted as the target when a pattern is pasted; 0 without victims."""
        if not len(victims):
            return 0.0
        pasted = victims.inputs | {kind: paste(victims.inputs[kind])}
        return float((self.predict(pasted).argmax(1) == victims.target).mean())


@dataclass(frozen=True)
class Victims:
    """Validation rows of other classes than `target`."""

    inputs: Inputs
    target: int

    def __len__(self) -> int:
        return count(self.inputs)


def batch_rows(rows: np.ndarray) -> int:
    """How many of these rows are processed at a time, so that they take at most 64 MiB as float32."""
    return max(16, min(MOST_BATCH, 2**24 // max(1, rows[0].size)))


def select(inputs: Inputs, which: np.ndarray) -> Inputs:
    return {kind: rows[which] for kind, rows in inputs.items()}


def count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def spread(places: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the places, equally spaced."""
    if len(places) <= count:
        return places
    return places[np.linspace(0, len(places) - 1, count).round().astype(np.int64)]


def names_of(encoding: Encoding) -> Names:
    """The names of tokens and dense columns, from the fitted encoders."""
    vocabulary: tuple[str, ...] = ()
    columns: list[SubjectColumn] = []
    first = 0
    for encoder in encoding.features:
        if encoder.input is TOKENS:
            vocabulary += tuple(encoder.vocabulary)  # type: ignore[attr-defined]
        if encoder.input is DENSE and isinstance(encoder, DenseEncoder):
            for place in encoder.places:
                columns.append(
                    SubjectColumn(place.title, first, place.width, place.values, place.mean, place.std)
                )
                first += place.width
    return Names(vocabulary, tuple(columns))
