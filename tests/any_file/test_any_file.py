"""`init`, `check` and `audit` without a hand on the config, for files of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import load_config
from pipeline.data.first_look.inspect_files import look
from pipeline.preflight.check import check
from pipeline.runs.directory import RunDirectory
from pipeline.stages.audit import audit

from .made_files import LEAST, Made

RANKING_ONLY = {
    "verification.seeds": 0,
    "verification.fidelity": 0,
    "detection.backdoors": False,
    "compute.workers": 1,
}


@pytest.mark.parametrize("make", LEAST, ids=lambda make: make.__name__)
def test_planted_labels_are_found(
    make: Callable[[Path], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    made = make(tmp_path)
    (tmp_path / "config.yaml").write_text(look(made.paths, label=made.label).to_yaml())
    config = load_config("config.yaml", RANKING_ONLY)
    assert check(config).ok
    run = audit(config, tmp_path / "run").run
    assert found_share(run, made) >= LEAST[make]


def found_share(run: RunDirectory, made: Made) -> float:
    """The share of the planted rows among as many rows with the highest suspicion."""
    rows = pq.read_table(run / "rows.parquet", columns=["shard", "row", "suspicion", "reasons"]).to_pandas()
    sizes = {source["path"]: source["rows"] for source in run.record["stages"]["prepare"]["facts"]["sources"]}
    assert sum(sizes.values()) == len(made.wrong)
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])))
    rows["place"] = rows["shard"].map(starts) + rows["row"]
    assert rows["place"].is_unique
    corrupted = rows["place"][["corrupted" in reasons for reasons in rows["reasons"]]]
    assert set(made.unreadable) <= set(corrupted)
    judged = rows.sort_values("suspicion", ascending=False, kind="stable")
    judged = judged[~judged["place"].isin(made.unreadable)]
    wrong = made.wrong[judged["place"]]
    return float(wrong[: wrong.sum()].mean())
