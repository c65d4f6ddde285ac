"""A space that hardly sees a trigger: near rows have like content, whatever was pasted on them."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from pipeline.detection.backdoor.subject import Inputs
from pipeline.features.input import Input
from pipeline.features.registry import find_input

NEIGHBOURS = 15


def in_order(inputs: Inputs) -> list[Input]:
    """The inputs, a table last."""
    return sorted(map(find_input, inputs), key=lambda each: (each.joins, each.name))


class BlindSpace:
    """The views of all inputs side by side, fitted on the rows of the search."""

    def __init__(self, inputs: Inputs, labels: np.ndarray, seed: int):
        self._labels = labels
        self._views = {each.name: each.view(inputs[each.name], seed) for each in in_order(inputs)}
        self._embedded = self.embed(inputs)
        self._index = NearestNeighbors().fit(self._embedded)

    def embed(self, inputs: Inputs) -> np.ndarray:
        """float32 `[rows, width]`."""
        parts = [view.embed(inputs[name]) for name, view in self._views.items()]
        return np.hstack(parts).astype(np.float32)

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
    """What a content model sees of all inputs, `[rows, width]`; sparse where one of them is."""
    parts = [each.content(inputs[each.name]) for each in in_order(inputs)]
    dense = [part for part in parts if isinstance(part, np.ndarray)]
    others = [part for part in parts if not isinstance(part, np.ndarray)]
    if not others:
        return np.hstack(dense)
    return sparse.hstack([*map(sparse.csr_matrix, dense), *others]).tocsr()
