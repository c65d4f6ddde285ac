from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import AttributionError, attribute, average, dropout_masks

from .test_attribute import classifier


def test_the_average_is_the_mean_of_every_score(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    first, second = (
        attribute(model, trajectory, train, query, seed=seed, reduce_queries=False) for seed in range(2)
    )
    found = average([replace(first, scale=0.2, growth=3.0), replace(second, scale=0.6, growth=2.0)])
    for name in ("self_influence", "harm", "influence", "losses", "margins"):
        torch.testing.assert_close(getattr(found, name), (getattr(first, name) + getattr(second, name)) / 2)
    assert (found.scale, found.growth, found.method) == (pytest.approx(0.4), 3.0, "source")
    assert average([first, replace(second, scale=0.6)]).scale is None


def test_what_cannot_be_averaged_is_named(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    scores = attribute(model, trajectory, train, query)
    with pytest.raises(AttributionError, match="no scores"):
        average([])
    with pytest.raises(AttributionError, match="different methods can't be averaged: source, unrolled"):
        average([scores, replace(scores, method="unrolled")])
    with pytest.raises(AttributionError, match="self_influence has different shapes"):
        average([scores, replace(scores, self_influence=scores.self_influence[:-1])])
    with pytest.raises(AttributionError, match="Scores with and without harm can't be averaged"):
        average([scores, replace(scores, harm=None)])


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Dropout(0.25), (3, 400)), (nn.Dropout(0.25), (3, 2, 400)), (nn.Dropout2d(0.25), (3, 400, 2, 2))],
)
def test_a_mask_is_fixed_by_its_seed_and_the_same_for_all_rows(module: nn.Module, shape: tuple) -> None:
    model, ones, found = nn.Sequential(module).eval(), torch.ones(shape), []
    for seed in (0, 0, 1):
        with dropout_masks(model, seed):
            found.append(model(ones))
            torch.testing.assert_close(model(ones[1:2]), found[-1][1:2])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    mask = found[0][0].flatten(1)[:, 0] if len(shape) == 4 else found[0][0].reshape(-1, 400)[0]
    expected = mask[:, None, None].expand(400, 2, 2) if len(shape) == 4 else mask.expand(shape[1:])
    assert torch.equal(found[0], expected.expand(shape))
    assert set(mask.tolist()) == {0.0, mask.max().item()}
    assert mask.max().item() == pytest.approx(4 / 3)
    assert (mask > 0).float().mean().item() == pytest.approx(0.75, abs=0.1)
    assert torch.equal(model(ones), ones)


class Masked(nn.Module):
    """What a fixed mask of hidden units makes of a model."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.mask


def test_scores_with_a_mask_are_those_of_the_masked_model(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    dropped = nn.Sequential(*model, nn.Identity())
    dropped[1] = nn.Sequential(OrderedDict(relu=nn.ReLU(), dropout=nn.Dropout(0.5)))
    with dropout_masks(dropped, 3):
        mask = dropped[1].eval().dropout(torch.ones(1, 8).double())[0]
        found = attribute(dropped, trajectory, train, query)
    masked = nn.Sequential(model[0], nn.Sequential(nn.ReLU(), Masked(mask)), model[2])
    expected = attribute(masked, trajectory, train, query)
    torch.testing.assert_close(found.harm, expected.harm)
    torch.testing.assert_close(found.self_influence, expected.self_influence)
    plain = attribute(dropped, trajectory, train, query)
    assert not torch.allclose(found.harm, plain.harm)


def test_a_model_without_dropout_is_refused() -> None:
    with pytest.raises(AttributionError, match="no Dropout module"), dropout_masks(nn.Linear(2, 2), 0):
        pass
