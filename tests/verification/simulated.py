"""Arms with known truth: what they predict is drawn, so that every measure can be held against the true gain."""

from __future__ import annotations

import numpy as np

from pipeline.verification.measures import Evidence
from pipeline.verification.results import ArmResult, RoleResult


def role_result(right: np.ndarray, truth: np.ndarray, given: np.ndarray, sureness: float = 0.8) -> RoleResult:
    """Two classes; `right`, bool `[seeds, rows]`: where the model predicts the truth, with probability `sureness`."""
    top = np.where(right, truth, 1 - truth).astype(np.int16)
    probability = np.where(np.arange(2) == top[..., None], sureness, 1 - sureness)
    logs = np.log(probability)
    losses = -np.take_along_axis(logs, np.broadcast_to(given[None, :, None], (*top.shape, 1)), 2)[..., 0]
    return RoleResult((top == given).astype(float), losses, top, logs.astype(np.float16))


def arm_result(holdout: RoleResult, validation: RoleResult | None = None) -> ArmResult:
    return ArmResult(100, holdout, holdout.scores, validation)


def evidence(
    given: np.ndarray,
    posterior: np.ndarray | None = None,
    contradicted: np.ndarray | None = None,
    clean: bool = False,
) -> Evidence:
    return Evidence(
        clean,
        given,
        {} if posterior is None else {"posterior": posterior.astype(np.float32)},
        {} if contradicted is None else {"uncontradicted": contradicted},
    )
