from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.gradients.patch_gradients import Kernel, PatchGradients


def made(seed: int = 0) -> PatchGradients:
    """A 3×2 convolution with stride, dilation and uneven padding of 3 images with 2 channels, 4 outputs."""
    torch.manual_seed(seed)
    kernel = Kernel((3, 2), (2, 1), (1, 2), (1, 0, 2, 1), (5, 7), True)
    return PatchGradients(torch.randn(3, 2, 9, 8).double(), torch.randn(3, 35, 4).double(), kernel)


def unfolded(gradients: PatchGradients) -> Tensor:
    """Every example's patches in the weight's order, place by place: ``[batch, positions, in]``."""
    images = torch.nn.functional.pad(gradients.images, (1, 0, 2, 1))
    rows = []
    for top in range(5):
        for left in range(7):
            patch = images[:, :, 2 * top : 2 * top + 3, left : left + 3 : 2].flatten(1)
            rows.append(torch.cat([patch, torch.ones(3, 1).double()], 1))
    return torch.stack(rows, 1)


def random_basis() -> Eigenbasis:
    torch.manual_seed(3)
    return Eigenbasis(*(torch.linalg.qr(torch.randn(n, n).double()).Q for n in (13, 4)))


@pytest.mark.parametrize("tile_bytes", [1, 2000, 1 << 20], ids=["lines", "some", "whole"])
def test_all_sums_are_those_of_unfolded_patches(tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.attribution.gradients.outer_products.TILE_BYTES", tile_bytes)
    gradients, basis = made(), random_basis()
    patches, outputs = unfolded(gradients), gradients.outputs
    matrices = torch.einsum("bpo,bpi->boi", outputs, patches)
    scale = torch.tensor([1.0, 0.5, 2.0]).double()
    torch.testing.assert_close(gradients.matrices(), matrices)
    torch.testing.assert_close(gradients.total(), matrices.sum(0))
    scaled = (patches * scale[:, None, None]).flatten(0, 1)
    torch.testing.assert_close(gradients.input_covariance(scale), scaled.T @ scaled)
    rotated = basis.gradient.T @ matrices @ basis.input
    torch.testing.assert_close(gradients.squares(basis), rotated.square().sum(0))
    filters = torch.randn(2, 4, 13).double()
    torch.testing.assert_close(gradients.products(filters[0]), (matrices * filters[0]).sum((1, 2)))
    torch.testing.assert_close(gradients.products(filters), torch.einsum("boi,qoi->qb", matrices, filters))


def test_patches_stay_within_the_byte_budget_whatever_the_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 20_000
    monkeypatch.setattr("pipeline.attribution.gradients.outer_products.TILE_BYTES", budget)
    for size in (8, 40, 120):
        kernel = Kernel((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), (size, size), False)
        gradients = PatchGradients(torch.randn(2, 1, size, size), torch.randn(2, size**2, 2), kernel)
        tiles = [part.inputs.numel() * 4 for _, part in gradients.tiles()]
        assert max(tiles) <= budget
        assert sum(tiles) == 2 * size**2 * 9 * 4


def test_gradients_of_equal_images_are_added() -> None:
    first, second = made(0), made(0)
    shared = second.with_inputs_of(first)
    assert shared is not None
    torch.testing.assert_close(first.added(shared).matrices(), first.matrices() + second.matrices())
    assert made(1).with_inputs_of(first) is None


def test_compact_is_whichever_form_is_smaller() -> None:
    gradients = made()
    assert gradients.compact().nbytes == 3 * 4 * 13 * 8
    kernel = Kernel((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), False)
    single = PatchGradients(torch.randn(2, 5, 3, 3), torch.randn(2, 1, 8), kernel)
    factored = single.compact()
    assert factored.nbytes < 2 * 8 * 45 * 4
    torch.testing.assert_close(factored.dense(slice(None)), single.matrices())
