"""The pass over the features early in training, on a real run, without workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.inline import Inline
from pipeline.config import load_config
from pipeline.detection.representation import represent as representation
from pipeline.detection.representation.represent import index_path, reference_path, represent, row_features
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory
from pipeline.workers.worker import run_data


def context(path: Path) -> AuditContext:
    config = load_config(path / "config.yaml")
    return AuditContext(config, RunDirectory(path), Inline(config.compute))


def test_votes_are_those_of_a_search_over_all_pairs(detected_run: Path) -> None:
    rows = run_data(detected_run).load_role("train")
    features = row_features(detected_run, rows).numpy()
    cosine = features @ features.T
    np.fill_diagonal(cosine, -2)
    nearest = np.argsort(-cosine, axis=1)[:, :20]
    found = pq.read_table(detected_run / "signals.parquet")["neighbour_margin"].to_numpy()
    labels = rows.labels.numpy()
    for row in range(0, len(labels), 37):
        votes = np.zeros(10)
        np.add.at(votes, labels[nearest[row]], cosine[row, nearest[row]])
        votes /= votes.sum()
        own = votes[labels[row]]
        assert found[row] == pytest.approx(own - np.delete(votes, labels[row]).max(), abs=1e-4)


def test_clean_votes_are_those_of_the_nearest_validation_rows(detected_run: Path) -> None:
    data = run_data(detected_run)
    train, clean = data.load_role("train"), data.load_role("validation")
    cosine = row_features(detected_run, train).numpy() @ row_features(detected_run, clean).numpy().T
    nearest = np.argsort(-cosine, axis=1)[:, :20]
    found = pq.read_table(detected_run / "signals.parquet")["clean_neighbours"].to_numpy()
    given, labels = train.labels.numpy(), clean.labels.numpy()
    for row in range(0, len(given), 37):
        votes = np.zeros(10)
        np.add.at(votes, labels[nearest[row]], cosine[row, nearest[row]])
        votes /= votes.sum()
        assert found[row] == pytest.approx(votes[given[row]] - np.delete(votes, given[row]).max(), abs=1e-4)


def test_many_reference_rows_are_searched_in_an_index_with_the_same_votes(
    detected_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = pq.read_table(detected_run / "signals.parquet")["neighbour_margin"].to_numpy()
    reference_path(detected_run).unlink()
    monkeypatch.setattr(representation, "EXACT", 1000)
    found = represent(context(detected_run))["neighbour_margin"]
    assert index_path(detected_run).exists()
    assert (np.abs(found - exact) < 0.05).mean() >= 0.95
    assert ((found < 0) == (exact < 0)).mean() >= 0.98


def test_a_copy_under_another_label_is_a_near_duplicate(
    detected_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 1 becomes row 0 with one pixel changed, and has another label."""
    data = run_data(detected_run)
    load = type(data).load

    def changed(self: Any, chunk: Any) -> Any:
        rows = load(self, chunk)
        if chunk.role != "train" or chunk.first:
            return rows
        inputs, labels = rows.inputs.clone(), rows.labels.clone()
        inputs[1] = inputs[0]
        inputs[1, 0, 0, 0] += 1
        labels[1] = (labels[0] + 1) % 10
        return type(rows)(inputs, labels, rows.row_ids)

    reference_path(detected_run).unlink()
    monkeypatch.setattr(type(data), "load", changed)
    found = represent(context(detected_run))["near_duplicates"]
    assert found[0] == found[1] == 1
    assert found[2:].sum() == 0


def test_the_reference_is_bounded_by_the_bytes_of_its_features(
    detected_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = row_features(detected_run, run_data(detected_run).load_role("train").select(slice(0, 1))).shape[1]
    monkeypatch.setattr(representation, "MOST_BYTES", 4 * width * 50)
    reference_path(detected_run).unlink()
    represent(context(detected_run))
    reference = load_file(reference_path(detected_run))
    assert reference["features"].shape == (50, width)
    assert torch.equal(reference["places"], reference["places"].sort().values)
