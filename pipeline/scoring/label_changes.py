"""Forecasts how another label of a single train row would change the mean validation loss, for flagged rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.attribution.methods import RELABEL, find_method
from pipeline.attribution.model.precision import matrix_products
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.relabelling import relabel_effects
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.scoring.plan import ScoringPlan, attribution_model, batch_of, plans
from pipeline.training.batches import weighted
from pipeline.training.setup import class_weights
from pipeline.workers.worker import run_config, run_data, run_objective


def label_change_effects(context: AuditContext, places: np.ndarray, new_labels: Tensor) -> np.ndarray | None:
    """Forecast the change of the mean validation loss if a row gets another label; negative changes are gains.

    Method, scale and averaged trainings are those of `validation_harm`, whose negative is the effect of removing a row.

    Args:
        context: of the audit.
        places: of the rows among the train rows, int64 `[k]`.
        new_labels: encoded, `[k, …]`.

    Returns:
        float64 `[k]`, in nats; None without validation rows, and for a method without such a forecast.
    """
    path, config = context.run.path, context.config
    data = run_data(path)
    if data.count("validation") == 0 or RELABEL not in find_method(config.attribution.method).options:
        return None
    places = np.asarray(places)
    ensemble = config.attribution.ensemble
    runs = [path, *(context.repeat(context, number).run.path for number in range(2, ensemble + 1))]
    early = context.run.facts("train")["early_epoch"]
    tasks, names, found = [], [], []
    for chunk in data.chunks("train"):
        inside = chunk.holds(places)
        if not len(inside):
            continue
        rows = torch.from_numpy(places[inside] - chunk.first)
        for run in runs:
            plan = plans(run, context.config, early)[0]
            tasks.append((plan, chunk, rows, new_labels[torch.from_numpy(inside)]))
            names.append(f"forecast of other labels: chunk {chunk.id}")
            found.append(inside)
    total = np.zeros(len(places))
    for inside, effects in zip(
        found, context.workers.run(_label_changes_of_chunk, tasks, names), strict=True
    ):
        total[inside] += effects / len(runs)
    return total


def _label_changes_of_chunk(
    plan: ScoringPlan, chunk: Chunk, places: Tensor, new_labels: Tensor
) -> np.ndarray:
    """The forecasts for the rows `places` of a chunk, float64 `[k]`, in nats (a task for a worker)."""
    path = plan.run_path
    model, config = attribution_model(path), run_config(path)
    given, changed = _with_new_labels(plan, chunk, places, new_labels)
    with matrix_products(config.attribution.precision):
        effects = relabel_effects(
            model,
            lambda checkpoint: plan.load_checkpoint(model, checkpoint),
            run_objective(path),
            given,
            [batch.labels for batch in changed],
            plan.prepared_segments(),
            plan.trajectory().train_rows,
            plan.query_filters(),
            new_weights=[batch.weights for batch in changed],
        )
    return (effects * plan.scale()).numpy()


def _with_new_labels(
    plan: ScoringPlan, chunk: Chunk, places: Tensor, new_labels: Tensor
) -> tuple[list[Batch], list[Batch]]:
    """The rows with their given and with their new labels, in equal batches, each with the weight of its class."""
    path = plan.run_path
    config, data = run_config(path), run_data(path)
    rows = data.load(chunk).select(places)
    other = replace(rows, labels=new_labels.to(rows.labels.dtype))
    by_class, size = class_weights(config.training, data), config.attribution.batch_size
    return tuple(
        [batch_of(path, part.select(slice(start, start + size))) for start in range(0, len(places), size)]
        for part in (weighted(rows, by_class), weighted(other, by_class))
    )  # type: ignore[return-value]
