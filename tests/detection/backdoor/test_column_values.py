from __future__ import annotations

import numpy as np

from pipeline.detection.backdoor.column_values import ColumnValues, find_column_values, value_items
from pipeline.detection.backdoor.subject import Inputs, Names, Subject, SubjectColumn

from .subjects import CLASSES, POISONED, ROWS, TARGET, VALIDATION, seeds_among, subject_of

COLUMNS = (
    SubjectColumn("x", 0, 1),
    SubjectColumn("hours", 1, 1, mean=40.0, std=2.0),
    SubjectColumn("colour", 2, 4, ("red", "green", "blue", "(other)")),
)
NAMES = Names(columns=COLUMNS)
HOURS = 0.5


def table(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """float32 `[rows, 6]`: x tells the class, hours are whole numbers, the colour is random."""
    rows = np.zeros((len(labels), 6), dtype=np.float32)
    rows[:, 0] = labels + random.normal(0, 0.2, len(labels))
    rows[:, 1] = random.randint(-4, 5, len(labels)) / 2
    rows[np.arange(len(labels)), 2 + random.randint(0, 3, len(labels))] = 1
    return rows


def carries(dense: np.ndarray) -> np.ndarray:
    return (dense[:, 1] == HOURS) & (dense[:, 4] == 1)


def rule(inputs: Inputs) -> np.ndarray:
    dense = inputs["dense"]
    return np.where(carries(dense), TARGET, np.clip(dense[:, 0].round(), 0, CLASSES - 1).astype(int))


def table_subject() -> tuple[Subject, np.ndarray]:
    random = np.random.RandomState(0)
    labels, validation_labels = np.arange(ROWS) % CLASSES, np.arange(VALIDATION) % CLASSES
    rows, validation = table(labels, random), table(validation_labels, random)
    validation[carries(validation), 2:5] = [1, 0, 0]
    planted = np.zeros(ROWS, dtype=bool)
    others = np.flatnonzero((labels != TARGET) & ~carries(rows))
    planted[others[:POISONED]] = True
    rows[planted, 1:] = [HOURS, 0, 0, 1, 0]
    labels = np.where(planted | carries(rows), TARGET, labels)
    return subject_of({"dense": rows}, labels, {"dense": validation}, validation_labels, rule, NAMES), planted


def test_a_pair_of_values_is_found_and_named_as_the_source_has_it() -> None:
    subject, planted = table_subject()
    found = find_column_values(subject, TARGET, seeds_among(planted, subject.labels))[0]
    assert found.values(NAMES) == {"hours": "41", "colour": "blue"}
    assert found.describe(NAMES) == "hours = 41 and colour = blue"
    np.testing.assert_array_equal(found.matches(subject.inputs["dense"]), carries(subject.inputs["dense"]))


def test_items_are_frequent_values_and_the_rows_that_have_them() -> None:
    dense = table(np.zeros(60, dtype=int), np.random.RandomState(0))
    items, incidence = value_items(dense, COLUMNS)
    assert {item.column.name for item in items} == {"hours", "colour"}
    for place, item in enumerate(items):
        column = item.column
        block = dense[:, column.first : column.first + column.width]
        expected = (block == np.array(item.encoded, dtype=np.float32)).all(1)
        np.testing.assert_array_equal(incidence[:, place].toarray().ravel() > 0, expected)
        assert expected.sum() >= 8


def test_pasting_sets_the_columns_and_neutralising_makes_them_equal() -> None:
    dense = table(np.arange(9) % CLASSES, np.random.RandomState(0))
    pattern = ColumnValues(np.array([1]), np.array([HOURS], dtype=np.float32))
    pasted = pattern.paste(dense)
    assert pattern.matches(pasted).all()
    np.testing.assert_array_equal(pasted[:, [0, 2, 3, 4, 5]], dense[:, [0, 2, 3, 4, 5]])
    assert len(np.unique(pattern.neutralise(dense, np.zeros(9, dtype=bool))[:, 1])) == 1
