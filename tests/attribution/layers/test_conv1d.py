from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import capture

from . import assert_matches_functional_gradients

SMALL = st.integers(1, 3)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(SMALL, SMALL),
    groups=st.integers(1, 3),
    kernel=SMALL,
    stride=SMALL,
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
)
def test_per_example_gradients(batch, channels, groups, kernel, stride, padding, dilation, bias) -> None:
    torch.manual_seed(0)
    sizes = [groups * size for size in channels]
    model = nn.Conv1d(*sizes, kernel, stride, padding, dilation, groups, bias).double()
    assert_matches_functional_gradients(model, torch.randn(batch, sizes[0], 7).double())


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_padding(mode: str, padding: int | str) -> None:
    model = nn.Conv1d(2, 3, 4, padding=padding, padding_mode=mode).double()
    assert_matches_functional_gradients(model, torch.randn(2, 2, 8).double())


@pytest.mark.parametrize(("channels", "stride"), [(2, 2), (2, 1), (20, 1)])
def test_factors_are_those_of_the_unfolded_sequence(channels: int, stride: int) -> None:
    """Many channels and a stride of 1 take another way: correlations of the whole sequence."""
    torch.manual_seed(0)
    model = nn.Conv1d(channels, 3, 5, stride=stride, padding=1).double()
    inputs, scale = torch.randn(4, channels, 12).double(), torch.rand(4).double()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        weights = torch.randn_like(outputs)
        ((_, found),) = captured.gradients(outputs, weights)
    windows = nn.functional.pad(inputs, (1, 1)).unfold(2, 5, stride).permute(0, 2, 1, 3).flatten(2)
    windows = torch.cat([windows, torch.ones(*windows.shape[:2], 1).double()], 2)
    scaled = (windows * scale[:, None, None]).flatten(0, 1)
    torch.testing.assert_close(found.input_covariance(scale), scaled.T @ scaled)
    outputs = weights.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found.gradient_covariance(), outputs.T @ outputs)
