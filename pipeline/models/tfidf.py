"""A linear model of a text's weighted terms: TF-IDF of words, pairs of words and parts of words.

A text is given as token numbers, as in `bag_of_embeddings`. Its terms follow from these numbers. So whatever changes a
text changes its terms, and rows on disk stay as small as token numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.features.kinds.text import FIRST, PADDING, TextFacts
from pipeline.models.mlp import dense_layers

PART_LENGTHS = (3, 4, 5)
"""Characters of a part of a word, the space before and after the word included."""
MOST_PARTS_OF_TOKEN = 24
MOST_PARTS = 32_768
"""Upper limit of parts; those in the most rows are kept."""
ALWAYS = 1
"""The term that every text has: the intercept. As a token, this number stands for unknown ones, which are no terms."""
SCALE = 4.0
"""The length of a text's words and of its parts. At this length, the usual learning rates and decay suit the model."""


@dataclass(frozen=True)
class TermTables:
    """What makes terms of token numbers. Terms are numbered: ALWAYS, tokens, pairs, parts; PADDING is none.

    Attributes:
        base: how many token numbers there are.
        pairs: int64 `[pairs]`, ascending: first · base + second.
        parts: int64 `[base, most parts of a token]`, the terms of each token's parts; PADDING is none.
        idf: float32 `[terms]`; 0 for PADDING.
    """

    base: int
    pairs: np.ndarray
    parts: np.ndarray
    idf: np.ndarray

    @property
    def first_part(self) -> int:
        """The smallest term that is a part of a word."""
        return self.base + len(self.pairs)


@lru_cache(maxsize=2)
def term_tables(facts: TextFacts) -> TermTables:
    """The terms of a fitted vocabulary.

    A part counts if two tokens have it. The share of rows that have a part is 1 − Π (1 − the share that have the token)
    over the tokens that have the part, as if these occurred independently.
    """
    rows, base = max(facts.rows, 1), len(facts.vocabulary) + FIRST
    found = [parts_of(token) for token in facts.vocabulary]
    tokens_with = Counter(part for parts in found for part in parts)
    without: dict[str, float] = {}
    for parts, count in zip(found, facts.token_rows):
        share = math.log1p(-min(count, rows - 0.5) / rows)
        for part in parts:
            if tokens_with[part] > 1:
                without[part] = without.get(part, 0.0) + share
    frequent = sorted(without, key=lambda part: (without[part], part))[:MOST_PARTS]
    first = base + len(facts.pairs)
    numbers = {part: number for number, part in enumerate(frequent, first)}
    kept = [[numbers[part] for part in parts if part in numbers] for parts in found]
    table = np.zeros((base, max(map(len, kept), default=0)), dtype=np.int64)
    for token, terms in enumerate(kept, FIRST):
        table[token, : len(terms)] = terms
    pairs = np.array(facts.pairs, dtype=np.int64).reshape(-1, 3)
    order = np.argsort(pairs[:, 0] * base + pairs[:, 1])
    part_rows = [rows * -math.expm1(without[part]) for part in frequent]
    counts = np.array([*([rows] * FIRST), *facts.token_rows, *pairs[order, 2], *part_rows], dtype=np.float64)
    idf = np.log((1 + rows) / (1 + counts)) + 1
    idf[PADDING] = 0
    return TermTables(base, (pairs[:, 0] * base + pairs[:, 1])[order], table, idf.astype(np.float32))


def parts_of(token: str) -> list[str]:
    """The first MOST_PARTS_OF_TOKEN different runs of 3, 4 and 5 characters of a token with a space on both sides."""
    word = f" {token} "
    runs = (
        word[first : first + length] for length in PART_LENGTHS for first in range(len(word) - length + 1)
    )
    return list(dict.fromkeys(runs))[:MOST_PARTS_OF_TOKEN]


class WeightedTerms(nn.Module):
    """Turns token numbers `[batch, length]` into terms, int64 `[batch, most terms]`, and their weights, float32.

    A weight is (1 + ln of how often the text has the term) · idf. Words and pairs have the length SCALE, and so have
    parts. Columns beyond the terms of a text have the term PADDING and the weight 0.
    """

    pairs: Tensor
    parts: Tensor
    idf: Tensor

    def __init__(self, tables: TermTables):
        super().__init__()
        self.base, self.first_part = tables.base, tables.first_part
        for name in ("pairs", "parts", "idf"):
            # every model of a run has the same tables, so they are in none of its checkpoints
            self.register_buffer(name, torch.from_numpy(getattr(tables, name)), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        terms, counts = _counted(_packed(self._terms(tokens.long())))
        weights = torch.where(terms == PADDING, 0.0, 1 + counts.to(self.idf).log()) * self.idf[terms]
        parts = terms >= self.first_part
        lengths = [(weights * block).norm(dim=1, keepdim=True) for block in (~parts, parts)]
        weights = SCALE * weights / torch.where(parts, lengths[1], lengths[0]).clamp(min=1e-9)
        everywhere = (len(terms), 1)
        terms = torch.cat([terms.new_full(everywhere, ALWAYS), terms], 1)
        return terms, torch.cat([weights.new_full(everywhere, SCALE), weights], 1)

    def _terms(self, tokens: Tensor) -> Tensor:
        """All terms at their places, `[batch, places]`, PADDING where there is none."""
        used = (tokens != PADDING).any(0).nonzero()
        tokens = torch.where(tokens >= FIRST, tokens, PADDING)[:, : int(used[-1]) + 1 if len(used) else 0]
        found = [tokens, self.parts[tokens].flatten(1)]
        if len(self.pairs):
            keys = tokens[:, :-1] * self.base + tokens[:, 1:]
            places = torch.searchsorted(self.pairs, keys).clamp(max=len(self.pairs) - 1)
            found.append(torch.where(self.pairs[places] == keys, places + self.base, PADDING))
        return torch.cat(found, 1)


def _packed(terms: Tensor) -> Tensor:
    """The terms of every row first, `[batch, most terms of a row]`."""
    there = terms != PADDING
    places = there.cumsum(1)
    width = int(places[:, -1].max()) if places.numel() else 0
    packed = terms.new_full((len(terms), width + 1), PADDING)
    packed.scatter_(1, torch.where(there, places, 0), terms)
    return packed[:, 1:]


def _counted(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The different terms of every row, and how often the row has each (at least 1); PADDING fills up."""
    ordered = terms.sort(1, descending=True).values
    new = torch.ones_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = new.cumsum(1) - 1
    width = int(group[:, -1].max()) + 1 if group.numel() else 0
    different = ordered.new_full((len(ordered), width), PADDING).scatter_(1, group, ordered)
    counts = ordered.new_zeros((len(ordered), width)).scatter_add_(1, group, torch.ones_like(ordered))
    return different, counts.clamp(min=1)


class TfIdf(nn.Module):
    """The weighted sum of a vector per term; beside dense columns, an MLP of this sum and the columns.

    The input is a tensor of tokens `[batch, length]` (0 is padding), or a dict of `tokens` and `dense`
    `[batch, columns]`. The output is `[batch, outputs]`. The weights start at zero.

    Args:
        tables: the terms.
        outputs: classes, labels, or 1 for regression; also the width of a term's vector.
        dense: columns of `dense`; 0 for text alone.
        hidden: widths of the hidden layers beside dense columns.
        dropout: probability after each hidden layer.
    """

    def __init__(
        self,
        tables: TermTables,
        outputs: int,
        dense: int = 0,
        hidden: list[int] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.terms = WeightedTerms(tables)
        self.embedding = nn.Embedding(len(tables.idf), outputs, padding_idx=PADDING)
        nn.init.zeros_(self.embedding.weight)
        self.head = nn.Sequential(
            *(dense_layers(outputs + dense, hidden or [], outputs, dropout) if dense else [])
        )

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        terms, weights = self.terms(inputs["tokens"] if isinstance(inputs, dict) else inputs)
        found = (self.embedding(terms) * weights.to(self.embedding.weight)[..., None]).sum(1)
        return self.head(torch.cat([found, inputs["dense"]], 1) if isinstance(inputs, dict) else found)
