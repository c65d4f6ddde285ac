from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution import influence_injection, source_injection, source_spectrum, source_transport

SIGMA = st.floats(0, 1e12)
LR_SUM = st.floats(1e-6, 1e4)
DECAY = st.sampled_from([0.0, 1e-4, 0.1])
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@given(sigma=SIGMA, lr_sum=LR_SUM, decay=DECAY)
def test_injection_is_the_integral_of_transport(
    dtype: torch.dtype, sigma: float, lr_sum: float, decay: float
) -> None:
    injected = source_injection(torch.tensor([sigma], dtype=dtype), lr_sum, decay).item()
    total = float(torch.tensor(sigma, dtype=dtype)) + decay
    expected = -math.expm1(-lr_sum * total) / total if lr_sum * total > 1e-12 else lr_sum
    assert injected == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-12)


@given(sigma=SIGMA, lr_sum=LR_SUM)
def test_one_minus_sigma_times_injection_is_transport(sigma: float, lr_sum: float) -> None:
    value = torch.tensor([sigma], dtype=torch.float64)
    kept = 1 - value * source_injection(value, lr_sum)
    torch.testing.assert_close(kept, source_transport(value, lr_sum), atol=1e-12, rtol=0)


@given(sigma=SIGMA, lr_sum=LR_SUM)
def test_injection_lies_between_its_limits(sigma: float, lr_sum: float) -> None:
    """F_r ≤ min(t, 1/σ), and 1/(σ + 1/t) is below it and within a factor of 1.30."""
    value = source_injection(torch.tensor([sigma], dtype=torch.float64), lr_sum).item()
    smooth = 1 / (sigma + 1 / lr_sum)
    assert value <= lr_sum * (1 + 1e-12)
    assert value * sigma <= 1 + 1e-12
    assert smooth * (1 - 1e-9) <= value <= 1.30 * smooth


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_tiny_negative_and_huge_eigenvalues_are_finite(dtype: torch.dtype) -> None:
    sigma = torch.tensor([0.0, -1e-9, 1e-9, 1e-30, 1e12], dtype=dtype)
    injected, kept = source_injection(sigma, 2.0), source_transport(sigma, 2.0)
    assert injected[:4].tolist() == pytest.approx([2.0] * 4, rel=1e-6)
    assert injected[4].item() == pytest.approx(1e-12)
    assert kept.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.0], abs=1e-6)
    assert source_injection(sigma, 0.0).tolist() == [0.0] * 5


def test_two_halves_of_a_segment_compose() -> None:
    sigma = torch.logspace(-6, 3, 50, dtype=torch.float64)
    half, whole = source_spectrum(1.5, 0.01), source_spectrum(3.0, 0.01)
    torch.testing.assert_close(half.transport(sigma) ** 2, whole.transport(sigma))
    joined = half.injection(sigma) + half.transport(sigma) * half.injection(sigma)
    torch.testing.assert_close(joined, whole.injection(sigma))


def test_influence_damping_is_given_or_relative_to_the_mean() -> None:
    sigma = torch.tensor([[0.0, 2.0], [4.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(influence_injection(sigma, 0.5), 1 / (sigma + 0.5))
    torch.testing.assert_close(influence_injection(sigma), 1 / (sigma + 0.2))
    assert torch.isfinite(influence_injection(torch.zeros(2, 2))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(sigma=SIGMA, lr_sum=LR_SUM, decay=DECAY)
def test_both_factors_are_finite_for_every_curvature(
    dtype: torch.dtype, sigma: float, lr_sum: float, decay: float
) -> None:
    spectrum, value = source_spectrum(lr_sum, decay), torch.tensor([sigma, 0.0, -1e-12], dtype=dtype)
    injected, kept = spectrum.injection(value), spectrum.transport(value)
    assert torch.isfinite(injected).all()
    assert (injected >= 0).all()
    assert ((kept >= 0) & (kept <= 1)).all()
