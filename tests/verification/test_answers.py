"""What people said of holdout rows, in the posterior that the arms are measured on."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.verification.answers import UNKNOWN, HoldoutAnswers, with_answers

POSTERIOR = np.array([[0.6, 0.3, 0.1], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=np.float32)
GIVEN = np.array([0, 0, 2])


def answers(right: list[bool], wrong: list[bool], labels: list[int]) -> HoldoutAnswers:
    return HoldoutAnswers(np.array(right), np.array(wrong), np.array(labels))


def test_a_named_label_is_certain() -> None:
    found = with_answers(
        POSTERIOR, GIVEN, answers([True, False, False], [False, True, False], [0, 1, UNKNOWN])
    )
    assert found[0].tolist() == [1, 0, 0]
    assert found[1].tolist() == [0, 1, 0]
    assert found[2] == pytest.approx(POSTERIOR[2])


def test_a_label_that_is_only_called_wrong_is_out_of_question() -> None:
    found = with_answers(POSTERIOR, GIVEN, answers([False] * 3, [False, True, False], [UNKNOWN] * 3))
    assert found[1] == pytest.approx([0, 0.5, 0.5])
    assert found[0] == pytest.approx(POSTERIOR[0])
