from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import capture

from . import assert_matches_functional_gradients

SMALL = st.integers(1, 3)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(SMALL, SMALL),
    kernel=st.tuples(SMALL, SMALL),
    stride=st.tuples(SMALL, SMALL),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
)
def test_per_example_gradients(batch, channels, kernel, stride, padding, dilation, bias) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(*channels, kernel, stride, padding, dilation, bias=bias).double()
    assert_matches_functional_gradients(model, torch.randn(batch, channels[0], 6, 7).double())


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(2, 3), (3, 4)])
def test_named_padding(padding: str, kernel: tuple[int, int]) -> None:
    model = nn.Conv2d(2, 3, kernel, padding=padding, dilation=(1, 2)).double()
    assert_matches_functional_gradients(model, torch.randn(2, 2, 6, 8).double())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(1, 2), "same"])
def test_padding_modes(mode: str, padding: tuple[int, int] | str) -> None:
    model = nn.Conv2d(2, 3, (2, 3), padding=padding, padding_mode=mode).double()
    assert_matches_functional_gradients(model, torch.randn(2, 2, 5, 6).double())


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    groups=st.integers(2, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    kernel=st.tuples(SMALL, SMALL),
    stride=st.integers(1, 2),
    bias=st.booleans(),
)
def test_per_example_gradients_of_groups(batch, groups, channels, kernel, stride, bias) -> None:
    torch.manual_seed(0)
    sizes = [groups * size for size in channels]
    model = nn.Conv2d(*sizes, kernel, stride, padding=1, groups=groups, bias=bias).double()
    assert_matches_functional_gradients(model, torch.randn(batch, sizes[0], 4, 5).double())


def test_factors_of_groups_are_those_of_smaller_convolutions() -> None:
    """A: the groups' covariances summed. S: block diagonal."""
    torch.manual_seed(0)
    model = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    alone = [nn.Conv2d(2, 3, 3, padding=1).double() for _ in range(2)]
    inputs, weights = torch.randn(5, 4, 4, 3).double(), torch.randn(5, 6, 4, 3).double()
    scale = torch.rand(5).double()

    def gradients(layer: nn.Module, images: torch.Tensor, given: torch.Tensor):
        with capture(layer) as captured:
            outputs = captured.forward(images)
            ((_, found),) = captured.gradients(outputs, given)
        return found

    whole = gradients(model, inputs, weights)
    parts = [
        gradients(one, i, w) for one, i, w in zip(alone, inputs.chunk(2, 1), weights.chunk(2, 1), strict=True)
    ]
    expected = sum(part.input_covariance(scale) for part in parts)
    torch.testing.assert_close(whole.input_covariance(scale), expected)
    blocks = torch.block_diag(*(part.gradient_covariance() for part in parts))
    torch.testing.assert_close(whole.gradient_covariance(), blocks)
