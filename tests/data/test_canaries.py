"""Labels flipped on purpose: in the encoded rows alone, uniformly, and remembered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import AuditConfig
from pipeline.data.canaries import draw_canaries, planted_rows
from pipeline.data.encoded import EncodedData
from pipeline.data.prepare import prepare
from pipeline.errors import InputError
from pipeline.runs.directory import RunDirectory

from .small import write


def prepared(folder: Path, canaries: int) -> np.ndarray:
    """The encoded train labels of 200 rows of 4 classes in two shards and several chunks."""
    for part in range(2):
        columns = {"x": np.arange(100.0) + part, "label": np.arange(100) % 4}
        write(folder / f"data/part-{part}.parquet", columns)
    tree = {
        "name": "small",
        "data": {"train": str(folder / "data"), "features": {"x": "auto"}, "label": "label"},
        "compute": {"chunk_rows": 30},
        "detection": {"canaries": canaries},
    }
    run = RunDirectory(folder / f"run-{canaries}")
    prepare(SimpleNamespace(config=AuditConfig.model_validate(tree), run=run, progress=lambda *_: None))  # type: ignore[arg-type]
    return EncodedData.open(run.path).load_role("train").labels.numpy()


def test_just_the_drawn_labels_are_flipped_and_remembered(tmp_path: Path) -> None:
    given, flipped = prepared(tmp_path, 0), prepared(tmp_path, 20)
    planted = planted_rows(tmp_path / "run-20", 200)
    assert planted.sum() == 20
    assert (np.flatnonzero(given != flipped) == np.flatnonzero(planted)).all()
    assert set(flipped) == {0, 1, 2, 3}
    assert not planted_rows(tmp_path / "run-0", 200).any()


def test_flips_are_uniform_over_rows_and_other_classes() -> None:
    config = config_with(2000)
    canaries = draw_canaries(config, "classification", 10_000, 5)
    assert canaries is not None
    assert len(set(canaries.places.tolist())) == 2000
    assert abs(canaries.places.mean() - 5000) < 5 * 10_000 / np.sqrt(12 * 2000)
    counts = np.bincount(canaries.shifts, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 500 - 5 * np.sqrt(500)


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [("regression", 1000, "numeric target"), ("classification", 99, "a fifth of the 99")],
)
def test_what_can_not_be_flipped_is_said(task: str, rows: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_canaries(config_with(20), task, rows, 4)


def config_with(canaries: int) -> AuditConfig:
    return AuditConfig.model_validate(
        {
            "name": "small",
            "data": {"train": "t", "features": {"x": "auto"}, "label": "label"},
            "detection": {"canaries": canaries},
        }
    )
