"""Preconditioned gradients of every kind of layer against dense matrices, one row at a time, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    CheckpointError,
    Preconditioner,
    PreparedSegment,
    Scores,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    covered_layers,
    cross_entropy,
    prepare_segment,
    query_filters,
    query_gradients,
    score_rows,
    segment_preconditioners,
    source_spectrum,
)

from .models import model_and_rows, perturbed_states
from .oracles import layer_matrices, loss_matrices, split

ENTROPY = cross_entropy()
KINDS = ["mlp", "convnet", "tokens", "twice"]
SETTINGS = [(0.9, 0.0), (0.4, 0.05)]
CUTS = [(0, 1), (2,)]


def dense_factor(segment: PreparedSegment, name: str) -> Tensor:
    """M + diagonal decay as a matrix over flattened [out, in], from the segment's own basis."""
    basis, sigma = segment.bases[name], segment.curvature(name)
    outputs = torch.eye(sigma.shape[0]).double() if basis.gradient.dim() == 1 else basis.gradient
    inputs = torch.eye(sigma.shape[1]).double() if basis.input is None else basis.input
    vectors = torch.kron(outputs, inputs)
    return vectors @ torch.diag(sigma.clamp(min=0).flatten()) @ vectors.T


def random_preconditioners(
    model: nn.Module, seed: int, frozen: str | None = None
) -> dict[str, Preconditioner]:
    torch.manual_seed(seed)
    found = {}
    for layer in covered_layers(model):
        scale = 0.0 if layer.name == frozen else 1.0
        root = scale * (0.3 + 2 * torch.rand(layer.shape, dtype=torch.float64))
        found[layer.name] = Preconditioner(root, None if seed else torch.full(layer.shape, 0.2).double())
    return found


class Preconditioned:
    """Made-up checkpoints in two segments with random preconditioners."""

    def __init__(self, kind: str, frozen: str | None = None) -> None:
        self.model, self.batch = model_and_rows(kind)
        self.states = perturbed_states(self.model, 3)
        self.preconditioners = [
            random_preconditioners(self.model, 0),
            random_preconditioners(self.model, 1, frozen),
        ]
        self.segments = self.fit([self.batch])

    def load(self, checkpoint: int) -> None:
        self.model.load_state_dict(self.states[checkpoint])

    def fit(self, batches: list) -> list[PreparedSegment]:
        return [
            prepare_segment(
                self.model,
                self.load,
                ENTROPY,
                batches,
                cut,
                source_spectrum(*setting),
                fisher="exact",
                preconditioners=preconditioners,
            )
            for cut, setting, preconditioners in zip(CUTS, SETTINGS, self.preconditioners, strict=True)
        ]

    def expected(self, query: dict[str, Tensor], row: list[dict[str, Tensor]]) -> float:
        """Σ_segments mean_checkpoints qᵀ … P^{1/2} F_r(M) P^{1/2} g by dense matrix functions."""
        total = 0.0
        for name, moving in query.items():
            moving = moving.flatten()
            for place in (1, 0):
                segment, (lr_sum, decay) = self.segments[place], SETTINGS[place]
                root = self.preconditioners[place][name].root.flatten()
                if not root.any():
                    continue
                matrix = dense_factor(segment, name)
                matrix = matrix + decay * torch.eye(len(matrix)).double()
                size = len(matrix)
                block = torch.zeros(2 * size, 2 * size).double()
                block[:size, :size], block[:size, size:] = -matrix, torch.eye(size).double()
                exponential = torch.linalg.matrix_exp(lr_sum * block)
                filtered = root * (exponential[:size, size:] @ (root * moving))
                for checkpoint in segment.checkpoints:
                    product = filtered @ row[checkpoint][name].flatten()
                    total += product.item() / len(segment.checkpoints)
                moving = (exponential[:size, :size] @ (root * moving)) / root
        return total


@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_are_mean_squares_of_rotated_preconditioned_gradients(kind: str) -> None:
    made = Preconditioned(kind)
    segment, preconditioners = made.segments[0], made.preconditioners[0]
    expected = {name: torch.zeros_like(value) for name, value in segment.eigenvalues.items()}
    rows = len(made.batch.row_ids)
    for checkpoint in segment.checkpoints:
        made.load(checkpoint)
        for column in range(3):

            def along(outputs: Tensor, _row: int, column: int = column) -> Tensor:
                return (outputs * ENTROPY.exact_output_gradients(outputs)[column]).sum()

            for name, matrices in layer_matrices(made.model, made.batch.inputs, rows, along).items():
                basis = segment.bases[name]
                outputs = torch.diag(basis.gradient) if basis.gradient.dim() == 1 else basis.gradient
                rotated = outputs.T @ (preconditioners[name].root * matrices)
                rotated = rotated if basis.input is None else rotated @ basis.input
                expected[name] += rotated.square().sum(0) / (rows * len(segment.checkpoints))
    for name, value in expected.items():
        torch.testing.assert_close(segment.eigenvalues[name], value)
        vectors = segment.bases[name].gradient
        if vectors.dim() == 2:
            torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(vectors)).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_scores_equal_dense_matrix_exponentials_in_preconditioned_coordinates(
    kind: str, frozen: bool
) -> None:
    first = covered_layers(model_and_rows(kind)[0])[0].name
    made = Preconditioned(kind, first if frozen else None)
    rows = []
    for checkpoint in range(3):
        made.load(checkpoint)
        rows.append(loss_matrices(made.model, ENTROPY, made.batch.inputs, made.batch.labels))
    queries = query_gradients(made.model, ENTROPY, made.batch.inputs, made.batch.labels)
    filters = {"each": query_filters(queries, made.segments)}
    scores = score_rows(made.model, made.load, ENTROPY, [made.batch], made.segments, 50, filters)
    for row in range(len(made.batch.row_ids)):
        gradients = [{name: value[row] for name, value in each.items()} for each in rows]
        for query in (row, 0):
            expected = made.expected({name: value[query] for name, value in queries.items()}, gradients)
            assert -scores.harm["each"][query, row].item() == pytest.approx(
                expected / 50, rel=1e-8, abs=1e-12
            )
        assert scores.self_influence[row].item() == pytest.approx(
            made.expected({name: value[row] for name, value in queries.items()}, gradients) / 50, rel=1e-8
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_scores_do_not_depend_on_its_batch(kind: str) -> None:
    made = Preconditioned(kind)
    query = {
        name: value.mean(0)
        for name, value in query_gradients(made.model, ENTROPY, made.batch.inputs, made.batch.labels).items()
    }
    found = []
    for size in (9, 2):
        batches = split(made.batch, size)
        segments = made.fit(batches)
        filters = {"query": query_filters(query, segments)}
        found.append(score_rows(made.model, made.load, ENTROPY, batches, segments, 50, filters))
    torch.testing.assert_close(found[0].harm, found[1].harm)
    torch.testing.assert_close(found[0].self_influence, found[1].self_influence)


def test_decay_that_differs_is_projected_on_the_eigenvectors() -> None:
    made = Preconditioned("mlp")
    basis = made.segments[0].bases["0"]
    decay = torch.rand(6, 5, dtype=torch.float64)
    vectors = torch.kron(basis.gradient, basis.input)
    expected = (vectors.T @ torch.diag(decay.flatten()) @ vectors).diagonal().reshape(6, 5)
    torch.testing.assert_close(Preconditioner(None, decay).decay_in(basis), expected)
    uniform = Preconditioner(None, torch.full((6, 5), 0.3).double()).decay_in(basis)
    torch.testing.assert_close(uniform, torch.full((6, 5), 0.3).double())


def trained(
    directory: Path, kind: str, make: type[torch.optim.Optimizer] = torch.optim.AdamW, **options: float
) -> tuple:
    model, batch = model_and_rows(kind, rows=24)
    optimizer = make(model.parameters(), lr=0.02, **({"weight_decay": 0.1} | options))
    recorder = TrajectoryRecorder(model, optimizer, directory, steps=20, train_rows=24, checkpoints=4)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
        optimizer.step()
        recorder.step()
    return model, batch, Trajectory.load(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_adams_state_stands_where_the_parameters_do(tmp_path: Path, kind: str) -> None:
    model, batch, trajectory = trained(tmp_path, kind)
    segment = trajectory.segments(2)[1]
    found = segment_preconditioners(model, trajectory, segment)
    moments = [trajectory.load_second_moments(place) for place in segment.checkpoints]
    means = {name: (moments[0][name] + moments[1][name]) / 2 for name in moments[0]}
    for layer in covered_layers(model):
        module = model.get_submodule(layer.name)
        mean = means[f"{layer.name}.weight"]
        scale = (mean > 0) / (
            mean.sqrt() + 1e-8
        )  # Adam leaves alone what never had a gradient, as a padding token
        matrix = scale.T if isinstance(module, nn.Embedding) else scale.reshape(len(scale), -1)
        if layer.bias:
            bias = 1 / (means[f"{layer.name}.bias"].sqrt() + 1e-8)
            matrix = torch.cat([matrix, bias[:, None]], 1)
        torch.testing.assert_close(found[layer.name].root.square(), matrix.double())
        torch.testing.assert_close(found[layer.name].decay, torch.full(layer.shape, 0.1).double())
    train = [(batch.inputs[:10], batch.labels[:10]), (batch.inputs[10:], batch.labels[10:])]
    options = {"segments": 2, "query_at": "final"}
    scores = attribute(model, trajectory, train, train, **options)
    again = attribute(model, trajectory, [(batch.inputs, batch.labels)], train, **options)
    torch.testing.assert_close(scores.harm, again.harm)
    torch.testing.assert_close(scores.self_influence, again.self_influence)


def test_adam_without_its_state_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    model, batch, trajectory = trained(tmp_path, "mlp")
    (tmp_path / "10.optimizer.safetensors").unlink()
    train = [(batch.inputs, batch.labels)]
    with pytest.raises(CheckpointError, match="step 10 has no second moments of Adam"):
        attribute(model, trajectory, train, train)
    compared = attribute(model, trajectory, train, train, method="source_sgd_formula")
    assert torch.isfinite(compared.harm).all()


def test_plain_gradient_descent_has_no_preconditioners(tmp_path: Path) -> None:
    model, _, trajectory = trained(tmp_path, "mlp", torch.optim.SGD, momentum=0.9, weight_decay=0.01)
    assert segment_preconditioners(model, trajectory, trajectory.segments()[0]) == {}


def test_a_scale_is_measured_in_preconditioned_coordinates(tmp_path: Path) -> None:
    """One Linear layer with one output: EK-FAC is the exact Gauss–Newton matrix, and α is 1."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    inputs, targets = torch.randn(30, 4).double(), torch.randn(30).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.2)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=12, train_rows=30, checkpoints=1)
    for _ in range(12):
        optimizer.zero_grad()
        (model(inputs).squeeze(1) - targets).square().mean().backward()
        optimizer.step()
        recorder.step()
    rows = [(inputs[:16], targets[:16]), (inputs[16:], targets[16:])]
    options = {"loss": "squared_error", "fisher": "exact", "query_at": "final"}
    plain = attribute(model, Trajectory.load(tmp_path), rows, rows, **options)
    scaled = attribute(model, Trajectory.load(tmp_path), rows, rows, calibrate=True, **options)
    assert plain.scale is None
    assert scaled.scale == pytest.approx(1.0, rel=1e-9)
    assert math.isclose(scaled.harm[3], plain.harm[3] * scaled.scale)


@pytest.mark.parametrize(
    ("method", "segments"),
    [
        ("source", 1),
        ("source", 2),
        ("fast_source", 1),
        ("fast_source", 2),
        ("source_refined", 1),
        ("tracin", 1),
    ],
)
def test_parameters_with_a_learning_rate_of_0_throughout_count_as_frozen(
    tmp_path: Path, method: str, segments: int
) -> None:
    def scores(directory: Path, frozen: bool) -> Scores:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        inputs = torch.randn(30, 4).double()
        rows = [(inputs, inputs[:, :3].argmax(1))]
        model[0].requires_grad_(not frozen)
        groups = [{"params": model[2].parameters(), "lr": 0.1}]
        groups += [] if frozen else [{"params": model[0].parameters(), "lr": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
        recorder = TrajectoryRecorder(model, optimizer, directory, steps=8, train_rows=30, checkpoints=2)
        for _ in range(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), rows[0][1]).backward()
            optimizer.step()
            recorder.step()
        trajectory = Trajectory.load(directory)
        return attribute(model, trajectory, rows, rows, method=method, segments=segments)

    still, without = scores(tmp_path / "still", False), scores(tmp_path / "frozen", True)
    torch.testing.assert_close(still.harm, without.harm)
    torch.testing.assert_close(still.self_influence, without.self_influence, rtol=1e-3, atol=1e-6)
