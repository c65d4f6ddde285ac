"""Self-influence of a few positions of wide layers: Gram matrices against dense gradients in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.attribution import source_spectrum
from pipeline.attribution.curvature.low_rank import weighted_low_rank
from pipeline.attribution.curvature.segments import LayerChain, PreparedSegment, layer_chains
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.scores.form_choice import DENSE, GRAM, Positions, chain_form
from pipeline.attribution.scores.self_influence import self_products

ROWS, CHECKPOINTS = 40, 2


def problem(
    size_out: int, size_in: int, positions: int, segments: int = 1
) -> tuple[list, list[Tensor], list[Tensor]]:
    """Segments whose Λ is about that of the rows' gradients, with these: ``[rows, positions, size]`` per checkpoint."""
    torch.manual_seed(size_out + size_in + positions)
    count = CHECKPOINTS * segments
    inputs = torch.randn(ROWS, positions, size_in).double() * torch.logspace(0, -2, size_in)
    outputs = torch.randn(ROWS, positions, size_out).double() * torch.logspace(0, -2, size_out)
    every_input = [inputs * (1 + 0.2 * torch.randn(size_in)) for _ in range(count)]
    every_output = [outputs * (1 + 0.2 * torch.randn(size_out)) for _ in range(count)]
    prepared = []
    for start in range(0, count, CHECKPOINTS):
        turn_in, turn_out = (
            torch.linalg.qr(torch.eye(size) + 0.05 * torch.randn(size, size).double())[0]
            for size in (size_in, size_out)
        )
        dense = (outputs @ turn_out).mT @ (inputs @ turn_in)
        squares = dense.square().mean(0)
        # As from many rows: the noise of a few would take more terms.
        sigma = torch.outer(squares.mean(1), squares.mean(0)) / squares.mean()
        spectrum = source_spectrum(30.0 / sigma.max().item(), 0.0)
        places = tuple(range(start, start + CHECKPOINTS))
        prepared.append(
            PreparedSegment(places, {"one": Eigenbasis(turn_in, turn_out)}, {"one": sigma}, spectrum)
        )
    return prepared, every_input, every_output


def chain_of(prepared: list[PreparedSegment], tolerance: float) -> LayerChain:
    return layer_chains(prepared, torch.zeros(1).double(), tolerance)["one"]


def scored(
    prepared: list[PreparedSegment], inputs: list[Tensor], outputs: list[Tensor], tolerance: float
) -> Tensor:
    held = [OuterProducts(a, g) for a, g in zip(inputs, outputs, strict=True)]
    training = [held[s.checkpoints[0]].joined([held[c] for c in s.checkpoints[1:]]) for s in prepared]
    return self_products(held[-1], training, chain_of(prepared, tolerance))


def dense_scores(prepared: list[PreparedSegment], inputs: list[Tensor], outputs: list[Tensor]) -> Tensor:
    """Row by row, by the formula."""
    matrices = [g.mT @ a for a, g in zip(inputs, outputs, strict=True)]
    total = torch.zeros(ROWS).double()
    moving = matrices[-1]
    for segment in reversed(prepared):
        basis, sigma = segment.bases["one"], segment.eigenvalues["one"]
        turned = basis.gradient.T @ moving @ basis.input
        injected = basis.gradient @ (segment.spectrum.injection(sigma) * turned) @ basis.input.T
        for checkpoint in segment.checkpoints:
            total += (injected * matrices[checkpoint]).flatten(1).sum(1) / len(segment.checkpoints)
        moving = basis.gradient @ (segment.spectrum.transport(sigma) * turned) @ basis.input.T
    return total


def form_of(prepared: list[PreparedSegment], positions: int, tolerance: float) -> str:
    given_positions = Positions(positions, [CHECKPOINTS * positions] * len(prepared))
    return chain_form(chain_of(prepared, tolerance), given_positions).form


@pytest.mark.parametrize("segments", [1, 2])
def test_gram_matrices_are_within_the_tolerance_of_dense_gradients(segments: int) -> None:
    given_problem = problem(160, 200, 3, segments)
    exact = dense_scores(*given_problem)
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        assert form_of(given_problem[0], 3, tolerance) == GRAM
        error = (scored(*given_problem, tolerance) - exact).abs()
        assert error.mean() <= tolerance * exact.mean()
        errors.append(error.mean())
    assert 0 < errors[2] < errors[0]


def test_without_a_tolerance_the_same_layer_is_exact() -> None:
    given_problem = problem(160, 200, 3)
    assert form_of(given_problem[0], 3, 0.0) != GRAM
    torch.testing.assert_close(scored(*given_problem, 0.0), dense_scores(*given_problem))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 120), st.integers(2, 120), st.integers(1, 6), st.integers(1, 2))
def test_whatever_form_is_chosen_agrees_with_dense_gradients(
    out: int, size_in: int, positions: int, n: int
) -> None:
    given_problem = problem(out, size_in, positions, n)
    exact = dense_scores(*given_problem)
    form = form_of(given_problem[0], positions, 1e-3)
    error = (scored(*given_problem, 1e-3) - exact).abs().mean()
    assert error <= (1e-9 if form == DENSE else 2e-3) * exact.mean()


def test_positions_with_equal_output_gradients_are_one_outer_product() -> None:
    torch.manual_seed(0)
    inputs, outputs = torch.randn(6, 4, 30).double(), torch.randn(6, 1, 20).double().repeat(1, 4, 1)
    held = OuterProducts(inputs, outputs)
    basis = Eigenbasis(*(torch.linalg.qr(torch.randn(size, size).double())[0] for size in (30, 20)))
    compact = held.compact()
    assert isinstance(compact, OuterProducts)
    assert compact.positions == 1
    expected = (basis.gradient.T @ (outputs.mT @ inputs) @ basis.input).square().sum(0)
    torch.testing.assert_close(held.squares(basis), expected)
    torch.testing.assert_close(compact.matrices(), outputs.mT @ inputs)
    outputs[5, 3, 19] += 1e-9
    assert OuterProducts(inputs, outputs).merged().positions == 4


def test_terms_fit_where_the_weights_are() -> None:
    torch.manual_seed(0)
    weights = torch.outer(torch.logspace(0, -6, 30), torch.logspace(0, -6, 50)).double()
    matrix = 1 / (weights * (1 + 0.1 * torch.rand_like(weights)) + 1e-4)
    for tolerance in (1e-1, 1e-2, 1e-4):
        left, right = weighted_low_rank(matrix, weights, tolerance)
        missed = (weights * (left.T @ right - matrix).abs()).sum()
        assert missed <= tolerance * (weights * matrix).sum()
    assert 1 < len(left) < 30
    left, right = weighted_low_rank(matrix, torch.zeros_like(weights), 1e-3)
    assert left.shape == (0, 30)
