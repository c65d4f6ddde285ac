"""How much each judge counts beside the best one, and what judges say together."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.judges.class_judges import (
    FULL_VOTE,
    NO_VOTE,
    PANEL_FULL_VOTE,
    PANEL_NO_VOTE,
    pooled,
    vote,
)

RANDOM = np.random.default_rng(0)


def opinions(sharpness: float, labels: np.ndarray) -> np.ndarray:
    logits = RANDOM.standard_normal((len(labels), 3))
    logits[np.arange(len(labels)), labels] += sharpness
    raised = np.exp(logits)
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("explains", "expected"), [(0.5, 1.0), (0.45, 1.0), (0.4, 0.5), (0.35, 0.0), (0.0, 0.0)]
)
def test_a_model_that_explains_clearly_less_has_no_vote(explains: float, expected: float) -> None:
    assert vote(explains, 0.5, NO_VOTE, FULL_VOTE) == pytest.approx(expected)


def test_the_panels_models_are_held_to_less() -> None:
    assert vote(0.35, 0.5, PANEL_NO_VOTE, PANEL_FULL_VOTE) > vote(0.35, 0.5, NO_VOTE, FULL_VOTE)


def test_where_nobody_explains_anything_all_count() -> None:
    assert vote(-0.2, -0.1, NO_VOTE, FULL_VOTE) == 1.0


def test_judges_together_are_probabilities_that_a_weightless_judge_does_not_move() -> None:
    labels = RANDOM.integers(0, 3, 200)
    one, two = opinions(2.0, labels), opinions(0.5, labels)
    together = pooled([one, two], np.array([1.0, 1.0]))
    assert together.sum(1) == pytest.approx(1, abs=1e-6)
    assert pooled([one, two], np.array([1.0, 0.0])) == pytest.approx(one, abs=1e-5)
    alone = max(-np.log(each[np.arange(200), labels]).mean() for each in (one, two))
    assert -np.log(together[np.arange(200), labels]).mean() < alone
