"""Text as token numbers: 0 is padding, 1 an unknown token, then the most frequent tokens of train."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encoders.base import Column
from pipeline.data.labels import plain
from pipeline.data.problems import Fault

TOKEN = re.compile(r"\w+|[^\w\s]")
PADDING, UNKNOWN, FIRST = 0, 1, 2


@dataclass
class TextEncoder:
    """Lower-cased words and single punctuation marks, cut to `max_tokens`. A null is an empty text."""

    column: str
    max_tokens: int
    most: int
    vocabulary: list[str] = field(default_factory=list)
    kind: ClassVar[str] = "text"
    input: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.numbers = {token: number for number, token in enumerate(self.vocabulary, FIRST)}

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    @classmethod
    def create(cls, column: Column, options: Data) -> TextEncoder:
        return cls(column.name, options.max_tokens, options.vocabulary)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        for text in plain(column.filter(pa.array(train))).to_pylist():
            self.counts.update(tokens(text))
        return []

    def finish(self) -> None:
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        self.vocabulary = [token for token, _ in ranked[: self.most]]
        self.numbers = {token: number for number, token in enumerate(self.vocabulary, FIRST)}

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.max_tokens,)

    def encode(self, column: pa.Array) -> np.ndarray:
        encoded = np.full((len(column), self.max_tokens), PADDING, dtype=np.int32)
        for row, text in enumerate(plain(column).to_pylist()):
            found = tokens(text)[: self.max_tokens]
            encoded[row, : len(found)] = [self.numbers.get(token, UNKNOWN) for token in found]
        return encoded


def tokens(text: str | None) -> list[str]:
    return TOKEN.findall(text.lower()) if text else []
