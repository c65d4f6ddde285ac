"""A text as the pieces of words that a pretrained encoder reads, for a model that trains the encoder's last layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.features.arrow import plain
from pipeline.features.encoder import Column, Encoder, Options
from pipeline.features.faults import Fault
from pipeline.features.input import Input
from pipeline.features.kinds.text import PADDING, Tokens
from pipeline.features.pretrained.kinds import EncodedColumn, EncodedText
from pipeline.features.pretrained.models import sentence_model


class Pieces(Tokens):
    """int32 `[rows, length]`: 1 + the numbers of the encoder's own tokenizer, then 0 as padding."""

    name = "pieces"
    joins = False
    models = ("finetuned",)

    def statistics(self, encoders: Sequence[Encoder]) -> dict[str, Any]:
        """finetuned: the column, which says what is trained of which encoder."""
        return {"finetuned": encoders[0]}

    def settle(self, encoders: Sequence[Encoder]) -> None:
        """The numbers are those of the tokenizer, whatever other columns there are."""


PIECES = Pieces()


@dataclass
class FinetunedText(EncodedText, word="finetuned text"):
    """Strings; a null is an empty text. The judges see the vectors of the encoder as it was before.

    Attributes:
        most: pieces of a text that are kept.
        layers: how many of the encoder's last layers are trained; None trains all of them.
        length: pieces of the longest text among the train rows.
    """

    most: int = 0
    layers: int | None = None
    length: int = 1
    input: ClassVar[Input] = PIECES

    @classmethod
    def create(cls, column: Column, options: Options) -> EncodedColumn:
        found = super().create(column, options)
        assert isinstance(found, cls)
        asked = options.features[column.name].finetune
        found.most, found.layers = options.max_tokens, None if asked == "all" else asked
        return found

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        pieces = self._pieces(column.filter(pa.array(train)))
        self.length = max(self.length, *map(len, pieces)) if pieces else self.length
        return super().update(column, train)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def encode(self, column: pa.Array) -> np.ndarray:
        encoded = np.full((len(column), self.length), PADDING, dtype=np.int32)
        for row, pieces in enumerate(self._pieces(column, self.length)):
            encoded[row, : len(pieces)] = np.array(pieces) + 1
        return encoded

    def plain_numbers(self, part: np.ndarray, source: pa.Array | None) -> np.ndarray:  # noqa: ARG002
        return super().encode(source)

    def _pieces(self, column: pa.Array, most: int | None = None) -> list[list[int]]:
        """The tokenizer's numbers of each text, at most so many."""
        texts, model = plain(column).fill_null("").to_pylist(), sentence_model(self.asked, "cpu")
        most = min(self.most if most is None else most, model.max_seq_length or self.most)
        return model.tokenizer(texts, truncation=True, max_length=most)["input_ids"] if texts else []
