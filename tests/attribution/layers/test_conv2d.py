from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import covered_layers

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


def test_grouped_and_circular_convolutions_are_not_covered() -> None:
    assert covered_layers(nn.Conv2d(4, 4, 3, groups=2)) == []
    assert covered_layers(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")) == []
