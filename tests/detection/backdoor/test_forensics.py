"""Forensics after real trainings on the shipped samples; what was planted is known here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from poisoned_run import plant, poisoned_config, right_labels, trained

from pipeline.detection.backdoor.forensics import Forensics, in_search, investigate, most_behind, suspects
from pipeline.detection.backdoor.search_data import as_inputs, final_predictor, load_places
from pipeline.runs.context import AuditContext
from pipeline.workers.kept import drop_kept
from pipeline.workers.worker import run_data

from .test_backdoors import patch, word

CASES: dict[str, tuple[str, Any, Any, str, int, dict[str, Any]]] = {
    "patch": ("digits", patch, 4, "window", 40, {"training__epochs": 15}),
    "word": ("sms_spam", word, "spam", "tokens", 30, {"training__epochs": 8}),
}


def asked(context: AuditContext, inputs: dict[str, np.ndarray], folder: Path) -> Forensics:
    """Forensics of these queries, without knowing which train rows are behind them."""
    folder.mkdir()
    predictions = final_predictor(context.run.path)(inputs).argmax(1)
    nothing = np.full((len(predictions), 3), -1)
    return investigate(context, inputs, predictions, nothing, folder)


def holdout(context: AuditContext, trigger: Any = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Encoded holdout rows, with the trigger if one is given, and their labels."""
    data = run_data(context.run.path)
    if trigger is None:
        rows = load_places(data, "holdout", np.arange(data.count("holdout")))
        return as_inputs(rows, data), rows.labels.numpy()
    table = trigger(pq.read_table(context.config.data.holdout[0])).combine_chunks()
    batch = table.to_batches()[0]
    arrays = data.encoding.encode(batch)
    labels = arrays.pop("labels")
    return arrays, labels


@pytest.mark.parametrize(
    ("sample", "trigger", "target", "kind", "count", "changes"), CASES.values(), ids=CASES
)
def test_the_trigger_of_queries_is_reconstructed_with_its_carriers(
    tmp_path: Path, sample: str, trigger: Any, target: Any, kind: str, count: int, changes: dict[str, Any]
) -> None:
    drop_kept()
    table, planted = plant(right_labels(sample, 1500), trigger, target, count)
    context = trained(poisoned_config(sample, table, tmp_path / "data", **changes), tmp_path / "run")
    index = run_data(context.run.path).encoding.classes.index(target)
    inputs, labels = holdout(context, trigger)
    predictions = final_predictor(context.run.path)(inputs).argmax(1)
    fooled = np.flatnonzero((labels != index) & (predictions == index))[:6]
    assert len(fooled) == 6
    found = asked(context, {name: rows[fooled] for name, rows in inputs.items()}, tmp_path / "fooled")
    assert [facts["kind"] for facts in found.findings] == [kind]
    assert found.findings[0]["target"] == target
    assert len(found.findings[0]["queries"]) >= 3
    carriers = pq.read_table(tmp_path / "fooled/carriers.parquet")
    assert carriers.num_rows == found.findings[0]["rows"]
    keys = pq.read_table(context.run / "catalog.parquet", filters=[("split", "==", "train")])["row_key"]
    right = {key for key, is_planted in zip(keys.to_pylist(), planted) if is_planted}
    assert len(right & set(carriers["row_key"].to_pylist())) >= 0.95 * count
    assert carriers.num_rows <= 1.1 * count
    clean, labels = holdout(context)
    ordinary = {name: rows[labels != index][:20] for name, rows in clean.items()}
    assert asked(context, ordinary, tmp_path / "clean").findings == []
    assert pq.read_table(tmp_path / "clean/carriers.parquet").num_rows == 0


@pytest.mark.parametrize("sample", ["digits", "sms_spam", "adult"])
def test_queries_of_a_model_without_a_backdoor_give_no_alarm(tmp_path: Path, sample: str) -> None:
    drop_kept()
    config = poisoned_config(sample, right_labels(sample, 1500), tmp_path / "data", training__epochs=10)
    context = trained(config, tmp_path / "run")
    inputs, labels = holdout(context)
    wrong = np.flatnonzero(final_predictor(context.run.path)(inputs).argmax(1) != labels)[:20]
    for name, which in (("mistakes", wrong), ("any", np.arange(20))):
        found = asked(context, {kind: rows[which] for kind, rows in inputs.items()}, tmp_path / name)
        assert found.findings == []


def test_rows_behind_many_queries_come_first() -> None:
    supporters = np.array([[7, 3, 9], [3, 7, -1], [3, 5, -1]])
    assert most_behind(supporters).tolist() == [3, 7, 5, 9]


def test_queries_are_grouped_by_what_they_are_taken_for() -> None:
    groups, notes = suspects(np.array([2, 0, 2]), np.array([[4], [1], [-1]]))
    assert [(group.target, group.queries.tolist(), group.supporters.tolist()) for group in groups] == [
        (2, [0, 2], [4]),
        (0, [1], [1]),
    ]
    assert notes == []


def test_rows_that_are_not_searched_are_no_seeds() -> None:
    assert in_search(np.array([8, 2, 5, 99]), np.array([2, 4, 8])).tolist() == [2, 0]
