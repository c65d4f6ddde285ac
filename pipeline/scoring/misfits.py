"""Whether a training that was recorded elsewhere (`training.trajectory`) had the loss that the audit takes."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.attribution.misfits.words import Remedies, misfits
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.stages import StageRows
from pipeline.config import AuditConfig
from pipeline.scoring.plan import ScoringPlan, StoredPoints, TrainPairs, batches
from pipeline.workers.worker import run_config, run_data, run_objective

IN_AUDIT = Remedies(
    reduction="audits add up the losses of a row's outputs, so record a training whose loss does so too.",
    smoothing="set training.label_smoothing to the value of training.",
    loss="Set training.label_smoothing, training.class_weights and data.weight as training had them.",
)


class _WeightedRows(StageRows):
    """All train rows with their weights in training."""

    def __iter__(self) -> Iterator[Batch]:
        assert isinstance(self.batches, TrainPairs)
        for chunk in run_data(self.batches.run_path).chunks("train"):
            yield from batches(self.batches.run_path, chunk)


def told_apart(config: AuditConfig, plan: ScoringPlan) -> bool:
    """Whether the audit takes the loss of a training that it has not done, for scores that have the scale of it."""
    similarity = plan.similarity
    return config.training.trajectory is not None and (similarity is None or similarity.metric is not None)


def recorded_misfits(plan: ScoringPlan) -> list[str]:
    """What of the recorded losses and gradient norms does not fit the audit's loss (a task for a worker)."""
    rows = _WeightedRows(TrainPairs(plan.run_path), run_objective(plan.run_path))
    points, seed = StoredPoints(plan), run_config(plan.run_path).training.seed
    stages = range(len(plan.trajectory().stages))
    return [
        f"training.trajectory: {said}"
        for stage in stages
        for said in misfits(points, rows, stage, seed, IN_AUDIT)
    ]
