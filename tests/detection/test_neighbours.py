from __future__ import annotations

import torch

from pipeline.detection.neighbours import vote_margin


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
