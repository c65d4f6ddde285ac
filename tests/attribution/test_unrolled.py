"""Exact unrolling against training again with other row weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribution.recorded_run import CLASSES, OPTIMIZERS, ROWS, Run, mlp, softmax_regression
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.unrolled import UnrolledHarm, unrolled_cost, unrolled_harm


def unroll(run: Run, directory: Path, pieces: int | None = 0) -> UnrolledHarm:
    run.train(directory)
    return unrolled_harm(
        run.model(),
        Replay.load(directory),
        get_objective("cross_entropy"),
        row_source(run.pairs),
        run.query,
        pieces=pieces,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", [softmax_regression, mlp])
def test_agrees_with_finite_differences_on_row_weights(tmp_path: Path, optimizer: str, build) -> None:
    run = Run(build, optimizer)
    expected = run.finite_differences()
    found = unroll(run, tmp_path).harm
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_agrees_where_the_query_is_at_the_final_weights(tmp_path: Path, optimizer: str) -> None:
    run = Run(mlp, optimizer, tail=0.0)
    expected = run.finite_differences()
    assert (unroll(run, tmp_path).harm - expected).abs().max() < 1e-6 * expected.abs().max()


def smoothed_by_brute_force(run: Run, pieces: int) -> Tensor:
    """Autograd through plain SGD, with what would enter at every step as a vector of its own."""
    model = run.model()
    start = [p.detach() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def losses(values: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (inputs,))
        return nn.functional.cross_entropy(outputs, labels, reduction="none")

    values = [value.clone().requires_grad_() for value in start]
    visited, extra = [], []
    rates = [0.2 * (1.0 - 0.8 * step / run.steps) for step in range(run.steps)]
    tail = max(1, round(run.tail * run.steps))
    mean = [torch.zeros_like(value) for value in values]
    for step, rows in enumerate(run.order):
        visited.append([value.detach() for value in values])
        loss = losses(values, run.inputs[rows], run.labels[rows]).mean()
        gradient = torch.autograd.grad(loss, values, create_graph=True)
        extra.append([torch.zeros_like(value, requires_grad=True) for value in start])
        values = [v - rates[step] * (g + e) for v, g, e in zip(values, gradient, extra[-1], strict=True)]
        if step >= run.steps - tail:
            mean = [m + v / tail for m, v in zip(mean, values, strict=True)]
    query = torch.cat([losses(mean, inputs, labels) for inputs, labels in run.query]).mean()
    entered = torch.autograd.grad(query, [e for each in extra for e in each])
    width, harm = len(start), torch.zeros(ROWS, dtype=torch.float64)
    for piece in range(pieces):
        first, last = run.steps * piece // pieces, run.steps * (piece + 1) // pieces
        summed = [sum(entered[step * width + place] for step in range(first, last)) for place in range(width)]
        middle = [value.clone().requires_grad_() for value in visited[(first + last) // 2]]
        for row in range(ROWS):
            own = torch.autograd.grad(
                losses(middle, run.inputs[row : row + 1], run.labels[row : row + 1]).sum(), middle
            )
            harm[row] += sum((s * g).sum() for s, g in zip(summed, own, strict=True)).item() / ROWS
    return harm


@pytest.mark.parametrize("pieces", [1, 3, 13])
def test_order_smoothing_agrees_with_brute_force(tmp_path: Path, pieces: int) -> None:
    run = Run(mlp, "sgd")
    expected = smoothed_by_brute_force(run, pieces)
    found = unroll(run, tmp_path, pieces).harm
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize(("optimizer", "pieces"), [("momentum", 24), ("adamw", 0)])
def test_the_order_is_smoothed_where_steps_are_linear(tmp_path: Path, optimizer: str, pieces: int) -> None:
    run = Run(mlp, optimizer)
    assert torch.equal(unroll(run, tmp_path, None).harm, unroll(run, tmp_path, pieces).harm)


def test_growth_tells_calm_training_from_chaos(tmp_path: Path) -> None:
    """Gradient descent past the stable learning rate multiplies the adjoint at every step."""
    calm = unroll(Run(softmax_regression, "momentum"), tmp_path / "calm")
    assert not calm.chaotic
    OPTIMIZERS["wild"] = lambda p: torch.optim.SGD(p, lr=60.0)
    try:
        wild = unroll(Run(mlp, "wild", steps=40), tmp_path / "wild")
    finally:
        del OPTIMIZERS["wild"]
    assert wild.chaotic
    assert wild.growth > 100 * calm.growth


def test_the_model_is_put_back_and_the_cost_is_said(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    model, replay = run.model().eval(), Replay.load(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unrolled_harm(model, replay, get_objective("cross_entropy"), row_source(run.pairs), run.query)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert not any(module.training for module in model.modules())
    epochs = 13 * 6 / ROWS
    assert unrolled_cost(epochs, pieces=0) == 3.0
    assert unrolled_cost(epochs, pieces=24) == pytest.approx(3 + 16 / epochs)


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 6), nn.Dropout(0.4), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.first(inputs))))


def test_dropout_is_replayed_with_its_random_numbers(tmp_path: Path) -> None:
    run = Run(Dropped, "momentum")
    expected = run.finite_differences()  # every training draws the same masks, as `model` seeds it
    found = unroll(run, tmp_path).harm
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(1, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(self.up(inputs[:, :, None])).mean(1))


def test_attention_is_unrolled(tmp_path: Path) -> None:
    run = Run(Attends, "adamw", steps=5)
    expected = run.finite_differences()
    found = unroll(run, tmp_path).harm
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
