"""A plain loop that is recorded by its optimizer, against the same loop with calls of the recorder in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pipeline.attribution import AttributionError, Trajectory, TrajectoryRecorder, record_training

EPOCHS, ROWS = 3, 22


class Loop:
    """With a schedule for every step, which must not be a step ahead, and gradients of two batches a step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(ROWS, 4), torch.randint(0, 3, (ROWS,)))
        self.loader = DataLoader(data, batch_size=4, shuffle=True)
        self.model = nn.Linear(4, 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.1, 9)

    def run(self, recorder: TrajectoryRecorder | None = None, epochs: int = EPOCHS) -> None:
        for _ in range(epochs):
            for place, (inputs, labels) in enumerate(self.loader):
                (nn.functional.cross_entropy(self.model(inputs), labels) / 2).backward()
                if place % 2:
                    self.optimizer.step()
                    if recorder is not None:
                        recorder.step(epoch=(recorder.steps_done + 1) / 3)
                    self.schedule.step()
                    self.optimizer.zero_grad()


def test_the_recording_is_that_of_calls_in_the_loop(tmp_path: Path) -> None:
    by_hand = Loop()
    sizes = {"steps": 9, "train_rows": ROWS, "batch_size": 8, "checkpoints": 3}
    by_hand.run(TrajectoryRecorder(by_hand.model, by_hand.optimizer, tmp_path / "by hand", **sizes))
    loop = Loop()
    with record_training(
        loop.model,
        loop.optimizer,
        tmp_path / "alone",
        loop.loader,
        epochs=EPOCHS,
        accumulate=2,
        checkpoints=3,
    ):
        loop.run()
    records = [json.loads((tmp_path / each / "trajectory.json").read_text()) for each in ("by hand", "alone")]
    assert records[0] == records[1]
    assert records[1]["measured"]
    first, second = (Trajectory.load(tmp_path / each) for each in ("by hand", "alone"))
    for place in range(3):
        torch.testing.assert_close(first.load_weights(place), second.load_weights(place), rtol=0, atol=0)


def test_training_may_stop_early(tmp_path: Path) -> None:
    loop = Loop()
    with record_training(
        loop.model, loop.optimizer, tmp_path, loop.loader, epochs=50, accumulate=2, checkpoints=3
    ):
        loop.run(epochs=2)
    loop.run(epochs=1)  # isn't recorded any more
    assert [each.step for each in Trajectory.load(tmp_path).checkpoints] == [6]


def test_an_error_in_the_loop_leaves_no_trajectory(tmp_path: Path) -> None:
    loop = Loop()
    del loop.schedule
    recording = record_training(loop.model, loop.optimizer, tmp_path, loop.loader, epochs=2, checkpoints=1)
    with pytest.raises(AttributeError, match="schedule"), recording:
        loop.run(epochs=1)
    assert not (tmp_path / "trajectory.json").exists()
    loop.optimizer.step()  # isn't recorded any more


def test_losses_that_are_said_are_kept(tmp_path: Path) -> None:
    loop = Loop()
    with record_training(
        loop.model, loop.optimizer, tmp_path, loop.loader, epochs=1, checkpoints=1
    ) as recording:
        for step in range(6):
            recording.loss = float(step)
            loop.optimizer.step()
    assert [(each.step, each.loss) for each in Trajectory.load(tmp_path).measured] == [
        (4, 3.0),
        (5, 4.0),
        (6, 5.0),
    ]


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.zeros(4, 2)


def test_a_stream_is_refused_before_training(tmp_path: Path) -> None:
    loop = Loop()
    with (
        pytest.raises(AttributionError, match="loader has no length"),
        record_training(loop.model, loop.optimizer, tmp_path, DataLoader(Stream()), epochs=2),
    ):
        pass
