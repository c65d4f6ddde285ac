from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.poison import compare, summarise
from benchmarks.poison_attacks import RARE_WORD, Backdoor, Case, backdoors, poison, triggered_rows
from benchmarks.poison_variants import BREAST_CANCER, RANGES

TEXTS = pa.table({"text": [f"row {row}" for row in range(200)], "label": [row % 2 for row in range(200)]})


def test_poison_changes_as_many_rows_of_other_classes_as_asked_and_no_others() -> None:
    case = Case("sst2", "word", 0.1, 3)
    assert backdoors(case, [0, 1]) == [Backdoor("word", 1)]
    table, planted = poison(TEXTS, case, backdoors(case, [0, 1]))
    assert planted.sum() == 20
    before, after = TEXTS.to_pylist(), table.to_pylist()
    for row, is_planted in enumerate(planted):
        if is_planted:
            assert before[row]["label"] == 0
            assert after[row]["label"] == 1
            assert RARE_WORD in after[row]["text"].split()
        else:
            assert after[row] == before[row]


def test_a_clean_label_attack_changes_rows_of_the_target_and_no_labels() -> None:
    case = Case("sst2", "clean-word", 0.1, 0)
    table, planted = poison(TEXTS, case, backdoors(case, [0, 1]))
    assert table["label"] == TEXTS["label"]
    assert planted.sum() == 20
    for row, text in enumerate(table["text"].to_pylist()):
        assert (RARE_WORD in text.split()) == planted[row]
        assert not planted[row] or row % 2 == 0


def test_two_backdoors_have_rows_and_targets_of_their_own() -> None:
    pixels = pa.array(np.zeros(60 * 784, dtype=np.uint8))
    labels = [row % 3 for row in range(60)]
    table = pa.table({"image": pa.FixedSizeListArray.from_arrays(pixels, 784), "label": labels})
    case = Case("fashion_mnist", "two-patches", 0.1, 0)
    planned = backdoors(case, [0, 1, 2])
    poisoned, planted = poison(table, case, planned)
    images = np.array(poisoned["image"].to_pylist()).reshape(60, 28, 28)
    board, cross = images[:, 23:26, 23:26].any((1, 2)), images[:, 2:5, 2:5].any((1, 2))
    assert (board.sum(), cross.sum()) == (6, 6)
    np.testing.assert_array_equal(board ^ cross, planted)
    assert set(np.array(poisoned["label"])[board]) == {0}
    assert set(np.array(poisoned["label"])[cross]) == {1}
    assert triggered_rows(table, case, planned)["label"].to_pylist() == [0] * 40 + [1] * 40


def test_values_are_drawn_from_the_range_and_other_columns_stay() -> None:
    (column, (low, high)) = next(iter(RANGES["breast_cancer"][0].items()))
    table = pa.table({name: np.zeros(30) for name in BREAST_CANCER} | {"label": [0, 1] * 15})
    case = Case("breast_cancer", "range", 0.2, 0)
    poisoned, planted = poison(table, case, backdoors(case, [0, 1]))
    values = poisoned[column].to_numpy()
    assert planted.sum() == 6
    assert ((values[planted] >= low) & (values[planted] <= high)).all()
    assert (values[~planted] == 0).all()
    assert len(set(values[planted])) == 6
    others = [name for name in BREAST_CANCER if name != column]
    assert poisoned.select(others) == table.select(others)


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
