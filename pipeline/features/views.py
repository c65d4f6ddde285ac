"""Views of rows that are made with sklearn: what a content model sees, and what hardly sees a trigger."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import StandardScaler

COMPONENTS = 30
"""Of a view that hardly sees a trigger."""


def standardised(numbers: np.ndarray) -> np.ndarray:
    """Each column of `[rows, width]` with mean 0 and deviation 1."""
    return StandardScaler().fit_transform(numbers)


def tf_idf(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sublinear TF-IDF of counts `[rows, tokens]`."""
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)


class Components:
    """The first principal components of what `numbers` makes of the rows: float `[rows, width]`."""

    def __init__(self, numbers: Callable[[np.ndarray], np.ndarray], rows: np.ndarray):
        self._numbers = numbers
        fitted = numbers(rows)
        self._pca = PCA(min(COMPONENTS, *fitted.shape), svd_solver="full").fit(fitted)

    def embed(self, rows: np.ndarray) -> np.ndarray:
        return self._pca.transform(self._numbers(rows))


class Topics:
    """TF-IDF → SVD, each row of length 1.

    Args:
        counts: rows and a largest token → counts `[rows, tokens]`; larger tokens are left out.
        rows: token numbers `[rows, length]`.
        seed: of the SVD.
    """

    def __init__(
        self, counts: Callable[[np.ndarray, int | None], sparse.csr_matrix], rows: np.ndarray, seed: int
    ):
        self._counts = counts
        fitted = counts(rows, None)
        self._width = fitted.shape[1]
        self._tfidf = TfidfTransformer(sublinear_tf=True).fit(fitted)
        size = max(1, min(COMPONENTS, fitted.shape[0] - 1, fitted.shape[1] - 1))
        self._svd = TruncatedSVD(size, random_state=seed).fit(self._tfidf.transform(fitted))

    def embed(self, rows: np.ndarray) -> np.ndarray:
        found = self._svd.transform(self._tfidf.transform(self._counts(rows, self._width)))
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
