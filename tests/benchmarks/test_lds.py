"""The protocol of the faithfulness benchmark on a small task: masks, retrainings, margins, tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from benchmarks.lds import harmful, predictions, truth
from benchmarks.lds.bases import Base, marked
from benchmarks.lds.models import PADDING, TextTransformer, mlp
from benchmarks.lds.predictions import objective
from benchmarks.lds.questions import Question
from benchmarks.lds.rows import Data
from benchmarks.lds.targets import targets
from benchmarks.lds.tasks import Recipe, Removal, Task
from benchmarks.lds_tables import lds, lds_whole
from pipeline.verification.lds import predicted_change

RECIPE = Recipe((2, 1), (0.1, 0.05), 1e-2, 5, at_once=2)


def small_data() -> Data:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(44, 3, generator=random)
    labels = (inputs[:, 0] > 0).long()
    return Data(inputs[:32], labels[:32], inputs[32:], labels[32:], np.repeat([0, 1], [20, 12]))


def small_task(**settings: object) -> Task:
    build = partial(mlp, 3, 4, 2)
    return Task(
        lambda _: small_data(),
        None,
        build,
        replace(RECIPE, **settings),
        {0.5: Removal(masks=3, retrainings=2)},
    )


def test_a_mask_removes_the_same_share_of_every_stage() -> None:
    data = small_data()
    masks = [truth.removed_rows(data.stages, 0.25, mask) for mask in range(4)]
    assert all(mask[:20].sum() == 5 and mask[20:].sum() == 3 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 4
    assert np.array_equal(masks[0], truth.removed_rows(data.stages, 0.25, 0))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("count", [1, 2])
def test_models_trained_together_are_those_trained_alone(optimizer: str, count: int) -> None:
    task, data = small_task(optimizer=optimizer), small_data()
    piece = truth.Piece("small", 0.5, 1, 1 + count, seed=3)
    kept = [~truth.removed_rows(data.stages, 0.5, mask) for mask in range(1, 1 + count)]
    found = truth.train_many(task, data, kept, piece)
    for place, rows in enumerate(kept):
        torch.manual_seed(1003)
        model, iterates = task.build(), []
        for stage in range(2):
            updates = task.recipe.make_optimizer(list(model.parameters()), stage)
            own = np.stack([np.flatnonzero(one & (data.stages == stage)) for one in kept])
            for batch in truth.orders(task.recipe, own, stage, piece):
                assert set(batch[place].tolist()) <= set(np.flatnonzero(rows))
                updates.zero_grad()
                outputs = model(data.inputs[batch[place]])
                functional.cross_entropy(outputs, data.labels[batch[place]]).backward()
                updates.step()
                iterates.append({name: value.detach().clone() for name, value in model.named_parameters()})
        assert len(iterates) == 2 * 2 + 2
        for name, value in iterates[-1].items():
            mean = torch.stack([one[name] for one in iterates[-2:]]).mean(0)
            torch.testing.assert_close(found["final"][name][place], value)
            torch.testing.assert_close(found["tail"][name][place], mean)


def test_retrainings_are_kept_and_missing_ones_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "CACHE", tmp_path)
    task, data = small_task(), small_data()
    assert truth.read_truth("small", task, 0.5) == {}
    truth.measure_truth("small", task, data, 0.5)
    before = truth.read_truth("small", task, 0.5)
    assert before["margins_tail"].shape == (3, 2, 12)
    assert before["loss_final"].shape == (3, 2)
    paths = [piece.path(task) for piece in truth.pieces("small", task, 0.5)]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    assert truth.read_truth("small", task, 0.5)["loss_final"].shape == (3, 1)
    truth.measure_truth("small", task, data, 0.5)
    after = truth.read_truth("small", task, 0.5)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert [path.stat().st_mtime_ns for path in paths if path != paths[1]] == times[:1] + times[2:]


def test_another_recipe_does_not_find_the_retrainings_of_this_one() -> None:
    prints = {small_task(**change).fingerprint() for change in ({}, {"epochs": (2, 2)}, {"momentum": 0.5})}
    assert len(prints) == 3
    assert small_task(at_once=7).fingerprint() in prints


def test_the_margin_is_the_log_odds_of_the_label() -> None:
    outputs, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    probability = outputs.softmax(1)[torch.arange(5), labels]
    expected = (probability / (1 - probability)).log()
    torch.testing.assert_close(truth.query_values(small_task(), outputs, labels), expected)


def test_marked_labels_ask_for_a_margin_in_place_of_a_loss() -> None:
    task, outputs, labels = small_task(), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    asked = objective(task)
    losses = functional.cross_entropy(outputs, labels, reduction="none")
    torch.testing.assert_close(asked.losses(outputs, marked(labels, margin=False)), losses)
    margins = truth.query_values(task, outputs, labels)
    torch.testing.assert_close(asked.losses(outputs, marked(labels, margin=True)), margins)


def test_padding_does_not_change_what_the_text_model_says() -> None:
    torch.manual_seed(0)
    model = TextTransformer(vocabulary=9, classes=3, positions=6)
    short = torch.tensor([[3, 4, 5]])
    padded = functional.pad(short, (0, 3), value=PADDING)
    torch.testing.assert_close(model(padded), model(short))


def test_the_table_has_the_ceiling_and_the_ensemble_behind_a_slash() -> None:
    common = {"task": "digits", "query": "margins", "removed": 0.5, "truth": "tail", "low": 0.1, "high": 0.9}
    own = {"method": "source", "at": "tail", "metric": "lds"}
    page = lds(
        [
            common | {"method": "truth", "metric": "ceiling", "value": 0.8},
            common | own | {"ensembled": False, "value": 0.5},
            common | own | {"ensembled": True, "value": 0.6},
        ]
    )
    assert "50 % of the rows removed, measured at the tail average" in page
    assert "| ceiling of the truth |  | 0.80 (0.10 – 0.90) |" in page
    assert "| source | tail | 0.50 (0.10 – 0.90) / 0.60 |" in page


def test_the_table_says_which_targets_are_missed_and_by_how_much() -> None:
    common = {"task": "digits", "query": "margins", "removed": 0.5, "truth": "tail", "low": 0.1, "high": 0.9}
    own = {"method": "source", "at": "tail"}
    rows = [
        common | own | {"metric": "lds", "value": 0.5, "sense": "≥", "target": 0.6, "met": False},
        common
        | own
        | {"metric": "slope", "value": 1.6, "sense": "within", "target": [0.8, 1.4], "met": False},
        common
        | own
        | {"metric": "lds_difference", "value": 0.2, "sense": "ahead", "target": 0.0, "met": True}
        | {"against": "influence @tail"},
    ]
    page, whole = lds(rows), lds_whole(rows)
    assert page.startswith("1 of 3 targets are met. The others:")
    assert "LDS | 0.50 (0.10 – 0.90) | ≥ 0.60 | **no** (0.10)" in page
    assert "slope | 1.60 (0.10 – 0.90) | within 0.80 – 1.40 | **no** (0.20)" in page
    met = "source @tail − influence @tail: difference of LDS | 0.20 (0.10 – 0.90) | ahead | yes"
    assert met in whole
    assert met not in page


def small_question() -> Question:
    """40 masks, 3 retrainings, 5 queries; two methods, of which the second is right."""
    random = np.random.RandomState(0)
    change = random.randn(40, 5)
    truth = change[:, None] + 0.1 * random.randn(40, 3, 5)
    predicted = {
        ("influence", "tail"): random.randn(2, 40, 5),
        ("source", "tail"): np.stack([change, change]),
    }
    return Question("fashion_mnist_noisy", "margins", 0.5, "final", truth, predicted)


def test_a_paired_difference_is_that_of_the_two_scores() -> None:
    question = small_question()
    found = question.difference(("source", "tail"), ("influence", "tail"))
    mean = question.truth.mean(1)
    each = [
        spearmanr(mean[:, query], question.predicted[method, "tail"][model][:, query]).statistic * sign
        for method, sign in (("source", 1), ("influence", -1))
        for model in range(2)
        for query in range(5)
    ]
    assert found.value == pytest.approx(sum(each) / 10)
    assert found.low < found.value < found.high
    same = question.difference(("source", "tail"), ("source", "tail"))
    assert same.low == same.high == 0.0


def test_source_is_ahead_where_the_whole_interval_is() -> None:
    rows = {row["sense"]: row for row in targets([small_question()])}
    assert rows["ahead"]["met"]
    assert rows["ahead"]["low"] > 0
    assert rows["not behind"]["against"] == "influence @tail"
    turned = small_question()
    turned.predicted["source", "tail"], turned.predicted["influence", "tail"] = (
        turned.predicted["influence", "tail"],
        turned.predicted["source", "tail"],
    )
    rows = {row["sense"]: row for row in targets([turned])}
    assert not rows["ahead"]["met"]
    assert not rows["not behind"]["met"]


def test_the_most_harmful_rows_are_those_whose_removal_lowers_the_loss_most() -> None:
    scores = np.random.RandomState(0).randn(200)
    assert set(np.flatnonzero(harmful.most_harmful(scores))) == set(np.argsort(scores)[:4])


def test_forecasts_follow_the_weights_of_the_rows_that_are_kept() -> None:
    scores = np.random.RandomState(0).randn(50)
    removed = np.arange(50) < 5
    shrunk = harmful.forecast(scores, removed, steps=0.9)
    assert shrunk == pytest.approx(predicted_change(scores[None], removed[None])[0, 0])
    kept = harmful.forecast(scores, removed, steps=1.0)
    assert kept == pytest.approx(predicted_change(scores[None], removed[None], steps_kept=True)[0, 0])


def test_scores_are_made_anew_when_the_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "CACHE", tmp_path)
    base = Base("small", small_task(), small_data(), 0)
    base.folder.mkdir(parents=True)
    calls = []

    def constant(*_: object) -> torch.Tensor:
        calls.append(1)
        return torch.full((1, 32), float(len(calls)))

    monkeypatch.setitem(predictions.METHODS, "source", predictions.Method(constant))
    for _ in range(2):
        found = predictions.scores(base, "source", "validation_loss", "tail")
        assert found is not None
        assert found[0, 0] == 1
    monkeypatch.setattr(predictions, "code_version", lambda: b"another!")
    kept = predictions.kept_scores(base.folder)
    assert kept.others == kept.asked == 1
    assert list(kept.scores) == [("source", "validation_loss", "tail")]
    found = predictions.scores(base, "source", "validation_loss", "tail")
    assert found is not None
    assert found[0, 0] == 2
    assert predictions.kept_scores(base.folder).others == 0


def test_all_methods_score_the_rows_of_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "CACHE", tmp_path)
    base = Base("small", small_task(epochs=(3, 3)), small_data(), 0)
    found = predictions.all_scores(base)
    assert {"source", "source_3", "fast_source", "influence", "tracin", "graddot", "trak"} <= {
        k[0] for k in found
    }
    for (method, kind, _), one in found.items():
        assert one.shape == (12 if kind == "margins" else 1, 32), method
        assert np.isfinite(one).all(), method
        assert (np.abs(one).max(0)[[0, 25]] > 0).all(), method
