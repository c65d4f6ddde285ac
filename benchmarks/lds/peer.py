"""What other implementations of influence functions are given: final weights, rows, queries, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.lds.bases import Base
from benchmarks.lds.rows import QUERIES
from benchmarks.lds.tasks import Task
from benchmarks.lds.truth import loss, query_values
from pipeline.attribution.trajectory.weights import restore_weights

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Given:
    """What our own influence functions get: rows of all stages are scored, curvature is that of the last stage's.

    model: with a base model's final weights, in evaluation mode; rows, fitted, queries: inputs and labels. A mean
    over rows is over those of the last stage, `fitted`.
    """

    model: nn.Module
    rows: Rows
    fitted: Rows
    queries: Rows


def given(base: Base, kind: str) -> Given:
    model, data = base.task.build(), base.data
    last = len(base.trajectory.checkpoints) - 1
    restore_weights(model, base.trajectory.load_weights(last), base.trajectory.checkpoints[last].path)
    count = QUERIES if kind == "margins" else len(data.validation_labels)
    end = torch.from_numpy(data.stages == data.stages.max())
    return Given(
        model.eval(),
        (data.inputs, data.labels),
        (data.inputs[end], data.labels[end]),
        (data.validation_inputs[:count], data.validation_labels[:count]),
    )


def summed_loss(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    return loss(task, outputs, labels) * len(labels)


def summed_query(task: Task, kind: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """Σ over queries of their margins or of their losses."""
    if kind == "margins":
        return query_values(task, outputs, labels).sum()
    return summed_loss(task, outputs, labels)
