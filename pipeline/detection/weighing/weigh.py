"""Weighs the evidence about every train row: ranking, suggested labels, and how many labels are wrong."""

from __future__ import annotations

import numpy as np

from pipeline.detection.in_sample import looks_in_sample
from pipeline.detection.judges.class_judges import collect_judges
from pipeline.detection.weighing.by_panel import weigh_by_panel
from pipeline.detection.weighing.by_training import weigh_by_training
from pipeline.detection.weighing.targets import weigh_targets
from pipeline.detection.weighing.weighed import Weighed
from pipeline.runs.context import AuditContext
from pipeline.workers.worker import run_data


def weigh(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
    """Weigh the evidence by the kind of target.

    Args:
        context: of the audit.
        given: encoded labels, `[train rows]`.
        window: epochs of the early window.
    """
    task = run_data(context.run.path).encoding.task
    if task == "regression":
        return weigh_targets(context, given, window)
    judges = collect_judges(context, given, window)
    if judges is None:
        return weigh_by_training(context, given, window)
    if looks_in_sample(judges, given, context.config.detection.seed):
        judges = judges.without_own_probabilities()
    return weigh_by_panel(context, judges, given)
