"""Turns text into counts of hashed n-grams; hashing needs no vocabulary and so no pass over the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from pipeline.features.words import WORD, content

HASHES = 2**20
"""How many columns a block has; n-grams with the same hash are counted together."""
MOST_CHARACTERS = 10_000
"""Character n-grams come from the first so many characters of a text; the words from what `content` reads of it."""


def text_blocks(texts: Sequence[str | None]) -> dict[str, sparse.csr_matrix]:
    """Count the n-grams of texts.

    The block `words` has words and pairs of words; a sign of a script without spaces is a word. The block `characters`
    has n-grams of 2 to 4 characters between spaces. Tags of HTML are left out. A null counts as an empty text.

    Returns:
        Both blocks, float32 `[texts, HASHES]`, with 1 + ln(count).
    """
    whole = [content(text) for text in texts]
    words = HashingVectorizer(
        n_features=HASHES,
        token_pattern=WORD.pattern,
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
        "words": _sublinear(words.transform(whole)),
        "characters": _sublinear(characters.transform([text[:MOST_CHARACTERS] for text in whole])),
    }


def _sublinear(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Replace counts by 1 + ln(count), in place."""
    counts.sort_indices()
    counts.data = 1 + np.log(counts.data)
    return counts
