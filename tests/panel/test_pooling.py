"""Calibration and means of opinions, against known truth."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.panel.pooling import baselines, fit_temperature
from pipeline.tasks.classification import CLASSIFICATION
from pipeline.tasks.multilabel import MULTILABEL
from pipeline.tasks.registry import TASKS
from pipeline.tasks.regression import REGRESSION


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits)
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_an_overconfident_judge_is_found(temperature: float) -> None:
    random = np.random.RandomState(0)
    truth = softmax(random.normal(0, 1.5, (20_000, 4)))
    labels = (truth.cumsum(1) > random.rand(20_000, 1)).argmax(1)
    said = CLASSIFICATION.tempered(truth, 1 / temperature)
    assert fit_temperature(said, labels, CLASSIFICATION) == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(CLASSIFICATION.tempered(said, temperature), truth, atol=1e-4)


def test_the_temperature_of_sets_divides_log_odds() -> None:
    random = np.random.RandomState(0)
    odds = random.normal(0, 1.5, (20_000, 2))
    labels = (random.rand(20_000, 2) < 1 / (1 + np.exp(-odds))).astype(np.uint8)
    said = 1 / (1 + np.exp(-2 * odds))
    assert fit_temperature(said, labels, MULTILABEL) == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(MULTILABEL.tempered(said, 2.0), 1 / (1 + np.exp(-odds)), atol=1e-6)


def test_the_mean_of_a_judge_and_itself_is_the_judge() -> None:
    opinions = softmax(np.random.RandomState(0).normal(size=(50, 3)))
    for task in TASKS.values():
        mean = task.mean_opinion([opinions, opinions], [0.3, 0.7])
        np.testing.assert_allclose(mean, opinions, atol=1e-9)


def test_a_judge_without_weight_does_not_count() -> None:
    random = np.random.RandomState(0)
    one, two = (softmax(random.normal(size=(50, 3))) for _ in range(2))
    np.testing.assert_allclose(CLASSIFICATION.mean_opinion([one, two], [1.0, 0.0]), one, atol=1e-9)


def test_baselines_are_those_of_the_shares() -> None:
    labels = np.repeat([0, 1], [900, 100])
    error, log_loss = baselines(labels, CLASSIFICATION, 2)
    assert error == pytest.approx(2 * 0.9 * 0.1)
    assert log_loss == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1))
    sets = np.stack([labels, labels], 1)
    assert baselines(sets, MULTILABEL, 2)[0] == pytest.approx(2 * 0.09)
    assert baselines(np.array([0.0, 0.0, 3.0]), REGRESSION, 1) == (1.0, None)


def test_squared_errors_sum_over_classes() -> None:
    opinions = np.array([[0.5, 0.3, 0.2]])
    found = CLASSIFICATION.errors(opinions, np.array([0]))
    assert found[0] == pytest.approx(0.25 + 0.09 + 0.04)
