"""Scales and shifts of normalisations: exact gradients, and the diagonal of the Fisher matrix as curvature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import capture, coverage, covered_layers, eigenbases
from pipeline.attribution.curvature.factor_sums import FactorSums

from . import assert_matches_functional_gradients

SIZES = st.integers(1, 4)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data = torch.rand_like(value) + 0.5
    return model.double()


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(0, 3),
    middle=st.lists(SIZES, max_size=2),
    shape=st.lists(SIZES, min_size=1, max_size=2),
    bias=st.booleans(),
)
def test_layer_norm(batch: int, middle: list[int], shape: list[int], bias: bool) -> None:
    model = randomised(nn.LayerNorm(shape, bias=bias))
    assert_matches_functional_gradients(model, torch.randn(batch, *middle, *shape).double())


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(0, 3), middle=st.lists(SIZES, max_size=2), size=SIZES)
def test_rms_norm(batch: int, middle: list[int], size: int) -> None:
    model = randomised(nn.RMSNorm(size, eps=1e-3))
    assert_matches_functional_gradients(model, torch.randn(batch, *middle, size).double())


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), groups=SIZES, each=SIZES, space=st.lists(st.integers(2, 4), max_size=2))
def test_group_norm(batch: int, groups: int, each: int, space: list[int]) -> None:
    model = randomised(nn.GroupNorm(groups, groups * each))
    assert_matches_functional_gradients(model, torch.randn(batch, groups * each, *space, 2).double())


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(0, 3), channels=SIZES, space=st.lists(SIZES, max_size=2))
def test_batch_norm_with_running_statistics(batch: int, channels: int, space: list[int]) -> None:
    model = randomised(nn.BatchNorm2d(channels) if len(space) == 2 else nn.BatchNorm1d(channels))
    assert_matches_functional_gradients(model.eval(), torch.randn(batch, channels, *space).double())


def test_batch_norm_without_running_statistics_or_parameters_is_not_covered() -> None:
    assert covered_layers(nn.BatchNorm1d(3, track_running_stats=False)) == []
    assert covered_layers(nn.BatchNorm1d(3, affine=False)) == []
    found = coverage(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)))
    assert (found.uncovered, found.types) == (["1.weight", "1.bias"], ["BatchNorm1d"])


def test_curvature_is_diagonal_however_wide_the_norm_is() -> None:
    wide = 100_000
    model = nn.LayerNorm(wide).double()
    inputs = torch.randn(3, wide).double()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        ((name, gradients),) = captured.gradients(outputs, torch.randn_like(outputs))
        sums = FactorSums(
            {name: gradients.input_covariance(None)}, {name: gradients.gradient_covariance()}, 3
        )
        basis = eigenbases(sums)[name]
        squares = gradients.squares(basis)
        expected = gradients.matrices().square().sum(0)
    assert basis.input is None
    assert torch.equal(basis.gradient, torch.ones(wide, dtype=torch.float64))
    torch.testing.assert_close(squares, expected)


def test_a_frozen_scale_leaves_the_layer_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[1].weight.requires_grad_(False)
    assert coverage(model).uncovered == ["1.bias"]


@pytest.mark.parametrize("bias", [False, True])
def test_the_matrix_is_scale_and_shift(bias: bool) -> None:
    (layer,) = covered_layers(nn.LayerNorm((2, 3), bias=bias))
    assert (layer.shape, layer.factor_numbers) == ((6, 1 + bias), 7 + bias)
