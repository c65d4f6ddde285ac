"""The signals beside the recipe, each computed anew from what the run left on disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.detection.signals.forgetting import count_events
from pipeline.detection.suspicion import SignalValues, suspicion
from pipeline.training.dynamics import read_epoch
from pipeline.training.main_run import main_directory, whole_trajectory
from pipeline.training.tensor_file import RowsFile, write_rows
from pipeline.workers.worker import run_data, run_model


def test_final_loss_and_attribution_scores_are_those_of_the_rows(detected_run: Path) -> None:
    rows, signals = (pq.read_table(detected_run / name) for name in ("rows.parquet", "signals.parquet"))
    for name in ("final_loss", "self_influence", "validation_harm"):
        assert signals[name].to_pylist() == rows[name].to_pylist()


def test_forgetting_counts_what_a_loop_over_rows_and_epochs_counts(detected_run: Path) -> None:
    labels = run_data(detected_run).load_role("train").labels
    predicted = [read_epoch(main_directory(detected_run), epoch)["top_class"][:, 0] for epoch in range(1, 7)]
    right = torch.stack([each.long() == labels for each in predicted]).numpy()
    expected = [
        float(sum(before and not after for before, after in itertools.pairwise(row))) if any(row) else 6.0
        for row in right.T.tolist()
    ]
    found = pq.read_table(detected_run / "signals.parquet")["forgetting"].to_pylist()
    assert found == expected
    assert len(set(found)) > 2


def test_a_row_that_is_never_right_is_above_all_that_forget(tmp_path: Path) -> None:
    margins = [[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]]
    files = []
    for epoch, values in enumerate(margins):
        path = tmp_path / f"{epoch}.safetensors"
        list(write_rows(path, 3, [{"margin": torch.tensor(values)}]))
        files.append(RowsFile(path))
    assert count_events(files, slice(0, 3)).tolist() == [2.0, 4.0, 0.0]


def test_gradient_norm_is_that_of_the_last_layers_gradient_by_autograd(detected_run: Path) -> None:
    data, trajectory = run_data(detected_run), Trajectory.load(whole_trajectory(detected_run))
    model = run_model(detected_run, 0)
    last = len(trajectory.checkpoints) - 1
    restore_weights(model, trajectory.load_weights(last), trajectory.checkpoints[last].path)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    rows = data.load_role("train")
    found = pq.read_table(detected_run / "signals.parquet")["gradient_norm"].to_numpy()
    for place in range(0, len(rows), 151):
        row = rows.select(slice(place, place + 1))
        loss = functional.cross_entropy(model(row.inputs), row.labels)
        gradients = torch.autograd.grad(loss, list(linear.parameters()))
        expected = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        assert found[place] == np.float64(expected) or abs(found[place] / expected - 1) < 1e-3


def test_only_signals_that_count_make_the_suspicion() -> None:
    rng = np.random.default_rng(0)
    one, two = (SignalValues(name, rng.normal(size=50), True, "") for name in "ab")
    beside = SignalValues("c", rng.normal(size=50), True, "", counts=False)
    assert np.array_equal(suspicion([one, beside, two]), suspicion([one, two]))
