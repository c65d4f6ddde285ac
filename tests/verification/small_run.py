"""A run directory made of the digits sample, up to rows.parquet, with decisions that a test chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inline import Inline
from pipeline.config import AuditConfig, Compute
from pipeline.data.prepare import prepare
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text

SAMPLES = Path(__file__).parents[2] / "data_samples"


class InlineWorkers(Inline):
    """Remembers its `tasks`."""

    def __init__(self, config: Compute) -> None:
        super().__init__(config)
        self.tasks: list[tuple[Any, ...]] = []

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], *more: Any) -> list[Any]:
        self.tasks += tasks
        return super().run(function, tasks, *more)


def digits_config(roles: Sequence[str] = ("train", "validation", "holdout"), **changes: Any) -> AuditConfig:
    data: dict[str, Any] = {role: [str(SAMPLES / "digits" / role)] for role in roles}
    data |= {"features": {"image": "image"}, "label": "label", "key": "index"}
    tree = {
        "name": "digits",
        "data": data,
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 3, "batch_size": 60, "learning_rate": 0.1, "checkpoints": 3},
        "verification": {"seeds": 2, "fidelity": 0},
    }
    return AuditConfig.model_validate(tree).with_changes(changes)


def open_context(path: Path, config: AuditConfig) -> AuditContext:
    """Prepare the data of `config` in `path`; later stages count as run, without a scale correction or sources."""
    context = AuditContext(config, RunDirectory(path), InlineWorkers(config.compute))
    write_text(path / "config.yaml", config.to_yaml())
    prepare(context)
    context.run.finish_stage("train", "", {"facts": {}})
    context.run.finish_stage("factors", "", {"facts": {"alpha": None}})
    context.run.finish_stage("detect", "", {"facts": {}})
    return context


def planted(count: int) -> tuple[np.ndarray, list[int]]:
    """Which of the digits' train rows have a planted wrong label, bool `[rows]`, and the true labels."""
    truth = pq.read_table(SAMPLES / "digits/truth.parquet")
    assert truth.num_rows == count
    return truth["is_wrong"].to_numpy(), truth["true_label"].to_pylist()


def write_rows(
    path: Path,
    decisions: Sequence[str],
    suggestions: pa.Array,
    harm: np.ndarray | None = None,
) -> None:
    """The columns of rows.parquet that verification reads."""
    columns = {
        "decision": pa.array(list(decisions)),
        "suggested_label": suggestions,
        "validation_harm": pa.array(harm if harm is not None else [None] * len(decisions), pa.float64()),
    }
    pq.write_table(pa.table(columns), path / "rows.parquet")
