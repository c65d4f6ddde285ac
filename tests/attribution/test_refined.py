"""Refined solves against dense Gauss–Newton systems in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attribution.models import model_and_rows, perturbed_states
from attribution.test_gauss_newton import dense_matrix
from pipeline.attribution import AttributionError, Batch, covered_layers, get_objective, source_spectrum
from pipeline.attribution.curvature.fit import prepare_segment
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.model.coverage import matrix_parameters, parameter_matrices
from pipeline.attribution.queries.curvature_rows import curvature_rows
from pipeline.attribution.queries.refined import RefinedSettings, passed_on, refined_direction
from pipeline.attribution.rows.derivatives import row_source

ENTROPY = get_objective("cross_entropy")
ROWS, DAMPING = 7, 0.05


class Problem:
    """A model with two checkpoints, seven rows and their exact EK-FAC factors."""

    def __init__(self, kind: str) -> None:
        self.model, batch = model_and_rows(kind, ROWS)
        self.batch = Batch(batch.inputs, batch.labels, torch.arange(ROWS))
        self.rows = row_source([(self.batch.inputs, self.batch.labels)])
        self.states = perturbed_states(self.model, 2)
        self.segment = prepare_segment(
            self.model, self.load, ENTROPY, [self.batch], (0, 1), source_spectrum(1 / DAMPING), fisher="exact"
        )

    def load(self, checkpoint: int) -> None:
        self.model.load_state_dict(self.states[checkpoint])

    def query(self, count: int | None = None) -> dict[str, Tensor]:
        torch.manual_seed(2)
        shape = () if count is None else (count,)
        return {
            layer.name: torch.randn(*shape, *layer.shape, dtype=torch.float64)
            for layer in covered_layers(self.model)
        }

    def refined(self, query: dict[str, Tensor], **settings):
        return refined_direction(
            self.model, self.load, ENTROPY, self.rows, ROWS, self.segment, query, DAMPING,
            RefinedSettings(**settings),
        )  # fmt: skip

    def dense(self, first: int, names: list[str]) -> Tensor:
        """The mean Gauss–Newton matrix over all rows, from a place in the order on."""
        total = torch.zeros(())
        for each in curvature_rows(ROWS, (0, 1), first, ROWS, 0):
            self.load(each.checkpoint)
            keep = torch.zeros(ROWS, dtype=torch.float64)
            keep[each.rows] = 1.0
            batch = Batch(self.batch.inputs, self.batch.labels, self.batch.row_ids, keep)
            total = total + dense_matrix(self.model, batch, names)
        return total / ROWS


def flat(model: nn.Module, matrices: dict[str, Tensor]) -> tuple[Tensor, list[str]]:
    tensors = matrix_parameters(model, matrices)
    return torch.cat([value.flatten() for value in tensors.values()]), list(tensors)


def unflat(model: nn.Module, vector: Tensor, names: list[str]) -> dict[str, Tensor]:
    shapes = [model.get_parameter(name).shape for name in names]
    parts = vector.split([shape.numel() for shape in shapes])
    return {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}


@pytest.mark.parametrize("kind", ["mlp", "convnet", "twice"])
def test_many_iterations_over_all_rows_solve_the_dense_system(kind: str) -> None:
    problem = Problem(kind)
    query = problem.query()
    found = problem.refined(query, prior=0.0, rows=1000, iterations=120)
    wanted, names = flat(problem.model, query)
    own, fresh = problem.dense(0, names), problem.dense(ROWS, names)
    solution = torch.linalg.solve(own + DAMPING * torch.eye(len(own)).double(), wanted)
    alpha = solution @ wanted / (solution @ fresh @ solution + DAMPING * solution @ solution)
    assert found.alpha.item() == pytest.approx(alpha.item(), rel=1e-6)
    direction = flat(problem.model, found.filters)[0]
    assert (direction - alpha * solution).norm() < 1e-6 * (alpha * solution).norm()


def test_the_prior_adds_ekfac_to_the_dense_system() -> None:
    problem = Problem("mlp")
    query = problem.query()
    found = problem.refined(query, prior=0.7, rows=1000, iterations=120)
    wanted, names = flat(problem.model, query)
    columns = []  # EK-FAC, applied to one unit vector after the other
    for unit in torch.eye(len(wanted), dtype=torch.float64):
        matrices = parameter_matrices(problem.model, unflat(problem.model, unit, names))
        for name, matrix in matrices.items():
            basis, values = problem.segment.bases[name], problem.segment.eigenvalues[name]
            rotated = values * (basis.gradient.T @ matrix @ basis.input)
            matrices[name] = basis.gradient @ rotated @ basis.input.T
        columns.append(flat(problem.model, matrices)[0])
    prior = torch.stack(columns, 1)
    identity = DAMPING * torch.eye(len(prior)).double()
    solution = torch.linalg.solve(problem.dense(0, names) + identity + 0.7 * (prior + identity), wanted)
    direction = flat(problem.model, found.filters)[0]
    cosine = direction @ solution / (direction.norm() * solution.norm())
    assert cosine.item() == pytest.approx(1.0, abs=1e-10)


def test_adam_is_solved_in_its_coordinates() -> None:
    problem = Problem("mlp")
    torch.manual_seed(6)
    preconditioners = {
        layer.name: Preconditioner(torch.rand(layer.shape).double() + 0.5, torch.rand(layer.shape).double())
        for layer in covered_layers(problem.model)
    }
    problem.segment = prepare_segment(
        problem.model, problem.load, ENTROPY, [problem.batch], (0, 1), source_spectrum(1 / DAMPING),
        fisher="exact", preconditioners=preconditioners,
    )  # fmt: skip
    query = problem.query()
    found = problem.refined(query, prior=0.0, rows=1000, iterations=120)
    wanted, names = flat(problem.model, query)
    root = flat(problem.model, {name: each.root for name, each in preconditioners.items()})[0]
    decay = flat(problem.model, {name: each.decay for name, each in preconditioners.items()})[0]
    own, fresh = problem.dense(0, names), problem.dense(ROWS, names)
    # (P^{1/2} G P^{1/2} + D + λ) y = P^{1/2} q and x = P^{1/2} y: (G + P⁻¹ (D + λ)) x = q.
    decayed = torch.diag((decay + DAMPING) / root.square())
    solution = torch.linalg.solve(own + decayed, wanted)
    alpha = solution @ wanted / (solution @ (fresh + decayed) @ solution)
    assert found.alpha.item() == pytest.approx(alpha.item(), rel=1e-6)
    direction = flat(problem.model, found.filters)[0]
    assert (direction - alpha * solution).norm() < 1e-6 * (alpha * solution).norm()


def test_under_adam_an_implicit_step_is_passed_on() -> None:
    """F_S = 1 / (1 + tσ) in Adam's coordinates is (1 + t (G P + D))⁻¹ in those of the parameters."""
    problem, lr_sum = Problem("mlp"), 1 / DAMPING
    torch.manual_seed(7)
    preconditioners = {
        layer.name: Preconditioner(torch.rand(layer.shape).double() + 0.5, torch.rand(layer.shape).double())
        for layer in covered_layers(problem.model)
    }
    problem.segment = replace(problem.segment, preconditioners=preconditioners)
    query = problem.query()
    found = problem.refined(query, prior=0.0, rows=1000, iterations=150)
    passed = passed_on(
        problem.segment, query, {name: u / found.alpha for name, u in found.filters.items()}, lr_sum
    )
    wanted, names = flat(problem.model, query)
    root = flat(problem.model, {name: each.root for name, each in preconditioners.items()})[0]
    decay = flat(problem.model, {name: each.decay for name, each in preconditioners.items()})[0]
    matrix = problem.dense(0, names) * root.square() + torch.diag(decay)
    expected = torch.linalg.solve(torch.eye(len(matrix)).double() + lr_sum * matrix, wanted)
    torch.testing.assert_close(flat(problem.model, passed)[0], expected, rtol=1e-6, atol=1e-8)


def test_alpha_is_one_where_ekfac_is_exact() -> None:
    """One Linear layer with one output and squared error: EK-FAC is the exact Gauss–Newton matrix."""
    model, inputs, objective = (
        nn.Sequential(nn.Linear(6, 1)).double(),
        torch.randn(50, 6).double(),
        "squared_error",
    )
    batch = Batch(inputs, torch.randn(50).double(), torch.arange(50))
    squared = get_objective(objective)
    segment = prepare_segment(
        model, lambda _: None, squared, [batch], (0,), source_spectrum(3.0), fisher="exact"
    )
    query = {"0": torch.randn(1, 7, dtype=torch.float64)}
    for prior, alpha in [(0.0, 1.0), (1.0, 2.0)]:
        found = refined_direction(
            model, lambda _: None, squared, row_source([(inputs, batch.labels)]), 50, segment, query, 1 / 3.0,
            RefinedSettings(prior=prior, rows=50, scale_rows=50, iterations=1),
        )  # fmt: skip
        assert found.alpha.item() == pytest.approx(alpha, rel=1e-9)
        again = segment.bases["0"].gradient.T @ found.filters["0"] @ segment.bases["0"].input
        again = again * (segment.eigenvalues["0"] + 1 / 3.0)
        expected = segment.bases["0"].gradient.T @ query["0"] @ segment.bases["0"].input
        torch.testing.assert_close(again, expected)


def test_several_queries_are_solved_as_one_by_one() -> None:
    problem = Problem("convnet")
    queries = problem.query(3)
    together = problem.refined(queries, rows=5, scale_rows=4, iterations=6)
    for place in range(3):
        alone = problem.refined(
            {name: value[place] for name, value in queries.items()}, rows=5, scale_rows=4, iterations=6
        )
        assert together.alpha[place].item() == pytest.approx(alone.alpha.item(), rel=1e-9)
        for name, value in alone.filters.items():
            torch.testing.assert_close(together.filters[name][place], value)


def test_rows_are_split_evenly_over_the_checkpoints_and_fresh_ones_are_others() -> None:
    own, fresh = curvature_rows(100, (3, 4, 5), 0, 30, 1), curvature_rows(100, (3, 4, 5), 30, 30, 1)
    assert [each.checkpoint for each in own] == [3, 4, 5]
    assert [len(each.rows) for each in own] == [10, 10, 10]
    mine = {row for each in own for row in each.rows.tolist()}
    others = {row for each in fresh for row in each.rows.tolist()}
    assert len(mine) == len(others) == 30
    assert not mine & others
    again = curvature_rows(100, (3, 4, 5), 100, 100, 1)  # the second round: other checkpoints
    for first, second in zip(curvature_rows(100, (3, 4, 5), 0, 100, 1), again, strict=True):
        assert not set(first.rows.tolist()) & set(second.rows.tolist())


def test_a_query_without_a_gradient_gets_none() -> None:
    problem = Problem("mlp")
    query = {name: torch.zeros_like(value) for name, value in problem.query().items()}
    found = problem.refined(query, rows=5, iterations=3)
    assert found.alpha.item() == 0
    assert all(not value.any() for value in found.filters.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("prior", float("nan")), ("prior", -1.0), ("prior", float("inf")), ("rows", 0), ("iterations", 0)],
)
def test_a_setting_out_of_its_range_is_named(field: str, value: float) -> None:
    with pytest.raises(AttributionError, match=rf"RefinedSettings\.{field} is {value}"):
        RefinedSettings(**{field: value})
