"""Scores of several trainings are averaged; what is on disk already is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from digits_run import digits_config, run_until

from pipeline.config import AuditConfig
from pipeline.detection.signals.evidence import read_score
from pipeline.runs.directory import RunDirectory
from pipeline.workers.worker import run_data


def ensemble_config(**changes: object) -> AuditConfig:
    small = {
        "detection__halves": False,
        "training__epochs": 2,
        "training__checkpoints": 1,
        "model__hidden": [12],
        "compute__chunk_rows": 500,
        "attribution__group_harm": True,
    }
    return digits_config(**(small | changes))


def test_scores_are_means_over_trainings_with_other_seeds(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_until(ensemble_config(attribution__ensemble=2), path, "attribute")
    assert RunDirectory(path).facts("attribute")["ensemble"] == 2
    second = path / "repeats/2"
    single = tmp_path / "single"
    run_until(ensemble_config(), single, "attribute")
    for name in ("self_influence", "validation_harm"):
        found, one, two = (read_score(p, run_data(p), name) for p in (path, single, second))
        assert np.corrcoef(one, two)[0, 1] < 0.999
        np.testing.assert_allclose(found, (one + two) / 2, rtol=1e-12)
    groups = [group_harm(p) for p in (path, single, second)]
    np.testing.assert_allclose(groups[0], (groups[1] + groups[2]) / 2, rtol=1e-5, atol=1e-9)
    final = [read_score(p, run_data(p), "final_loss") for p in (path, single)]
    np.testing.assert_array_equal(final[0], final[1])

    written = (second / "checkpoints/trajectory.json").stat().st_mtime_ns
    for lost in (path / "scores").glob("chunk-*.parquet"):
        lost.unlink()
    RunDirectory(path).begin_stage("attribute", "", ())
    run_until(ensemble_config(attribution__ensemble=2), path, "attribute")
    assert (second / "checkpoints/trajectory.json").stat().st_mtime_ns == written
    np.testing.assert_array_equal(read_score(path, run_data(path), "validation_harm"), found)


def group_harm(path: Path) -> np.ndarray:
    files = sorted((path / "scores").glob("*.parquet"))
    return np.concatenate([np.stack(pq.read_table(file)["group_harm"].to_numpy()) for file in files])
