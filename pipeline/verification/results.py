"""What the retrainings of an arm measured, read back and compared with another arm's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pipeline.verification.statistics import difference_interval


@dataclass(frozen=True)
class ArmResult:
    """The retrainings of one arm, one per seed.

    rows: how many rows it trained on; scores, losses, final_scores: float64 `[seeds, holdout rows]`, the
    last at the final weights, the others at the tail average; validation_losses: float64 `[seeds]`, or
    None; trigger_success: float64 `[seeds, alarms]`, or None without
    alarms; seconds: per training.
    """

    rows: int
    scores: np.ndarray
    losses: np.ndarray
    final_scores: np.ndarray
    validation_losses: np.ndarray | None
    trigger_success: np.ndarray | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The arm as it stands in verification.json: the means over the holdout, one per seed."""
        return {
            "rows": self.rows,
            "metric": self.scores.mean(1).tolist(),
            "metric_final": self.final_scores.mean(1).tolist(),
            "loss": self.losses.mean(1).tolist(),
        }


def read_results(paths: Sequence[Path]) -> ArmResult:
    """Read the files that `retrain` wrote, one per seed, in the order given."""
    files = [load_file(path) for path in paths]

    def stacked(name: str) -> np.ndarray:
        return np.stack([file[name] for file in files]).astype(np.float64)

    return ArmResult(
        rows=int(files[0]["rows"]),
        scores=stacked("tail_score"),
        losses=stacked("tail_loss"),
        final_scores=stacked("final_score"),
        validation_losses=stacked("validation_loss") if "validation_loss" in files[0] else None,
        trigger_success=stacked("trigger_success") if "trigger_success" in files[0] else None,
        seconds=float(stacked("seconds").mean()),
    )


def compare(arm: ArmResult, other: ArmResult) -> dict[str, dict[str, float]]:
    """`arm` minus `other`, paired by seed and holdout row: intervals of the metric and of the loss."""
    return {
        "metric": difference_interval(arm.scores - other.scores).as_json(),
        "loss": difference_interval(arm.losses - other.losses).as_json(),
    }
