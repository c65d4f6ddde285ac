"""Measures how often a reconstructed trigger works when it is pasted onto holdout rows of other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.detection.backdoor.backdoors import alarms_path, read_alarms
from pipeline.detection.backdoor.search_data import Predictor, as_inputs, load_places, sample_places
from pipeline.runs.directory import read_json
from pipeline.verification.results import ArmResult
from pipeline.workers.worker import run_data

MOST_ROWS = 2000


def trigger_success(run_path: Path, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """The success of every trigger on a model.

    Success is the share of holdout rows of other classes that the model predicts as the target with the trigger, minus
    the share that it predicts as the target without the trigger.

    Returns:
        `trigger_success`, float64 `[alarms]`; empty without alarms.
    """
    alarms, data = read_alarms(run_path), run_data(run_path)
    if not alarms:
        return {}
    rows = load_places(data, "holdout", sample_places(data, "holdout", MOST_ROWS, 0))
    inputs, labels, predict = as_inputs(rows, data), rows.labels.numpy(), Predictor(model, device)
    before = predict(inputs).argmax(1)
    found = []
    for target, pattern in alarms:
        others = labels != target
        after = predict(inputs | {pattern.input: pattern.paste(inputs[pattern.input])}).argmax(1)
        found.append(
            (after == target)[others].mean() - (before == target)[others].mean() if others.any() else 0.0
        )
    return {"trigger_success": torch.tensor(np.array(found), dtype=torch.float64)}


def before_and_after(run_path: Path, as_given: ArmResult, cleaned: ArmResult) -> list[dict[str, Any]]:
    """For verification.json: each alarm's target, and its mean success over the seeds before and after cleaning."""
    if as_given.trigger_success is None or cleaned.trigger_success is None:
        return []
    alarms: list[dict[str, Any]] = read_json(alarms_path(run_path).with_suffix(".json"))["alarms"]
    return [
        {"target": facts["target"], "before": float(before), "after": float(after)}
        for facts, before, after in zip(
            alarms, as_given.trigger_success.mean(0), cleaned.trigger_success.mean(0)
        )
    ]
