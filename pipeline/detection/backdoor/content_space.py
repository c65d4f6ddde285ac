"""A feature space that hardly sees triggers: rows are close if their contents are similar, whatever their triggers."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from pipeline.detection.backdoor.subject import Inputs
from pipeline.features.input import Input
from pipeline.features.registry import find_input

NEIGHBOURS = 15


def _in_order(inputs: Inputs) -> list[Input]:
    """The kinds of input, with a table last."""
    return sorted(map(find_input, inputs), key=lambda each: (each.joins, each.name))


class ContentSpace:
    """The feature space: the views of all inputs side by side, fitted on the searched rows."""

    def __init__(self, inputs: Inputs, labels: np.ndarray, seed: int):
        self._labels = labels
        self._views = {each.name: each.view(inputs[each.name], seed) for each in _in_order(inputs)}
        self._embedded = self.embed(inputs)
        self._index = NearestNeighbors().fit(self._embedded)

    def embed(self, inputs: Inputs) -> np.ndarray:
        """The features of rows, float32 `[rows, width]`."""
        parts = [view.embed(inputs[name]) for name, view in self._views.items()]
        return np.hstack(parts).astype(np.float32)

    def own_share(self, inputs: Inputs, labels: np.ndarray, in_search: bool) -> np.ndarray:
        """The share of each row's nearest searched rows that have its label.

        Args:
            inputs: of the rows.
            labels: of the rows.
            in_search: whether the rows are the searched rows in their order; no row then counts as its own neighbour.

        Returns:
            float32 `[rows]`.
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
    """The features of all inputs for a content model, `[rows, width]`; sparse if those of one input are."""
    parts = [each.content(inputs[each.name]) for each in _in_order(inputs)]
    dense = [part for part in parts if isinstance(part, np.ndarray)]
    others = [part for part in parts if not isinstance(part, np.ndarray)]
    if not others:
        return np.hstack(dense)
    return sparse.hstack([*map(sparse.csr_matrix, dense), *others]).tocsr()
