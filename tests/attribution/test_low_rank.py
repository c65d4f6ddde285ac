from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.attribution import source_transport
from pipeline.attribution.curvature.low_rank import OuterMap, low_rank


def spectrum(size_out: int, size_in: int, seed: int) -> Tensor:
    """Eigenvalues over six decades, as layers have them."""
    torch.manual_seed(seed)
    left, right = (torch.logspace(-3, 0, size).double() for size in (size_out, size_in))
    return torch.outer(left, right) * (0.5 + torch.rand(size_out, size_in).double() / 50)


def as_matrix(mapping: OuterMap) -> Tensor:
    """The map as one matrix on flattened ``g aᵀ``."""
    return sum(torch.kron(b, a) for a, b in zip(mapping.inputs, mapping.outputs, strict=True))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_transports_are_of_low_rank_within_the_tolerance(shape: tuple[int, int], tolerance: float) -> None:
    transport = source_transport(spectrum(*shape, seed=0), lr_sum=20.0)
    left, right = low_rank(transport, tolerance)
    values = torch.linalg.svdvals(transport)
    assert len(left) == int((values > tolerance * values[0]).sum()) < min(shape)
    error = torch.linalg.matrix_norm(left.T @ right - transport, 2)
    assert error <= tolerance * values[0] * (1 + 1e-6)


def test_a_map_followed_by_a_filter_maps_outer_products() -> None:
    torch.manual_seed(0)
    mapping = OuterMap(torch.randn(2, 4, 4).double(), torch.randn(2, 3, 3).double())
    left, right = torch.randn(5, 3).double(), torch.randn(5, 4).double()
    g, a = torch.randn(6, 2, 3).double(), torch.randn(6, 2, 4).double()
    inputs, outputs = mapping.scaled(left, right).apply(a, g)
    assert inputs.shape == (6, 2 * 10, 4)
    filtered = left.T @ right
    expected = sum(
        filtered * torch.einsum("bpo,bpi->boi", g @ mapping.outputs[k], a @ mapping.inputs[k])
        for k in range(2)
    )
    torch.testing.assert_close(torch.einsum("bpo,bpi->boi", outputs, inputs), expected)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_compression_keeps_the_map_with_fewer_terms(tolerance: float) -> None:
    torch.manual_seed(1)
    turn_in, turn_out = (torch.linalg.qr(torch.randn(n, n).double()).Q[None] for n in (12, 9))
    mapping = OuterMap(turn_in, turn_out)
    for seed in range(2):
        transport = source_transport(spectrum(9, 12, seed), lr_sum=20.0)
        mapping = mapping.scaled(*low_rank(transport, 1e-6))
        mapping = OuterMap(mapping.inputs @ turn_in, mapping.outputs @ turn_out)
    found = mapping.compressed(tolerance)
    assert 0 < len(found) < len(mapping)
    exact = as_matrix(mapping)
    largest = torch.linalg.svdvals(
        torch.stack(
            [torch.outer(b.flatten(), a.flatten()) for a, b in zip(mapping.inputs, mapping.outputs)]
        ).sum(0)
    )[0]
    error = torch.linalg.matrix_norm(as_matrix(found) - exact)
    assert error <= tolerance * largest * len(mapping) ** 0.5


def test_nothing_is_dropped_without_a_tolerance() -> None:
    mapping = OuterMap(torch.randn(3, 4, 4), torch.randn(3, 2, 2))
    assert mapping.compressed(0.0) is mapping
