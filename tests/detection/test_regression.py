"""Wrong targets planted in the diabetes data of scikit-learn: exchanged ones and ten times too large ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import run_until
from sklearn.datasets import load_diabetes
from sklearn.metrics import average_precision_score

from pipeline.config import AuditConfig
from pipeline.detection.removal_strata import prediction_strata, read_strata
from pipeline.runs.directory import RunDirectory

ROWS = 320


def audited(folder: Path, kind: str) -> tuple[pa.Table, np.ndarray]:
    """rows.parquet of an audit up to its decisions, and which of its rows are wrong."""
    features, targets = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    features, targets = features[order], targets[order].copy()
    wrong = np.zeros(len(targets), dtype=bool)
    wrong[:16] = True
    if kind == "scaled":
        targets[wrong] *= 10
    else:
        ends = np.argsort(targets[:ROWS])
        wrong[:] = False
        wrong[ends[:8]] = wrong[ends[-8:]] = True
        targets[ends[:8]], targets[ends[-8:]] = targets[ends[-8:]], targets[ends[:8]].copy()
    names = [f"x{column}" for column in range(features.shape[1])]
    table = pa.table({name: features[:, place] for place, name in enumerate(names)} | {"y": targets})
    data: dict[str, object] = {
        "features": dict.fromkeys(names, "numeric"),
        "label": "y",
        "validation_is_clean": True,
    }
    for role, place in (("train", slice(0, ROWS)), ("validation", slice(ROWS, None))):
        pq.write_table(
            table.slice(place.start, (place.stop or len(targets)) - place.start), folder / f"{role}.parquet"
        )
        data[role] = str(folder / f"{role}.parquet")
    tree = {
        "name": "diabetes",
        "data": data,
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 12, "batch_size": 16, "learning_rate": 0.01, "checkpoints": 3},
        "compute": {"workers": 1},
    }
    run_until(AuditConfig.model_validate(tree), folder / "run", "detect")
    return pq.read_table(folder / "run/rows.parquet"), wrong[:ROWS]


@pytest.mark.parametrize(("kind", "precision"), [("scaled", 0.95), ("exchanged", 0.7)])
def test_planted_wrong_targets_are_found(tmp_path: Path, kind: str, precision: float) -> None:
    rows, wrong = audited(tmp_path, kind)
    assert average_precision_score(wrong, rows["suspicion"].to_numpy()) > precision
    decisions = np.array(rows["decision"].to_pylist())
    if kind == "scaled":
        assert (decisions[wrong] == "remove").mean() > 0.8
        assert (decisions[~wrong] == "remove").mean() < 0.03
        suggested = np.array(rows["suggested_label"].to_pylist(), dtype=float)[wrong]
        right = rows["label"].to_numpy()[wrong] / 10
        assert np.nanmedian(np.abs(suggested - right)) < np.nanmedian(np.abs(suggested - 10 * right)) / 5
    strata = read_strata(tmp_path / "run")
    assert np.bincount(strata).tolist() == [ROWS // 10] * 10
    assert np.bincount(strata[wrong], minlength=10).max() < 16  # not all in one tenth, as by the targets
    facts = RunDirectory(tmp_path / "run").facts("detect")
    assert facts["calibration"] is None
    assert (
        "panel_linear" in facts["other_signals"]
    )  # far from the prediction is suspicious, so high values are
    assert facts["low_is_suspicious"] == ["neighbour_margin", "clean_neighbours", "half_confidence"]


def test_strata_follow_the_prediction_in_equal_parts() -> None:
    predicted = np.random.default_rng(0).permutation(203).astype(float)
    strata = prediction_strata(predicted)
    assert (np.diff(strata[np.argsort(predicted)]) >= 0).all()
    assert np.bincount(strata).min() >= 20
    assert np.bincount(strata).max() <= 21
