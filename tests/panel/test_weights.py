"""Weights by skill out of fold."""

from __future__ import annotations

import pytest

from pipeline.panel.weights import Measured, weigh


def weights(*errors: float, baseline: float = 1.0) -> list[float]:
    found = weigh([Measured(f"judge {place}", 1.0, error) for place, error in enumerate(errors)], baseline)
    assert all((each.weight == 0) == each.why.startswith("left out") for each in found)
    return [each.weight for each in found]


def test_equal_judges_weigh_the_same() -> None:
    assert weights(0.4, 0.4) == pytest.approx([0.5, 0.5])


def test_a_better_judge_weighs_more() -> None:
    good, worse = weights(0.2, 0.4)
    assert good / worse == pytest.approx((0.8 / 0.6) ** 4)


def test_a_clearly_worse_judge_does_not_count() -> None:
    assert weights(0.2, 0.6, 1.1) == [1.0, 0.0, 0.0]


def test_where_nobody_predicts_anything_all_weigh_the_same() -> None:
    assert weights(1.0, 1.2) == [0.5, 0.5]
