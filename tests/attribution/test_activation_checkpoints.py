"""Layers under torch.utils.checkpoint, which runs them again in the backward pass, against the same model without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.attribution import (
    AttributionError,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    capture,
    cross_entropy,
)

ROWS, LENGTH, WIDTH = 12, 5, 6


class Blocks(nn.Module):
    """Two blocks, with a position embedding inside the first, and optionally one block twice."""

    def __init__(self, *, checkpoints: bool, twice: bool = False, folded: bool = False) -> None:
        super().__init__()
        self.position, self.first = nn.Embedding(LENGTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.second, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.checkpoints, self.twice, self.folded = checkpoints, twice, folded

    def block_one(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.first(inputs + self.position(torch.arange(LENGTH))))

    def block_two(self, inputs: Tensor) -> Tensor:
        if self.folded:
            return self.second(self.norm(inputs).view(-1, WIDTH)).view_as(inputs).relu_()
        return self.second(self.norm(inputs)).relu_()

    def forward(self, inputs: Tensor) -> Tensor:
        for block in [self.block_one, self.block_two, *[self.block_two] * self.twice]:
            inputs = checkpoint(block, inputs, use_reentrant=False) if self.checkpoints else block(inputs)
        return self.head(inputs.mean(1))


def rows_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(ROWS, LENGTH, WIDTH, generator=generator).double(),
        torch.randint(3, (ROWS,), generator=generator),
    )


@pytest.mark.parametrize("twice", [False, True], ids=["once", "a block twice"])
@pytest.mark.parametrize("folded", [False, True], ids=["rows", "folded batch"])
def test_gradients_are_those_without_checkpoints(folded: bool, twice: bool) -> None:
    inputs, labels = rows_of(0)
    torch.manual_seed(0)
    model = Blocks(checkpoints=True, twice=twice, folded=folded).double()
    with capture(model) as captured:
        losses = cross_entropy().losses(captured.forward(inputs), labels)
        found = {name: g.matrices() for name, g in captured.gradients(losses, torch.ones_like(losses))}
    assert set(found) == {"position", "first", "norm", "second", "head"}
    model.checkpoints = False
    for row in range(ROWS):
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs[row : row + 1]), labels[row : row + 1]).backward()
        for name in ("first", "second", "head"):
            layer = model.get_submodule(name)
            expected = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
            torch.testing.assert_close(found[name][row], expected)
        torch.testing.assert_close(found["position"][row], model.position.weight.grad.T)


def test_scores_are_those_without_checkpoints(tmp_path: Path) -> None:
    inputs, labels = rows_of(0)
    torch.manual_seed(0)
    model = Blocks(checkpoints=True).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(
        model, optimizer, tmp_path, steps=4, train_rows=ROWS, batch_size=ROWS, checkpoints=2
    )
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss=loss)
    trajectory = Trajectory.load(tmp_path)
    scores = []
    for checkpoints in (True, False):
        model.checkpoints = checkpoints
        scores.append(attribute(model, trajectory, [rows_of(0)], [rows_of(1)]))
    torch.testing.assert_close(scores[0].harm, scores[1].harm)
    torch.testing.assert_close(scores[0].self_influence, scores[1].self_influence)
    model.checkpoints = True
    with pytest.raises(AttributionError, match="this method can't differentiate"):
        attribute(model, trajectory, [rows_of(0)], [rows_of(1)], method="source_refined")


def test_a_layer_that_is_used_in_several_ways_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            folded = self.inner(inputs.view(-1, WIDTH)).view_as(inputs)
            return self.head(
                checkpoint(lambda each: self.inner(each).tanh(), folded, use_reentrant=False).mean(1)
            )

    inputs, labels = rows_of(0)
    with (
        capture(Mixed().double()) as captured,
        pytest.raises(AttributionError, match="used in several ways under"),
    ):
        captured.output_gradients(cross_entropy().losses(captured.forward(inputs), labels).sum())
