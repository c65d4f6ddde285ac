"""What attribution was made with, in words."""

from __future__ import annotations

from typing import Any

from pipeline.attribution.methods import METHODS
from pipeline.text import words


def attribution(train: dict[str, Any], factors: dict[str, Any], scored: dict[str, Any]) -> dict[str, Any]:
    """From the facts of the stages: method, segments, checkpoints, layers, alpha (null where the scale of harm is
    uncalibrated), refined (prior, rows and iterations of a refined solve, else null), ensemble (trainings that scores
    are averaged over), optimizer, recorded_in (a trajectory's folder).
    """
    found = {name: factors.get(name) for name in ("segments", "checkpoints", "layers", "alpha")}
    found |= {"method": factors.get("method", "source"), "ensemble": scored.get("ensemble", 1)}
    used = factors.get("refined")
    found["refined"] = used and {name: used[name] for name in ("prior", "rows", "iterations")}
    return found | {"optimizer": train.get("optimizer", "sgd"), "recorded_in": train.get("recorded_in")}


def method_line(made: dict[str, Any]) -> str:
    """In a sentence without its stop."""
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
