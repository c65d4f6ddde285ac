"""What the retrainings of an arm measured, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


@dataclass(frozen=True)
class RoleResult:
    """An arm's retrainings on the rows of validation or holdout, at the tail average.

    scores, losses: float64 `[seeds, rows]`; in classification top: the class predicted `[seeds, rows]`, and
    log_probabilities: float16 `[seeds, rows, classes]`, else None.
    """

    scores: np.ndarray
    losses: np.ndarray
    top: np.ndarray | None = None
    log_probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class ArmResult:
    """The retrainings of one arm, one per seed.

    rows: how many rows it trained on; holdout, validation: what was measured there, or None without validation rows;
    final_scores: float64 `[seeds, holdout rows]` at the final weights; trigger_success: float64 `[seeds, alarms]`, or
    None without alarms; seconds: per training.
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
        """The mean over the validation rows, float64 `[seeds]`."""
        return None if self.validation is None else self.validation.losses.mean(1)

    def as_json(self, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The arm as it stands in verification.json: the means over the holdout rows (all, or `rows`), one per seed."""
        mine = slice(None) if rows is None else rows
        return {
            "rows": self.rows,
            "metric": self.scores[:, mine].mean(1).tolist(),
            "metric_final": self.final_scores[:, mine].mean(1).tolist(),
            "loss": self.losses[:, mine].mean(1).tolist(),
        }


def read_results(paths: Sequence[Path]) -> ArmResult:
    """Read the files that `retrain` wrote, one per seed, in the order given."""
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
