"""Regressors of the panel against the true function under exchanged targets."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge

from pipeline.panel.judges import BY_NAME
from pipeline.panel.trimmed import FOLDS, Trimmed


def noisy(seed: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features, targets of which a share is exchanged among rows, true targets)."""
    random = np.random.RandomState(seed)
    features = random.uniform(-2, 2, (600, 3))
    truth = 3 * features[:, 0] + features[:, 1]
    targets = truth + 0.1 * random.standard_normal(600)
    wrong = random.permutation(600)[: int(share * 600)]
    targets[wrong] = np.roll(targets[wrong], 1)
    return features, targets, truth


def error(model: object, features: np.ndarray, targets: np.ndarray, truth: np.ndarray) -> float:
    fitted = model.fit(features[:400], targets[:400])  # type: ignore[attr-defined]
    return float(np.abs(fitted.predict(features[400:]) - truth[400:]).mean())


@pytest.mark.parametrize(
    "regressor", [Ridge(1.0), ExtraTreesRegressor(50, min_samples_leaf=2, random_state=0)]
)
def test_wrong_targets_move_predictions_less_than_without_trimming(regressor: object) -> None:
    errors = [
        (error(Trimmed(regressor, 0), *noisy(seed, 0.2)), error(regressor, *noisy(seed, 0.2)))
        for seed in range(3)
    ]
    trimmed, plain = np.mean(errors, axis=0)
    assert trimmed < 0.85 * plain


def test_right_targets_lose_little() -> None:
    regressor = ExtraTreesRegressor(50, min_samples_leaf=2, random_state=0)
    assert error(Trimmed(regressor, 0), *noisy(0, 0)) < 1.3 * error(regressor, *noisy(0, 0))


def test_a_judge_of_targets_is_moved_little_by_targets_a_thousand_times_too_large() -> None:
    features, targets, truth = noisy(0, 0.1)
    far = targets + 1000 * (np.abs(targets - truth) > 1)
    make = BY_NAME["boosting"].regressor
    assert make is not None
    assert error(make(400, 1, 0), features, far, truth) < 1.3 * error(
        make(400, 1, 0), features, targets, truth
    )


def test_targets_that_are_all_the_same_and_few_rows_are_fitted() -> None:
    features = np.arange(12.0).reshape(6, 2)
    assert Trimmed(Ridge(), 0).fit(features, np.ones(6)).predict(features) == pytest.approx(np.ones(6))
    few = features[: FOLDS - 1]
    assert len(Trimmed(Ridge(), 0).fit(few, np.arange(2.0)).predict(features)) == 6
