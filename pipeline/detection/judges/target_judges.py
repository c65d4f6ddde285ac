"""Judges of numeric targets: the panel's models out of fold and the audited model by its halves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.judges.class_judges import FULL_VOTE, NO_VOTE, vote
from pipeline.detection.judges.residuals import robust_deviation
from pipeline.panel.opinions import Panel, read_panel
from pipeline.runs.context import AuditContext


@dataclass(frozen=True)
class TargetJudges:
    """given: encoded train targets `[rows]`; by_halves: what the halves predict of them; explains: R² of the panel out
    of fold; vote: how much the training counts beside it, 0 … 1."""

    panel: Panel
    given: np.ndarray
    by_halves: np.ndarray
    explains: float
    vote: float

    def predicted(self, role: str) -> np.ndarray:
        """float64 `[rows]`: the panel's prediction; on train rows the training has its share in it."""
        found = np.asarray(self.panel.mean(role), dtype=np.float64)
        if role != "train":
            return found
        return (found + self.vote / 2 * self.by_halves) / (1 + self.vote / 2)

    def deviation(self, role: str, targets: np.ndarray | None = None) -> np.ndarray:
        """Robust deviations of the role's targets (train: those given) from what is predicted, float64 `[rows]`."""
        return robust_deviation(self.given if targets is None else targets, self.predicted(role))


def collect_target_judges(
    context: AuditContext, given: np.ndarray, by_halves: np.ndarray
) -> TargetJudges | None:
    """None without a panel."""
    panel = read_panel(context.run.path)
    if panel is None:
        return None
    of_panel, of_model = (explained(given, each) for each in (panel.mean("train"), by_halves))
    return TargetJudges(
        panel,
        given.astype(np.float64),
        by_halves,
        of_panel,
        vote(of_model, max(of_panel, of_model), NO_VOTE, FULL_VOTE),
    )


def explained(targets: np.ndarray, predicted: np.ndarray) -> float:
    """R², robustly: 1 − (median absolute residual / that of the median)².

    Residuals are taken from their median, as `robust_deviation` takes them: a few targets that are far too large move
    all predictions alike, which hides no wrong target.
    """
    residuals = targets - predicted
    residual = np.median(np.abs(residuals - np.median(residuals)))
    usual = np.median(np.abs(targets - np.median(targets)))
    return float(1 - (residual / usual) ** 2) if usual > 0 else 0.0
