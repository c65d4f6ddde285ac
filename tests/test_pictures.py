"""Pictures of many sizes in files of their own, some of which can't be read: from `winnow init` to the export."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_bytes import file_of

from pipeline.config import load_config
from pipeline.data.first_look.inspect_files import look
from pipeline.runs.directory import RunDirectory
from pipeline.stages.audit import audit

ROWS = 160
LOST = (3, 40, 77)
"""A file that is not there, one that is no picture, and a null."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """An audit of bright and dark pictures, every tenth with the other's label."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "data/img").mkdir(parents=True)
    random = np.random.default_rng(0)
    for row in range(ROWS):
        shape = (6 + row % 3, 8, 3) if row % 2 else (8, 6 + row % 5)
        pixels = random.integers(0, 120, shape) + 120 * (row % 4 // 2)
        (folder / f"data/img/{row}.png").write_bytes(file_of(pixels.astype(np.uint8)))
    (folder / f"data/img/{LOST[0]}.png").unlink()
    (folder / f"data/img/{LOST[1]}.png").write_bytes(b"nonsense")
    paths = [None if row == LOST[2] else f"img/{row}.png" for row in range(ROWS)]
    labels = [(row % 4 // 2) ^ (row % 10 == 5) for row in range(ROWS)]
    pq.write_table(pa.table({"photo": paths, "label": labels}), folder / "data/all.parquet")
    (folder / "config.yaml").write_text(look([str(folder / "data/all.parquet")]).to_yaml())
    changes = {
        "model": {"name": "mlp", "hidden": [8]},
        "training.epochs": 4,
        "training.checkpoints": 2,
        "compute.workers": 1,
        "verification.seeds": 0,
        "verification.fidelity": 0,
        "detection.backdoors": False,
    }
    audit(load_config(folder / "config.yaml", changes), folder / "run")
    return RunDirectory(folder / "run")


def test_every_row_stands_once_in_the_table_and_the_unreadable_ones_are_removed(run: RunDirectory) -> None:
    rows = pq.read_table(run / "rows.parquet").to_pylist()
    assert sorted(row["row"] for row in rows) == list(range(ROWS))
    aside = {row["row"]: row for row in rows if row["split"] == "aside"}
    assert sorted(aside) == list(LOST)
    for row in aside.values():
        assert (row["decision"], row["decided_by"], row["reasons"]) == ("remove", "rule", ["corrupted"])
        assert row["predicted_label"] is row["suggested_label"] is row["self_influence"] is None
    signals = pq.read_table(run / "signals.parquet")["row_key"].to_pylist()
    assert signals == [row["row_key"] for row in rows]


def test_the_export_has_every_row_once(run: RunDirectory) -> None:
    source = pq.read_table(load_config(run / "config.yaml").data.train[0])["photo"].to_pylist()
    cleaned = pq.read_table(run / "cleaned/all.parquet")["photo"].to_pylist()
    away = pq.read_table(run / "quarantine/all.parquet")
    assert Counter(cleaned) + Counter(away["photo"].to_pylist()) == Counter(source)
    assert away["photo"].to_pylist() == [None if row == LOST[2] else f"img/{row}.png" for row in LOST]


def test_the_report_counts_them_and_shows_the_pictures_of_the_others(run: RunDirectory) -> None:
    page = Path(run / "report/index.html").read_text()
    assert run.read("report/summary.json")["reasons"]["corrupted"] >= len(LOST)
    assert page.count("not a readable picture") == len(LOST)
    assert re.search(r"not a readable picture: there is no file \S+/img/3\.png", page)
    assert "not a readable picture: it does not decode as an image" in page
    assert "not a readable picture: it is null" in page
    assert "data:image/png;base64" in page
    assert "3 rows can&#39;t be read" in page
