"""Audits of 60 rows for two epochs, in this process, in which nothing depends on the time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inline import Inline
from pipeline.config import AuditConfig
from pipeline.runs.context import AuditContext
from pipeline.stages.opening import open_run
from pipeline.workers.kept import drop_kept

ROWS = {"train": 60, "validation": 20, "holdout": 20}
RUN = Path("run")
PASSING = (".written", ".lock")
"""What names of files and processes depend on chance in."""


def write_tiny(folder: Path) -> None:
    """Two numbers and a source per row, three classes, a fifth of the train labels wrong."""
    random = np.random.default_rng(0)
    for role, rows in ROWS.items():
        labels = np.arange(rows) % 3
        x = random.normal(size=(rows, 2)) + 3 * np.eye(3, 2)[labels]
        if role == "train":
            labels = np.where(random.random(rows) < 0.2, (labels + 1) % 3, labels)
        columns = {"a": x[:, 0], "b": x[:, 1], "label": labels}
        columns["key"] = pa.array([f"{role}-{place}" for place in range(rows)])
        table = pa.table(columns | {"site": pa.array(np.where(np.arange(rows) % 2, "east", "west"))})
        pq.write_table(table, folder / f"{role}.parquet")


def tiny_config(folder: Path, **changes: object) -> AuditConfig:
    """`section__key=value` changes more."""
    tree = {
        "name": "tiny",
        "data": {role: str(folder / f"{role}.parquet") for role in ROWS}
        | {
            "features": {"a": "numeric", "b": "numeric"},
            "label": "label",
            "key": "key",
            "validation_is_clean": True,
            "holdout_is_clean": False,
        },
        "model": {"name": "mlp", "hidden": [4]},
        "training": {"epochs": 2, "batch_size": 20, "checkpoints": 2},
        "compute": {"workers": 1, "device": "cpu", "chunk_rows": 30},
        "detection": {"panel_folds": 2},
        "verification": {"seeds": 2, "fidelity": 0},
    }
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return AuditConfig.model_validate(tree).with_changes(dotted)


@contextmanager
def without_time() -> Iterator[None]:
    """Durations and sizes that are recorded are always the same."""
    with (
        mock.patch("time.perf_counter", return_value=0.0),
        mock.patch("pipeline.stages.stages.peak_resident_bytes", return_value=1),
    ):
        yield


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """As in a new process that works in this folder: no path that is written depends on where the folder lies."""
    drop_kept()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (
            without_time(),
            mock.patch("pipeline.stages.opening.Workers", Inline),
            mock.patch("pipeline.trace.trace.Workers", Inline),
            mock.patch("pipeline.artifacts.journal._process", (0, "")),  # a journal of its own
        ):
            yield
    finally:
        os.chdir(before)


@contextmanager
def tiny_audit(config: AuditConfig, folder: Path) -> Iterator[AuditContext]:
    """An audit in `folder`/run whose tasks run in this process."""
    with in_folder(folder), open_run(config, RUN) as context:
        yield context


def contents(run: Path) -> dict[str, Any]:
    """All that lies in a run, by path: bytes, where a link leads, and the record as values."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if (path.is_dir() and not path.is_symlink()) or any(part in PASSING for part in path.parts):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.name == "record.json":
            found[name] = json.loads(path.read_text())
        else:
            found[name] = path.read_bytes()
    return found


def differences(run: Path, expected: dict[str, Any]) -> list[str]:
    there = contents(run)
    return [name for name in sorted(there | expected) if there.get(name) != expected.get(name)]
