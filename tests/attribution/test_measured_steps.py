"""Losses and gradient norms that a recorder keeps, against those that the loop saw."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import AttributionError, Trajectory, TrajectoryRecorder

STEPS = 120


class Loop:
    def __init__(self, directory: Path, **options: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, weight_decay=0.1)
        self.sizes = {"steps": STEPS, "train_rows": 30, "checkpoints": 2} | options
        self.recorder = TrajectoryRecorder(self.model, self.optimizer, directory, **self.sizes)
        self.losses: list[float] = []
        self.norms: list[float] = []

    def step(self, *, clear_first: bool = False) -> None:
        loss = self.model(torch.randn(5, 3)).square().mean()
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norms.append(torch.cat([each.flatten() for each in gradients]).norm().item())
        self.losses.append(loss.item())
        self.optimizer.step()
        if clear_first:
            self.optimizer.zero_grad()
        self.recorder.step(loss=loss)
        self.optimizer.zero_grad()


@pytest.mark.parametrize("clear_first", [False, True], ids=["cleared later", "cleared before"])
def test_steps_near_checkpoints_are_measured_as_the_loop_saw_them(clear_first: bool, tmp_path: Path) -> None:
    loop = Loop(tmp_path, batch_size=5)
    for _ in range(STEPS):
        loop.step(clear_first=clear_first)
    trajectory = Trajectory.load(tmp_path)
    assert trajectory.stages[0].batch_size == 5
    numbers = [each.step for each in trajectory.measured]
    assert numbers == [
        *range(45, 77),
        *range(105, 121),
    ]  # sixteen before each of the steps 60 and 120, and after
    assert [each.loss for each in trajectory.measured] == pytest.approx(
        [loop.losses[number - 1] for number in numbers]
    )
    assert [each.gradient_norm for each in trajectory.measured] == pytest.approx(
        [loop.norms[number - 1] for number in numbers]
    )


def test_norms_need_the_number_of_rows_of_a_step(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for _ in range(STEPS):
        loop.step()
    assert {each.gradient_norm for each in Trajectory.load(tmp_path).measured} == {None}


def test_measured_steps_survive_an_interruption(tmp_path: Path) -> None:
    first = Loop(tmp_path, batch_size=5)
    for _ in range(70):
        first.step()
    state = first.recorder.state_tensors()
    second = TrajectoryRecorder(first.model, first.optimizer, tmp_path, **first.sizes)
    second.restore(state)
    first.recorder = second
    for _ in range(STEPS - 70):
        first.step()
    measured = Trajectory.load(tmp_path).measured
    assert [each.step for each in measured] == [*range(45, 77), *range(105, 121)]
    assert [each.gradient_norm for each in measured] == pytest.approx(
        [first.norms[each.step - 1] for each in measured]
    )


def test_a_complete_or_dropped_recorder_leaves_no_hook_in_the_optimizer(tmp_path: Path) -> None:
    loop = Loop(tmp_path, batch_size=5)
    hooks = loop.optimizer._optimizer_step_post_hooks
    assert len(hooks) == 1
    loop.step()
    loop.recorder = TrajectoryRecorder(loop.model, loop.optimizer, tmp_path, **loop.sizes)
    gc.collect()
    assert len(hooks) == 1
    for _ in range(STEPS):
        loop.step()
    assert not hooks


def test_sparse_gradients_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Embedding(9, 4, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(
        model, optimizer, tmp_path, steps=2, train_rows=4, batch_size=4, checkpoints=1
    )
    norms: list[float] = []
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([1, 1, 2, 5])).square().sum().backward()
        assert model.weight.grad is not None
        norms.append(model.weight.grad.to_dense().norm().item())
        optimizer.step()
        recorder.step()
    (measured,) = Trajectory.load(tmp_path).measured
    assert (measured.step, measured.gradient_norm) == (2, pytest.approx(norms[1]))


@pytest.mark.parametrize("loss", [torch.ones(3), torch.ones(0)])
def test_a_loss_that_is_not_one_number_is_refused(loss: Tensor, tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    with pytest.raises(AttributionError, match="The loss of step 1 has shape"):
        loop.recorder.step(loss=loss)


def test_losses_that_are_not_finite_are_kept_as_unknown(tmp_path: Path) -> None:
    loop = Loop(tmp_path, checkpoints=1, steps=1)
    loop.recorder.step(loss=float("nan"))
    assert [each.loss for each in Trajectory.load(tmp_path).measured] == [None]


def test_no_rows_in_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttributionError, match="batch_size is 0"):
        Loop(tmp_path, batch_size=0)
