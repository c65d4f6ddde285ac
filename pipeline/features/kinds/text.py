"""Text as token numbers: 0 is padding, 1 an unknown token, then the most frequent tokens of train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import is_string, plain
from pipeline.features.encoder import MOST_SHARE, Choice, Column, Encoder, JudgedAs, Options, Sample, ShownAs
from pipeline.features.faults import Fault
from pipeline.features.input import Input, View
from pipeline.features.words import count_words, is_unspaced, tokens

if TYPE_CHECKING:
    from scipy import sparse


PADDING, UNKNOWN, FIRST = 0, 1, 2
TEXT_WORDS = 3
"""A column of strings with more words per value than this is text, with fewer it has categories."""
MOST_COUNTED = 2_000_000
"""Of more tokens than this, the rarer half is forgotten while they are counted."""
RECIPE = "{name: auto, embedding: 64, hidden: [64]}"


class Tokens(Input):
    """int32 `[rows, length]`. A kind that fills it has the state `vocabulary`: the tokens from number FIRST on."""

    name = "tokens"
    dtype = "int32"
    models = ("bag_of_embeddings",)
    beside = frozenset({"dense"})

    def statistics(self, encoder: Encoder) -> dict[str, Any]:
        """vocabulary_size: token numbers, padding and the unknown token included."""
        return {"vocabulary_size": len(encoder.vocabulary) + FIRST}  # type: ignore[attr-defined]

    def likeness(self, one: np.ndarray, other: np.ndarray, encoders: Sequence[Encoder]) -> np.ndarray:  # noqa: ARG002
        """Shared tokens ÷ all tokens of both."""
        return np.array([jaccard(a, b) for a, b in zip(one, other)])

    def view(self, rows: np.ndarray, seed: int) -> View:
        from pipeline.features.views import Topics  # sklearn takes a second to load

        return Topics(token_counts, rows, seed)

    def content(self, rows: np.ndarray) -> sparse.csr_matrix:
        from pipeline.features.views import tf_idf

        return tf_idf(token_counts(rows))


TOKENS = Tokens()


@dataclass
class TextEncoder(Encoder):
    """Lower-cased words and single punctuation marks, cut to `max_tokens`. A null is an empty text.

    Tags of HTML are left out. Signs of scripts without spaces are words of their own.
    """

    column: str
    max_tokens: int
    most: int
    vocabulary: list[str] = field(default_factory=list)
    input: ClassVar[Input] = TOKENS
    judged_as: ClassVar[JudgedAs] = "texts"
    shown_as: ClassVar[ShownAs] = "text"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "source"

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.numbers = {token: number for number, token in enumerate(self.vocabulary, FIRST)}

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return is_string(kind)

    @classmethod
    def recognises(cls, column: Column) -> bool:
        return is_string(column.type) and not column.coded and are_texts(column.values())

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:
        if not is_string(sample.column.type) or sample.values is None or not are_texts([sample.values]):
            return None
        words = _words_of(sample.values)
        remark = f"median {_median_length(sample.values)}"
        return Choice(cls.kind, remark, size=float(np.mean(words)), recipe=RECIPE)

    @classmethod
    def create(cls, column: Column, options: Options) -> TextEncoder:
        return cls(column.name, options.max_tokens, options.vocabulary)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        for text in plain(column.filter(pa.array(train))).to_pylist():
            self.counts.update(tokens(text))
        if len(self.counts) > MOST_COUNTED:
            self.counts = Counter(dict(self.counts.most_common(MOST_COUNTED // 2)))
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
            found = tokens(text, self.max_tokens)
            encoded[row, : len(found)] = [self.numbers.get(token, UNKNOWN) for token in found]
        return encoded

    @property
    def read_again(self) -> bool:
        return True

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:
        return (says_nothing(values, set(self.vocabulary)),)

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """No letters or pictographs, or only tokens that the vocabulary lacks."""
        (bad,) = marks
        return bad & (bad.mean() <= MOST_SHARE)


def are_texts(batches: Iterable[pa.Array]) -> bool:
    """Whether the values have more than TEXT_WORDS words, by the mean over the first batch that has any value."""
    words = next(filter(len, map(_words_of, batches)), [])
    return len(words) > 0 and float(np.mean(words)) > TEXT_WORDS


def _words_of(values: pa.Array) -> list[float]:
    """How many words each value has that is not null."""
    return [count_words(text) for text in plain(values).drop_null().to_pylist()]


def _median_length(values: pa.Array) -> str:
    """In words, or in characters where most values are in a script without spaces."""
    texts = plain(values).drop_null().to_pylist()
    if 2 * sum(map(is_unspaced, texts)) > len(texts):
        return f"{np.median(list(map(len, texts))):.0f} characters"
    return f"{np.median(list(map(count_words, texts))):.0f} words"


def token_counts(tokens: np.ndarray, width: int | None = None) -> sparse.csr_matrix:
    """float32 `[rows, width]`, without padding and larger tokens; without a width it is the largest token + 1."""
    from scipy import sparse

    kept = tokens if width is None else np.where(tokens < width, tokens, PADDING)
    rows, places = np.nonzero(kept)
    numbers = kept[rows, places]
    shape = (len(kept), int(kept.max(initial=1)) + 1 if width is None else width)
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, numbers)), shape=shape)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two rows of token numbers; 0 is padding."""
    a, b = set(one[one > 0].tolist()), set(other[other > 0].tolist())
    return len(a & b) / len(a | b) if a | b else 1.0


def says_nothing(texts: pa.Array, known: set[str]) -> np.ndarray:
    """bool `[rows]`."""
    texts = plain(texts).fill_null("")
    letters = pc.match_substring_regex(texts, r"[\p{L}\p{So}]").to_numpy(zero_copy_only=False)
    strange = [not known.intersection(tokens(text)) for text in texts.to_pylist()]
    return ~letters | np.array(strange, dtype=bool)
