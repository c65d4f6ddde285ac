from __future__ import annotations

import numpy as np

from pipeline.detection.backdoor.alarm import is_alarm, may_be_alarm
from pipeline.detection.backdoor.column_ranges import ColumnRanges, best_ranges, find_column_ranges
from pipeline.detection.backdoor.subject import Inputs, Names, Subject, SubjectColumn
from pipeline.detection.backdoor.verify import verify

from .subjects import CLASSES, POISONED, ROWS, TARGET, VALIDATION, seeds_among, subject_of

COLUMNS = (
    SubjectColumn("x", 0, 1),
    SubjectColumn("weight", 1, 1, mean=70.0, std=10.0),
    SubjectColumn("colour", 2, 4, ("red", "green", "blue", "(other)")),
)
NAMES = Names(columns=COLUMNS)
LOW, HIGH = 2.0, 2.5


def table(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """float32 `[rows, 6]`: x tells the class, the weight is normal, the colour random."""
    rows = np.zeros((len(labels), 6), dtype=np.float32)
    rows[:, 0] = labels + random.normal(0, 0.2, len(labels))
    rows[:, 1] = random.normal(0, 1, len(labels))
    rows[np.arange(len(labels)), 2 + random.randint(0, 3, len(labels))] = 1
    return rows


def heavy(dense: np.ndarray) -> np.ndarray:
    return (dense[:, 1] >= LOW) & (dense[:, 1] <= HIGH)


def heavy_and_blue(dense: np.ndarray) -> np.ndarray:
    return heavy(dense) & (dense[:, 4] == 1)


def subject_with(carries, blue: bool) -> tuple[Subject, np.ndarray]:  # type: ignore[no-untyped-def]
    random = np.random.RandomState(0)
    labels, validation_labels = np.arange(ROWS) % CLASSES, np.arange(VALIDATION) % CLASSES
    rows, validation = table(labels, random), table(validation_labels, random)
    planted = np.zeros(ROWS, dtype=bool)
    planted[np.flatnonzero((labels != TARGET) & ~carries(rows))[:POISONED]] = True
    rows[planted, 1] = random.uniform(LOW, HIGH, POISONED)
    if blue:
        rows[planted, 2:] = [0, 0, 1, 0]
    labels = np.where(planted, TARGET, labels)

    def rule(inputs: Inputs) -> np.ndarray:
        dense = inputs["dense"]
        return np.where(carries(dense), TARGET, np.clip(dense[:, 0].round(), 0, CLASSES - 1).astype(int))

    return subject_of({"dense": rows}, labels, {"dense": validation}, validation_labels, rule, NAMES), planted


def test_a_range_that_turns_rows_into_the_target_is_found_in_its_carriers_and_is_an_alarm() -> None:
    subject, planted = subject_with(heavy, blue=False)
    found = find_column_ranges(subject, TARGET, seeds_among(planted, subject.labels))
    alarms = [each for each in found if is_alarm(each, verify(subject, TARGET, each), subject.labels, TARGET)]
    best = max(alarms, key=lambda pattern: (pattern.matches(subject.inputs["dense"]) & planted).sum())
    carriers = best.matches(subject.inputs["dense"]) & (subject.labels == TARGET)
    assert carriers[planted].mean() > 0.9
    assert planted[carriers].mean() > 0.8
    assert best.places.tolist() == [1]
    assert abs(best.low[0] - LOW) < 0.15
    assert abs(best.high[0] - HIGH) < 0.15
    assert best.values(NAMES)["weight"].startswith("between ")
    assert best.describe(NAMES).startswith("weight between ")


def test_a_range_with_a_value_of_another_column_is_found() -> None:
    subject, planted = subject_with(heavy_and_blue, blue=True)
    found = find_column_ranges(subject, TARGET, seeds_among(planted, subject.labels))
    assert any(set(pattern.values(NAMES)) == {"weight", "colour"} for pattern in found)
    alarms = [each for each in found if is_alarm(each, verify(subject, TARGET, each), subject.labels, TARGET)]
    assert alarms
    dense = subject.inputs["dense"]
    assert max((each.matches(dense) & planted).sum() for each in alarms) > 0.9 * planted.sum()


def test_the_range_that_makes_a_class_is_no_alarm() -> None:
    """The same range belongs to the class in train and validation rows alike: nobody planted it."""
    random = np.random.RandomState(1)
    rows, validation = (
        table(np.arange(ROWS) % CLASSES, random),
        table(np.arange(VALIDATION) % CLASSES, random),
    )

    def natural(inputs: Inputs) -> np.ndarray:
        dense = inputs["dense"]
        return np.where(dense[:, 1] > 1, TARGET, np.clip(dense[:, 0].round(), 0, 1).astype(int))

    labels, validation_labels = natural({"dense": rows}), natural({"dense": validation})
    subject = subject_of({"dense": rows}, labels, {"dense": validation}, validation_labels, natural, NAMES)
    seeds = np.flatnonzero(labels == TARGET)[:12]
    for pattern in find_column_ranges(subject, TARGET, seeds):
        assert not is_alarm(pattern, verify(subject, TARGET, pattern), labels, TARGET)


def test_pasted_rows_are_carriers_and_differ_only_in_the_columns() -> None:
    dense = table(np.arange(9) % CLASSES, np.random.RandomState(0))
    edges = (np.array([LOW], dtype=np.float32), np.array([HIGH], dtype=np.float32))
    drawn = np.array([[2.0], [2.25], [2.5]], dtype=np.float32)
    pattern = ColumnRanges(np.array([1]), *edges, drawn)
    pasted = pattern.paste(dense)
    assert pattern.matches(pasted).all()
    assert pasted[:, 1].tolist() == [2.0, 2.25, 2.5] * 3
    np.testing.assert_array_equal(pasted[:, [0, 2, 3, 4, 5]], dense[:, [0, 2, 3, 4, 5]])
    assert len(np.unique(pattern.neutralise(dense, np.zeros(9, dtype=bool))[:, 1])) == 1


def test_best_ranges_count_what_lies_between_their_ends() -> None:
    """The range of the highest excess holds the planted rows; its ends are values of the class's rows in it."""
    subject, planted = subject_with(heavy, blue=False)
    dense, own = subject.inputs["dense"], subject.labels == TARGET
    later = subject.validation["dense"][subject.validation_labels == TARGET]
    found = best_ranges(COLUMNS[1], dense, own, np.flatnonzero(planted)[:6], later, ROWS / VALIDATION)
    _, best = max(found, key=lambda scored: scored[0])
    inside = (dense[:, 1] >= best.low) & (dense[:, 1] <= best.high)
    assert (inside & planted).sum() > 0.8 * POISONED
    assert {best.low, best.high} <= set(dense[own, 1].tolist())


def test_a_range_with_the_usual_mix_of_labels_may_not_be_an_alarm() -> None:
    subject, _ = subject_with(heavy, blue=False)
    everything = ColumnRanges(
        np.array([1]),
        *(np.array([end], dtype=np.float32) for end in (-9, 9)),
        subject.inputs["dense"][:9, [1]],
    )
    evidence = verify(subject, TARGET, everything)
    assert not may_be_alarm(everything, evidence, subject.labels, TARGET)
