"""kronfluence's influence functions on the tasks' MLPs, with its defaults: EK-FAC at the final weights."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks.lds.bases import Base
from benchmarks.lds.models import mlp
from benchmarks.lds.tasks import QUERIES, Task
from benchmarks.lds.truth import query_values
from pipeline.attribution.weights import restore_weights

BATCH = 256


def suits(task: Task) -> bool:
    """Whether kronfluence is asked: one stage of classification by an MLP."""
    classes = task.recipe.loss == "cross_entropy" and len(task.recipe.epochs) == 1
    return classes and getattr(task.build, "func", None) is mlp


def kronfluence_influence(base: Base, kind: str, _: str) -> Tensor:
    """τ of influence functions, damped by a tenth of the mean eigenvalue: float64 `[queries, rows]`."""
    from kronfluence import analyzer, arguments

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="kronfluence")
    model, data = base.task.build(), base.data
    last = len(base.trajectory.checkpoints) - 1
    restore_weights(model, base.trajectory.load_weights(last), base.trajectory.checkpoints[last].path)
    work = classification(base.task, kind)
    count = QUERIES if kind == "margins" else len(data.validation_labels)
    rows = TensorDataset(data.inputs, data.labels)
    query = TensorDataset(data.validation_inputs[:count], data.validation_labels[:count])
    torch.manual_seed(base.seed)
    with tempfile.TemporaryDirectory() as folder:
        common = {"cpu": True, "disable_tqdm": True, "output_dir": folder, "log_level": 40}
        asked = analyzer.Analyzer("lds", analyzer.prepare_model(model, work), work, **common)
        asked.fit_all_factors("ekfac", rows, per_device_batch_size=BATCH)
        asked.compute_pairwise_scores(
            "pairs",
            factors_name="ekfac",
            query_dataset=query,
            train_dataset=rows,
            per_device_query_batch_size=QUERIES,
            per_device_train_batch_size=BATCH,
            score_args=arguments.ScoreArguments(
                aggregate_query_gradients=kind == "validation_loss", damping_factor=None
            ),
        )
        found = asked.load_pairwise_scores("pairs")["all_modules"].double()
    return found / len(data.labels) / (1 if kind == "margins" else count)


def classification(task: Task, kind: str) -> object:
    """What kronfluence wants to know: the loss of training, and what is measured on queries."""
    from kronfluence.task import Task as Asked

    @dataclass
    class Classification(Asked):
        def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            outputs = model(batch[0])
            labels = batch[1]
            if sample:
                labels = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return functional.cross_entropy(outputs, labels, reduction="sum")

        def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
            if kind == "validation_loss":
                return self.compute_train_loss(batch, model)
            return query_values(task, model(batch[0]), batch[1]).sum()

    return Classification()
