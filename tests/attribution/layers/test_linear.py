from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import covered_layers

from . import assert_matches_functional_gradients

SIZES = st.integers(1, 5)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 4),
    middle=st.lists(SIZES, max_size=2),
    size_in=SIZES,
    size_out=SIZES,
    bias=st.booleans(),
)
def test_per_example_gradients(
    batch: int, middle: list[int], size_in: int, size_out: int, bias: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(size_in, size_out, bias=bias).double()
    assert_matches_functional_gradients(model, torch.randn(batch, *middle, size_in).double())


def test_the_bias_is_one_more_input() -> None:
    assert covered_layers(nn.Linear(3, 2))[0].shape == (2, 4)
    assert covered_layers(nn.Linear(3, 2, bias=False))[0].shape == (2, 3)


def test_a_frozen_bias_is_left_out() -> None:
    model = nn.Linear(3, 2).double()
    model.bias.requires_grad_(False)
    layer = covered_layers(model)[0]
    assert (layer.shape, layer.parameters) == ((2, 3), 6)


def test_subclasses_and_reparametrised_weights_are_not_covered() -> None:
    class Scaled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    assert covered_layers(Scaled(2, 2)) == []
    assert covered_layers(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) == []
