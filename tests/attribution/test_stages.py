"""Pre-training and fine-tuning of a small network: what is trained, fitted and injected where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribution.test_gauss_newton import dense_matrix
from pipeline.attribution import (
    AttributionError,
    Batch,
    RefinedSettings,
    StageData,
    Trajectory,
    TrajectoryRecorder,
    attribute,
)
from pipeline.attribution.queries.curvature_rows import curvature_rows


def rows_of(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator).double()
    return inputs, inputs[:, :3].argmax(1)


class TwoStages:
    """Everything on 40 rows; then the head alone, or everything, on 20 rows of which ten are the same."""

    def __init__(self, directory: Path, head_only: bool, second_rate: float = 0.1) -> None:
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
        second = torch.optim.SGD(trained.parameters(), lr=second_rate)
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
    together = attribute(run.model, run.trajectory, run.data(), query, fisher="exact")
    shifted = [run.ids[0], list(range(40, 60))]
    parts = [
        StageData([(run.inputs[ids], run.labels[ids])], row_ids=numbers)
        for ids, numbers in zip(run.ids, shifted, strict=True)
    ]
    apart = attribute(run.model, run.trajectory, parts, query, fisher="exact")
    torch.testing.assert_close(together.harm[:30], apart.harm[:30])
    torch.testing.assert_close(together.harm[30:40], apart.harm[30:40] + apart.harm[40:50])
    torch.testing.assert_close(together.harm[40:], apart.harm[50:])
    own = apart.self_influence
    torch.testing.assert_close(together.self_influence[30:40], own[30:40] + own[40:50])
    without = [StageData(each.batches) for each in parts]
    torch.testing.assert_close(
        attribute(run.model, run.trajectory, without, query, fisher="exact").harm, apart.harm
    )


def test_a_stage_may_have_its_own_loss(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False)
    first, second = run.data()
    targets = nn.functional.one_hot(run.labels[run.ids[0]], 3).double()
    first = StageData([(run.inputs[run.ids[0]], targets)], row_ids=run.ids[0], loss="squared_error")
    scores = attribute(run.model, run.trajectory, [first, second], [rows_of(30, 1)], fisher="exact")
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


class DenseRefined:
    """What `source_refined` solves, with dense Gauss–Newton matrices of all rows, from the last stage to the first."""

    def __init__(self, run: TwoStages, head_only: bool) -> None:
        self.run, self.names = run, [name for name, _ in run.model.named_parameters()]
        head = torch.cat(
            [torch.full((p.numel(),), n.startswith("2")) for n, p in run.model.named_parameters()]
        )
        self.lr_sums = [segment.lr_sum for segment in run.trajectory.segments(1)]
        self.trained = (torch.ones_like(head), head if head_only else torch.ones_like(head))

    def gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        found = []
        for row in range(len(labels)):
            loss = nn.functional.cross_entropy(self.run.model(inputs[row : row + 1]), labels[row : row + 1])
            parts = torch.autograd.grad(loss, list(self.run.model.parameters()))
            found.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(found)

    def curvature(self, stage: int, first: int) -> Tensor:
        ids, places = self.run.ids[stage], (2 * stage, 2 * stage + 1)
        total = torch.zeros(())
        for each in curvature_rows(len(ids), places, first, len(ids), 0):
            self.run.model.load_state_dict(self.run.trajectory.load_weights(each.checkpoint))
            chosen = torch.tensor(ids)[each.rows]
            batch = Batch(self.run.inputs[chosen], self.run.labels[chosen], each.rows)
            total = total + dense_matrix(self.run.model, batch, self.names)
        return total / len(ids)

    def harm(self, query: tuple[Tensor, Tensor]) -> Tensor:
        model, found = self.run.model.requires_grad_(True), torch.zeros(50).double()
        model.load_state_dict(self.run.trajectory.load_tail())
        direction = self.gradients(*query).mean(0)
        for stage in (1, 0):
            trained, damping = self.trained[stage], 1 / self.lr_sums[stage]
            own, fresh = (
                self.curvature(stage, first)[trained][:, trained] for first in (0, len(self.run.ids[stage]))
            )
            q = direction[trained]
            x = torch.linalg.solve(own + damping * torch.eye(len(q)).double(), q)
            u = torch.zeros_like(direction)
            u[trained] = x * (x @ q) / (x @ fresh @ x + damping * x @ x)
            ids = self.run.ids[stage]
            for place in (2 * stage, 2 * stage + 1):
                model.load_state_dict(self.run.trajectory.load_weights(place))
                products = self.gradients(self.run.inputs[ids], self.run.labels[ids]) @ u
                found[ids] -= products / (2 * len(ids))
            direction = torch.where(trained, damping * u, direction)
        return found


@pytest.mark.parametrize("head_only", [False, True])
def test_refined_stages_are_solved_one_after_the_other(tmp_path: Path, head_only: bool) -> None:
    run, query = TwoStages(tmp_path, head_only), rows_of(30, 1)
    dense = RefinedSettings(prior=0.0, rows=1000, scale_rows=1000, iterations=150)
    found = attribute(run.model, run.trajectory, run.data(), [query], method="source_refined", refined=dense)
    expected = DenseRefined(run, head_only).harm(query)
    torch.testing.assert_close(found.harm, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert found.scale == 1.0


@pytest.mark.parametrize("query_tolerance", [0.0, 1e-6])
def test_refined_single_queries_are_scored_as_each_alone(tmp_path: Path, query_tolerance: float) -> None:
    run, (inputs, labels) = TwoStages(tmp_path, head_only=False), rows_of(6, 1)
    first, second = run.data()
    options = {"method": "source_refined", "query_tolerance": query_tolerance}
    options["refined"] = RefinedSettings(prior=0.0, rows=1000, scale_rows=1000, iterations=150)
    each = attribute(
        run.model, run.trajectory, [first, second], [(inputs, labels)], reduce_queries=False, **options
    )
    for place in range(6):
        one = slice(place, place + 1)
        alone = attribute(run.model, run.trajectory, [first, second], [(inputs[one], labels[one])], **options)
        scale = float(alone.harm.abs().max())
        torch.testing.assert_close(each.influence[place], -alone.harm, rtol=1e-4, atol=1e-4 * scale)


def test_several_refined_segments_of_a_stage_are_near_one(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False)
    one, more = (
        attribute(
            run.model, run.trajectory, run.data(), [rows_of(30, 1)], method="source_refined", segments=count
        ).harm
        for count in (1, 2)
    )
    assert torch.corrcoef(torch.stack([one, more]))[0, 1] > 0.9


def test_a_stage_without_learning_is_not_solved(tmp_path: Path) -> None:
    run = TwoStages(tmp_path, head_only=False, second_rate=0.0)
    with pytest.raises(AttributionError, match="learning rates above 0, and those up to checkpoint 3 are 0"):
        attribute(run.model, run.trajectory, run.data(), [rows_of(30, 1)], method="source_refined")


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
