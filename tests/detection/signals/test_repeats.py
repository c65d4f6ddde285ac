"""Averaging over trainings with other seeds, on the shipped digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from digits_run import digits_config, run_until
from scipy.special import expit, logit
from scipy.stats import rankdata

from pipeline.config import AuditConfig
from pipeline.detection.signals.weights import SHARE_OF_TRAINING
from pipeline.runs.directory import RunDirectory

SIGNALS = {
    "early_margin": -1,
    "early_loss": 1,
    "early_harm": 1,
    "neighbour_margin": -1,
    "clean_neighbours": -1,
    "half_confidence": -1,
}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuditConfig]:
    path = tmp_path_factory.mktemp("repeats") / "run"
    config = digits_config(detection__repeats=2, detection__backdoors=False)
    run_until(config, path, "detect")
    return path, config


def test_suspicion_is_the_mean_over_both_trainings(repeated: tuple[Path, AuditConfig]) -> None:
    path, _ = repeated
    signals, rows = (pq.read_table(path / name) for name in ("signals.parquet", "rows.parquet"))
    weights = RunDirectory(path).facts("detect")["weights"]
    odds = [logit((rankdata(signals["panel_wrong"].to_numpy()) - 0.5) / signals.num_rows)]
    of_each = [weights["panel_wrong"]]
    assert 2 * sum(weights[name] for name in SIGNALS) == pytest.approx(SHARE_OF_TRAINING)
    for name, sign in SIGNALS.items():
        first, second = (signals[name + suffix].to_numpy() for suffix in ("", "_2"))
        assert (first != second).mean() > 0.3  # votes are often unanimous
        for values in (first, second):
            odds.append(logit((rankdata(sign * values) - 0.5) / len(values)))
            of_each.append(weights[name])
    np.testing.assert_allclose(
        rows["suspicion"].to_numpy(), expit(np.average(odds, axis=0, weights=of_each)), rtol=1e-9
    )


def test_second_training_has_another_seed_and_the_same_rows(repeated: tuple[Path, AuditConfig]) -> None:
    path, _ = repeated
    second = RunDirectory(path / "repeats/2")
    assert (second / "encoded").resolve() == (path / "encoded").resolve()
    curves = [run.facts("train")["curve"] for run in (RunDirectory(path), second)]
    assert curves[0][0]["train_loss"] != curves[1][0]["train_loss"]


def test_repeats_are_not_made_again_for_another_decision(repeated: tuple[Path, AuditConfig]) -> None:
    path, config = repeated
    before = RunDirectory(path / "repeats/2").record["stages"]["train"]
    kept = path / "repeats/2/checkpoints/trajectory.json"
    written = kept.stat().st_mtime_ns
    run_until(config.with_changes({"detection.max_removed": 0.05}), path, "detect")
    assert kept.stat().st_mtime_ns == written
    assert RunDirectory(path / "repeats/2").record["stages"]["train"] == before
