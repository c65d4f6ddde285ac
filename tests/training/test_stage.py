from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.data.encoded import EncodedData
from pipeline.runs.directory import RunDirectory
from pipeline.training.dynamics import read_epoch
from pipeline.training.halves import assign_halves, merged_halves
from pipeline.training.main_run import early_trajectory, main_directory, whole_trajectory
from pipeline.training.stage import early_epoch_without_halves


def test_checkpoints_are_equally_spaced_and_end_with_the_training(detected_run: Path) -> None:
    trajectory = Trajectory.load(whole_trajectory(detected_run))
    assert [c.step for c in trajectory.checkpoints] == [80, 160, 240]
    assert [c.lr_sum for c in trajectory.checkpoints] == pytest.approx([2.4] * 3)
    assert trajectory.train_rows == 1200
    for checkpoint in trajectory.checkpoints:
        assert checkpoint.path.with_name(f"{checkpoint.step}.optimizer.safetensors").exists()


def test_the_early_window_has_checkpoints_of_its_own_when_it_is_shorter(detected_run: Path) -> None:
    early = RunDirectory(detected_run).facts("train")["early_epoch"]
    if 2 * early >= 6:
        assert not early_trajectory(detected_run).exists()
    else:
        trajectory = Trajectory.load(early_trajectory(detected_run))
        assert trajectory.checkpoints[-1].step == 2 * early * 40


def test_halves_are_complementary_and_stratified(detected_run: Path) -> None:
    data = EncodedData.open(detected_run)
    halves = assign_halves(data, 0)
    labels = data.load_role("train").labels.numpy()
    for label in range(10):
        share = halves[labels == label].mean()
        assert abs(share - 0.5) <= 0.5 / (labels == label).sum() + 1e-9
    assert (assign_halves(data, 1) != halves).mean() > 0.3


def test_every_row_is_judged_by_the_half_that_did_not_see_it(detected_run: Path) -> None:
    data = EncodedData.open(detected_run)
    merged = merged_halves(detected_run, assign_halves(data, 0), 6)
    assert all(len(column) == 1200 for column in merged.values())
    in_sample = read_epoch(main_directory(detected_run), 6)["loss"].double().mean()
    assert merged["loss"].double().mean() > in_sample


def test_the_curve_has_a_line_per_epoch(detected_run: Path) -> None:
    facts = RunDirectory(detected_run).facts("train")
    assert [line["epoch"] for line in facts["curve"]] == [1, 2, 3, 4, 5, 6]
    losses = [line["out_of_sample_loss"] for line in facts["curve"]]
    assert facts["early_epoch"] == int(np.argmin(losses)) + 1
    assert facts["curve"][-1]["validation_metric"] > 0.7


def test_without_halves_the_window_follows_the_validation_loss_or_the_length() -> None:
    assert early_epoch_without_halves([{"validation_loss": loss} for loss in (3.0, 1.0, 2.0)]) == 2
    assert early_epoch_without_halves([{} for _ in range(7)]) == 3
