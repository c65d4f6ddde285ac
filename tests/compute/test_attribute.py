"""Scores in reduced precision, and what they say about their error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from digits_run import digits_config, run_until

from pipeline.errors import InputError
from pipeline.runs.directory import RunDirectory
from pipeline.scoring.attribute import PRECISION_ROWS
from pipeline.seeds import random_state
from pipeline.workers.precision import require_precision


def test_reduced_precision_measures_its_error(detected_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "reduced"
    run_until(digits_config(attribution__precision="bf16"), path, "attribute")
    facts = RunDirectory(path).facts("attribute")
    assert facts["precision"] == "bf16"
    error = facts["precision_error"]
    sample = random_state("precision rows", 0).permutation(1200)[:PRECISION_ROWS]
    assert error["rows"] == PRECISION_ROWS
    exact = RunDirectory(detected_run).facts("attribute")
    assert (exact["precision"], exact["precision_error"]) == ("float32", None)
    for name in ("self_influence", "validation_harm"):
        assert 0 < error[name] < 0.2
        ours, theirs = (
            np.concatenate(
                [pq.read_table(file)[name].to_numpy() for file in sorted((run / "scores").iterdir())]
            )
            for run in (path, detected_run)
        )
        changed = np.abs(ours - theirs)[sample].max() / np.abs(theirs[sample]).max()
        assert error[name] == pytest.approx(changed, rel=1e-3)


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="tf32, which only GPUs have"):
        require_precision(digits_config(attribution__precision="tf32", compute__device="cpu"))
    require_precision(digits_config(attribution__precision="bf16", compute__device="cpu"))
