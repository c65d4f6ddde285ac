from __future__ import annotations

import numpy as np
import pytest

from pipeline.features.quantiles import MOST, Quantiles


def test_edges_are_the_quantiles_without_repeats() -> None:
    quantiles = Quantiles()
    numbers = np.random.default_rng(0).normal(size=1000)
    quantiles.update(np.append(numbers, [np.nan, np.inf]))
    assert quantiles.at(4) == pytest.approx(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    same = Quantiles()
    same.update(np.repeat([0.0, 5.0], [90, 10]))
    assert same.at(4) == [0, 5]
    assert Quantiles().at(4) == []


def test_edges_of_a_long_stream_do_not_depend_on_the_batches() -> None:
    numbers = np.random.default_rng(1).normal(size=3 * MOST + 17)
    found = []
    for cuts in ([], [1, 2, 7_001, 20_000], list(range(0, len(numbers), 999))):
        quantiles = Quantiles()
        for part in np.split(numbers, cuts):
            quantiles.update(part)
        found.append(quantiles.at(8))
    assert found[0] == found[1] == found[2]
    assert found[0][1:-1] == pytest.approx(np.quantile(numbers, np.linspace(0, 1, 9))[1:-1], abs=0.03)
