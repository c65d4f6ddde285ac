"""A variant that takes over what it can says the same as an audit from the beginning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.detection import write_roles
from benchmarks.detection_audit import (
    SIGNALS,
    VARIANTS,
    audit,
    cost,
    judged_by_winnow,
    single_rankings,
    variant,
)
from benchmarks.detection_noise import plant
from benchmarks.detection_tasks import TASKS, draw_roles, read_rows, task_config
from pipeline.runs.context import AuditContext

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    home = tmp_path_factory.mktemp("audit")
    roles = draw_roles("breast_cancer", read_rows("breast_cancer", home, home), 0)
    given, _ = plant("breast_cancer", roles["train"], "uniform", 0.1, 0)
    column = roles["train"].schema.get_field_index("label")
    roles["train"] = roles["train"].set_column(column, "label", given)
    write_roles(home / "data", roles)
    config = task_config("breast_cancer", home / "data", 0)
    return audit(config.with_changes({"training.epochs": 12}), home / "winnow")


def read(context: AuditContext, name: str) -> pa.Table:
    """Without the harm that the scores taken over still have; it is no signal without validation rows."""
    table = pq.read_table(context.run / name)
    return table.select([column for column in table.column_names if column != "validation_harm"])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_an_audit_with_the_change(audited: AuditContext, tmp_path: Path, name: str) -> None:
    taken_over = variant(audited, name)
    from_the_beginning = audit(audited.config.with_changes(VARIANTS[name][0]), tmp_path)
    for file in ("rows.parquet", "signals.parquet"):
        assert read(taken_over, file).equals(read(from_the_beginning, file))
    assert (
        taken_over.run.facts("train")["early_epoch"] == from_the_beginning.run.facts("train")["early_epoch"]
    )
    assert cost(taken_over) == cost(from_the_beginning)


def test_every_signal_is_a_ranking_and_is_left_out_once(audited: AuditContext) -> None:
    found = {finding.method: finding for finding in single_rankings(audited)}
    assert set(SIGNALS) | {f"without_{name}" for name in SIGNALS} <= set(found)
    winnow = judged_by_winnow("winnow", audited)
    assert (winnow.flags["remove"] <= winnow.flags["remove + review"]).all()
    weights = audited.run.facts("detect")["weights"]
    wrong = pq.read_table(audited.run / "signals.parquet")["panel_wrong"].to_numpy()[: len(winnow.suspicion)]
    together = weights["panel_wrong"] * ranks(wrong)
    together += sum(weights.get(name, 0) * ranks(found[name].suspicion) for name in SIGNALS)
    assert np.corrcoef(ranks(winnow.suspicion), together)[0, 1] > 0.9


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def test_tasks_name_columns_that_are_there(tmp_path: Path) -> None:
    for name in ("digits", "breast_cancer", "adult"):
        rows = read_rows(name, tmp_path, tmp_path)
        assert set(TASKS[name].features) <= set(rows.column_names)
        assert sum(TASKS[name].rows) <= rows.num_rows
