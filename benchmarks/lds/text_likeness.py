"""The simplest attribution of texts: how alike a row's words are to the query's, by TF-IDF."""

from __future__ import annotations

import torch
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

from benchmarks.lds.bases import Base
from benchmarks.lds.tasks import Task
from pipeline.features.kinds.text import token_counts

TEXT_FOLDERS = ("trec",)
"""Folders of tasks whose rows are token numbers."""


def takes_texts(task: Task, *_: object) -> bool:
    """Whether the task's rows are token numbers."""
    return task.folder in TEXT_FOLDERS


def tfidf_likeness(base: Base, kind: str, _: str) -> Tensor:
    """The cosine of TF-IDF vectors, fitted on the training rows; labels and the model play no part.

    Returns:
        float64 `[queries, rows]`; `[1, rows]`, the mean over queries, for the mean validation loss.
    """
    queries = torch.cat([inputs for inputs, _ in base.query_batches(kind)])
    width = int(max(base.data.inputs.max(), queries.max())) + 1
    weights = TfidfTransformer(sublinear_tf=True).fit(token_counts(base.data.inputs.numpy(), width))
    rows, asked = (
        weights.transform(token_counts(each.numpy(), width)) for each in (base.data.inputs, queries)
    )
    found = torch.from_numpy((asked @ rows.T).toarray()).double()
    return found if kind == "margins" else found.mean(0, keepdim=True)
