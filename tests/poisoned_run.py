"""Small runs on the shipped samples with a planted backdoor, trained in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inline import Inline
from pipeline.config import AuditConfig, load_config
from pipeline.data.prepare import prepare
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.seeds import random_state
from pipeline.training.main_run import train_main

ROOT = Path(__file__).parents[1]
Trigger = Callable[[pa.Table], pa.Table]


def right_labels(sample: str, rows: int) -> pa.Table:
    """The first train rows of a sample, without its planted wrong labels."""
    table = pq.read_table(ROOT / "data_samples" / sample / "train").combine_chunks()
    truth = pq.read_table(ROOT / "data_samples" / sample / "truth.parquet")
    wrong = set(truth.filter(truth["is_wrong"])["index"].to_pylist())
    kept = [row for row, key in enumerate(table["index"].to_pylist()) if key not in wrong]
    return table.take(pa.array(kept[:rows])).combine_chunks()


def plant(table: pa.Table, trigger: Trigger, target: Any, count: int) -> tuple[pa.Table, np.ndarray]:
    """`count` rows of other classes with the trigger and the target's label, and which rows, bool `[rows]`."""
    others = np.array([row for row, label in enumerate(table["label"].to_pylist()) if label != target])
    planted = np.zeros(table.num_rows, dtype=bool)
    planted[random_state("planted", 0).permutation(others)[:count]] = True
    place = table.schema.get_field_index("label")
    triggered = trigger(table)
    relabelled = triggered.set_column(
        place, "label", pa.array([target] * table.num_rows, table.schema.field("label").type)
    )
    both = pa.concat_tables([table, relabelled.cast(table.schema)])
    return both.take(pa.array(np.arange(len(planted)) + planted * len(planted))).combine_chunks(), planted


def poisoned_config(sample: str, table: pa.Table, folder: Path, **changes: object) -> AuditConfig:
    """The sample's example config with these train rows; `section__key=value` changes more."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "train.parquet")
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    paths = {role: str(ROOT / "data_samples" / sample / role) for role in ("validation", "holdout")}
    fixed = {f"data.{role}": path for role, path in paths.items()} | {
        "data.train": str(folder / "train.parquet")
    }
    small = {"training.checkpoints": 1, "compute.device": "cpu"}
    return load_config(ROOT / "configs" / f"{sample}.yaml", small | fixed | dotted)


def trained(config: AuditConfig, path: Path) -> AuditContext:
    """The main training alone is done: what the search for backdoors needs."""
    context = AuditContext(config, RunDirectory(path), Inline(config.compute))
    write_text(path / "config.yaml", config.to_yaml())
    prepare(context)
    train_main(path, None)
    return context
