"""Pre-training and fine-tuning of a small network: what is trained, fitted and injected where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import AttributionError, StageData, Trajectory, TrajectoryRecorder, attribute


def rows_of(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator).double()
    return inputs, inputs[:, :3].argmax(1)


class TwoStages:
    """Everything on 40 rows; then the head alone, or everything, on 20 rows of which ten are the same."""

    def __init__(self, directory: Path, head_only: bool) -> None:
        self.inputs, self.labels = rows_of(50, 0)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        self.ids = [list(range(40)), list(range(30, 50))]
        first = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        recorder = TrajectoryRecorder(self.model, first, directory, steps=20, train_rows=40, checkpoints=2)
        self.train(first, recorder, 20, self.ids[0])
        trained = self.model[2] if head_only else self.model
        if head_only:
            self.model[0].requires_grad_(False)
        second = torch.optim.SGD(trained.parameters(), lr=0.1)
        recorder.next_stage(second, steps=10, train_rows=20, checkpoints=2)
        self.train(second, recorder, 10, self.ids[1])
        self.trajectory = Trajectory.load(directory)

    def train(
        self, optimizer: torch.optim.Optimizer, recorder: TrajectoryRecorder, steps: int, ids: list[int]
    ) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.inputs[ids]), self.labels[ids]).backward()
            optimizer.step()
            recorder.step()

    def data(self, ids: list[list[int]] | None = None) -> list[StageData]:
        return [StageData([(self.inputs[each], self.labels[each])], row_ids=each) for each in ids or self.ids]


def test_a_head_only_stage_leaves_the_body_to_the_stage_before(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=True)
    query = [rows_of(30, 1)]
    scores = attribute(run.model, run.trajectory, run.data(), query, segments=(2, 1))
    assert scores.harm.shape == (50,)
    assert torch.isfinite(scores.harm).all()
    assert torch.isnan(scores.losses[:2, 40:]).all()
    assert torch.isnan(scores.losses[2, :30]).all()
    assert torch.isfinite(scores.losses[3]).all()
    assert not run.model[0].weight.requires_grad
    body = run.trajectory.load_weights(1)["0.weight"], run.trajectory.load_weights(3)["0.weight"]
    torch.testing.assert_close(*body, rtol=0, atol=0)


def test_rows_of_both_stages_add_up(tmp_path: Path) -> None:
    """Given under other numbers in the second stage, their two shares come apart."""
    run = TwoStages(tmp_path, head_only=False)
    query = [rows_of(30, 1)]
    together = attribute(run.model, run.trajectory, run.data(), query, labels="exact")
    shifted = [run.ids[0], list(range(40, 60))]
    parts = [
        StageData([(run.inputs[ids], run.labels[ids])], row_ids=numbers)
        for ids, numbers in zip(run.ids, shifted, strict=True)
    ]
    apart = attribute(run.model, run.trajectory, parts, query, labels="exact")
    torch.testing.assert_close(together.harm[:30], apart.harm[:30])
    torch.testing.assert_close(together.harm[30:40], apart.harm[30:40] + apart.harm[40:50])
    torch.testing.assert_close(together.harm[40:], apart.harm[50:])
    own = apart.self_influence
    torch.testing.assert_close(together.self_influence[30:40], own[30:40] + own[40:50])
    without = [StageData(each.batches) for each in parts]
    torch.testing.assert_close(
        attribute(run.model, run.trajectory, without, query, labels="exact").harm, apart.harm
    )


def test_a_stage_may_have_its_own_loss(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False)
    first, second = run.data()
    targets = nn.functional.one_hot(run.labels[run.ids[0]], 3).double()
    first = StageData([(run.inputs[run.ids[0]], targets)], row_ids=run.ids[0], loss="squared_error")
    scores = attribute(run.model, run.trajectory, [first, second], [rows_of(30, 1)], labels="exact")
    run.model.load_state_dict(run.trajectory.load_weights(0))
    expected = (run.model(run.inputs[:40]) - targets).square().sum(1)
    torch.testing.assert_close(scores.losses[0, :40], expected.detach())
    assert torch.isfinite(scores.harm).all()


@pytest.mark.parametrize("method", ["fast_source", "source_sgd_formula", "influence"])
def test_other_methods_take_stages_too(tmp_path: Path, method: str) -> None:
    run = TwoStages(tmp_path, head_only=False)
    scores = attribute(run.model, run.trajectory, run.data(), [rows_of(30, 1)], method=method)
    assert torch.isfinite(scores.harm).all()
    assert torch.isfinite(scores.self_influence).all()


def test_no_scale_is_defined_for_several_stages(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False)
    with pytest.raises(AttributionError, match="calibrate has no effect with 2 stages"):
        attribute(run.model, run.trajectory, run.data(), [rows_of(30, 1)], calibrate=True)


def test_wrong_numbers_of_stages_and_rows_are_named(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False)
    query = [rows_of(30, 1)]
    with pytest.raises(AttributionError, match="2 stages, but rows of 1"):
        attribute(run.model, run.trajectory, [(run.inputs, run.labels)], query)
    first, second = run.data()
    with pytest.raises(AttributionError, match="Stage 1 has 20 rows"):
        attribute(run.model, run.trajectory, [first, StageData(second.batches, row_ids=[1])], query)
    gap = StageData(second.batches, row_ids=range(41, 61))
    with pytest.raises(AttributionError, match="go up to 60"):
        attribute(run.model, run.trajectory, [first, gap], query)
