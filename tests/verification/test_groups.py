from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.scoring.groups import RowGroup
from pipeline.verification import groups as module
from pipeline.verification.groups import measurements
from pipeline.verification.results import ArmResult, RoleResult
from pipeline.verification.statistics import difference_interval


def arm(losses: np.ndarray, scores: np.ndarray) -> ArmResult:
    return ArmResult(1, RoleResult(scores, losses), scores)


def test_a_class_that_loses_is_worse_and_one_that_wins_or_has_few_rows_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.array([0] * 60 + [1] * 60 + [2] * 3)
    random = np.random.default_rng(0)
    shift = np.array([0.4, -0.4, 0.4])[labels]
    given = random.normal(size=(4, 123))
    cleaned = given + shift + 0.01 * random.normal(size=(4, 123))
    members = [labels == label for label in range(3)]
    monkeypatch.setattr(module, "holdout_members", lambda *_: members)
    monkeypatch.setattr(module, "run_data", lambda _: Data)
    groups = [RowGroup(None, None, label, 10) for label in range(3)]
    results = {"as_given": arm(given, -given), "cleaned": arm(cleaned, -cleaned)}
    found = measurements(Path("run"), groups, results)
    assert [entry["worse"] for entry in found] == [True, False, False]
    assert found[2]["loss"] is None
    assert found[0]["loss"] == pytest.approx(difference_interval((cleaned - given)[:, :60]).as_json())
    assert found[1]["metric"]["low"] > 0


class Data:
    class encoding:
        task = "classification"


def test_more_confidence_makes_a_wider_interval_around_the_same_mean() -> None:
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).double().numpy()
    usual, strict = difference_interval(values), difference_interval(values, 0.995)
    assert usual.mean == strict.mean
    assert strict.low < usual.low < usual.high < strict.high
