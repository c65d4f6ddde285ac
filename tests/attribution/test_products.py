from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.attribution.gradients.products import (
    aligned,
    aligned_cat,
    aligned_empty,
    covariance,
    inner_products,
    product,
    slices_of,
)


@pytest.mark.parametrize("width", [1, 16, 17, 200])
def test_products_with_aligned_rows_equal_plain_ones(width: int) -> None:
    left, right = torch.randn(3, 5, 7).double(), torch.randn(7, width).double()
    found = product(left, right)
    torch.testing.assert_close(found, left @ right)
    assert found.stride(1) % 16 == 0


def test_aligning_keeps_values_and_what_is_aligned() -> None:
    values = torch.randn(4, 9)
    wider = aligned(values)
    assert torch.equal(wider, values)
    assert wider.stride(0) == 16
    assert aligned(wider) is wider


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_lies_in_uninitialised_storage_takes_no_part_in_products(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def filled(like: Tensor, *shape: int) -> Tensor:
        return like.new_full(shape, float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", filled)
    torch.manual_seed(0)
    left, right = torch.randn(600, 13).to(dtype), torch.randn(13, 13).to(dtype)
    held = aligned_empty(left.shape, left).copy_(left)
    for found in (product(aligned(left), aligned(right)), product(held, right), held @ right):
        torch.testing.assert_close(found.double(), left.double() @ right.double(), rtol=0.05, atol=0.05)


def test_aligned_concatenation_goes_along_the_positions() -> None:
    parts = [torch.randn(2, 3, 5), torch.randn(2, 1, 5)]
    assert torch.equal(aligned_cat(parts), torch.cat(parts, 1))


@pytest.mark.parametrize("size", [3, 192, 500])
def test_covariance_is_the_sum_of_outer_products(size: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(50, size).double()
    found = covariance(values)
    torch.testing.assert_close(found, values.T @ values)
    assert found.dtype == torch.float64


def test_covariance_of_many_rows_in_single_precision_is_summed_in_double() -> None:
    torch.manual_seed(0)
    values = torch.rand(50_000, 4) + 1
    exact = values.double().T @ values.double()
    assert (covariance(values) - exact).abs().max() < 1e-6 * exact.abs().max()


def test_inner_products_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.randn(7, 3, 4).double(), torch.randn(7, 3, 4).double()
    monkeypatch.setattr("pipeline.attribution.gradients.products.CACHE_BYTES", 200)
    torch.testing.assert_close(inner_products(first, second), (first * second).sum((1, 2)))


def test_slices_cover_everything_and_never_stand_still() -> None:
    assert [slice(0, 3), slice(3, 6), slice(6, 9)] == list(slices_of(7, 10, 30))
    assert len(list(slices_of(4, 10, 1))) == 4
    assert list(slices_of(0, 10, 30)) == []
