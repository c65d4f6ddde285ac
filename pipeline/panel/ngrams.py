"""Text as counts of hashed n-grams, which no row has to be seen for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

HASHES = 2**20
"""Columns of a block: n-grams that share one are counted together."""
MOST_CHARACTERS = 10_000
"""Of a text that character n-grams are made of; words are counted in the whole text."""


def text_blocks(texts: Sequence[str | None]) -> dict[str, sparse.csr_matrix]:
    """Words with pairs of words, and runs of 2 to 4 characters within words: float32 `[texts, HASHES]`, 1 + ln(count).

    Languages without spaces are covered by the runs of characters. A null is an empty text.
    """
    whole = [text or "" for text in texts]
    words = HashingVectorizer(
        n_features=HASHES,
        token_pattern=r"(?u)\b\w+\b",
        ngram_range=(1, 2),
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )
    characters = HashingVectorizer(
        n_features=HASHES,
        analyzer="char_wb",
        ngram_range=(2, 4),
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )
    return {
        "words": sublinear(words.transform(whole)),
        "characters": sublinear(characters.transform([text[:MOST_CHARACTERS] for text in whole])),
    }


def sublinear(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """1 + ln(count) in place of the counts."""
    counts.sort_indices()
    counts.data = 1 + np.log(counts.data)
    return counts
