"""Covariances from correlations of images are those of the patches that ``unfold`` makes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.attribution.gradients.patch_covariance import correlations_pay, patch_covariance
from pipeline.attribution.gradients.patches import Kernel

# (kernel size, padding left right top bottom)
GEOMETRIES = [
    ((3, 3), (1, 1, 1, 1)),
    ((3, 3), (0, 0, 0, 0)),
    ((5, 3), (1, 1, 2, 2)),
    ((2, 4), (1, 2, 0, 1)),
    ((3, 3), (4, 3, 3, 4)),
    ((1, 3), (0, 0, 0, 0)),
]


def geometry(
    size: tuple[int, int], padding: tuple[int, int, int, int], image: tuple[int, int], bias: bool
) -> Kernel:
    places = (
        image[0] + padding[2] + padding[3] - size[0] + 1,
        image[1] + padding[0] + padding[1] - size[1] + 1,
    )
    return Kernel(size, (1, 1), (1, 1), padding, places, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("image", [(7, 6), (5, 4)])
@pytest.mark.parametrize(("size", "padding"), GEOMETRIES)
def test_sums_are_those_of_unfolded_patches(
    size: tuple[int, int], padding: tuple[int, int, int, int], image: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    images, scale = torch.randn(3, 2, *image).double(), torch.tensor([1.0, 0.0, 2.0]).double()
    patches = functional.unfold(functional.pad(images, padding), size).transpose(1, 2)
    if bias:
        patches = functional.pad(patches, (0, 1), value=1.0)
    kernel = geometry(size, padding, image, bias)
    for row_scale in (None, scale):
        scaled = patches if row_scale is None else patches * scale[:, None, None]
        expected = scaled.flatten(0, 1).T @ scaled.flatten(0, 1)
        torch.testing.assert_close(patch_covariance(images, kernel, row_scale), expected)


def test_single_precision_is_enough() -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 16, 9, 9) + 3.0
    kernel = geometry((3, 3), (1, 1, 1, 1), (9, 9), True)
    exact = patch_covariance(images.double(), kernel, None)
    error = (patch_covariance(images, kernel, None) - exact).abs().max() / exact.max()
    assert 0 < error < 1e-6


def test_it_is_for_kernels_that_visit_every_pixel_of_many_channels() -> None:
    wide, same = (8, 64, 14, 14), geometry((3, 3), (1, 1, 1, 1), (14, 14), True)
    assert correlations_pay(same, wide)
    assert not correlations_pay(same, (8, 3, 14, 14))
    assert not correlations_pay(geometry((1, 1), (0, 0, 0, 0), (14, 14), True), wide)
    assert not correlations_pay(Kernel((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), (7, 7), True), wide)
    # Most of a tiny image is border.
    assert not correlations_pay(geometry((3, 3), (0, 0, 0, 0), (3, 3), True), (8, 64, 3, 3))
