"""How much accuracy is lost when the rows that a method thinks best of are taken away: data valuation's own measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.detection_findings import Finding
from pipeline.training.batches import Selection
from pipeline.verification.retrain import train_and_measure

METHODS = ("winnow", "cleanlab", "aum", "knn_shapley_20")
NOISE, RATE = "uniform", 0.2
STEPS, SHARE = 10, 0.05
SEED = 1001


def accuracies(run_path: Path, findings: dict[str, Finding]) -> dict[str, list[float]]:
    """Holdout accuracy on all rows, then without the least suspicious 5, 10 … 50 % of them, by method.

    Every time the same model is trained anew, by the same recipe and seed.
    """

    def measure(keep: np.ndarray | None) -> float:
        return float(train_and_measure(run_path, Selection(keep=keep), SEED)["tail_score"].double().mean())

    on_all, found = measure(None), {}
    for method in METHODS:
        order = np.argsort(findings[method].suspicion, kind="stable")
        found[method] = [on_all]
        for step in range(1, STEPS + 1):
            keep = np.ones(len(order), dtype=bool)
            keep[order[: round(step * SHARE * len(order))]] = False
            found[method].append(measure(keep))
    return found


def weighted_accuracy_drop(accuracy: Sequence[float]) -> float:
    """Σ_j (a_0 − a_j) / j over the steps j ≥ 1 (Schoch et al. 2022, arXiv 2211.06800): early losses weigh more."""
    return sum((accuracy[0] - each) / step for step, each in enumerate(accuracy) if step)
