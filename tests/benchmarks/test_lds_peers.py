"""Influence functions of other implementations on a small task, in one stage and in two: ours with exact curvature."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from benchmarks.lds import peer_kronfluence, truth
from benchmarks.lds.bases import Base
from benchmarks.lds.likeness import bm25, tfidf_likeness
from benchmarks.lds.models import mlp
from benchmarks.lds.peer_curvlinops import curvlinops_influence
from benchmarks.lds.peer_kronfluence import kronfluence_influence
from benchmarks.lds.predictions import by_attribute, representation_likeness
from benchmarks.lds.rows import Data
from benchmarks.lds.tasks import Recipe, Task

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
    base = replace(base, data=data)
    found = tfidf_likeness(base, "validation_loss", "final")
    assert found.shape == (1, 3)
    assert found[0].argmax() == 1
    # Two words of three beside one of two, and all rows share the commonest.
    assert found[0, 2] > found[0, 0] > 0
    # Without a row that helps, a loss rises and a margin falls.
    torch.testing.assert_close(tfidf_likeness(base, "margins", "final"), -found)


def test_bm25_is_its_formula() -> None:
    rows = np.array([[2, 1, 0], [0, 1, 1], [0, 3, 0]])
    found = bm25(csr_matrix(rows), csr_matrix([[2, 1, 0]]))
    expected = np.zeros(3)
    for row, counts in enumerate(rows):
        for word in (0, 1):
            present = (rows[:, word] > 0).sum()
            idf = math.log(1 + (3 - present + 0.5) / (present + 0.5))
            norm = 1.5 * (0.25 + 0.75 * counts.sum() / rows.sum(1).mean())
            expected[row] += idf * counts[word] * 2.5 / (counts[word] + norm)
    np.testing.assert_allclose(found, expected[None])


def test_rows_with_the_features_of_the_query_help_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trained("cross_entropy", tmp_path, monkeypatch)
    data = replace(
        base.data, validation_inputs=base.data.inputs[3:4], validation_labels=base.data.labels[3:4]
    )
    base = replace(base, data=data)
    for kind, sign in (("margins", -1), ("validation_loss", 1)):
        found = representation_likeness(base, kind, "final")
        assert found.shape == (1, 100)
        assert found[0, 3].item() == pytest.approx(sign)
        assert (found * sign).argmax() == 3
        by_label = representation_likeness(base, kind, "final", by_label=True)
        same = base.data.labels == base.data.labels[3]
        torch.testing.assert_close(by_label, torch.where(same, found, -found))


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
