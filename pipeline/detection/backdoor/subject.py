"""What the search works on: encoded rows, a trained model's predictions, and names to speak of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.data.encode import Encoding
from pipeline.features.dense import DenseEncoder
from pipeline.features.kinds.text import TOKENS

Inputs = dict[str, np.ndarray]
"""By kind: image uint8 `[rows, C, H, W]`, tokens int `[rows, length]`, dense float32 `[rows, columns]`."""

FIRST_TOKEN = 2
MOST_BATCH = 1024
VICTIMS = 200
"""Validation rows of other classes that a pattern is pasted onto."""


@dataclass(frozen=True)
class Column:
    """A column of the source within the dense input.

    values: words of each encoded place of a category; numbers are `value · std + mean`.
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
        """A number as the source had it, as far as 32 bits tell."""
        number = value * self.std + self.mean
        return f"{number if abs(number) > 1e-6 * self.std else 0:.6g}"


@dataclass(frozen=True)
class Names:
    """vocabulary: token number − 2 → token; columns: of the dense input, in order."""

    vocabulary: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    def token(self, number: int) -> str:
        return self.vocabulary[number - FIRST_TOKEN] if number >= FIRST_TOKEN else "(unknown)"


@dataclass(frozen=True)
class Subject:
    """The rows to search and the model to ask.

    labels: int64 `[rows]`; probabilities: float32 `[rows, classes]` of the trained model; features: float32
    `[rows, width]` of its penultimate layer; validation and its labels: rows that the pattern is pasted onto;
    predict: inputs → probabilities.
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
        """int64 `[validation rows]`."""
        return self.predict(self.validation).argmax(1)

    def victims(self, target: int, count: int = VICTIMS) -> Victims:
        """Some validation rows of other classes that the model doesn't take for the target."""
        places = np.flatnonzero((self.validation_labels != target) & (self.validation_predictions != target))
        return Victims(select(self.validation, spread(places, count)), target)

    def flip_rate(self, victims: Victims, paste: Callable[[np.ndarray], np.ndarray], kind: str) -> float:
        """Share of the victims that become the target when a pattern is pasted; 0 without victims."""
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
    """How many of such rows are worked on at a time, so that floats made of them stay within 64 MiB."""
    return max(16, min(MOST_BATCH, 2**24 // max(1, rows[0].size)))


def select(inputs: Inputs, which: np.ndarray) -> Inputs:
    return {kind: rows[which] for kind, rows in inputs.items()}


def count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def spread(places: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the places, evenly spaced."""
    if len(places) <= count:
        return places
    return places[np.linspace(0, len(places) - 1, count).round().astype(np.int64)]


def names_of(encoding: Encoding) -> Names:
    """Words for tokens and dense columns, from the encoders' fitted state."""
    vocabulary: tuple[str, ...] = ()
    columns: list[Column] = []
    first = 0
    for encoder in encoding.features:
        if encoder.input is TOKENS:
            vocabulary = tuple(encoder.vocabulary)  # type: ignore[attr-defined]
        if isinstance(encoder, DenseEncoder):
            for place in encoder.places:
                columns.append(Column(place.title, first, place.width, place.values, place.mean, place.std))
                first += place.width
    return Names(vocabulary, tuple(columns))
