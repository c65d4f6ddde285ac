"""The truth of one training: rows of weight 0 in the batches of a small base model, against a loop written out here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.lds import truth
from benchmarks.lds.bases import Base, batches
from benchmarks.lds.models import mlp
from benchmarks.lds.rows import Data
from benchmarks.lds.same_order import measure_same_order, retrain_in_order, same_order_rows
from benchmarks.lds.tasks import Recipe, Task
from pipeline.verification.lds import lds_score


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setattr(truth, "CACHE", tmp_path)
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(44, 3, generator=random)
    labels = (inputs[:, 0] > 0).long()
    data = Data(inputs[:32], labels[:32], inputs[32:], labels[32:], np.zeros(32, dtype=np.int64))
    recipe = Recipe((4,), (0.1,), 1e-2, 5, at_once=3)
    build = partial(mlp, 3, 4, 2)
    return Base("small", Task(lambda _: data, None, build, recipe, {}, 2, {0.25: 6}), data, 0)


def by_hand(base: Base, removed: torch.Tensor) -> dict[str, torch.Tensor]:
    """The final weights of the base model's training with the weight 0 for the removed rows."""
    torch.manual_seed(base.seed)
    model, recipe = base.task.build(), base.task.recipe
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=recipe.weight_decay)
    for batch in batches(base.task, np.arange(32), 0, base.seed):
        losses = functional.cross_entropy(
            model(base.data.inputs[batch]), base.data.labels[batch], reduction="none"
        )
        optimizer.zero_grad()
        (losses[~removed[batch]].sum() / len(batch)).backward()
        optimizer.step()
    return dict(model.named_parameters())


def test_only_the_removed_rows_are_missing_in_their_batches(base: Base) -> None:
    removed = torch.stack([torch.zeros(32, dtype=torch.bool), torch.arange(32) % 5 == 0])
    found = retrain_in_order(base, (~removed).float())["final"]
    recorded = base.trajectory.load_weights(-1)
    for place, gone in enumerate(removed):
        for name, value in by_hand(base, gone).items():
            torch.testing.assert_close(found[name][place], value.detach(), rtol=1e-5, atol=1e-6)
    for name, value in recorded.items():
        torch.testing.assert_close(found[name][0], value, rtol=1e-5, atol=1e-6)


def test_every_model_is_held_against_the_truth_of_its_own_training(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = [base, replace(base, seed=1)]
    for each in bases:
        measure_same_order(each)
    monkeypatch.setattr("benchmarks.lds.same_order.METHODS", ("source", "unrolled_one_order"))
    rows = same_order_rows(bases)
    exact = [row for row in rows if row["method"] == "unrolled_one_order" and row["metric"] == "lds"]
    assert [(row["truth"], row["models"], row["n"]) for row in exact] == [("same_order", 2, 6)]
    assert exact[0]["value"] > 0.8


def test_scores_of_models_meet_their_own_truth_and_not_the_mean() -> None:
    random = np.random.RandomState(0)
    own = random.standard_normal((2, 40, 1))
    assert lds_score(own, own).value == pytest.approx(1.0)
    assert lds_score(own.mean(0), own).value < 0.95
