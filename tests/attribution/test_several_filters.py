from __future__ import annotations

import pytest
import torch

from pipeline.attribution.gradients.outer_products import OuterProducts


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize(("size_in", "size_out"), [(7, 3), (4, 9)])
def test_products_with_several_filters_are_those_with_the_gradients_as_matrices(
    positions: int, size_in: int, size_out: int
) -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, positions, size_in, dtype=torch.float64, generator=random)
    outputs = torch.randn(11, positions, size_out, dtype=torch.float64, generator=random)
    filters = torch.randn(5, size_out, size_in, dtype=torch.float64, generator=random)
    expected = torch.einsum("qoi,bpo,bpi->qb", filters, outputs, inputs)
    torch.testing.assert_close(OuterProducts(inputs, outputs).products(filters), expected)
