"""What is never removed by default: rows of rare classes, however suspicious they look."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.rules.protection import RARE, flags_of_rare, held_back, rare_classes, rare_note
from pipeline.text.decisions import Decision

KEEP, REVIEW, REMOVE, RELABEL = Decision

LABELS = np.repeat([0, 1, 2], [940, 940, 20])


def test_a_class_far_below_an_even_share_is_rare() -> None:
    assert rare_classes(LABELS, 3).tolist() == [False, False, True]
    even = int(RARE * 1000)  # of two classes with 1,000 rows each, an even share is 1,000 rows
    assert not rare_classes(np.repeat([0, 1], [2000 - even, even]), 2).any()
    assert rare_classes(np.repeat([0, 1], [2001 - even, even - 1]), 2).tolist() == [False, True]


def test_a_class_without_rows_is_not_rare_and_does_not_make_others_so() -> None:
    assert rare_classes(np.repeat([0, 3], [50, 50]), 10).tolist() == [False] * 10


def test_protected_rows_are_reviewed_and_never_removed_or_relabelled() -> None:
    decision = np.array([KEEP, REVIEW, REMOVE, RELABEL] * 2, dtype=np.uint8)
    held = held_back(decision, np.repeat([True, False], 4))
    assert held.tolist() == [KEEP, REVIEW, REVIEW, REVIEW, KEEP, REVIEW, REMOVE, RELABEL]
    assert held.dtype == decision.dtype
    of_rare = held_back(np.full(len(LABELS), REMOVE, dtype=np.uint8), rare_classes(LABELS, 3)[LABELS])
    assert set(of_rare[LABELS == 2]) == {REVIEW}
    assert set(of_rare[LABELS != 2]) == {REMOVE}


def test_flags_of_a_rare_class_are_compared_with_its_size() -> None:
    decision = np.zeros(len(LABELS), dtype=np.uint8)
    decision[:90] = REVIEW
    decision[-10:] = REVIEW
    (found,) = flags_of_rare(decision, LABELS, 3)
    assert (found.label, found.rows, found.flagged) == (2, 20, 10)
    assert found.expected == pytest.approx(20 * 100 / 1900)


def test_the_note_names_the_rare_class_that_stands_out_most() -> None:
    labels = np.repeat([0, 1, 2], [2000, 20, 20])
    decision = np.zeros(len(labels), dtype=np.uint8)
    decision[-9:] = REVIEW
    decision[2000:2003] = REVIEW
    note = rare_note(flags_of_rare(decision, labels, 3), ["common", "rare", "rarer"], len(labels))
    assert note is not None
    assert "rarer" in note
    assert "9 flagged rows" in note
    assert "0.1" in note


def test_nothing_is_said_of_rare_classes_without_flags() -> None:
    decision = np.zeros(len(LABELS), dtype=np.uint8)
    decision[:50] = REMOVE
    assert flags_of_rare(decision, LABELS, 3) == []
    assert rare_note([], [], len(LABELS)) is None
