"""Data that leave little to judge by: few rows of a class, very many classes, no validation or holdout set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import run_until
from sklearn.metrics import roc_auc_score

import pipeline
from pipeline.config import AuditConfig
from pipeline.report.summary import headline

SMALL = {
    "model": {"hidden": [16]},
    "training": {"epochs": 6, "checkpoints": 3, "learning_rate": 0.1, "batch_size": 32},
    "compute": {"workers": 1},
    "verification": {"seeds": 0, "gate": "off"},
}


def poor_config(folder: Path, classes: np.ndarray, wrong: np.ndarray, **detection: object) -> AuditConfig:
    """Points around a centre per class, the labels of `wrong` (bool `[rows]`) moved on by one; no other roles."""
    rng = np.random.default_rng(0)
    number = int(classes.max()) + 1
    points = rng.normal(size=(number, 8))[classes] * 3 + rng.normal(size=(len(classes), 8))
    labels = np.where(wrong, (classes + 1) % number, classes)
    columns = {f"x{place}": points[:, place] for place in range(8)}
    (folder / "data").mkdir()
    pq.write_table(pa.table(columns | {"label": labels}), folder / "data/part.parquet")
    features = dict.fromkeys(columns, "numeric")
    data = {"train": str(folder / "data"), "features": features, "label": "label"}
    return AuditConfig.model_validate({"name": "poor", "data": data, "detection": detection, **SMALL})


def test_without_validation_and_holdout_rows_are_ranked_and_what_is_missing_is_said(tmp_path: Path) -> None:
    classes = (np.arange(405) % 2) * (np.arange(405) < 400) + 2 * (
        np.arange(405) >= 400
    )  # five rows of one class
    wrong = np.zeros(405, dtype=bool)
    wrong[:400:20] = True
    config = poor_config(tmp_path, classes, wrong, max_removed=1.0, relabel_above=0.9)
    result = pipeline.audit(config, tmp_path / "run")
    rows = result.rows
    assert roc_auc_score(wrong, rows["suspicion"].to_numpy()) > 0.9
    assert result.verdict == "not tested"
    assert rows["validation_harm"].null_count == rows.num_rows
    said = "\n".join(headline(result.summary))
    estimate = result.summary["estimated_noise"]
    assert estimate["low"] <= wrong.mean() <= estimate["high"]
    assert "wrong labels in the train set, estimated: " in said
    assert "rule budget: at most 100 % of the rows" in said
    of_rare = rows.filter(pa.array(rows["label"].to_numpy() == 2))["decision"].to_pylist()
    assert sum(decision in ("remove", "relabel") for decision in of_rare) <= len(of_rare) // 2


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditConfig, Path]:
    """The config of a thousand classes of three rows, and its run before detection."""
    folder = tmp_path_factory.mktemp("thousand")
    wrong = np.arange(3000) < 100
    config = poor_config(
        folder, np.arange(3000) % 1000, wrong, max_removed=1.0, max_removed_per_class=1.0, halves=False
    )
    run_until(config, folder / "run", "panel")
    return config, folder / "run"


@pytest.mark.parametrize("rule", ["ranking", "budget"])
def test_a_thousand_classes_of_three_rows_keep_one_each(
    thousand: tuple[AuditConfig, Path], tmp_path: Path, rule: str
) -> None:
    config, run = thousand
    shutil.copytree(run, tmp_path / "run")
    result = pipeline.audit(config.with_changes({"detection.rule": rule}), tmp_path / "run")
    table = result.rows
    kept = table.filter(pa.array([d in ("keep", "review") for d in table["decision"].to_pylist()]))
    assert set(kept["label"].to_pylist()) == set(range(1000))
    assert result.summary["promise"]["rule"] == rule
