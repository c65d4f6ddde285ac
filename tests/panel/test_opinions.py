"""The margin of an opinion about a label."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.panel.opinions import panel_margin


def test_the_margin_is_the_log_ratio_to_the_best_other_class() -> None:
    opinions = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=np.float32)
    margin = panel_margin(opinions, np.array([0, 2, 0]))
    assert margin[0] == pytest.approx(np.log(0.7 / 0.2), rel=1e-5)
    assert margin[1] == pytest.approx(np.log(0.1 / 0.7), rel=1e-5)
    assert np.isfinite(margin).all()
    assert margin[2] < -20


def test_the_margin_of_a_set_is_that_of_its_worst_answer() -> None:
    opinions = np.array([[0.9, 0.2], [0.9, 0.2]], dtype=np.float32)
    margin = panel_margin(opinions, np.array([[1, 0], [1, 1]], dtype=np.uint8))
    assert margin == pytest.approx([np.log(0.8 / 0.2), np.log(0.2 / 0.8)], rel=1e-5)
