"""The paste test and the content test, on tables where the truth is written down."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.detection.backdoor.additive import Additive
from pipeline.detection.backdoor.alarm import Finding, distinct, is_alarm
from pipeline.detection.backdoor.column_values import ColumnValues
from pipeline.detection.backdoor.forensics import is_proved
from pipeline.detection.backdoor.subject import Subject
from pipeline.detection.backdoor.tokens import Tokens
from pipeline.detection.backdoor.verify import Evidence, verify

from .subjects import CLASSES, POISONED, TARGET
from .test_column_values import carries, table_subject
from .test_tokens import PHRASE, text_subject

TRIGGER = ColumnValues(np.array([1, 2, 3, 4, 5]), np.array([0.5, 0, 0, 1, 0], dtype=np.float32))


def natural_subject() -> tuple[Subject, np.ndarray]:
    """The same table, but the rows that carry the values are of the class by their content too."""
    subject, planted = table_subject()
    dense = subject.inputs["dense"].copy()
    carriers = carries(dense)
    dense[carriers, 0] = TARGET + np.random.RandomState(1).normal(0, 0.2, carriers.sum())
    return dataclasses.replace(subject, inputs={"dense": dense}), planted


def also_in_validation(subject: Subject) -> Subject:
    """As many validation rows of the class have the values."""
    share = (carries(subject.inputs["dense"]) & (subject.labels == TARGET)).mean()
    validation = subject.validation["dense"].copy()
    of_class = np.flatnonzero(subject.validation_labels == TARGET)
    rows = of_class[: round(share * len(validation))]
    validation[np.ix_(rows, TRIGGER.places)] = TRIGGER.encoded
    return dataclasses.replace(subject, validation={"dense": validation})


def test_a_backdoor_flips_and_its_carriers_do_not_look_like_the_class() -> None:
    subject, _ = table_subject()
    evidence = verify(subject, TARGET, TRIGGER)
    assert evidence.flip_rate == 1
    np.testing.assert_array_equal(evidence.carriers, carries(subject.inputs["dense"]))
    assert evidence.purity == 1
    assert evidence.content is not None
    assert evidence.content[0] + 2 * evidence.content[1] < 0.5
    assert is_alarm(TRIGGER, evidence, subject.labels, TARGET)


def test_a_natural_feature_flips_as_much_but_its_carriers_look_like_the_class() -> None:
    subject = also_in_validation(natural_subject()[0])
    evidence = verify(subject, TARGET, TRIGGER)
    assert evidence.flip_rate > 0.9
    assert evidence.content is not None
    assert evidence.content[0] > 0.8
    assert not is_alarm(TRIGGER, evidence, subject.labels, TARGET)


def test_the_same_without_any_in_validation_rows_was_put_into_rightly_labelled_rows() -> None:
    subject, _ = natural_subject()
    evidence = verify(subject, TARGET, TRIGGER)
    assert evidence.in_validation == 0
    assert is_alarm(TRIGGER, evidence, subject.labels, TARGET)
    assert Finding(TARGET, TRIGGER, evidence).labels_right


def evidence_of(rows: int, carriers: np.ndarray, **changes: object) -> Evidence:
    found = np.zeros(rows, dtype=bool)
    found[carriers] = True
    values: dict[str, object] = {
        "flip_rate": 0.9,
        "carriers": found,
        "purity": 1.0,
        "content": (0.0, 0.1),
        "in_validation": 0,
        "natural": 0.001,
        "natural_part": False,
    }
    return Evidence(**(values | changes))  # type: ignore[arg-type]


def test_phrase_with_a_word_of_the_class_is_natural_also_where_validation_rows_lack_it() -> None:
    subject, _ = text_subject()
    rows, of_class = subject.inputs["tokens"].copy(), np.flatnonzero(subject.labels == TARGET)
    rows[of_class[:40], :2] = (61, 62)
    rows[of_class[40:80], 0] = 61
    subject = dataclasses.replace(subject, inputs={"tokens": rows})
    natural, planted_phrase = Tokens(np.array([61, 62])), Tokens(np.array(PHRASE))
    assert verify(subject, TARGET, natural).in_validation == 0
    assert verify(subject, TARGET, natural).natural_part
    assert not verify(subject, TARGET, planted_phrase).natural_part
    assert not verify(subject, TARGET, Tokens(np.array([61]))).natural_part


def test_queries_do_not_prove_a_phrase_with_a_word_of_the_class() -> None:
    labels, phrase = np.full(200, TARGET), Tokens(np.array(PHRASE))
    few = np.arange(5)  # too few for the blind search, enough beside queries
    assert is_proved(phrase, evidence_of(200, few), labels, TARGET)
    assert not is_proved(phrase, evidence_of(200, few, natural_part=True), labels, TARGET)


def test_every_threshold_can_stop_an_alarm() -> None:
    rows = 4000
    labels = np.where(np.arange(rows) < 200, TARGET, np.arange(rows) % (CLASSES - 1))
    some = np.arange(POISONED)
    assert is_alarm(TRIGGER, evidence_of(rows, some), labels, TARGET)
    phrase = Tokens(np.array([41, 57]))
    assert is_alarm(phrase, evidence_of(rows, some, natural=0.09, content=(0.1, 0.1)), labels, TARGET)
    assert not is_alarm(phrase, evidence_of(rows, some, content=(0.2, 0.02)), labels, TARGET)
    doubtful: list[dict[str, object]] = [
        {"flip_rate": 0.29},
        {"purity": 0.79},
        {"content": (0.3, 0.11)},
        {"content": None},
        {"natural": 0.11},
        {"natural_part": True},
    ]
    for changes in doubtful:
        assert not is_alarm(TRIGGER, evidence_of(rows, some, **changes), labels, TARGET)
    unlike = {"natural": 0.11, "content": (-0.3, 0.1)}
    assert is_alarm(TRIGGER, evidence_of(rows, some, **unlike), labels, TARGET)
    assert not is_alarm(TRIGGER, evidence_of(rows, some, in_validation=1, **unlike), labels, TARGET)
    assert is_alarm(TRIGGER, evidence_of(rows, np.arange(10)), labels, TARGET)
    assert not is_alarm(TRIGGER, evidence_of(rows, np.arange(9)), labels, TARGET)


def test_a_blend_is_an_alarm_only_when_it_is_far_from_the_class_and_leaves_the_content_visible() -> None:
    labels = np.full(100, TARGET)
    evidence = evidence_of(100, np.arange(20))

    def alarm(**changes: float) -> bool:
        numbers = {"share": 0.2, "threshold": 0.0, "separation": 8.0, "gap": 1.0} | changes
        return is_alarm(
            Additive(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), **numbers), evidence, labels, TARGET
        )

    assert alarm()
    assert not alarm(separation=5.9)
    assert not alarm(gap=0.0)
    assert not alarm(share=0.4)


def test_of_patterns_with_the_same_rows_the_one_with_most_carriers_is_kept() -> None:
    labels = np.full(100, TARGET)
    whole, part, other = (
        Finding(TARGET, TRIGGER, evidence_of(100, places, flip_rate=flips))
        for places, flips in ((np.arange(40), 0.8), (np.arange(15), 0.9), (np.arange(60, 80), 0.7))
    )
    assert distinct([part, other, whole], labels) == [whole, other]


def test_a_patch_is_named_before_a_blend_that_fits_it_too() -> None:
    labels = np.full(100, TARGET)
    blend = Additive(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), 0.2, 0.0, 8.0, 1.0)
    vague = Finding(TARGET, blend, evidence_of(100, np.arange(30), flip_rate=0.9))
    exact = Finding(TARGET, TRIGGER, evidence_of(100, np.arange(30), flip_rate=0.8))
    part = Finding(TARGET, TRIGGER, evidence_of(100, np.arange(12), flip_rate=0.9))
    assert distinct([vague, exact], labels) == [exact]
    assert distinct([vague, part], labels) == [vague]
