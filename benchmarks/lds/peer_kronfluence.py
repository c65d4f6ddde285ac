"""kronfluence's influence functions: EK-FAC of Linear and Conv2d layers at the final weights."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.lds.bases import Base
from benchmarks.lds.models import PADDING
from benchmarks.lds.peer import given, summed_loss, summed_query
from benchmarks.lds.rows import QUERIES
from benchmarks.lds.tasks import Task

BATCH = 256


DEFAULT_DAMPING = 1e-8
"""What kronfluence adds to eigenvalues unless it is told otherwise."""


def kronfluence_influence(base: Base, kind: str, _: str, damping: float | None = None) -> Tensor:
    """τ of influence functions: float64 `[queries, rows]`.

    damping: added to the eigenvalues; None takes a tenth of each layer's mean eigenvalue.
    """
    from kronfluence import analyzer, arguments

    logging.getLogger("kronfluence").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="kronfluence")
    asked, work = given(base, kind), task_of(base.task, kind)
    torch.manual_seed(base.seed)
    analyzed = analyzer.Analyzer(
        "lds",
        analyzer.prepare_model(asked.model, work),
        work,
        cpu=True,
        disable_tqdm=True,
        output_dir=kept(base.folder).name,
    )
    # Does nothing where factors are kept already.
    analyzed.fit_all_factors("ekfac", TensorDataset(*asked.fitted), per_device_batch_size=BATCH)
    name = f"{kind} {damping}"
    analyzed.compute_pairwise_scores(
        name,
        factors_name="ekfac",
        query_dataset=TensorDataset(*asked.queries),
        train_dataset=TensorDataset(*asked.rows),
        per_device_query_batch_size=QUERIES,
        per_device_train_batch_size=BATCH,
        score_args=arguments.ScoreArguments(
            aggregate_query_gradients=kind == "validation_loss", damping_factor=damping
        ),
    )
    found = analyzed.load_pairwise_scores(name)["all_modules"].double()
    return found / len(asked.fitted[1]) / (1 if kind == "margins" else len(asked.queries[1]))


@lru_cache(maxsize=1)
def kept(_: Path) -> tempfile.TemporaryDirectory[str]:
    """Where the factors of a base model are kept for all kinds of queries; gone once another one is asked for."""
    return tempfile.TemporaryDirectory()


def task_of(task: Task, kind: str) -> object:
    """What kronfluence wants to know: the loss of training, and what is measured on queries."""
    from kronfluence.task import Task as Wanted

    @dataclass
    class Work(Wanted):
        def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            outputs = model(batch[0])
            return summed_loss(task, outputs, drawn(task, outputs.detach()) if sample else batch[1])

        def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
            return summed_query(task, kind, model(batch[0]), batch[1])

        def get_attention_mask(self, batch: list[Tensor]) -> Tensor | None:
            return None if batch[0].is_floating_point() else batch[0] != PADDING

    return Work()


def drawn(task: Task, outputs: Tensor) -> Tensor:
    """Labels from the model's own distribution, of which the task's loss is the negative log density."""
    if task.recipe.loss == "squared_error":
        return outputs[:, 0] + 0.5**0.5 * torch.randn(len(outputs))
    return torch.multinomial(outputs.softmax(1), 1)[:, 0]
