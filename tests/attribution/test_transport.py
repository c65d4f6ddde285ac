from __future__ import annotations

import torch
from torch import Tensor

from pipeline.attribution import (
    Eigenbasis,
    PreparedSegment,
    influence_spectrum,
    query_filters,
    source_spectrum,
)


def random_segment(
    size_out: int, size_in: int, lr_sum: float, decay: float
) -> tuple[PreparedSegment, Tensor]:
    """A segment of one layer, and its dense Hessian over the layer's flattened matrix."""
    gradient = torch.linalg.qr(torch.randn(size_out, size_out).double()).Q
    inputs = torch.linalg.qr(torch.randn(size_in, size_in).double()).Q
    sigma = torch.rand(size_out, size_in).double() * 3
    vectors = torch.kron(gradient, inputs)
    hessian = vectors @ torch.diag(sigma.flatten()) @ vectors.T
    segment = PreparedSegment(
        (0,), {"w": Eigenbasis(inputs, gradient)}, {"w": sigma}, source_spectrum(lr_sum, decay)
    )
    return segment, hessian + decay * torch.eye(len(hessian)).double()


def test_filters_equal_dense_matrix_exponentials() -> None:
    """u = ∫₀ᵗ exp(−sH) ds q by the block-matrix exponential, in each of three segments with their own H."""
    torch.manual_seed(0)
    settings = [(0.5, 0.0), (1.3, 0.1), (0.8, 0.02)]
    made = [random_segment(2, 3, *setting) for setting in settings]
    query = torch.randn(2, 3).double()
    filters = query_filters({"w": query}, [segment for segment, _ in made])
    moving = query.flatten()
    for place in (2, 1, 0):
        lr_sum, hessian = settings[place][0], made[place][1]
        block = torch.zeros(12, 12).double()
        block[:6, :6], block[:6, 6:] = -hessian, torch.eye(6).double()
        exponential = torch.linalg.matrix_exp(lr_sum * block)
        torch.testing.assert_close(filters[place]["w"].flatten(), exponential[:6, 6:] @ moving)
        moving = exponential[:6, :6] @ moving


def test_several_queries_at_once_equal_one_by_one() -> None:
    torch.manual_seed(0)
    segments = [random_segment(2, 3, 0.5, 0.0)[0], random_segment(2, 3, 1.0, 0.1)[0]]
    queries = torch.randn(4, 2, 3).double()
    together = query_filters({"w": queries}, segments)
    for number, query in enumerate(queries):
        for found, expected in zip(together, query_filters({"w": query}, segments), strict=True):
            torch.testing.assert_close(found["w"][number], expected["w"])


def test_influence_spectrum_solves_with_the_damped_hessian() -> None:
    torch.manual_seed(0)
    segment, hessian = random_segment(2, 3, 1.0, 0.0)
    damped = PreparedSegment((0,), segment.bases, segment.eigenvalues, influence_spectrum(0.3))
    query = torch.randn(2, 3).double()
    (found,) = query_filters({"w": query}, [damped])
    expected = torch.linalg.solve(hessian + 0.3 * torch.eye(6).double(), query.flatten())
    torch.testing.assert_close(found["w"].flatten(), expected)
