"""What the report advises names the settings that the run's own rule obeys."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import AuditConfig
from pipeline.report.advice import next_steps

DATA = {"train": "a.parquet", "features": {"x": "numeric"}, "label": "y"}
SUMMARY: dict[str, Any] = {
    "verdict": "worse",
    "decisions": {"keep": 90, "review": 2, "remove": 8, "relabel": 0},
    "export": {"cleaned": None},
    "rows": {"train": 100, "validation": 10},
    "reasons": {"mislabelled": 10},
    "backdoors": [],
    "promise": None,
}


@pytest.mark.parametrize(
    ("detection", "key"),
    [
        ({"rule": "budget"}, "detection.max_removed"),
        ({"rule": "trusted", "trusted": "t.csv"}, "detection.false_flag_rate"),
        ({"rule": "reviewed", "answers": "a.parquet"}, "detection.precision"),
    ],
    ids=lambda value: value.get("rule") if isinstance(value, dict) else "",
)
def test_fewer_removals_are_asked_for_by_the_setting_of_the_rule(detection: dict[str, str], key: str) -> None:
    config = AuditConfig.model_validate({"name": "x", "data": DATA, "detection": detection})
    text = " ".join(next_steps(SUMMARY, config, "runs/x"))
    named = [
        each
        for each in ("detection.max_removed", "detection.false_flag_rate", "detection.precision")
        if each in text
    ]
    assert named == [key]
    assert text.count(key) == 2
