"""Objectives through the whole of attribution: exact unrolling and dense Gauss–Newton matrices as oracles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.attribution import (
    AttributionError,
    Batch,
    Objective,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    binary_cross_entropy,
    cross_entropy,
    no_margins,
    prepare_segment,
    signed_columns,
    source_spectrum,
)

ROWS, WIDTH, OUTPUTS, TOKENS, STEPS = 18, 3, 3, 4, 24
WEIGHTS = torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64)


def logistic(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.exp() - labels * outputs).sum(1)


def roots(outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:  # noqa: ARG001
    return [(outputs / 2).exp() * torch.eye(OUTPUTS).double()[k] for k in range(OUTPUTS)]


OWN = Objective("poisson", logistic, no_margins, signed_columns(roots), roots)


def problem(kind: str, rows: int, seed: int) -> tuple[Objective, Tensor, Tensor]:
    """The objective with inputs and labels that it takes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, TOKENS, WIDTH) if kind == "sequence" else (rows, WIDTH)
    inputs = torch.randn(shape, generator=generator).double()
    classes = torch.randint(0, OUTPUTS, shape[:-1], generator=generator)
    if kind == "sequence":
        length = torch.randint(1, TOKENS + 1, (rows,), generator=generator)
        classes[torch.arange(TOKENS) >= length[:, None]] = -100
        return cross_entropy(class_weights=WEIGHTS), inputs, classes
    if kind == "classes":
        return cross_entropy(class_weights=WEIGHTS, label_smoothing=0.2), inputs, classes
    if kind == "multi-label":
        return binary_cross_entropy(), inputs, torch.rand(rows, OUTPUTS, generator=generator) < 0.3
    return OWN, inputs / 2, torch.poisson(torch.ones(rows, OUTPUTS), generator=generator).double()


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, OUTPUTS).double()


KINDS = ["classes", "sequence", "multi-label", "one's own"]


@pytest.mark.parametrize("kind", KINDS)
def test_harm_is_that_of_exact_unrolling(kind: str, tmp_path: Path) -> None:
    objective, inputs, labels = problem(kind, ROWS, 0)
    _, query_inputs, query_labels = problem(kind, 10, 1)
    model, lr = model_of(), 0.5 / STEPS
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=STEPS, steps=STEPS, train_rows=ROWS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective.losses(model(inputs), labels).mean().backward()
        optimizer.step()
        recorder.step()

    def losses(values: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return objective.losses(inputs @ values[0].T + values[1], labels)

    weights = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
    values = [value.clone().requires_grad_() for value in start]
    for _ in range(STEPS):
        mean = (weights * losses(values, inputs, labels)).mean()
        steps = torch.autograd.grad(mean, values, create_graph=True)
        values = [value - lr * step for value, step in zip(values, steps, strict=True)]
    exact = torch.autograd.grad(losses(values, query_inputs, query_labels).mean(), weights)[0]
    found = attribute(
        model,
        Trajectory.load(tmp_path),
        [(inputs, labels)],
        [(query_inputs, query_labels)],
        loss=objective,
        segments=STEPS,
        query_at="final",
        fisher="exact",
    )
    assert found.harm is not None
    assert torch.corrcoef(torch.stack([exact, found.harm]))[0, 1] > 0.998
    assert ((found.harm - exact).abs().max() / exact.abs().max()).item() < 0.05


@pytest.mark.parametrize("fisher", ["exact", "mc"])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_add_up_to_the_trace_of_the_gauss_newton_matrix(kind: str, fisher: str) -> None:
    """Whatever the eigenbasis is; ``mc`` for 400 copies of the rows, each with its own draw."""
    objective, inputs, labels = problem(kind, 6, 0)
    model = model_of()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    traces = []
    for row in range(6):
        outputs = model(inputs[row : row + 1]).detach()[0]
        jacobian = torch.func.jacrev(
            lambda p, row=row: functional_call(model, p, (inputs[row : row + 1],))[0]
        )(parameters)
        hessian = torch.func.hessian(
            lambda out, row=row: objective.losses(out[None], labels[row : row + 1])[0]
        )(outputs).reshape(outputs.numel(), -1)
        for values in jacobian.values():
            flat = values.reshape(outputs.numel(), -1)
            traces.append((flat.T @ hessian @ flat).trace())
    copies = 1 if fisher == "exact" else 400
    batch = Batch(torch.cat([inputs] * copies), torch.cat([labels] * copies), torch.arange(6 * copies))
    segment = prepare_segment(
        model, lambda _: None, objective, [batch], (0,), source_spectrum(1.0, 0.0), fisher=fisher
    )
    found, expected = float(segment.eigenvalues[""].sum()), float(torch.stack(traces).sum() / 6)
    assert found == pytest.approx(expected, rel=1e-9 if fisher == "exact" else 0.06)


def test_an_objective_of_ones_own_with_a_wrong_shape_is_named(tmp_path: Path) -> None:
    model = model_of()
    recorder = TrajectoryRecorder(
        model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, checkpoints=1, steps=1, train_rows=4
    )
    recorder.step()
    objective = Objective("mine", lambda outputs, labels: outputs, no_margins, signed_columns(roots), roots)
    with pytest.raises(AttributionError, match="losses of the objective 'mine' gives shape"):
        attribute(
            model,
            Trajectory.load(tmp_path),
            [(torch.zeros(4, WIDTH).double(), torch.zeros(4))],
            loss=objective,
        )


def test_an_objective_of_ones_own_says_which_labels_a_model_cannot_have(tmp_path: Path) -> None:
    """Ordered classes 0 to OUTPUTS, one more than there are outputs: the label is how many thresholds are passed."""

    def ordinal(outputs: Tensor, labels: Tensor) -> Tensor:
        passed = (torch.arange(OUTPUTS) < labels[:, None]).to(outputs)
        return nn.functional.binary_cross_entropy_with_logits(outputs, passed, reduction="none").sum(1)

    def columns(outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:  # noqa: ARG001
        root = (outputs.sigmoid() * (-outputs).sigmoid()).sqrt()
        return [root * torch.eye(OUTPUTS).double()[k] for k in range(OUTPUTS)]

    def unknown(labels: Tensor, outputs: int) -> Tensor:
        return labels[(labels < 0) | (labels > outputs)]

    objective = Objective("ordinal", ordinal, no_margins, signed_columns(columns), columns, unknown)
    model, inputs = model_of(), torch.randn(8, WIDTH).double()
    labels = torch.arange(8) % (OUTPUTS + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=1, steps=1, train_rows=8)
    ordinal(model(inputs), labels).mean().backward()
    optimizer.step()
    recorder.step()

    def scores(query: Tensor) -> Tensor | None:
        trajectory = Trajectory.load(tmp_path)
        return attribute(model, trajectory, [(inputs, labels)], [(inputs, query)], loss=objective).harm

    found = scores(labels)
    assert found is not None
    assert found.isfinite().all()
    with pytest.raises(AttributionError, match="A query has the class 4"):
        scores(labels + 1)
