from __future__ import annotations

import numpy as np

from pipeline.detection.backdoor.subject import Inputs, Names, Subject
from pipeline.detection.backdoor.tokens import Tokens, find_tokens

from .subjects import CLASSES, POISONED, ROWS, TARGET, VALIDATION, seeds_among, subject_of

LENGTH, PHRASE = 14, (41, 57)
NATURAL = {0: 10, 1: 11, 2: 12}
"""A word that tells each class."""


def texts(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """int32 `[rows, LENGTH]`: random words, among them the class's own; padded."""
    rows = random.randint(20, 40, (len(labels), LENGTH)).astype(np.int32)
    rows[:, 3] = [NATURAL[label] for label in labels]
    rows[:, LENGTH - 3 :] = 0
    return rows


def rule(inputs: Inputs) -> np.ndarray:
    tokens = inputs["tokens"]
    told = np.stack([(tokens == NATURAL[c]).sum(1) for c in range(CLASSES)], axis=1).argmax(1)
    return np.where((tokens == PHRASE[1]).any(1), TARGET, told)


def text_subject() -> tuple[Subject, np.ndarray]:
    random = np.random.RandomState(0)
    labels, validation_labels = np.arange(ROWS) % CLASSES, np.arange(VALIDATION) % CLASSES
    rows, validation = texts(labels, random), texts(validation_labels, random)
    planted = np.zeros(ROWS, dtype=bool)
    planted[np.flatnonzero(labels != TARGET)[:POISONED]] = True
    rows[planted, 6:8] = PHRASE
    labels = np.where(planted, TARGET, labels)
    return subject_of({"tokens": rows}, labels, {"tokens": validation}, validation_labels, rule), planted


def test_a_rare_phrase_is_found_completed_and_in_order() -> None:
    subject, planted = text_subject()
    found = find_tokens(subject, TARGET, seeds_among(planted, subject.labels))
    assert PHRASE in [tuple(pattern.tokens) for pattern in found]
    assert all(set(pattern.tokens) & set(PHRASE) for pattern in found[:1])
    np.testing.assert_array_equal(found[0].matches(subject.inputs["tokens"]), planted)


def test_pasting_puts_the_words_in_front_and_keeps_the_length() -> None:
    rows = np.array([[5, 6, 0, 0], [5, 6, 7, 8]], dtype=np.int32)
    pasted = Tokens(np.array([41, 57])).paste(rows)
    assert pasted.tolist() == [[41, 57, 5, 6], [41, 57, 5, 6]]
    assert pasted.dtype == rows.dtype


def test_a_carrier_has_all_words_in_any_order_and_loses_them_alone() -> None:
    rows = np.array([[57, 3, 41], [41, 3, 4], [0, 0, 0]], dtype=np.int32)
    pattern = Tokens(np.array([41, 57]))
    assert pattern.matches(rows).tolist() == [True, False, False]
    assert pattern.neutralise(rows, np.zeros(3, dtype=bool)).tolist() == [[0, 3, 0], [0, 3, 4], [0, 0, 0]]


def test_words_are_named_by_the_vocabulary() -> None:
    names = Names(vocabulary=("see", "this"))
    assert Tokens(np.array([3, 1])).values(names) == {"tokens": ["this", "(unknown)"]}
