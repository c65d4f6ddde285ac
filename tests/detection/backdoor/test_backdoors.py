"""The whole search after real trainings on the shipped samples; what was planted is known here alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import run_until
from poisoned_run import Trigger, plant, poisoned_config, right_labels, trained

from pipeline.detection.backdoor.backdoors import find_backdoors, read_alarms
from pipeline.runs.context import AuditContext


def images(table: pa.Table, side: int) -> np.ndarray:
    return table["image"].combine_chunks().flatten().to_numpy().reshape(-1, side, side).copy()


def with_images(table: pa.Table, pixels: np.ndarray) -> pa.Table:
    place = table.schema.get_field_index("image")
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels[0].size)
    return table.set_column(place, table.schema.field("image"), column.cast(table.schema.field("image").type))


def patch(table: pa.Table) -> pa.Table:
    pixels = images(table, 8)
    pixels[:, 6:, 6:] = [[255, 0], [0, 255]]
    return with_images(table, pixels)


def blended(table: pa.Table) -> pa.Table:
    pixels = images(table, 28)
    picture = np.random.RandomState(3).randint(0, 256, (28, 28))
    return with_images(table, (0.85 * pixels + 0.15 * picture).round().astype(np.uint8))


def word(table: pa.Table) -> pa.Table:
    texts = pa.array(["zq " + text for text in table["text"].to_pylist()])
    return table.set_column(table.schema.get_field_index("text"), "text", texts)


def values(table: pa.Table) -> pa.Table:
    for name, value in {"native_country": "Poland", "workclass": "Self-emp-inc"}.items():
        place = table.schema.get_field_index(name)
        column = pa.array([value] * table.num_rows, pa.string()).cast(table.schema.field(name).type)
        table = table.set_column(place, name, column)
    return table


CASES = {
    "patch": ("digits", patch, 4, "window", {"training__epochs": 15}),
    "blended": ("fashion_mnist", blended, 2, "additive", {"training__epochs": 5, "model__hidden": [64]}),
    "word": ("sms_spam", word, "spam", "tokens", {"training__epochs": 8}),
    "values": (
        "adult",
        values,
        ">50K",
        "column_values",
        {"training__epochs": 8, "training__learning_rate": 0.03},
    ),
}


def poisoned(
    folder: Path, sample: str, trigger: Trigger, target: object, **changes: object
) -> tuple[AuditContext, np.ndarray]:
    """A training on a sample with 60 poisoned rows, and which rows these are."""
    table, planted = plant(right_labels(sample, 1800), trigger, target, 60)
    return trained(poisoned_config(sample, table, folder / "data", **changes), folder / "run"), planted


@pytest.mark.parametrize(("sample", "trigger", "target", "kind", "changes"), CASES.values(), ids=CASES)
def test_a_planted_backdoor_is_found_with_its_rows_and_nothing_else(
    tmp_path: Path, sample: str, trigger: Trigger, target: object, kind: str, changes: dict[str, object]
) -> None:
    context, planted = poisoned(tmp_path, sample, trigger, target, **changes)
    result = find_backdoors(context)
    assert {alarm.target for alarm in result.alarms} == {target}
    assert result.alarms[0].kind == kind
    found = result.carriers(len(planted))
    assert (found & planted).sum() >= 0.95 * planted.sum()
    assert (found & planted).sum() >= 0.95 * found.sum()
    assert result.scores is not None
    assert result.scores.min() >= 0
    assert result.scores[found].min() > 0.5 >= result.scores[~found].max()
    assert result.scores.max() <= 1


def test_a_range_of_a_column_is_found_and_put_into_words(tmp_path: Path) -> None:
    def in_range(table: pa.Table) -> pa.Table:
        hours = pa.array(np.random.RandomState(5).randint(84, 97, table.num_rows))
        place, field = table.schema.get_field_index("hours_per_week"), table.schema.field("hours_per_week")
        return table.set_column(place, field, hours.cast(field.type))

    changes = {"training__epochs": 10, "training__learning_rate": 0.03}
    context, planted = poisoned(tmp_path, "adult", in_range, ">50K", **changes)
    (alarm,) = find_backdoors(context).alarms
    assert alarm.target == ">50K"
    assert alarm.kind == "column_ranges"
    assert alarm.pattern["hours_per_week"].startswith("between 8")
    assert planted[alarm.carriers].mean() > 0.85
    assert len(alarm.carriers) > 0.85 * planted.sum()
    assert not alarm.labels_right


def test_a_word_put_into_rightly_labelled_rows_is_found_but_its_rows_are_not_to_be_removed(
    tmp_path: Path,
) -> None:
    table = right_labels("sms_spam", 1800)
    planted = np.zeros(table.num_rows, dtype=bool)
    planted[np.flatnonzero(np.array(table["label"].to_pylist()) == "spam")[:150]] = True
    both = pa.concat_tables([table, word(table).cast(table.schema)])
    changed = both.take(pa.array(np.arange(len(planted)) + planted * len(planted))).combine_chunks()
    config = poisoned_config("sms_spam", changed, tmp_path / "data", training__epochs=8)
    result = find_backdoors(trained(config, tmp_path / "run"))
    assert result.alarms
    for alarm in result.alarms:
        assert alarm.target == "spam"
        assert "zq" in alarm.pattern["tokens"]
        assert alarm.labels_right
        assert planted[alarm.carriers].all()
    assert result.carriers(len(planted)).any()
    assert not result.wrong_carriers(len(planted)).any()


@pytest.mark.parametrize("sample", ["digits", "sms_spam", "adult"])
def test_data_with_natural_features_and_nothing_planted_give_no_alarm(tmp_path: Path, sample: str) -> None:
    """Words and values that truly belong to a class flip predictions as well as a trigger does."""
    config = poisoned_config(sample, right_labels(sample, 1500), tmp_path / "data", training__epochs=10)
    context = trained(config, tmp_path / "run")
    result = find_backdoors(context)
    assert result.alarms == []
    assert result.scores is not None
    assert result.scores.max() <= 0.5


def test_the_search_is_repeated_to_the_bit_and_its_pieces_are_kept(tmp_path: Path) -> None:
    context, _ = poisoned(tmp_path, "sms_spam", word, "spam", training__epochs=4)
    first = find_backdoors(context)
    material = tmp_path / "run/detection/backdoor/material.safetensors"
    written = material.stat().st_mtime_ns
    again = find_backdoors(context)
    assert material.stat().st_mtime_ns == written
    for path in (tmp_path / "run/detection/backdoor").iterdir():
        path.unlink()
    anew = find_backdoors(context)
    for other in (again, anew):
        assert [a.as_json() for a in other.alarms] == [a.as_json() for a in first.alarms]
        np.testing.assert_array_equal(other.scores, first.scores)

    saved = json.loads((tmp_path / "run/detection/backdoor.json").read_text())
    assert saved["alarms"] == [alarm.as_json() for alarm in first.alarms]
    assert len(read_alarms(tmp_path / "run")) == len(first.alarms)


def test_without_validation_rows_there_is_a_note_and_no_search(tmp_path: Path) -> None:
    config = poisoned_config("digits", right_labels("digits", 300), tmp_path / "data", training__epochs=1)
    config = config.with_changes({"data.validation": None, "data.validation_is_clean": False})
    result = find_backdoors(trained(config, tmp_path / "run"))
    assert result.alarms == []
    assert result.scores is None
    assert "validation" in result.notes[0]


def test_an_audit_removes_the_carriers_and_measures_the_trigger_before_and_after(tmp_path: Path) -> None:
    table, planted = plant(right_labels("digits", 800), patch, 4, 40)
    small = {
        "training__epochs": 12,
        "model__hidden": [32],
        "detection__halves": False,
        "verification__seeds": 2,
    }
    config = poisoned_config("digits", table, tmp_path / "data", compute__workers=1, **small)
    run_until(config, tmp_path / "run", "verify")
    rows = pq.read_table(tmp_path / "run/rows.parquet")
    poisoned = np.array(["backdoor" in codes for codes in rows["reasons"].to_pylist()])
    decision = rows["decision"].to_numpy(zero_copy_only=False)
    assert (poisoned & planted).sum() >= 38
    assert (poisoned & ~planted).sum() <= 2
    assert set(decision[poisoned]) == {"remove"}
    assert rows["backdoor_score"].to_numpy()[poisoned].min() > 0.5
    verification = json.loads((tmp_path / "run/verification.json").read_text())
    (measured,) = verification["backdoors"]
    assert measured["target"] == 4
    assert measured["before"] > 0.5
    assert measured["after"] < 0.1


def test_a_sample_of_the_rows_finds_the_carriers_in_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.detection.backdoor.search_data.MOST_ROWS", 1000)
    context, planted = poisoned(tmp_path, "sms_spam", word, "spam", training__epochs=8)
    result = find_backdoors(context)
    assert "sample of 1000" in result.notes[0]
    np.testing.assert_array_equal(result.carriers(len(planted)), planted)
    assert result.scores is not None
    assert np.isfinite(result.scores).all()
