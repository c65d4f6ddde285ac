from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.attribution import (
    AttributionError,
    CheckpointError,
    OptimizerError,
    OptimizerSettings,
    ParameterGroup,
    TrainingStage,
    Trajectory,
    save_weights,
    weights_path,
    write_trajectory,
)

CHECKPOINTS = [
    {"step": 2, "epoch": 1.0, "lr_sum": 0.2},
    {"step": 4, "epoch": 2.0, "lr_sum": 0.3},
    {"step": 6, "epoch": None, "lr_sum": 0.4},
    {"step": 8, "epoch": 4.0, "lr_sum": 0.1},
]


def written(directory: Path, **settings) -> Path:
    for checkpoint in CHECKPOINTS:
        save_weights(
            weights_path(directory, int(checkpoint["step"])), {"w": torch.full((2,), checkpoint["step"])}
        )
    save_weights(directory / "tail.safetensors", {"w": torch.tensor([7.0])})
    places = {key: settings.pop(key) for key in ("checkpoints", "tail") if key in settings}
    decay = ParameterGroup(None, settings.pop("weight_decay", 0.0))
    stages = [TrainingStage(50, OptimizerSettings(groups=(decay,), **settings))]
    write_trajectory(directory, **({"checkpoints": CHECKPOINTS, "steps": 8, "stages": stages} | places))
    return directory


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    trajectory = Trajectory.load(written(tmp_path, momentum=0.9, dampening=0.1, weight_decay=0.01))
    assert [(c.step, c.epoch, c.lr_sum) for c in trajectory.checkpoints] == [
        tuple(c.values()) for c in CHECKPOINTS
    ]
    assert (trajectory.steps, trajectory.train_rows) == (8, 50)
    assert trajectory.optimizer == OptimizerSettings("sgd", (ParameterGroup(None, 0.01),), 0.9, 0.1)
    assert trajectory.load_weights(1)["w"].tolist() == [4, 4]
    assert trajectory.load_tail()["w"].tolist() == [7]


def test_segments_have_equally_many_checkpoints_and_sum_learning_rates(tmp_path: Path) -> None:
    trajectory = Trajectory.load(written(tmp_path, weight_decay=0.01))
    first, second = trajectory.segments(2)
    assert (first.checkpoints, second.checkpoints) == ((0, 1), (2, 3))
    assert (first.lr_sum, second.lr_sum) == (pytest.approx(0.5), pytest.approx(0.5))
    assert first.weight_decay == 0.01
    (whole,) = trajectory.segments()
    assert whole.lr_sum == pytest.approx(1.0)
    for count in (0, 3):
        with pytest.raises(AttributionError, match=f"{count} equal segments"):
            trajectory.segments(count)


@pytest.mark.parametrize(
    ("momentum", "dampening", "factor"), [(0.0, 0.5, 1), (0.9, 0.0, 10), (0.9, 0.9, 1), (0.5, 0.25, 1.5)]
)
def test_momentum_multiplies_learning_rates(
    tmp_path: Path, momentum: float, dampening: float, factor: float
) -> None:
    trajectory = Trajectory.load(written(tmp_path, momentum=momentum, dampening=dampening))
    assert trajectory.segments(1)[0].lr_sum == pytest.approx(factor)


def test_published_setting_gives_the_published_damping(tmp_path: Path) -> None:
    """MNIST, 6144 rows, batch 64, 20 epochs, lr 0.03, momentum 0.9, three segments: 1/(η̄K) = 0.0052."""
    lr_sum = 20 * (6144 // 64) / 3 * 0.03
    segments = [{"step": step, "epoch": None, "lr_sum": lr_sum} for step in (2, 4, 6)]
    trajectory = Trajectory.load(written(tmp_path, checkpoints=segments, momentum=0.9))
    assert 1 / trajectory.segments(3)[0].lr_sum == pytest.approx(0.0052, abs=5e-5)


def test_unknown_optimizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="'lion'"):
        written(tmp_path, kind="lion")
    record = json.loads((written(tmp_path) / "trajectory.json").read_text())
    record["stages"][0]["kind"] = "muon"
    (tmp_path / "trajectory.json").write_text(json.dumps(record))
    with pytest.raises(OptimizerError, match="'muon'"):
        Trajectory.load(tmp_path)


def test_files_of_earlier_versions_without_stages_are_one_stage(tmp_path: Path) -> None:
    old = {"optimizer": "sgd", "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01, "train_rows": 50}
    new = written(tmp_path, momentum=0.9, dampening=0.1, weight_decay=0.01)
    expected = Trajectory.load(new)
    record = old | {"checkpoints": CHECKPOINTS, "steps": 8, "tail": "tail.safetensors"}
    (tmp_path / "trajectory.json").write_text(json.dumps(record))
    assert Trajectory.load(tmp_path) == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"optimizer": "sgd"}'])
def test_damaged_records_are_named(tmp_path: Path, content: str) -> None:
    (written(tmp_path) / "trajectory.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"trajectory\.json is damaged"):
        Trajectory.load(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no trajectory"):
        Trajectory.load(tmp_path)
    weights_path(written(tmp_path), 4).unlink()
    with pytest.raises(CheckpointError, match=r"4\.safetensors"):
        Trajectory.load(tmp_path)
    with pytest.raises(CheckpointError, match="no tail"):
        Trajectory.load(written(tmp_path, tail=None)).load_tail()
    with pytest.raises(CheckpointError, match="no checkpoints"):
        Trajectory.load(written(tmp_path, checkpoints=[]))
