"""A recording to unroll must be of the training that the trajectory is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    AttributionError,
    Replay,
    ReplayRecorder,
    Trajectory,
    TrajectoryRecorder,
    WindowMeans,
    WindowRecorder,
    attribute,
)
from pipeline.attribution.unrolling.same_training import check_same_training

ROWS = 24
METHODS = {"unrolled": "replay", "unrolled_gauss_newton": "pieces"}


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:], "lr": 0.02}],
        lr=0.05,
        momentum=0.5,
    )


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "slower": lambda p: torch.optim.SGD(
        [{"params": p[:2], "weight_decay": 0.1}, {"params": p[2:]}], 0.04, 0.5
    ),
    "momentum": lambda p: torch.optim.SGD([{"params": p[:2]}, {"params": p[2:]}], lr=0.05, momentum=0.9),
    "body": lambda p: torch.optim.SGD([{"params": p[:2], "weight_decay": 0.1}], lr=0.05, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def record(
    directory: Path, optimizer: str = "sgd", steps: int = 13, rows: int = ROWS, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    schedule = torch.optim.lr_scheduler.LinearLR(made, 0.1, 1.0, steps)
    sizes = {"steps": steps, "train_rows": rows}
    trajectory = TrajectoryRecorder(model, made, directory / "trajectory", checkpoints=3, **sizes)
    replay = ReplayRecorder(model, made, directory / "replay", **sizes)
    pieces = WindowRecorder(model, made, directory / "pieces", batch_size=6, windows=4, **sizes)
    inputs, labels = data(rows)
    for _ in range(steps):
        chosen = torch.randperm(rows)[:6]
        made.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        made.step()
        trajectory.step()
        replay.step(chosen)
        pieces.step()
        schedule.step()
    return model


def data(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(7)).double()
    return inputs, inputs[:, :3].argmax(1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_recordings_of_the_same_loop_pass(tmp_path: Path, optimizer: str) -> None:
    record(tmp_path, optimizer)
    trajectory = Trajectory.load(tmp_path / "trajectory")
    check_same_training(trajectory, Replay.load(tmp_path / "replay"))
    check_same_training(trajectory, WindowMeans.load(tmp_path / "pieces"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"steps": 11}, "it has 11 steps and not 13"),
        ({"rows": 20}, "it has 20 training rows and not 24"),
        ({"optimizer": "adamw"}, "the optimizer's kind is adamw and not sgd.*1 parameter groups and not 2"),
        ({"optimizer": "momentum"}, r"momentum is 0\.9 and not 0\.5; the weight decay of group 0 is 0\.0"),
        ({"optimizer": "body"}, "1 parameter groups and not 2"),
        ({"optimizer": "slower"}, "the learning rates of steps 1 to 4 differ"),
    ],
    ids=lambda value: str(value)[:24],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_recording_of_another_training_is_refused_with_what_differs(
    tmp_path: Path, method: str, other: dict, message: str
) -> None:
    model = record(tmp_path / "own")
    record(tmp_path / "other", **other)
    with pytest.raises(AttributionError, match=f"is of another training than .*{message}"):
        attribute(
            model,
            Trajectory.load(tmp_path / "own" / "trajectory"),
            [data()],
            [data()],
            method=method,
            recording=tmp_path / "other" / METHODS[method],
        )


def test_another_seed_shows_in_the_final_weights(tmp_path: Path) -> None:
    record(tmp_path / "own")
    record(tmp_path / "other", seed=1)
    trajectory = Trajectory.load(tmp_path / "own" / "trajectory")
    with pytest.raises(AttributionError, match=r"the final weights '0\.weight' differ"):
        check_same_training(trajectory, Replay.load(tmp_path / "other" / "replay"))
