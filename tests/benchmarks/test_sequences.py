from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.sequences import LanguageModel, small_model
from benchmarks.sequences_lds import HALVES, TOKENS, correlations, summaries, texts


def test_correlations_are_spearmans() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 20), torch.randn(3, 20)
    expected = [spearmanr(one, other).statistic for one, other in zip(first, second, strict=True)]
    assert correlations(first, second).tolist() == pytest.approx(expected)


def test_a_forecast_that_is_the_truth_has_the_score_one() -> None:
    torch.manual_seed(0)
    influence, removed = torch.randn(4, 40).double(), torch.rand(HALVES, 40).round().double()
    sides = {("source", "whole"): influence, ("source", "diagonal"): -influence}
    rows = summaries(influence @ removed.T, sides, removed)
    values = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert values["source, whole", "lds"] == pytest.approx(1)
    assert values["source, diagonal", "lds"] == pytest.approx(-1)
    assert values["source, diagonal − whole", "lds_difference"] == pytest.approx(-2)
    assert values["source, diagonal", "rank_correlation"] == pytest.approx(-1)


def test_labels_are_the_words_that_follow() -> None:
    words, labels, _, _ = texts()
    assert words.shape == labels.shape == (256, TOKENS)
    seen = labels[:, :-1] != -100
    assert torch.equal(words[:, 1:][seen], labels[:, :-1][seen])
    assert not (labels == -100)[:, 0].any()


def test_logits_depend_on_earlier_words_alone() -> None:
    torch.manual_seed(0)
    model: LanguageModel = small_model()
    words = torch.randint(500, (1, TOKENS))
    changed = words.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 500
    same = (model(words) == model(changed)).all(2)[0]
    assert same.tolist() == [True] * 9 + [False] * (TOKENS - 9)
    assert model.head.weight is model.words.weight
