"""Queries whose gradient in a layer is one outer product: their filters are those that are formed as matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    Eigenbasis,
    PreparedSegment,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    influence_spectrum,
    query_filters,
)
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.queries.compression import compressed_filters, joined_filters, products
from pipeline.attribution.queries.compression_choice import CompressionChoice, LayerCost
from pipeline.attribution.queries.vector_filters import VectorFilters, vector_filters, vector_layers

from .recorded_run import OPTIMIZERS

IN, OUT = 9, 6


def orthogonal(size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def segment(size_in: int = IN, size_out: int = OUT) -> PreparedSegment:
    basis = Eigenbasis(orthogonal(size_in), orthogonal(size_out))
    values = torch.rand(size_out, size_in, dtype=torch.float64)
    return PreparedSegment((0,), {"layer": basis}, {"layer": values}, influence_spectrum())


def outer(rows: int, positions: int = 1, size_in: int = IN, size_out: int = OUT) -> OuterProducts:
    inputs, outputs = (
        torch.randn(rows, positions, size, dtype=torch.float64) for size in (size_in, size_out)
    )
    return OuterProducts(inputs, outputs)


@pytest.mark.parametrize(("size_in", "size_out"), [(9, 6), (6, 9), (300, 500)])
def test_products_are_those_of_the_dense_filters(size_in: int, size_out: int) -> None:
    """More rows than fit the cache at a time, where the layer is wide."""
    torch.manual_seed(0)
    fitted = segment(size_in, size_out)
    queries, rows = outer(5, 1, size_in, size_out), outer(700, 1, size_in, size_out)
    (dense,) = query_filters({"layer": queries.matrices()}, [fitted])
    filters = vector_filters("layer", queries, fitted)
    torch.testing.assert_close(filters.dense(slice(None)), dense["layer"])
    expected = torch.einsum("qoi,bo,bi->qb", dense["layer"], rows.outputs[:, 0], rows.inputs[:, 0])
    torch.testing.assert_close(products(rows, filters), expected)


def test_rows_with_several_positions_get_the_same_filters() -> None:
    torch.manual_seed(1)
    fitted, queries, rows = segment(), outer(4), outer(7, positions=3)
    (dense,) = query_filters({"layer": queries.matrices()}, [fitted])
    expected = torch.einsum("qoi,boi->qb", dense["layer"], rows.matrices())
    torch.testing.assert_close(products(rows, vector_filters("layer", queries, fitted)), expected)


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("positions", [1, 4, 40])
def test_filters_of_outer_products_are_those_of_their_matrices(positions: int, segments: int) -> None:
    torch.manual_seed(2)
    fitted, queries = [segment() for _ in range(segments)], outer(3, positions)
    found = query_filters({"layer": queries}, fitted)
    for mine, right in zip(found, query_filters({"layer": queries.matrices()}, fitted), strict=True):
        torch.testing.assert_close(mine["layer"], right["layer"])


def test_layers_of_one_position_in_one_segment_stay_vectors_and_parts_are_joined_in_order() -> None:
    torch.manual_seed(3)
    fitted, queries = segment(), outer(5)
    names = vector_layers({"layer": 1}, [fitted])
    assert names == {"layer"}
    assert not vector_layers({"layer": 4}, [fitted])
    assert not vector_layers({"layer": 1}, [fitted, fitted])
    choice = CompressionChoice([10], 5, {"layer": 1}, torch.float64, names)
    parts = [queries.sliced(slice(3)), queries.sliced(slice(3, 5))]
    (found,) = joined_filters(compressed_filters({"layer": part}, [fitted], 1e-3, choice) for part in parts)
    assert isinstance(found["layer"], VectorFilters)
    (dense,) = query_filters({"layer": queries.matrices()}, [fitted])
    torch.testing.assert_close(found["layer"].dense(slice(None)), dense["layer"])


def test_a_frozen_layer_without_a_basis_has_no_vectors() -> None:
    frozen = {"layer": Preconditioner(torch.zeros(OUT, IN), None)}
    assert not vector_layers({"layer": 1}, [PreparedSegment((0,), {}, {}, influence_spectrum(), frozen)])


def test_vectors_cost_the_rotation_of_rows_and_their_products() -> None:
    cost = LayerCost((6, 10), 1, 20, [50], direct=False, vectors=True)
    operations = 50 * (2 * 6 * 10 + 2 * (6 * 6 + 10 * 10) / 20)
    assert cost.dense() * 2 * 6 * 10 == pytest.approx(operations)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["source", "influence"])
def test_single_queries_have_the_scores_of_exact_filters(method: str, optimizer: str, tmp_path: Path) -> None:
    """``query_tolerance=0`` forms every query's matrix; a mean query's score is the mean of the queries' scores."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    inputs, labels = torch.randn(40, 12).double(), torch.randint(3, (40,))
    asked = torch.randn(7, 12).double(), torch.randint(3, (7,))
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    recorder = TrajectoryRecorder(model, made, tmp_path, steps=20, train_rows=40, checkpoints=2)
    for _ in range(20):
        made.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        made.step()
        recorder.step()

    def influence(tolerance: float) -> torch.Tensor:
        found = attribute(
            model,
            Trajectory.load(tmp_path),
            [(inputs, labels)],
            [asked],
            method=method,
            reduce_queries=False,
            query_tolerance=tolerance,
        ).influence
        assert found is not None
        return found

    exact, found = influence(0.0), influence(1e-3)
    assert exact.abs().max() > 0
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10 * float(exact.abs().max()))
