"""The nearest neighbours of a row in the model's features early in training, and their vote on its label.

Neighbours come from a seeded sample of the train rows, the reference rows. Up to EXACT reference rows the search is
exact; above that it uses an index (inverted lists of k-means cells, Johnson et al. 2019, arXiv 1702.08734).
"""

from __future__ import annotations

import math
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from pipeline.runs.directory import write_atomically
from pipeline.workers.kept import keep

EXACT = 20000
"""Up to so many reference rows the search compares all of them."""
LISTS = 4.0
"""The number of cells of the index, in units of the square root of the number of reference rows."""
PROBES = 64
"""How many cells are searched for each row."""
SLICE = 1024


def build_index(features: Tensor, path: Path, seed: int) -> None:
    """Write an index of unit-length features, float32 `[rows, width]`; one thread makes its bytes reproducible."""
    faiss.omp_set_num_threads(1)
    rows, width = features.shape
    cells = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(cells, width, round(LISTS * math.sqrt(rows)), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.train(features.numpy())
    index.add(features.numpy())
    index.nprobe = PROBES
    with write_atomically(path) as temporary:
        faiss.write_index(index, str(temporary))


def search_index(path: Path, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The cosines and places of the nearest reference rows, `[rows, count]`.

    If the searched cells have fewer rows, the missing ones get the cosine −2.
    """
    faiss.omp_set_num_threads(1)
    index = keep("neighbour index", path, lambda: faiss.read_index(str(path), faiss.IO_FLAG_MMAP))
    similarity, places = index.search(features.cpu().numpy(), count)
    similarity[places < 0] = -2.0
    return torch.from_numpy(similarity), torch.from_numpy(np.maximum(places, 0))


def search_exactly(reference: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same by comparison with every row of `reference`, float32 `[reference rows, width]`."""
    parts = [
        (features[start : start + SLICE] @ reference.T).topk(count, dim=1)
        for start in range(0, len(features), SLICE)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def without_self(similarity: Tensor, places: Tensor, own: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` neighbours without the row itself, which `own` (bool `[rows, neighbours]`) marks."""
    similarity = similarity.masked_fill(own, -2.0)
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :count]
    return similarity.gather(1, order), places.gather(1, order)


def margins(similarity: Tensor, found: Tensor, labels: Tensor, classes: int | None) -> Tensor:
    """The margins of the neighbours' votes.

    For classes this is `vote_margin`, for regression (`classes` is None) minus the distance from the neighbours' mean,
    for sets of labels the vote for each given answer (yes or no) minus the vote for the other answer.

    Returns:
        float64 `[rows]`, or `[rows, labels]` for sets.
    """
    weights = similarity.clamp(min=0).double() + 1e-9
    if labels.dim() == 2:
        yes = torch.einsum("rn,rnl->rl", weights, found.double()) / weights.sum(1, keepdim=True)
        return (2 * labels.double() - 1) * (2 * yes - 1)
    if classes is not None:
        return vote_margin(weights, found, labels, classes)
    expected = (weights * found).sum(1) / weights.sum(1)
    return -(labels - expected).abs()


def vote_margin(weights: Tensor, found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The vote share of the given class minus that of the best other one, float64 `[rows]`.

    Args:
        weights: of the votes, `[rows, neighbours]`.
        found: the neighbours' classes, `[rows, neighbours]`.
        labels: the given classes, `[rows]`.
        classes: how many there are.
    """
    votes = torch.zeros(len(labels), classes, dtype=torch.float64, device=labels.device)
    votes.scatter_add_(1, found, weights)
    votes /= votes.sum(1, keepdim=True)
    own = votes.gather(1, labels[:, None]).squeeze(1)
    others = votes.scatter(1, labels[:, None], -1.0)
    return own - others.amax(1)
