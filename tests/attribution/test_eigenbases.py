from __future__ import annotations

from itertools import pairwise

import torch

from pipeline.attribution import FactorSums, eigenbases


def sums(sizes: list[int]) -> FactorSums:
    torch.manual_seed(0)
    values = [torch.randn(50, size).double() for size in sizes]
    covariances = {str(place): value.T @ value for place, value in enumerate(values)}
    return FactorSums(covariances, {name: value[:2, :2].clone() for name, value in covariances.items()}, 50)


def test_layers_of_one_size_get_the_eigenvectors_that_they_get_alone() -> None:
    together = eigenbases(sums([6, 4, 6]))
    for name, basis in together.items():
        alone = torch.linalg.eigh(sums([6, 4, 6]).input[name]).eigenvectors
        torch.testing.assert_close(basis.input.abs(), alone.abs())


def test_wide_covariances_can_be_split_into_diagonal_blocks() -> None:
    found = sums([7])
    vectors = eigenbases(found, widest=3)["0"].input
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(7).double())
    bounds = [0, 2, 4, 7]
    for start, stop in pairwise(bounds):
        outside = vectors[start:stop].clone()
        outside[:, start:stop] = 0
        assert not outside.any()
        block = vectors[start:stop, start:stop]
        diagonal = block.T @ found.input["0"][start:stop, start:stop] @ block
        torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), atol=1e-10, rtol=0)
    torch.testing.assert_close(eigenbases(found, widest=7)["0"].input, eigenbases(found)["0"].input)
