"""Predictions of the audited model for validation and holdout rows."""

from __future__ import annotations

import numpy as np

from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.scoring.attribute import predictions
from pipeline.scoring.plan import ScoringPlan, batches, plans
from pipeline.workers.worker import run_data


def predict_unseen(context: AuditContext, role: str) -> np.ndarray:
    """The predictions at the tail average, encoded as labels, `[rows]`, or `[rows, labels]` for sets."""
    path = context.run.path
    whole, chunks = (
        plans(path, context.config, context.run.facts("train")["early_epoch"])[0],
        run_data(path).chunks(role),
    )
    tasks = [(whole, chunk) for chunk in chunks]
    return np.concatenate(
        context.workers.run(_predict_chunk, tasks, [f"{role} rows: chunk {c.id}" for c in chunks])
    )


def _predict_chunk(plan: ScoringPlan, chunk: Chunk) -> np.ndarray:
    """The predictions for the rows of a chunk (a task for a worker)."""
    return predictions(plan, list(batches(plan.run_path, chunk))).numpy()
