"""Turns blocks of features into the input matrix of a judge, with statistics of the rows that it is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.preprocessing import normalize

from pipeline.panel.feature_blocks import Blocks

FEWEST_ROWS = 2
"""N-grams in fewer rows are left out."""
MOST_NGRAMS = 100_000
"""Upper limit of n-grams in a block of text; those in the most rows are kept."""
MOST_COEFFICIENTS = 2_000_000
"""Upper limit of n-grams times classes, for a linear judge and a block of text."""
WIDEST = 100
"""Images or lists with more numbers are replaced by their principal components."""
COMPONENTS = 60
FINE_COMPONENTS = 256
"""Of lists, for a second linear judge: how many components are best depends on the classes and the rows."""
TOPICS = 50
"""How many topics (truncated SVD) represent the texts for trees."""
WIDE_DEVIATION = 0.5
"""The standard deviation to which the leading component of pixels and lists is scaled; scaled columns have 1. A smaller
one means stronger regularisation."""
PCA_ROWS = 10_000
"""Principal components are fitted on the first so many rows of the sample."""


class Space(Protocol):
    """Turns blocks into a matrix `[rows, width]`, dense or sparse; constructed with the number of classes or labels."""

    def fit(self, blocks: Blocks, seed: int) -> None: ...

    def transform(self, blocks: Blocks) -> Any: ...


class Ngrams:
    """Turns sublinear counts of one block of text into TF-IDF rows of unit length.

    N-grams that occur in fewer than FEWEST_ROWS rows are left out; of the others, at most `most` are kept.
    """

    def __init__(self, counts: sparse.csr_matrix, most: int):
        rows = np.bincount(counts.indices, minlength=counts.shape[1])
        kept = np.flatnonzero(rows >= FEWEST_ROWS)
        if len(kept) > most:
            kept = np.sort(kept[np.argsort(-rows[kept], kind="stable")[:most]])
        self.width = len(kept)
        self._place = np.full(counts.shape[1], -1, dtype=np.int32)
        self._place[kept] = np.arange(len(kept), dtype=np.int32)
        self._weight = (np.log((1 + counts.shape[0]) / (1 + rows[kept])) + 1).astype(np.float32)

    def transform(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        places = self._place[counts.indices]
        there = places >= 0
        ends = np.concatenate([[0], np.cumsum(there)])[counts.indptr]
        places = places[there]
        values = counts.data[there] * self._weight[places]
        row = np.repeat(np.arange(counts.shape[0]), np.diff(ends))
        lengths = np.sqrt(np.bincount(row, values**2, minlength=counts.shape[0]))
        values = (values / np.maximum(lengths, 1e-12)[row]).astype(np.float32)
        return sparse.csr_matrix((values, places, ends), (counts.shape[0], self.width))


class TextSpace:
    """All blocks of all texts side by side, each of unit length; no value is negative, as naive Bayes requires."""

    def __init__(self, outputs: int):
        self._most = max(1, min(MOST_NGRAMS, MOST_COEFFICIENTS // outputs))

    def fit(self, blocks: Blocks, seed: int) -> None:  # noqa: ARG002
        self._ngrams = {key: Ngrams(counts, self._most) for key, counts in blocks.texts.items()}

    def transform(self, blocks: Blocks) -> sparse.csr_matrix:
        return sparse.hstack([each.transform(blocks.texts[key]) for key, each in self._ngrams.items()], "csr")


class WideSpace:
    """Pixels and lists; those wider than WIDEST are replaced by at most `components` principal components."""

    def __init__(self, components: int = COMPONENTS):
        self._most = components

    def fit(self, blocks: Blocks, seed: int) -> None:
        self._components: dict[str, PCA | None] = {}
        for key, values in blocks.wide.items():
            first = values[:PCA_ROWS]
            count = min(self._most, *first.shape)
            pca = PCA(count, svd_solver="randomized", random_state=seed) if first.shape[1] > WIDEST else None
            self._components[key] = pca if pca is None else pca.fit(first)

    def transform(self, blocks: Blocks) -> list[np.ndarray]:
        return [
            blocks.wide[key] if pca is None else pca.transform(blocks.wide[key])
            for key, pca in self._components.items()
        ]


class LinearSpace:
    """Texts, scaled columns, and pixels and lists (`WideSpace`) side by side."""

    def __init__(self, outputs: int, components: int = COMPONENTS):
        self._text, self._wide = TextSpace(outputs), WideSpace(components)

    def fit(self, blocks: Blocks, seed: int) -> None:
        self._text.fit(blocks, seed)
        self._wide.fit(blocks, seed)
        parts = self._wide.transform(blocks)
        self._means = [part.mean(0) for part in parts]
        self._scales = [WIDE_DEVIATION / max(float(part.std(0).max()), 1e-12) for part in parts]

    def transform(self, blocks: Blocks) -> Any:
        wide = [
            (part - mean) * scale
            for part, mean, scale in zip(self._wide.transform(blocks), self._means, self._scales)
        ]
        dense = [*blocks.columns.values(), *wide]
        if not blocks.texts:
            return _joined(dense)
        text = self._text.transform(blocks)
        return sparse.hstack([text, sparse.csr_matrix(_joined(dense))], "csr") if dense else text


class TreeSpace:
    """Ordinal columns, pixels and lists (`WideSpace`), and topics of texts side by side."""

    def __init__(self, outputs: int):
        self._text, self._wide = TextSpace(outputs), WideSpace()

    def fit(self, blocks: Blocks, seed: int) -> None:
        self._wide.fit(blocks, seed)
        self._topics: TruncatedSVD | None = None
        if blocks.texts:
            self._text.fit(blocks, seed)
            counts = self._text.transform(blocks)
            if min(counts.shape) > 1:
                topics = min(TOPICS, *(side - 1 for side in counts.shape))
                self._topics = TruncatedSVD(topics, random_state=seed).fit(counts[:PCA_ROWS])

    def transform(self, blocks: Blocks) -> np.ndarray:
        parts = [*blocks.ordinals.values(), *self._wide.transform(blocks)]
        if self._topics is not None:
            parts.append(self._topics.transform(self._text.transform(blocks)))
        return _joined(parts)


class ListSpace:
    """Some lists alone, handled as `LinearSpace` handles lists."""

    def __init__(self, outputs: int, lists: Callable[[Blocks], dict[str, np.ndarray]], components: int):
        self._lists, self._space = lists, LinearSpace(outputs, components)

    def fit(self, blocks: Blocks, seed: int) -> None:
        self._space.fit(self._alone(blocks), seed)

    def transform(self, blocks: Blocks) -> Any:
        return self._space.transform(self._alone(blocks))

    def _alone(self, blocks: Blocks) -> Blocks:
        return Blocks({}, {}, {}, self._lists(blocks))


def own_space(outputs: int) -> Space:
    """The space of a user's embeddings."""
    return ListSpace(outputs, lambda blocks: blocks.own, COMPONENTS)


def fine_space(outputs: int) -> Space:
    """The space of lists that are wider than WIDEST, with more components."""
    return ListSpace(outputs, wide_lists, FINE_COMPONENTS)


class DirectionSpace:
    """The directions of the embeddings from their mean, of unit length; distances then go by the cosine."""

    def __init__(self, outputs: int):
        pass

    def fit(self, blocks: Blocks, seed: int) -> None:  # noqa: ARG002
        self._means = {key: values.mean(0) for key, values in blocks.own.items()}

    def transform(self, blocks: Blocks) -> np.ndarray:
        return _joined(normalize(blocks.own[key] - mean) for key, mean in self._means.items())


def wide_lists(blocks: Blocks) -> dict[str, np.ndarray]:
    """The lists that are wider than WIDEST, by their keys."""
    return {
        key: part for key, part in blocks.wide.items() if key.endswith("/list") and part.shape[1] > WIDEST
    }


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.concatenate(list(parts), axis=1), dtype=np.float32)
