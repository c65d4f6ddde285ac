from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.detection.representation.neighbours import (
    build_index,
    margins,
    search_exactly,
    search_index,
    vote_margin,
    without_self,
)


def test_votes_are_weighted_shares_own_minus_best_other() -> None:
    weights = torch.tensor([[3.0, 1.0, 1.0], [1.0, 1.0, 2.0]], dtype=torch.float64)
    found = torch.tensor([[0, 1, 1], [2, 1, 0]])
    margin = vote_margin(weights, found, torch.tensor([0, 2]), classes=4)
    assert torch.allclose(margin, torch.tensor([3 / 5 - 2 / 5, 1 / 4 - 2 / 4], dtype=torch.float64))


def test_a_label_that_no_neighbour_has_gets_minus_the_best_share() -> None:
    margin = vote_margin(
        torch.ones(1, 4, dtype=torch.float64), torch.tensor([[1, 1, 1, 2]]), torch.tensor([0]), 3
    )
    assert margin.item() == -0.75


def test_a_numeric_target_is_compared_with_the_weighted_mean_of_its_neighbours() -> None:
    found, weights = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, 0.25]])
    margin = margins(weights, found, torch.tensor([0.5]), None)
    assert margin.item() == pytest.approx(-((0.5 * 1 + 0.25 * 4) / 0.75 - 0.5), abs=1e-6)


def test_a_row_is_no_neighbour_of_itself() -> None:
    similarity = torch.tensor([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]])
    places = torch.tensor([[4, 5, 6], [7, 8, 9]])
    own = torch.tensor([[True, False, False], [False, False, False]])
    kept, where = without_self(similarity, places, own, 2)
    assert where.tolist() == [[5, 6], [7, 8]]
    assert torch.equal(kept, torch.tensor([[0.9, 0.8], [0.7, 0.6]]))


def test_exact_search_finds_what_sorting_all_cosines_finds() -> None:
    features = functional.normalize(torch.randn(1500, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    similarity, places = search_exactly(features[:700], features, 5)
    expected = (features @ features[:700].T).sort(dim=1, descending=True)
    assert torch.equal(places, expected.indices[:, :5])
    assert torch.equal(similarity, expected.values[:, :5])


def like_features(rows: int) -> tuple[Tensor, Tensor]:
    """Unit-length rectified features of ten overlapping classes with a tenth of wrong labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=rows)
    hidden = 1.5 * rng.normal(size=(10, 12))[labels] + rng.normal(size=(rows, 12))
    features = np.maximum(hidden @ rng.normal(size=(12, 48)) + 0.3 * rng.normal(size=(rows, 48)), 0)
    wrong = rng.random(rows) < 0.1
    labels[wrong] = rng.integers(10, size=wrong.sum())
    return functional.normalize(torch.from_numpy(features.astype(np.float32)), dim=1), torch.from_numpy(
        labels
    )


def test_the_index_gives_the_votes_of_exact_search(tmp_path: Path) -> None:
    features, labels = like_features(24000)
    build_index(features, tmp_path / "index.faiss", seed=0)
    queries = torch.arange(0, 24000, 24)
    votes = []
    for similarity, places in (
        search_index(tmp_path / "index.faiss", features[queries], 21),
        search_exactly(features, features[queries], 21),
    ):
        similarity, places = without_self(similarity, places, places == queries[:, None], 20)
        votes.append((margins(similarity, labels[places], labels[queries], 10), places))
    (found, places), (exact, true_places) = votes
    assert ((found < 0) == (exact < 0)).float().mean() >= 0.99
    assert ((found - exact).abs() < 0.05).float().mean() >= 0.95
    shared = [len(set(a) & set(b)) / 20 for a, b in zip(places.tolist(), true_places.tolist())]
    assert np.mean(shared) >= 0.95


def test_the_index_has_the_same_bytes_whenever_it_is_built(tmp_path: Path) -> None:
    features, _ = like_features(4000)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        build_index(features, tmp_path / name, seed)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three
