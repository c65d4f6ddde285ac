"""Influence functions of other implementations on a small task, in one stage and in two: ours with exact curvature."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.lds import peer_kronfluence, truth
from benchmarks.lds.bases import Base
from benchmarks.lds.models import mlp
from benchmarks.lds.peer_curvlinops import curvlinops_influence
from benchmarks.lds.peer_kronfluence import kronfluence_influence
from benchmarks.lds.predictions import by_attribute
from benchmarks.lds.tasks import Data, Recipe, Task
from benchmarks.lds.text_likeness import tfidf_likeness

pytest.importorskip("curvlinops")
pytest.importorskip("kronfluence")


def trained(loss: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """A base model of classification in two stages, or of regression in one."""
    monkeypatch.setattr(truth, "CACHE", folder)
    random = torch.Generator().manual_seed(0)
    inputs, classes = torch.randn(160, 3, generator=random), loss == "cross_entropy"
    labels = (inputs[:, 0] > 0).long() if classes else inputs[:, 0] * inputs[:, 1]
    stages = np.repeat([0, 1], 50) if classes else np.zeros(100, dtype=np.int64)
    data = Data(inputs[:100], labels[:100], inputs[100:], labels[100:], stages)
    count = 1 + stages.max()
    recipe = Recipe((3,) * count, (0.05,) * count, 1e-3, 20, loss=loss)
    return Base(
        loss, Task(lambda _: data, None, partial(mlp, 3, 6, 2 if classes else 1), recipe, {}), data, 0
    )


def ours(base: Base, kind: str) -> Tensor:
    return by_attribute(base, kind, "final", method="influence", fisher="exact")


@pytest.mark.parametrize("kind", ["margins", "validation_loss"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_curvlinops_gives_our_scores(
    loss: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trained(loss, tmp_path, monkeypatch)
    found, expected = curvlinops_influence(base, kind, "final"), ours(base, kind)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kind", ["margins", "validation_loss"])
def test_kronfluence_takes_a_damping_of_its_own(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trained("squared_error", tmp_path, monkeypatch)
    monkeypatch.setattr(peer_kronfluence, "drawn", lambda _, outputs: outputs[:, 0] + 0.5**0.5)
    found = kronfluence_influence(base, kind, "final", damping=0.5)
    expected = by_attribute(base, kind, "final", method="influence", fisher="exact", damping=0.5)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert (kronfluence_influence(base, kind, "final") - found).abs().max() > 1e-2 * found.abs().max()


def test_texts_are_alike_by_the_words_that_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trained("cross_entropy", tmp_path, monkeypatch)
    rows = torch.tensor([[2, 3, 4], [2, 5, 6], [2, 7, 0]])
    data = Data(rows, torch.tensor([0, 1, 0]), torch.tensor([[2, 5, 0]]), torch.tensor([0]), np.zeros(3, int))
    found = tfidf_likeness(replace(base, data=data), "margins", "final")
    assert found.shape == (1, 3)
    assert found[0].argmax() == 1
    assert (
        found[0, 2] > found[0, 0] > 0
    )  # two words of three beside one of two, and all rows share the commonest
    torch.testing.assert_close(tfidf_likeness(replace(base, data=data), "validation_loss", "final"), found)


def test_kronfluence_gives_our_scores_where_what_it_draws_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trained("squared_error", tmp_path, monkeypatch)
    # One deviation off on every row: the squares of these gradients are the curvature itself.
    monkeypatch.setattr(peer_kronfluence, "drawn", lambda _, outputs: outputs[:, 0] + 0.5**0.5)
    for kind in ("margins", "validation_loss"):
        found, expected = kronfluence_influence(base, kind, "final"), ours(base, kind)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_drawn_labels_have_the_gradients_of_the_exact_curvature(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trained(loss, tmp_path, monkeypatch).task
    torch.manual_seed(0)
    outputs = torch.randn(1, 2 if loss == "cross_entropy" else 1).double().repeat(20_000, 1).requires_grad_()
    total = peer_kronfluence.summed_loss(task, outputs, peer_kronfluence.drawn(task, outputs.detach()))
    (gradients,) = torch.autograd.grad(total, outputs)
    hessian = torch.func.hessian(
        lambda one: peer_kronfluence.summed_loss(
            task, one[None], torch.zeros(1, dtype=torch.int64 if loss == "cross_entropy" else torch.float64)
        )
    )(outputs[0].detach())
    torch.testing.assert_close(gradients.T @ gradients / len(outputs), hessian, atol=0.02, rtol=0.05)
