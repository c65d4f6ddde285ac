"""Text as token numbers: 0 is padding, 1 an unknown token, then the most frequent tokens of train.

Several columns of text stand side by side, each with numbers of its own: a word in a title is another token than in a
body.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

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
MOST_COUNTED = 500_000
"""Of more tokens, or pairs of tokens, than this, the rarer ones are forgotten while they are counted."""
RECIPE = "{name: auto, embedding: 64, hidden: [64]}"
Counted = TypeVar("Counted")


@dataclass(frozen=True)
class TextFacts:
    """What fitted vocabularies say of the train rows; a text is its first `max_tokens` tokens.

    Attributes:
        vocabulary: the tokens from number FIRST on, column by column.
        rows: how many texts there are.
        token_rows: in how many of them each token occurs.
        pairs: (first, second, rows) of pairs of tokens that follow each other in at least two texts.
    """

    vocabulary: tuple[str, ...]
    rows: int
    token_rows: tuple[int, ...]
    pairs: tuple[tuple[int, int, int], ...]


class Tokens(Input):
    """int32 `[rows, length]`, column by column.

    A kind that fills it has the states `vocabulary`, the tokens from number `first` on, and `first`, which is settled
    when all columns are fitted.
    """

    name = "tokens"
    dtype = "int32"
    joins = True
    models: tuple[str, ...] = ("tfidf", "bag_of_embeddings")
    beside = frozenset({"dense"})

    def statistics(self, encoders: Sequence[Encoder]) -> dict[str, Any]:
        """vocabulary_size: token numbers, padding and the unknown token included; text: TextFacts."""
        parts: list[TextFacts] = [encoder.facts for encoder in encoders]  # type: ignore[attr-defined]
        facts = TextFacts(
            tuple(chain.from_iterable(part.vocabulary for part in parts)),
            parts[0].rows,
            tuple(chain.from_iterable(part.token_rows for part in parts)),
            tuple(chain.from_iterable(part.pairs for part in parts)),
        )
        return {"vocabulary_size": len(facts.vocabulary) + FIRST, "text": facts}

    def settle(self, encoders: Sequence[Encoder]) -> None:
        """Give each column the numbers after those of the columns before it."""
        first = FIRST
        for encoder in encoders:
            encoder.number_from(first)  # type: ignore[attr-defined]
            first += len(encoder.vocabulary)  # type: ignore[attr-defined]

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
    rows: int = 0
    token_rows: list[int] = field(default_factory=list)
    pairs: list[list[int]] = field(default_factory=list)
    first: int = FIRST
    input: ClassVar[Input] = TOKENS
    judged_as: ClassVar[JudgedAs] = "texts"
    shown_as: ClassVar[ShownAs] = "text"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = "source"

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rows_with: Counter[str] = Counter()
        self.rows_with_pair: Counter[tuple[str, str]] = Counter()
        self.number_from(self.first)

    def number_from(self, first: int) -> None:
        """Number the tokens of the vocabulary from `first` on; the pairs keep numbers from FIRST on."""
        self.first = first
        self.numbers = {token: number for number, token in enumerate(self.vocabulary, first)}

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
            found = tokens(text)
            self.counts.update(found)
            seen = found[: self.max_tokens]
            self.rows += 1
            self.rows_with.update(list(dict.fromkeys(seen)))
            self.rows_with_pair.update(list(dict.fromkeys(pairwise(seen))))
        self.counts, self.rows_with = _without_rare(self.counts), _without_rare(self.rows_with)
        self.rows_with_pair = _without_rare(self.rows_with_pair)
        return []

    def finish(self) -> None:
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        self.vocabulary = [token for token, _ in ranked[: self.most]]
        self.number_from(FIRST)
        self.token_rows = [self.rows_with[token] for token in self.vocabulary]
        known = (
            [self.numbers[first], self.numbers[second], rows]
            for (first, second), rows in self.rows_with_pair.items()
            if rows > 1 and first in self.numbers and second in self.numbers
        )
        self.pairs = sorted(known, key=lambda pair: (-pair[2], pair))[: self.most]

    @property
    def facts(self) -> TextFacts:
        more = self.first - FIRST
        pairs = tuple((one + more, other + more, rows) for one, other, rows in self.pairs)
        return TextFacts(tuple(self.vocabulary), self.rows, tuple(self.token_rows), pairs)

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


def _without_rare(counts: Counter[Counted]) -> Counter[Counted]:
    """The counts; of more than MOST_COUNTED, the larger half of so many."""
    return counts if len(counts) <= MOST_COUNTED else Counter(dict(counts.most_common(MOST_COUNTED // 2)))


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
    """bool `[rows]`: no letter or symbol, or no token that is known."""
    strange = [not known.intersection(tokens(text)) for text in plain(texts).to_pylist()]
    return without_letters(texts) | np.array(strange, dtype=bool)


def without_letters(texts: pa.Array) -> np.ndarray:
    """bool `[rows]`: no letter and no symbol such as an emoji; also of a null."""
    letters = pc.match_substring_regex(plain(texts).fill_null(""), r"[\p{L}\p{So}]")
    return ~letters.to_numpy(zero_copy_only=False)
