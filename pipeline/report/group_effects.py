"""The effect of the flagged rows, and of their removal, on each class and slice."""

from __future__ import annotations

from typing import Any

from pipeline.report.verdict import Summary
from pipeline.text import words

MOST_LINES = 24


def effect_lines(summary: Summary, names: dict[Any, str]) -> list[dict[str, Any]]:
    """Lines of the table of classes and slices; groups that became worse come first, at most MOST_LINES in all.

    Args:
        summary: of the run.
        names: label → its name.

    Returns:
        The lines; `metric` is None in all of them if the metric is not defined for a group (regression).
    """
    effects = sorted(summary["group_effects"], key=lambda effect: not effect["worse"])
    of_metric = any(effect["metric"] for effect in effects)
    return [
        {
            "name": name(effect, names),
            "of_slice": effect["class"] is None,
            "worse": effect["worse"],
            "most_harmful": "" if effect["most_harmful"] is None else words.count(effect["most_harmful"]),
            "predicted": change(effect["predicted_loss_change"]),
            "loss": interval(effect["loss"], "loss"),
            "metric": interval(effect["metric"], summary["metric"]) if of_metric else None,
        }
        for effect in effects[:MOST_LINES]
    ]


def effect_sentence(summary: Summary, names: dict[Any, str]) -> str:
    """`Cleaning hurts class 3 …`, or that no harm is shown; empty if nothing was measured."""
    measured = [effect for effect in summary["group_effects"] if effect["loss"] is not None]
    worse = [name(effect, names) for effect in measured if effect["worse"]]
    if worse:
        return (
            f"Cleaning hurts {' and '.join(worse)}: look at what was removed there before you use the result."
        )
    return "No class or slice is shown to become worse by the cleaning." if measured else ""


def name(effect: dict[str, Any], names: dict[Any, str]) -> str:
    """`class 3` or `sex = Female`."""
    if effect["class"] is not None:
        return f"class {words.label(effect['class'], names)}"
    return words.shorten(f"{effect['column']} = {effect['value']}", 60)


def change(value: float | None) -> str:
    return "" if value is None else words.signed(value, 3)


def interval(found: dict[str, float] | None, metric: str) -> str:
    """`+0.5 (−0.3 … +1.2)`."""
    if found is None:
        return ""
    ends = [found["mean"], found["low"], found["high"]]
    mean, low, high = [words.signed(v, 3) for v in ends] if metric == "loss" else words.changes(ends, metric)
    return f"{mean} ({low} … {high})"
