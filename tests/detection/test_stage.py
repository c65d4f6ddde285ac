"""Detection on real digits with planted wrong labels; the truth is read here alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import ROOT, digits_config, run_until
from sklearn.metrics import average_precision_score

from pipeline.detection.signals.weights import SHARE_OF_TRAINING
from pipeline.runs.directory import RunDirectory

ROWS_COLUMNS = (
    "row_key shard row split label predicted_label suggested_label suggested_probability self_influence "
    "validation_harm mean_loss final_loss mean_margin suspicion backdoor_score decision "
    "proposed new_label decided_by reasons removal_effect relabel_effect"
)


def wrong_labels(path: Path) -> tuple[pa.Table, np.ndarray]:
    """The train rows of a run, and which of them have a planted wrong label."""
    rows = pq.read_table(path / "rows.parquet", filters=[("split", "==", "train")])
    truth = pq.read_table(ROOT / "data_samples/digits/truth.parquet").to_pydict()
    wrong = dict(zip(map(str, truth["index"]), truth["is_wrong"]))
    return rows, np.array([wrong[key] for key in rows["row_key"].to_pylist()])


def test_rows_have_the_columns_of_the_contract_in_the_source_types(detected_run: Path) -> None:
    rows = pq.read_table(detected_run / "rows.parquet")
    assert rows.column_names == ROWS_COLUMNS.split()
    for name in ("label", "predicted_label", "suggested_label"):
        assert rows.schema.field(name).type == pa.int64()
    assert rows.num_rows == 1200
    assert set(rows["split"].to_pylist()) == {"train"}
    assert rows["backdoor_score"].to_numpy().max() <= 0.5
    assert RunDirectory(detected_run).facts("detect")["backdoors"] == []
    for name in ("self_influence", "validation_harm", "mean_loss", "mean_margin", "suspicion"):
        assert np.isfinite(rows[name].to_numpy()).all()


def test_the_ranking_finds_planted_wrong_labels(detected_run: Path) -> None:
    rows, wrong = wrong_labels(detected_run)
    assert average_precision_score(wrong, rows["suspicion"].to_numpy()) > 0.9
    changed = np.isin(rows["decision"].to_numpy(zero_copy_only=False), ["remove", "relabel"])
    assert changed.sum() > 80
    assert wrong[changed].mean() > 0.7


def test_a_suggested_label_differs_from_the_given_and_has_a_probability(detected_run: Path) -> None:
    rows = pq.read_table(detected_run / "rows.parquet")
    suggested = rows.filter(rows["suggested_label"].is_valid())
    assert all(
        a != b for a, b in zip(suggested["label"].to_pylist(), suggested["suggested_label"].to_pylist())
    )
    assert suggested["suggested_probability"].null_count == 0
    assert rows["suggested_probability"].null_count == rows["suggested_label"].null_count


def test_every_flagged_row_has_a_reason_and_no_other(detected_run: Path) -> None:
    rows = pq.read_table(detected_run / "rows.parquet")
    for decision, reasons in zip(rows["decision"].to_pylist(), rows["reasons"].to_pylist()):
        assert (decision == "keep") == (reasons == [])


def test_the_panel_leads_six_signals_of_the_training_and_others_stand_beside_them(detected_run: Path) -> None:
    signals = pq.read_table(detected_run / "signals.parquet")
    of_training = ["early_margin", "early_loss", "early_harm", "neighbour_margin", "clean_neighbours"]
    of_training.append("half_confidence")
    of_panel = ["panel_linear", "panel_extra_trees"]
    others = ["final_loss", "forgetting", "self_influence", "validation_harm"]
    others += ["gradient_norm", "representation_outlier", "near_duplicate"]
    assert signals.column_names == ["row_key", "panel_wrong", *of_panel, *of_training, *others]
    facts = RunDirectory(detected_run).facts("detect")
    assert facts["signals"] == ["panel_wrong", *of_training]
    assert facts["other_signals"] == of_panel + others
    weights = facts["weights"]
    assert weights["panel_wrong"] == 1
    assert sum(weights[name] for name in of_training) == pytest.approx(SHARE_OF_TRAINING)
    assert all(np.isfinite(signals[name].to_numpy()).all() for name in signals.column_names[1:])
    assert signals["row_key"].equals(pq.read_table(detected_run / "rows.parquet")["row_key"])


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"data__validation_is_clean": False}, {"early_harm", "clean_neighbours"}),
        ({"detection__halves": False}, {"half_confidence"}),
    ],
    ids=["validation not clean", "no halves"],
)
def test_what_is_missing_is_left_out(tmp_path: Path, changes: dict[str, object], missing: set[str]) -> None:
    run_until(digits_config(**changes), tmp_path / "run", "detect")
    names = set(pq.read_table(tmp_path / "run/signals.parquet").column_names)
    assert not names & missing
    assert len(names) == 17 - len(missing)
    rows, wrong = wrong_labels(tmp_path / "run")
    assert average_precision_score(wrong, rows["suspicion"].to_numpy()) > 0.85
    record = json.loads((tmp_path / "run/record.json").read_text())
    note = record["stages"]["detect"]["facts"]["estimated_noise_note"]
    assert "By judges that never saw the rows" in note  # whether the validation labels are clean or not


def test_a_training_too_short_to_tell_wrong_labels_is_warned_of(tmp_path: Path) -> None:
    changes = {"training__epochs": 1, "detection__backdoors": False, "data__validation_is_clean": False}
    run_until(digits_config(**changes), tmp_path / "run", "detect")
    (warning,) = RunDirectory(tmp_path / "run").facts("detect")["warnings"]
    assert "flags may be too many. Raise training.epochs" in warning
