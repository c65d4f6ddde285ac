"""What is said about the removed rows: by the rules, by canaries, and about a poor validation set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.config import Detection
from pipeline.data.canaries import Canaries, save_canaries
from pipeline.detection.canary_recall import canary_recall
from pipeline.detection.intervals import wilson
from pipeline.detection.noise.noise_estimate import estimate_noise
from pipeline.detection.noise.validation_doubts import doubts
from pipeline.detection.people.review_sample import CutOff
from pipeline.detection.rules.promises import of_budget, of_ranking, of_reviewed, of_trusted
from pipeline.detection.rules.trusted import TrustedFlags
from pipeline.text.decisions import Decision

KEEP, REVIEW, REMOVE, RELABEL = Decision

FLAGS = TrustedFlags(np.zeros(3, dtype=bool), 200, 99, False)
HOLDS, FAILS = CutOff(60, 57, 57, 55, 0.9, "holds"), CutOff(90, 57, 57, 40, 0.6, "fails")


def test_a_precision_is_stated_by_the_rule_reviewed_alone() -> None:
    config = Detection()
    others = [of_ranking(), of_budget(config), of_trusted(config, FLAGS), of_reviewed(config, [FAILS])]
    assert all(promise.precision is None for promise in others)
    assert [promise.abstains for promise in others] == [False, False, False, True]
    stated = of_reviewed(config, [HOLDS, FAILS])
    assert (stated.precision, stated.confidence) == (0.8, 0.95)
    assert "at least 80 % with 95 % confidence, for the top 60 candidates (55 of 57" in stated.text
    assert all(promise.assumption for promise in [*others, stated])


def test_the_false_flag_rate_is_stated_with_what_it_assumes() -> None:
    promise = of_trusted(Detection(false_flag_rate=0.01), FLAGS)
    assert promise.false_flag_rate == 0.01
    assert "on average at most 1 % of the right rows" in promise.text
    assert "drawn at random" in promise.assumption


@pytest.mark.parametrize(("hits", "number"), [(0, 10), (10, 10), (3, 7), (180, 200)])
def test_intervals_of_shares_are_wilsons(hits: int, number: int) -> None:
    expected = binomtest(hits, number).proportion_ci(method="wilson")
    found = wilson(hits, number)
    assert found["value"] == hits / number
    assert found["low"] == pytest.approx(expected.low, abs=1e-5)
    assert found["high"] == pytest.approx(expected.high, abs=1e-5)


def test_recall_of_canaries_counts_what_is_removed_or_relabelled(tmp_path: Path) -> None:
    decision = np.array([KEEP, REVIEW, REMOVE, RELABEL, REMOVE, KEEP], dtype=np.uint8)
    assert canary_recall(tmp_path, decision) is None
    save_canaries(tmp_path, Canaries(np.array([0, 1, 2, 3]), np.ones(4, dtype=np.int64), 3))
    found = canary_recall(tmp_path, decision)
    assert found is not None
    assert (found["planted"], found["removed"]["rows"], found["flagged"]["rows"]) == (4, 2, 3)
    assert found["removed"]["value"] == 0.5


def said_about(train_share: float, validation_share: float, validation_rows: int) -> str:
    train = np.arange(2000) < train_share * 2000
    validation = np.arange(validation_rows) < validation_share * validation_rows
    noise = estimate_noise(train, validation, 10)
    assert noise is not None
    return " ".join(doubts(train, validation, noise))


def test_a_small_or_noisier_validation_set_is_doubted_with_the_estimate() -> None:
    assert said_about(0.15, 0.05, 500) == ""
    assert "has 40 rows: an estimate of 10.6 % may as well be" in said_about(0.15, 0.05, 40)
    noisier = said_about(0.1, 0.3, 500)
    assert "30.0 % of the validation labels and 10.0 % of the train labels" in noisier
    assert "the estimate of 0.0 % means little" in noisier


def test_without_an_estimate_the_validation_set_is_doubted_all_the_same() -> None:
    train, validation = np.arange(2000) < 600, np.arange(40) < 30
    assert estimate_noise(train, validation, 2) is None
    few, noisier = doubts(train, validation, None)
    assert few.startswith("The validation set has 40 rows, too few")
    assert noisier.endswith("the validation set looks noisier than the train set, or unlike it.")
    assert doubts(train, validation[:1], None)[0].startswith("The validation set has 1 row, too few")
