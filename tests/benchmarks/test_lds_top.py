"""Removing the top 1 % for a query, a partition of the rows, and the language model's losses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.lds import predictions, top, truth
from benchmarks.lds.bases import Base, marked
from benchmarks.lds.models import PADDING, LanguageTransformer, mlp
from benchmarks.lds.predictions import objective
from benchmarks.lds.rows import IGNORED, Data
from benchmarks.lds.tasks import NEXT_TOKEN, Recipe, Task
from benchmarks.lds_tables import lds


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setattr(truth, "CACHE", tmp_path)
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(212, 3, generator=random)
    labels = (inputs[:, 0] + inputs[:, 1] > 0).long()
    data = Data(inputs[:200], labels[:200], inputs[200:], labels[200:], np.zeros(200, dtype=np.int64))
    recipe = Recipe((6,), (0.1,), 1e-2, 20, at_once=8)
    return Base("small", Task(lambda _: data, None, partial(mlp, 3, 2), recipe, {}, 1), data, 0)


def test_masks_that_are_as_many_as_parts_remove_every_row_once() -> None:
    stages = np.repeat([0, 1], [30, 20])
    masks = np.stack([truth.removed_rows(stages, 0.1, mask, 10) for mask in range(10)])
    assert np.array_equal(masks.sum(0), np.ones(50))
    assert np.array_equal(masks[:, :30].sum(1), np.full(10, 3))
    assert np.array_equal(masks[:, 30:].sum(1), np.full(10, 2))
    drawn = np.stack([truth.removed_rows(stages, 0.1, mask, 9) for mask in range(9)])
    assert np.array_equal(drawn[0], truth.removed_rows(stages, 0.1, 0))
    assert drawn.sum(0).max() > 1


def test_the_rows_that_help_most_are_removed() -> None:
    helps = np.zeros((2, 200))
    helps[0, [7, 9]], helps[1, [1, 3]] = 2.0, 1.0
    removed = top.most_helpful(helps)
    assert [list(np.flatnonzero(one)) for one in removed] == [[7, 9], [1, 3]]


def test_the_loss_of_a_margin_is_minus_the_log_probability(base: Base) -> None:
    outputs, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    margins = truth.query_values(base.task, outputs, labels)
    expected = functional.cross_entropy(outputs, labels, reduction="none")
    np.testing.assert_allclose(top.losses_of(base.task, margins), expected)


def test_removing_what_helps_raises_the_loss_above_random_removals(base: Base) -> None:
    rows = {(row["method"], row["metric"]): row for row in top.top_rows_of(base)}
    found = rows["source_refined", top.METRIC]
    assert found["n"] == 12
    assert found["low"] <= found["value"] <= found["high"]
    # The rise again, from retrainings that are kept.
    helps = -predictions.scores(base, "source_refined", "margins", "tail")
    own = top.losses_without(base, top.most_helpful(helps)).diagonal()
    at_random = top.losses_without(base, top.random_removals(base))
    assert found["value"] == pytest.approx(own.mean() - at_random.mean(), abs=1e-4)
    assert found["value"] > 0
    (lead,) = [row for row in rows.values() if row["metric"] == top.DIFFERENCE]
    ours, other = (
        rows[name.split(" ")[0], top.METRIC]["value"] for name in (lead["method"], lead["against"])
    )
    assert lead["value"] == pytest.approx(ours - other, abs=2e-4)


def language() -> tuple[Task, torch.Tensor, torch.Tensor]:
    recipe = Recipe((1,), (1e-3,), 1e-2, 4, optimizer="adamw", loss=NEXT_TOKEN)
    task = Task(lambda _: None, "trec", partial(LanguageTransformer, 9, 5, 8), recipe, {})  # type: ignore[arg-type, return-value]
    words = torch.tensor([[3, 4, 5, 0, 0], [2, 3, 6, 7, 4]])
    inputs = torch.cat([torch.full((2, 1), 8), words[:, :-1]], 1)
    return task, inputs, words.masked_fill(words == PADDING, IGNORED)


def test_the_loss_of_a_sentence_is_the_mean_over_its_words() -> None:
    task, inputs, labels = language()
    torch.manual_seed(0)
    outputs = task.build()(inputs)
    each = [
        functional.cross_entropy(outputs[0, :3], labels[0, :3]),
        functional.cross_entropy(outputs[1], labels[1]),
    ]
    torch.testing.assert_close(truth.sentence_losses(outputs, labels), torch.stack(each))
    torch.testing.assert_close(truth.loss(task, outputs, labels), torch.stack(each).mean())
    for margin in (False, True):
        own = objective(task).losses(outputs, marked(labels, margin))
        torch.testing.assert_close(own, torch.stack(each))


def test_a_language_model_does_not_see_the_words_to_come() -> None:
    task, inputs, _ = language()
    torch.manual_seed(0)
    model = task.build()
    changed = inputs.clone()
    changed[1, 3] = 5
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[1, :3], after[1, :3])
    assert not torch.allclose(before[1, 3:], after[1, 3:])


def test_sentences_are_trained_on_together_as_alone() -> None:
    task, inputs, labels = language()
    data = Data(inputs, labels, inputs, labels, np.zeros(2, dtype=np.int64))
    kept = [np.array([True, True]), np.array([True, True])]
    both = truth.train_many(task, data, kept, truth.Piece("small", 0.5, 0, 2, 0))["final"]
    for place in range(2):
        alone = truth.train_many(task, data, kept[:1], truth.Piece("small", 0.5, place, place + 1, 0))[
            "final"
        ]
        for name, value in alone.items():
            torch.testing.assert_close(both[name][place], value[0], rtol=1e-4, atol=1e-6)


def test_the_table_shows_the_rise_and_the_lead() -> None:
    common = {"task": "digits", "query": "single_losses", "removed": 0.01, "truth": "same_order", "n": 20}
    common |= {"low": 0.1, "high": 0.3, "at": "tail"}
    page = lds(
        [
            common | {"method": "source_refined", "metric": top.METRIC, "value": 0.2},
            common
            | {"method": "source_refined", "metric": top.DIFFERENCE, "value": 0.15, "against": "bm25 @final"},
        ]
    )
    assert "| digits | 20 | source_refined @tail | +0.200 (+0.100 – +0.300) |" in page
    assert "| digits | 20 | source_refined @tail − bm25 @final | +0.150 (+0.100 – +0.300) |" in page
