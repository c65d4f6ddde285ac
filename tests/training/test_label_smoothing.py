from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until
from torch.nn import functional

from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import EncodedData
from pipeline.errors import InputError
from pipeline.training.batches import Selection
from pipeline.training.dynamics import read_epoch
from pipeline.training.loop import training_step
from pipeline.training.main_run import main_directory, whole_trajectory
from pipeline.training.setup import set_up
from pipeline.workers.kept import drop_kept
from pipeline.workers.worker import plain_objective, run_model, run_objective

SMOOTHING = 0.3
CHANGES = {"training.epochs": 1, "training.checkpoints": 1, "training.label_smoothing": SMOOTHING}


@pytest.fixture(scope="module")
def smoothed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smoothed")
    run_until(digits_config(**CHANGES), path, "attribute")
    drop_kept()
    return path


def test_training_lowers_the_smoothed_loss(smoothed_run: Path) -> None:
    setup = set_up(smoothed_run, Selection(), 0)
    batch = next(iter(setup.rows.batches(setup.recipe.batch_size, 0, 0)))
    logits = setup.model(batch.inputs)
    expected = functional.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)
    torch.testing.assert_close(training_step(setup, batch, 0), expected.detach())


def test_what_detection_reads_is_the_plain_loss(smoothed_run: Path) -> None:
    data, trajectory = EncodedData.open(smoothed_run), Trajectory.load(whole_trajectory(smoothed_run))
    model = run_model(smoothed_run, 0)
    restore_weights(model, trajectory.load_weights(0))
    rows = data.load(data.chunks("train")[0])
    with torch.no_grad():
        logits = model.eval()(rows.inputs)
    plain = functional.cross_entropy(logits, rows.labels, reduction="none")
    measured = read_epoch(main_directory(smoothed_run), 1)["loss"][: len(rows)]
    torch.testing.assert_close(measured, plain, atol=1e-5, rtol=1e-4)


def test_the_row_is_scored_by_the_smoothed_and_the_query_by_the_plain_loss(smoothed_run: Path) -> None:
    assert run_objective(smoothed_run).losses is not plain_objective(smoothed_run).losses
    outputs, labels = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([0])
    for objective, smoothing in ((run_objective, SMOOTHING), (plain_objective, 0.0)):
        expected = functional.cross_entropy(outputs, labels, label_smoothing=smoothing)
        torch.testing.assert_close(objective(smoothed_run).losses(outputs, labels)[0], expected)
    harm = pq.read_table(next((smoothed_run / "scores").glob("*.parquet")))["validation_harm"].to_numpy()
    assert np.isfinite(harm).all()


def test_smoothing_a_number_is_refused(tmp_path: Path) -> None:
    changes = CHANGES | {"data.task": "regression"}
    with pytest.raises(InputError, match=r"label_smoothing is 0\.3, but the target 'label' is a number"):
        run_until(digits_config(**changes), tmp_path, "train")
    shutil.rmtree(tmp_path)
