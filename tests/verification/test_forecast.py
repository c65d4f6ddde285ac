from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.verification.forecast import predicted_loss_change


@given(st.integers(0, 1000), st.integers(0, 11))
def test_a_mean_fitted_with_steps_kept_moves_as_forecast(seed: int, gone: int) -> None:
    """The oracle is closed: the model is the weighted mean of targets y, its query loss is linear in it.

    With weights 1/N, τ_i is −q·(y_i − θ)/N to first order (removal of one row), where θ = mean y; removing R
    with the steps kept moves θ to the mean of the kept rows, by −Σ_R (y_i − θ) / (N − k), exactly.
    """
    random = np.random.RandomState(seed)
    targets, query = random.standard_normal(12), 1.7
    removed = np.zeros(12, dtype=bool)
    removed[random.permutation(12)[:gone]] = True
    # The plain sum's τ carries an offset: removing any row also takes its steps away.
    effects = -query * (targets - targets.mean()) / 12 + 0.3
    moved = query * (targets[~removed].mean() - targets.mean())
    assert predicted_loss_change(effects, removed) == pytest.approx(moved, abs=1e-12)
