"""A space that hardly sees a trigger: near rows have like content, whatever was pasted on them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from pipeline.detection.backdoor.subject import Inputs

COARSE = 8
"""Images are pooled to at most 8 × 8 places: a small patch moves one or two of them."""
COMPONENTS = 30
NEIGHBOURS = 15


def pooled_pixels(images: np.ndarray) -> np.ndarray:
    """float32 `[rows, places]` in 0 to 1."""
    side = max(4, min(COARSE, images.shape[2] // 3))
    parts = [
        functional.adaptive_avg_pool2d(
            torch.from_numpy(images[start : start + 4096]).float() / 255, side
        ).flatten(1)
        for start in range(0, len(images), 4096)
    ]
    return torch.cat(parts).numpy()


def token_counts(tokens: np.ndarray) -> sparse.csr_matrix:
    """float32 `[rows, largest token + 1]`; padding (0) is not counted."""
    rows, places = np.nonzero(tokens)
    numbers = tokens[rows, places]
    shape = (len(tokens), int(tokens.max(initial=1)) + 1)
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, numbers)), shape=shape)


class BlindSpace:
    """Pooled pixels → PCA, TF-IDF → SVD, rank-transformed columns; fitted on the rows of the search."""

    def __init__(self, inputs: Inputs, labels: np.ndarray, seed: int):
        self._labels = labels
        self._sorted = np.sort(inputs["dense"], axis=0) if "dense" in inputs else None
        if "image" in inputs:
            pixels = pooled_pixels(inputs["image"])
            self._pca = PCA(min(COMPONENTS, *pixels.shape), svd_solver="full").fit(pixels)
        if "tokens" in inputs:
            counts = token_counts(inputs["tokens"])
            self._width = counts.shape[1]
            self._tfidf = TfidfTransformer(sublinear_tf=True).fit(counts)
            size = max(1, min(COMPONENTS, counts.shape[0] - 1, counts.shape[1] - 1))
            self._svd = TruncatedSVD(size, random_state=seed).fit(self._tfidf.transform(counts))
        self._embedded = self.embed(inputs)
        self._index = NearestNeighbors().fit(self._embedded)

    def embed(self, inputs: Inputs) -> np.ndarray:
        """float32 `[rows, width]`; each kind of input has the same total variance."""
        parts = []
        if "image" in inputs:
            parts.append(self._pca.transform(pooled_pixels(inputs["image"])))
        if "tokens" in inputs:
            kept = np.where(inputs["tokens"] < self._width, inputs["tokens"], 0)
            counts = token_counts(kept)
            counts.resize(len(kept), self._width)
            found = self._svd.transform(self._tfidf.transform(counts))
            parts.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9))
        if "dense" in inputs:
            parts.append(self._ranks(inputs["dense"]))
        return np.hstack(parts).astype(np.float32)

    def _ranks(self, dense: np.ndarray) -> np.ndarray:
        """Each column as its rank among the searched rows, −½ to ½; ties take the middle."""
        assert self._sorted is not None
        ranks = np.empty(dense.shape, dtype=np.float32)
        for place in range(dense.shape[1]):
            column = self._sorted[:, place]
            low = np.searchsorted(column, dense[:, place], "left")
            high = np.searchsorted(column, dense[:, place], "right")
            ranks[:, place] = (low + high) / (2 * len(column)) - 0.5
        return ranks

    def own_share(self, inputs: Inputs, labels: np.ndarray, in_search: bool) -> np.ndarray:
        """float32 `[rows]`: the share of a row's nearest searched rows that have its label.

        `in_search`: the rows are the searched ones, in order, and don't count as their own neighbours.
        """
        wanted = min(NEIGHBOURS + in_search, len(self._labels))
        where = self._embedded if in_search else self.embed(inputs)
        found = self._index.kneighbors(where, wanted, return_distance=False)
        agrees = self._labels[found] == labels[:, None]
        if in_search:
            others = found != np.arange(len(found))[:, None]
            return ((agrees & others).sum(1) / np.maximum(others.sum(1), 1)).astype(np.float32)
        return agrees.mean(1).astype(np.float32)


def content_features(inputs: Inputs) -> sparse.csr_matrix | np.ndarray:
    """What a content model sees: pooled pixels, TF-IDF of the tokens, dense columns; `[rows, width]`."""
    parts: list[sparse.csr_matrix | np.ndarray] = []
    if "image" in inputs:
        parts.append(StandardScaler().fit_transform(pooled_pixels(inputs["image"])))
    if "dense" in inputs:
        parts.append(StandardScaler().fit_transform(inputs["dense"]))
    if "tokens" in inputs:
        tfidf = TfidfTransformer(sublinear_tf=True).fit_transform(token_counts(inputs["tokens"]))
        return sparse.hstack([*map(sparse.csr_matrix, parts), tfidf]).tocsr()
    return np.hstack(parts)
