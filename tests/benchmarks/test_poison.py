from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.poison import compare, summarise
from benchmarks.poison_attacks import RARE_WORD, Case, poison

TEXTS = pa.table({"text": [f"row {row}" for row in range(200)], "label": [row % 2 for row in range(200)]})


def test_poison_changes_as_many_rows_of_other_classes_as_asked_and_no_others() -> None:
    table, planted = poison(TEXTS, Case("sst2", "word", 0.1, 3), 1)
    assert planted.sum() == 20
    before, after = TEXTS.to_pylist(), table.to_pylist()
    for row, is_planted in enumerate(planted):
        if is_planted:
            assert before[row]["label"] == 0
            assert after[row]["label"] == 1
            assert RARE_WORD in after[row]["text"].split()
        else:
            assert after[row] == before[row]


def test_recall_precision_and_clean_rows_lost() -> None:
    planted = np.arange(100) < 10
    flagged = (np.arange(100) >= 5) & (np.arange(100) < 25)
    measured = compare(flagged, planted)
    assert measured == {"flagged": 20, "recall": 0.5, "precision": 0.25, "clean_lost": pytest.approx(15 / 90)}
    assert compare(np.zeros(100, dtype=bool), planted)["precision"] is None


def test_alarms_are_counted_over_attacks_that_work_and_false_ones_over_clean_runs() -> None:
    base = {
        "task": "sst2",
        "attack": "word",
        "rate": 0.1,
        "seed": 0,
        "natural": 0.1,
        "on_others": 0,
        "alarms": [],
    }
    found = {"flagged": 20, "recall": 1.0, "precision": 1.0, "clean_lost": 0.0, "after": 0.1}
    missed = {"flagged": 0, "recall": 0.0, "precision": None, "clean_lost": 0.0, "after": 0.9}
    measured = [
        base | {"before": 0.9, "on_target": True, "winnow": found},
        base | {"before": 0.9, "on_target": False, "winnow": missed},
        base | {"before": 0.3, "on_target": False, "winnow": missed},
        base | {"attack": "clean", "alarms": [{}], "winnow": {"flagged": 9}},
        base | {"attack": "clean", "winnow": {"flagged": 0}},
    ]
    lines = {(row["task"], row["method"], row["metric"]): row for row in summarise(measured)}
    alarm = lines["all/all", "winnow", "alarm"]
    assert (alarm["value"], alarm["n"]) == (0.5, 2)
    assert lines["all", "winnow", "false_alarm_on_clean_data"]["value"] == 0.5
    assert lines["all/all", "winnow", "recall"]["value"] == 0.5
    assert (
        lines["all/all", "winnow", "precision"] | {"value": 1.0, "n": 1}
        == lines["all/all", "winnow", "precision"]
    )
