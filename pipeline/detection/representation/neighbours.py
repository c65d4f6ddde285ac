"""A row's nearest neighbours, as the model sees rows early in training, and how they vote on its label.

Neighbours are looked for among a seeded sample of the train rows: exactly, or, from EXACT reference rows on, in an
index (inverted lists of k-means cells, Johnson et al. 2019, arXiv 1702.08734).
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
"""Reference rows up to which every one is compared."""
LISTS = 4.0
"""Cells of the index, in units of the square root of the reference rows."""
PROBES = 64
"""Cells that are searched for each row."""
SLICE = 1024


def build_index(features: Tensor, path: Path, seed: int) -> None:
    """Write an index of unit-length rows, float32 `[rows, width]`; on one thread the same rows give the same bytes."""
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
    """Cosines and places of the nearest reference rows, `[rows, count]`; what the cells lack has the cosine −2."""
    faiss.omp_set_num_threads(1)
    index = keep("neighbour index", path, lambda: faiss.read_index(str(path), faiss.IO_FLAG_MMAP))
    similarity, places = index.search(features.cpu().numpy(), count)
    similarity[places < 0] = -2.0
    return torch.from_numpy(similarity), torch.from_numpy(np.maximum(places, 0))


def search_exactly(reference: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same by comparing with every reference row, float32 `[reference rows, width]`."""
    parts = [
        (features[start : start + SLICE] @ reference.T).topk(count, dim=1)
        for start in range(0, len(features), SLICE)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def without_self(similarity: Tensor, places: Tensor, own: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` neighbours that are not the row itself; own: bool `[rows, neighbours]`."""
    similarity = similarity.masked_fill(own, -2.0)
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :count]
    return similarity.gather(1, order), places.gather(1, order)


def margins(similarity: Tensor, found: Tensor, labels: Tensor, classes: int | None) -> Tensor:
    """float64 `[rows]`: `vote_margin`, or in regression (classes: None) minus the distance to the neighbours' mean.

    Of sets of labels, `[rows, labels]`: the vote on each, for the given answer (yes or no) minus for the other.
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
    """Shares of the votes: own minus the best other; weights and found labels are `[rows, neighbours]`."""
    votes = torch.zeros(len(labels), classes, dtype=torch.float64, device=labels.device)
    votes.scatter_add_(1, found, weights)
    votes /= votes.sum(1, keepdim=True)
    own = votes.gather(1, labels[:, None]).squeeze(1)
    others = votes.scatter(1, labels[:, None], -1.0)
    return own - others.amax(1)
