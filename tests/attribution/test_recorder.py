from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    AttributionError,
    OptimizerError,
    Trajectory,
    TrajectoryRecorder,
    checkpoint_steps,
)


def test_records_checkpoints_learning_rates_and_the_tail_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 12)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=3, steps=12, train_rows=30)
    rates, states = [], []
    for step in range(12):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        recorder.step(epoch=(step + 1) / 6)
        rates.append(optimizer.param_groups[0]["lr"])
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        schedule.step()
    trajectory = Trajectory.load(tmp_path)
    assert [c.step for c in trajectory.checkpoints] == [4, 8, 12]
    assert [c.epoch for c in trajectory.checkpoints] == pytest.approx([4 / 6, 8 / 6, 2])
    expected = [sum(rates[:4]), sum(rates[4:8]), sum(rates[8:])]
    assert [c.lr_sum for c in trajectory.checkpoints] == pytest.approx(expected)
    assert (trajectory.momentum, trajectory.weight_decay, trajectory.train_rows) == (0.9, 0.01, 30)
    torch.testing.assert_close(trajectory.load_weights(1), states[7], atol=0, rtol=0)
    tail = trajectory.load_tail()
    for name in ("0.weight", "1.running_var"):
        torch.testing.assert_close(tail[name], torch.stack([state[name] for state in states[9:]]).mean(0))


def test_checkpoints_are_equally_spaced_and_end_with_training() -> None:
    assert checkpoint_steps(60, 6) == [10, 20, 30, 40, 50, 60]
    assert checkpoint_steps(7, 7) == [1, 2, 3, 4, 5, 6, 7]
    assert checkpoint_steps(10, 3) == [3, 7, 10]
    with pytest.raises(AttributionError, match="5 training steps"):
        checkpoint_steps(5, 6)


def two_groups(lr: float) -> torch.optim.Optimizer:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": [a], "lr": lr}, {"params": [b], "lr": 0.1}], lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.AdamW(nn.Linear(1, 1).parameters()), "'AdamW'"),
        (two_groups(0.2), "differ in 'lr'"),
        (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, maximize=True), "maximises"),
    ],
    ids=["adamw", "groups", "maximize"],
)
def test_optimizers_without_a_formula_are_refused(tmp_path: Path, optimizer, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        TrajectoryRecorder(nn.Linear(1, 1), optimizer, tmp_path, steps=10, train_rows=5)


def test_more_steps_than_announced_and_changed_settings_are_errors(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=1, steps=2, train_rows=5, tail=0)
    recorder.step()
    assert not (tmp_path / "trajectory.json").exists()
    recorder.step()
    assert Trajectory.load(tmp_path).tail is None
    with pytest.raises(AttributionError, match="2 steps"):
        recorder.step()
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=1, steps=2, train_rows=5)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(OptimizerError, match="changed"):
        recorder.step()
