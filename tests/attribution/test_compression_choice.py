"""Single queries are compressed only where that takes fewer operations than it costs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import cross_entropy, influence_spectrum, query_gradients, source_spectrum
from pipeline.attribution.curvature.fit import prepare_segment
from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.queries.compression import LowRankMatrices, compressed_filters
from pipeline.attribution.queries.compression_choice import CompressionChoice, LayerCost
from pipeline.attribution.queries.gradients import Queries, query_positions
from pipeline.attribution.rows.batch import Batch

from .models import model_and_rows

ENTROPY = cross_entropy()


def with_terms(*terms: int) -> Callable[[Tensor], list]:
    """Compression that finds so many terms a query in each segment."""
    return lambda given: [SimpleNamespace(owner=range(each * len(given)), count=len(given)) for each in terms]


def chosen(rows: int, terms: int, positions: int = 1, shape: tuple[int, int] = (512, 785)) -> bool:
    choice = CompressionChoice([rows], 100, {"layer": positions}, torch.float32)
    return choice.compresses("layer", torch.zeros(3, *shape), [0], with_terms(terms), direct=False)


def test_costs_are_those_of_counted_operations() -> None:
    """Of a layer 6 × 10 with 4 positions, 20 queries and 50 visits, in units of 2 · 6 · 10 operations."""
    size_out, size_in, positions, queries, visits, terms = 6, 10, 4, 20, 50, 3
    unit = 2 * size_out * size_in
    rotations = 2 * (2 * size_out**2 * size_in + 2 * size_out * size_in**2)
    formed = visits * 2 * positions * size_out * size_in / queries
    products = visits * 2 * size_out * size_in
    cost = LayerCost((size_out, size_in), positions, queries, [visits], direct=False)
    assert cost.dense() * unit == pytest.approx(rotations + formed + products)
    by_terms = visits * positions * terms * 2 * (size_out + size_in)
    assert cost.compressed([terms]) * unit == pytest.approx(2 * 800 * unit + by_terms)
    alone = LayerCost((size_out, size_in), positions, queries, [visits], direct=True)
    assert cost.dense() * unit - alone.dense() * unit == pytest.approx(rotations)


def test_more_rows_make_compression_pay_and_more_terms_or_positions_do_not() -> None:
    assert not chosen(rows=1000, terms=170)
    assert chosen(rows=100_000, terms=170)
    assert chosen(rows=1000, terms=12)
    assert not chosen(rows=100_000, terms=400)
    assert not chosen(rows=100_000, terms=12, positions=64)


def test_a_layer_is_tried_on_two_queries_once() -> None:
    tried: list[int] = []

    def compress(given: Tensor) -> list:
        tried.append(len(given))
        return with_terms(12)(given)

    choice = CompressionChoice([100_000], 100, {"a": 1, "b": None}, torch.float32)
    given = torch.zeros(5, 512, 785)
    assert [choice.compresses("a", given, [0], compress, direct=False) for _ in range(3)] == [True] * 3
    assert tried == [2]
    assert not choice.compresses("b", given, [0], compress, direct=False)
    assert choice.compresses("an embedding", given, [0], compress, direct=False)
    assert tried == [2]


def test_nothing_is_tried_where_no_number_of_terms_pays() -> None:
    choice = CompressionChoice([100], 100, {"a": 64}, torch.float32)

    def fails(_: Tensor) -> list:
        raise AssertionError

    assert not choice.compresses("a", torch.zeros(5, 64, 65), [0], fails, direct=False)


def fitted(spectrum: object) -> tuple[PreparedSegment, dict[str, Tensor]]:
    """Of a float32 net and five queries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5))
    rows = Batch(torch.randn(60, 30), torch.randint(5, (60,)), torch.arange(60))
    segment = prepare_segment(model, lambda _: None, ENTROPY, [rows], (0,), spectrum)  # type: ignore[arg-type]
    return segment, query_gradients(model, ENTROPY, rows.inputs[:5], rows.labels[:5])


def filters(rows: int, segment: PreparedSegment, gradients: dict[str, Tensor]) -> dict:
    choice = CompressionChoice([rows], 5, dict.fromkeys(gradients, 1), torch.float32)
    return compressed_filters(gradients, [segment], 1e-3, choice)[0]


@pytest.mark.parametrize("rows", [10, 10**9])
@pytest.mark.parametrize(
    "spectrum", [source_spectrum(1.0), influence_spectrum()], ids=["source", "influence"]
)
def test_filters_are_within_the_tolerance_in_either_form(spectrum: object, rows: int) -> None:
    segment, gradients = fitted(spectrum)
    exact = query_filters({name: each.double() for name, each in gradients.items()}, [segment])[0]
    for name, found in filters(rows, segment, gradients).items():
        if rows == 10:
            assert isinstance(found, Tensor)
            assert found.dtype == torch.float32
        dense = found.dense(slice(None)) if isinstance(found, LowRankMatrices) else found
        lost = (dense.double() - exact[name]).flatten(1).norm(dim=1)
        assert (lost <= 1e-3 * exact[name].flatten(1).norm(dim=1)).all()


def test_filters_are_computed_in_double_precision_where_rounding_would_take_part_of_the_tolerance() -> None:
    """A spectrum of 10⁷ for directions in which the gradients have almost nothing but rounding errors."""
    segment, gradients = fitted(source_spectrum(1e7))
    exact = query_filters({name: each.double() for name, each in gradients.items()}, [segment])[0]
    quick = query_filters(gradients, [segment])[0]
    lost = {name: (quick[name].double() - exact[name]).norm() / exact[name].norm() for name in exact}
    assert max(lost.values()) > 1e-4
    for name, found in filters(10, segment, gradients).items():
        assert (found.double() - exact[name]).norm() <= 1e-6 * exact[name].norm()


def test_positions_are_those_of_the_rules_and_embeddings_are_left_out() -> None:
    model, batch = model_and_rows("tokens")
    found = query_positions(model, Queries([(batch.inputs, batch.labels)], ENTROPY, "final", False))
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert all(kinds[name] is not nn.Embedding for name in found)
    assert set(found.values()) == {1, batch.inputs.shape[1]}
    model, batch = model_and_rows("grouped")
    found = query_positions(model, Queries([(batch.inputs, batch.labels)], ENTROPY, "final", False))
    assert None in found.values()
