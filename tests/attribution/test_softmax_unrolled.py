"""Softmax regression from zero weights: at uniform predictions its Hessian is a Kronecker product, which EK-FAC has
exactly; SOURCE with one segment per step is held against differentiation by autograd through all of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute

from .unrolling import correlation, relative_error

ROWS, WIDTH, CLASSES = 40, 4, 3


def rows_and_queries(signal: float) -> list[tuple[Tensor, Tensor]]:
    """Training rows and queries whose labels follow the inputs as far as ``signal`` says."""
    generator, found = torch.Generator().manual_seed(0), []
    for count in (ROWS, 15):
        inputs = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, CLASSES, generator=generator, dtype=torch.float64)
        found.append((inputs, (signal * inputs[:, :CLASSES] + noise).argmax(1)))
    return found


def source_and_exact(directory: Path, signal: float, steps: int, total: float) -> tuple[Tensor, Tensor]:
    """Harm by SOURCE with L = C = T and by autograd; ``total`` is the sum of learning rates."""
    (inputs, labels), query = rows_and_queries(signal)
    model = nn.Linear(WIDTH, CLASSES).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    rate = total / steps
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    recorder = TrajectoryRecorder(
        model, optimizer, directory, steps=steps, train_rows=ROWS, checkpoints=steps
    )
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    weights = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
    values = [torch.zeros_like(p, requires_grad=True) for p in model.parameters()]
    for _ in range(steps):
        losses = functional.cross_entropy(functional.linear(inputs, *values), labels, reduction="none")
        gradients = torch.autograd.grad((weights * losses).mean(), values, create_graph=True)
        values = [value - rate * gradient for value, gradient in zip(values, gradients, strict=True)]
    loss = functional.cross_entropy(functional.linear(query[0], *values), query[1])
    exact = torch.autograd.grad(loss, weights)[0]
    found = attribute(
        model,
        Trajectory.load(directory),
        [(inputs, labels)],
        [query],
        segments=steps,
        query_at="final",
        fisher="exact",
    )
    assert found.harm is not None
    return found.harm, exact


def test_with_predictions_that_stay_near_uniform_source_is_the_exact_derivative(tmp_path: Path) -> None:
    errors = [relative_error(*source_and_exact(tmp_path / str(steps), 0.0, steps, 1.0)) for steps in (10, 20)]
    assert errors[1] < 0.03
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("total", "least"), [(2.0, 0.995), (10.0, 0.97)])
def test_with_labels_that_are_learnt_it_keeps_the_order_and_nearly_the_size(
    tmp_path: Path, total: float, least: float
) -> None:
    found, exact = source_and_exact(tmp_path, 2.0, 20, total)
    assert correlation(found, exact) > least
    assert float((found * exact).sum() / exact.square().sum()) == pytest.approx(1.1, abs=0.2)
