"""When the labels of a pattern's carriers are right, and what speaks for a pattern nonetheless."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.detection.backdoor.alarm import Finding, is_alarm
from pipeline.detection.backdoor.column_ranges import ColumnRanges
from pipeline.detection.backdoor.tokens import Tokens
from pipeline.detection.backdoor.verify import Evidence

LABELS = np.arange(1000) % 4 == 0
CARRIERS = LABELS & (np.arange(1000) < 400)
WORD = Tokens(np.array([7]))
OF_THE_CLASS = Evidence(
    flip_rate=0.6,
    carriers=CARRIERS,
    purity=1.0,
    content=(1.0, 0.1),
    in_validation=0,
    natural=1e-9,
    natural_part=False,
)


def alarms(evidence: Evidence, pattern: Tokens | ColumnRanges = WORD) -> bool:
    return is_alarm(pattern, evidence, LABELS.astype(int), 1)


def test_a_word_that_train_rows_of_a_class_alone_have_is_an_alarm_though_they_belong_to_it() -> None:
    assert alarms(OF_THE_CLASS)
    assert Finding(1, WORD, OF_THE_CLASS).labels_right


@pytest.mark.parametrize(
    "change", [{"in_validation": 1}, {"natural": 1e-3}, {"purity": 0.9}, {"flip_rate": 0.2}]
)
def test_it_is_none_when_validation_rows_have_it_or_could_miss_it_by_chance(change: dict[str, float]) -> None:
    assert not alarms(replace(OF_THE_CLASS, **change))


def test_carriers_that_do_not_look_like_the_class_are_wrongly_labelled() -> None:
    evidence = replace(OF_THE_CLASS, content=(0.05, 0.05))
    assert alarms(evidence)
    assert not Finding(1, WORD, evidence).labels_right
    assert not Finding(1, WORD, replace(evidence, content=None)).labels_right


def test_a_range_has_to_be_purer_and_rarer_in_validation_rows_than_a_value() -> None:
    ends = (np.array([end], dtype=np.float32) for end in (0, 1))
    pattern = ColumnRanges(np.array([0]), *ends, np.zeros((1, 1), dtype=np.float32))
    likely = replace(OF_THE_CLASS, content=(0.2, 0.05), natural=5e-4, in_validation=2)
    assert alarms(likely, pattern)
    assert not alarms(replace(likely, natural=5e-3), pattern)
    assert alarms(replace(likely, natural=5e-3, content=(-0.2, 0.05)), pattern)
    assert not alarms(replace(likely, content=(0.35, 0.05)), pattern)
    assert not alarms(replace(likely, purity=0.6), pattern)
