from __future__ import annotations

from typing import Any

from pipeline.report.group_effects import effect_lines, effect_sentence


def effect(label: int | None, worse: bool = False, **changes: Any) -> dict[str, Any]:
    interval = {"mean": 0.1, "low": -0.2, "high": 0.4}
    place = {"column": None, "value": None} if label is not None else {"column": "sex", "value": "Female"}
    numbers = {"most_harmful": 7, "predicted_loss_change": -0.25, "holdout_rows": 9}
    return {
        "class": label,
        **place,
        **numbers,
        "loss": interval,
        "metric": interval,
        "worse": worse,
    } | changes


def test_a_class_that_becomes_worse_comes_first_and_is_named() -> None:
    summary = {"metric": "accuracy", "group_effects": [effect(0), effect(3, worse=True), effect(None)]}
    lines = effect_lines(summary, {3: "Dress"})
    assert [line["name"] for line in lines] == ["class Dress", "class 0", "sex = Female"]
    assert lines[0]["predicted"] == "−0.250"
    assert lines[0]["metric"] == "+10.0 (−20.0 … +40.0)"
    assert lines[0]["loss"] == "+0.100 (−0.200 … +0.400)"
    assert effect_sentence(summary, {3: "Dress"}).startswith("Cleaning hurts class Dress:")


def test_nothing_is_claimed_where_nothing_was_measured() -> None:
    bare = effect(0, loss=None, metric=None, most_harmful=None, predicted_loss_change=None)
    summary = {"metric": "r2", "group_effects": [bare]}
    assert effect_sentence(summary, {}) == ""
    line = effect_lines(summary, {})[0]
    assert (line["most_harmful"], line["predicted"], line["loss"], line["metric"]) == ("", "", "", None)
    assert effect_lines({"metric": "r2", "group_effects": []}, {}) == []
