from __future__ import annotations

import itertools

import numpy as np
import torch

from pipeline.models.table_bins import TableBins


def test_every_bin_says_how_far_a_number_is_through_it() -> None:
    edges = {0: [-1.0, 0.0, 2.0], 2: [-0.5, 0.5]}
    columns = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 2
    bins = TableBins(edges, 3)
    expected = [columns.numpy()]
    for column, of_column in edges.items():
        for low, high in itertools.pairwise(of_column):
            expected.append(np.interp(columns[:, column], [low, high], [0, 1])[:, None])
    np.testing.assert_allclose(bins(columns).numpy(), np.hstack(expected), atol=1e-6)
    assert bins.width == 3 + 3


def test_columns_without_bins_stay_as_they_are() -> None:
    columns = torch.randn(5, 3)
    assert torch.equal(TableBins({}, 3)(columns), columns)
