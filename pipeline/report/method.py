"""Describes how attribution was computed."""

from __future__ import annotations

from typing import Any

from pipeline.attribution.methods import METHODS
from pipeline.text import words


def attribution(train: dict[str, Any], factors: dict[str, Any], scored: dict[str, Any]) -> dict[str, Any]:
    """Collect how attribution was computed, for summary.json.

    Args:
        train: facts of the stage `train`.
        factors: facts of the stage `factors`.
        scored: facts of the stage `attribute`.

    Returns:
        method, segments, checkpoints, layers, alpha (null if the scale of harm is uncalibrated), refined (prior, rows
        and iterations of a refined solve, or null), ensemble (over how many trainings scores are averaged), optimizer,
        recorded_in (the folder of a recorded trajectory, or null).
    """
    found = {name: factors.get(name) for name in ("segments", "checkpoints", "layers", "alpha")}
    found |= {"method": factors.get("method", "source"), "ensemble": scored.get("ensemble", 1)}
    used = factors.get("refined")
    found["refined"] = used and {name: used[name] for name in ("prior", "rows", "iterations")}
    return found | {"optimizer": train.get("optimizer", "sgd"), "recorded_in": train.get("recorded_in")}


def method_line(made: dict[str, Any]) -> str:
    """The same in a sentence without a full stop."""
    method = METHODS.get(made["method"])
    parts = [made["method"] if method is None else method.title]
    if (used := made["refined"]) is not None:
        rows, iterations = words.plural(used["rows"], "row"), words.plural(used["iterations"], "iteration")
        parts[0] += f" of {rows} in {iterations} with γ = {used['prior']:g}"
    parts += [words.plural(made["checkpoints"] or 0, "checkpoint")]
    parts += [words.plural(made["segments"] or 1, "segment"), words.plural(made["layers"] or 0, "layer")]
    if made["optimizer"] != "sgd":
        parts.append(f"trained by {made['optimizer']}")
    if made["recorded_in"] is not None:
        parts.append(f"checkpoints recorded in {made['recorded_in']}")
    if made["ensemble"] > 1:
        parts.append(f"mean of {words.plural(made['ensemble'], 'training')}")
    scale = "the scale of harm is uncalibrated" if made["alpha"] is None else f"α = {made['alpha']:.2g}"
    return ", ".join([*parts, scale])
