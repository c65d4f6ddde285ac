"""The simplest attributions: how alike a row is to the query, by the model's last features or by their words.

Labels play no part. A row that is like the query is taken to help it: without the row its margin would be lower and its
loss higher.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

from benchmarks.lds.bases import Base
from benchmarks.lds.tasks import Task
from pipeline.features.kinds.text import token_counts

TEXT_FOLDERS = ("trec", "sst2")
"""Folders of tasks whose rows are token numbers."""
K1, B = 1.5, 0.75
"""BM25's usual settings: how fast repeated words stop to count, and how much the length of a text counts."""


def takes_texts(task: Task, *_: object) -> bool:
    """Whether the task's rows are token numbers."""
    return task.folder in TEXT_FOLDERS


def helping(base: Base, kind: str, likeness: Tensor) -> Tensor:
    """τ of likenesses `[queries, rows]`: the measurement's rise on removal, up to a factor.

    Returns:
        float64 `[queries, rows]`; `[1, rows]`, the mean over queries, for the mean validation loss.
    """
    if kind == "validation_loss":
        return likeness.mean(0, keepdim=True)
    return -likeness if base.task.measures_margins else likeness


def tfidf_likeness(base: Base, kind: str, _: str) -> Tensor:
    """The cosine of TF-IDF vectors, fitted on the training rows."""
    rows, queries = counts(base, kind)
    weights = TfidfTransformer(sublinear_tf=True).fit(rows)
    found = (weights.transform(queries) @ weights.transform(rows).T).toarray()
    return helping(base, kind, torch.from_numpy(found).double())


def bm25_likeness(base: Base, kind: str, _: str) -> Tensor:
    """BM25 of the training rows for the query's words, each of which counts once."""
    rows, queries = counts(base, kind)
    return helping(base, kind, torch.from_numpy(bm25(rows, queries)))


def bm25(rows: sparse.csr_matrix, queries: sparse.csr_matrix) -> np.ndarray:
    """BM25 with the idf log(1 + (N − n + ½)/(n + ½)), float64 `[queries, rows]`, of counts `[…, words]`."""
    counted = rows.astype(np.float64).tocsr()
    lengths = np.asarray(counted.sum(1)).ravel()
    present = np.asarray((counted > 0).sum(0)).ravel()
    idf = np.log1p((len(lengths) - present + 0.5) / (present + 0.5))
    each = np.repeat(lengths / lengths.mean(), np.diff(counted.indptr))
    counted.data = counted.data * (K1 + 1) / (counted.data + K1 * (1 - B + B * each))
    found: np.ndarray = ((queries > 0).astype(np.float64).multiply(idf).tocsr() @ counted.T).toarray()
    return found


def counts(base: Base, kind: str) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """How often each word is in the training rows and in the queries."""
    queries = torch.cat([inputs for inputs, _ in base.query_batches(kind)])
    width = int(max(base.data.inputs.max(), queries.max())) + 1
    return token_counts(base.data.inputs.numpy(), width), token_counts(queries.numpy(), width)
