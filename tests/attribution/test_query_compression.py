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
    cross_entropy,
    query_filters,
    query_gradients,
    source_spectrum,
)
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.methods import METHODS
from pipeline.attribution.model.capture import capture
from pipeline.attribution.queries.compression import (
    Filter,
    LowRankMatrices,
    compress,
    compressed_filters,
    joined,
    joined_filters,
    products,
)
from pipeline.attribution.queries.compression_choice import CompressionChoice
from pipeline.attribution.scores.conductor import Chain, find_filters
from pipeline.attribution.scores.queries import query_influences

from .models import model_and_rows
from .oracles import loss_matrices
from .recorded_run import OPTIMIZERS
from .test_scores import TRAIN_ROWS, Prepared

ENTROPY = cross_entropy()


def cheapest_filters(
    parts: list[dict[str, torch.Tensor]], segments: list[PreparedSegment], tolerance: float
) -> list[dict[str, Filter]]:
    """Of queries that come some at a time."""
    chain = Chain([], segments)
    return joined_filters(
        find_filters(METHODS["source"], chain, part, tolerance=tolerance).filters for part in parts
    )


def decaying(queries: int, size_out: int, size_in: int, decay: float) -> torch.Tensor:
    """Matrices with the singular values decay⁰, decay¹, …"""
    torch.manual_seed(3)
    small = min(size_out, size_in)
    left = torch.linalg.qr(torch.randn(queries, size_out, small, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(queries, size_in, small, dtype=torch.float64))[0]
    return left * decay ** torch.arange(small, dtype=torch.float64) @ right.mT


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (3, 50), (5, 4)])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_compression_loses_no_more_than_it_may(shape: tuple[int, int], tolerance: float) -> None:
    matrices = decaying(4, *shape, 0.6)
    compressed = compress(matrices, tolerance)
    lost = (compressed.dense(slice(0, 4)) - matrices).flatten(1).norm(dim=1)
    assert (lost <= tolerance * matrices.flatten(1).norm(dim=1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_ranks_are_close_to_the_least_possible(tolerance: float) -> None:
    matrices = decaying(3, 50, 70, 0.5)
    squares = torch.linalg.svdvals(matrices[0]).square()
    least = int((squares.flip(0).cumsum(0).flip(0) > tolerance**2 * squares.sum()).sum())
    ranks = torch.bincount(compress(matrices, tolerance).owner, minlength=3)
    assert (ranks >= least).all()
    assert (ranks <= least + 1).all()


def test_the_error_shrinks_as_the_rank_grows() -> None:
    matrices = decaying(1, 30, 30, 0.7)
    errors, ranks = [], []
    for tolerance in (3e-1, 1e-1, 1e-2, 1e-4):
        compressed = compress(matrices, tolerance)
        errors.append(float((compressed.dense(slice(0, 1)) - matrices).norm()))
        ranks.append(len(compressed.owner))
    assert errors == sorted(errors, reverse=True)
    assert ranks == sorted(set(ranks))


def test_a_matrix_of_zeros_has_no_terms_and_products_of_zero() -> None:
    matrices = torch.zeros(3, 4, 5, dtype=torch.float64)
    matrices[1] = decaying(1, 4, 5, 0.3)[0]
    compressed = compress(matrices, 1e-6)
    assert set(compressed.owner.tolist()) == {1}
    found = products(OuterProducts(torch.randn(2, 1, 5).double(), torch.randn(2, 1, 4).double()), compressed)
    assert found.shape == (3, 2)
    assert (found[[0, 2]] == 0).all()
    assert (found[1] != 0).all()


@pytest.mark.parametrize("positions", [1, 3, 40])
def test_products_equal_dense_ones(positions: int) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(7, positions, 12, dtype=torch.float64)
    outputs = torch.randn(7, positions, 6, dtype=torch.float64)
    matrices = decaying(5, 6, 12, 0.8)
    found = products(OuterProducts(inputs, outputs), compress(matrices, 1e-7))
    dense = torch.einsum("qoi,bpo,bpi->qb", matrices, outputs, inputs)
    torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)


def test_the_error_of_a_product_stays_within_its_bound() -> None:
    torch.manual_seed(2)
    inputs, outputs = torch.randn(50, 1, 30).double(), torch.randn(50, 1, 20).double()
    matrices = decaying(4, 20, 30, 0.6)
    exact = torch.einsum("qoi,bpo,bpi->qb", matrices, outputs, inputs)
    norms = (inputs.norm(dim=2) * outputs.norm(dim=2)).T * matrices.flatten(1).norm(dim=1)[:, None]
    for tolerance in (1e-1, 1e-2, 1e-3):
        error = (products(OuterProducts(inputs, outputs), compress(matrices, tolerance)) - exact).abs()
        assert (error <= tolerance * norms).all()
        assert error.max() > 0


@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice", "grouped", "tied"])
def test_products_equal_dense_ones_for_every_kind_of_layer(kind: str) -> None:
    model, batch = model_and_rows(kind)
    expected = loss_matrices(model, ENTROPY, batch.inputs, batch.labels)
    with capture(model) as captured:
        losses = ENTROPY.losses(captured.forward(batch.inputs), batch.labels)
        for name, gradients in captured.gradients(losses, torch.ones_like(losses)):
            torch.manual_seed(4)
            filters = torch.randn(3, *expected[name].shape[1:], dtype=torch.float64)
            found = products(gradients, compress(filters, 1e-7))
            dense = torch.einsum("qoi,boi->qb", filters, expected[name])
            torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "grouped", "tied"])
def test_compressed_filters_equal_the_dense_ones(kind: str, segments: int) -> None:
    prepared = Prepared(kind, segments)
    gradients = query_gradients(prepared.model, ENTROPY, prepared.batch.inputs[:4], prepared.batch.labels[:4])
    dense = query_filters(gradients, prepared.segments)
    found = compressed_filters(gradients, prepared.segments, 1e-6)
    for expected, compressed in zip(dense, found, strict=True):
        for name, matrices in expected.items():
            there = compressed[name].dense(slice(0, 4))
            torch.testing.assert_close(there, matrices, rtol=1e-4, atol=1e-4 * float(matrices.abs().max()))


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice", "grouped", "tied"])
def test_influences_are_those_of_dense_queries(kind: str, segments: int) -> None:
    prepared = Prepared(kind, segments, weights=True)
    gradients = query_gradients(prepared.model, ENTROPY, prepared.batch.inputs[:3], prepared.batch.labels[:3])
    dense = {"queries": query_filters(gradients, prepared.segments)}
    prepared.queries = dense
    expected = -prepared.score([prepared.batch], self_influence=False).harm["queries"]
    filters = compressed_filters(gradients, prepared.segments, 1e-6)
    found = query_influences(
        prepared.model, prepared.load, ENTROPY, [prepared.batch], prepared.segments, TRAIN_ROWS, filters
    )
    assert found.shape == (3, 9)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_joining_keeps_the_queries_in_order() -> None:
    matrices = decaying(5, 6, 8, 0.4)
    parts = [compress(matrices[:2], 1e-6), compress(matrices[2:], 1e-6)]
    together = joined(parts)
    assert isinstance(together, LowRankMatrices)
    assert together.count == 5
    torch.testing.assert_close(together.dense(slice(1, 4)), matrices[1:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "transformer"])
def test_filters_in_parts_and_in_their_cheapest_form_give_the_dense_scores(kind: str) -> None:
    """Whichever layers are compressed, harm of single queries is the dense filters' within the tolerance."""
    prepared = Prepared(kind, 3)
    gradients = query_gradients(prepared.model, ENTROPY, prepared.batch.inputs[:4], prepared.batch.labels[:4])
    parts = [{name: each[some] for name, each in gradients.items()} for some in (slice(0, 3), slice(3, 4))]
    for tolerance in (0.0, 1e-6):
        filters = cheapest_filters(parts, prepared.segments, tolerance)
        prepared.queries = {"one by one": query_filters(gradients, prepared.segments)}
        dense = prepared.score([prepared.batch], self_influence=False).harm["one by one"]
        prepared.queries = {"one by one": filters}
        found = prepared.score([prepared.batch], self_influence=False).harm["one by one"]
        torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-7 if tolerance else 1e-12)


def test_layers_are_compressed_only_where_that_saves_operations() -> None:
    torch.manual_seed(0)
    sizes = {"wide": (40, 60), "narrow": (2, 2)}
    bases = {name: Eigenbasis(torch.eye(i).double(), torch.eye(o).double()) for name, (o, i) in sizes.items()}
    values = {name: torch.rand(size).double() for name, size in sizes.items()}
    segment = PreparedSegment((0,), bases, values, source_spectrum(1.0))
    gradients = {
        name: torch.randn(5, size[0], 1).double() @ torch.randn(5, 1, size[1]).double()
        for name, size in sizes.items()
    }
    (found,) = cheapest_filters([gradients], [segment], 0.1)
    (dense,) = query_filters(gradients, [segment])
    assert isinstance(found["wide"], LowRankMatrices)
    assert isinstance(found["narrow"], torch.Tensor)
    lost = (found["wide"].dense(slice(None)) - dense["wide"]).flatten(1).norm(dim=1)
    assert (lost <= 0.1 * dense["wide"].flatten(1).norm(dim=1)).all()
    assert all(
        isinstance(each, torch.Tensor) for each in cheapest_filters([gradients], [segment], 0.0)[0].values()
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "two groups"])
@pytest.mark.parametrize("segments", [1, 3])
def test_queries_compressed_under_an_optimizer_that_scales_parameters_have_the_dense_influences(
    optimizer: str, segments: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trained net whose first input is 0 in every row and 1 in the queries: Adam's scale there is 1/ε."""
    monkeypatch.setattr(CompressionChoice, "compresses", lambda *_, **__: True)  # so few rows wouldn't pay
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)
    ).double()
    inputs, labels = torch.randn(60, 12).double(), torch.randint(3, (60,))
    inputs[:, 0] = 0
    asked = torch.randn(10, 12).double()
    asked[:, 0] = 1
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    recorder = TrajectoryRecorder(model, made, tmp_path, steps=60, train_rows=60, checkpoints=3)
    for _ in range(60):
        rows = torch.randint(60, (20,))
        made.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        made.step()
        recorder.step()
    exact, *found = (
        attribute(
            model,
            Trajectory.load(tmp_path),
            [(inputs, labels)],
            [(asked, torch.randint(3, (10,), generator=torch.Generator().manual_seed(1)))],
            segments=segments,
            reduce_queries=False,
            query_tolerance=tolerance,
        ).influence
        for tolerance in (0.0, 1e-1, 1e-2, 1e-3)
    )
    size, errors = exact.square().mean(1).sqrt(), []
    for tolerance, influence in zip((1e-1, 1e-2, 1e-3), found, strict=True):
        errors.append((influence - exact).square().mean(1).sqrt() / size)
        assert (errors[-1] <= 2 * tolerance).all()
    assert errors[0].max() > 0
