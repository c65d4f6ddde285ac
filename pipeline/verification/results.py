"""Reads the results of an arm's retrainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


@dataclass(frozen=True)
class RoleResult:
    """The results of an arm's retrainings on the rows of one role, at the tail average of the weights.

    Attributes:
        scores: float64 `[seeds, rows]`; the mean over the rows is the metric.
        losses: float64 `[seeds, rows]`.
        top: predicted classes, `[seeds, rows]`; None for other tasks than classification.
        log_probabilities: float16 `[seeds, rows, classes]`; None for other tasks than classification.
    """

    scores: np.ndarray
    losses: np.ndarray
    top: np.ndarray | None = None
    log_probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class ArmResult:
    """The results of an arm's retrainings, one per seed.

    Attributes:
        rows: how many rows the arm trains on.
        holdout: results on the holdout rows.
        final_scores: float64 `[seeds, holdout rows]`, at the final weights.
        validation: results on the validation rows; None without them.
        trigger_success: float64 `[seeds, alarms]`; None without backdoor alarms.
        seconds: mean time of a training.
    """

    rows: int
    holdout: RoleResult
    final_scores: np.ndarray
    validation: RoleResult | None = None
    trigger_success: np.ndarray | None = None
    seconds: float = 0.0

    @property
    def scores(self) -> np.ndarray:
        return self.holdout.scores

    @property
    def losses(self) -> np.ndarray:
        return self.holdout.losses

    @property
    def validation_losses(self) -> np.ndarray | None:
        """The mean loss over the validation rows, float64 `[seeds]`; None without validation rows."""
        return None if self.validation is None else self.validation.losses.mean(1)

    def as_json(self, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The arm's entry in verification.json: means over the holdout rows (all, or those of `rows`), one per seed."""
        mine = slice(None) if rows is None else rows
        return {
            "rows": self.rows,
            "metric": self.scores[:, mine].mean(1).tolist(),
            "metric_final": self.final_scores[:, mine].mean(1).tolist(),
            "loss": self.losses[:, mine].mean(1).tolist(),
        }


def read_results(paths: Sequence[Path]) -> ArmResult:
    """Read the files that `retrain` wrote, one per seed, in the order of `paths`."""
    files = [load_file(path) for path in paths]

    def stacked(name: str) -> np.ndarray:
        return np.stack([file[name] for file in files]).astype(np.float64)

    def measured(name: str) -> RoleResult:
        classes = f"{name}_top" in files[0]
        return RoleResult(
            scores=stacked(f"{name}_score"),
            losses=stacked(f"{name}_losses"),
            top=np.stack([file[f"{name}_top"] for file in files]) if classes else None,
            log_probabilities=np.stack([file[f"{name}_log_probability"] for file in files])
            if classes
            else None,
        )

    return ArmResult(
        rows=int(files[0]["rows"]),
        holdout=measured("tail"),
        final_scores=stacked("final_score"),
        validation=measured("validation") if "validation_score" in files[0] else None,
        trigger_success=stacked("trigger_success") if "trigger_success" in files[0] else None,
        seconds=float(stacked("seconds").mean()),
    )
