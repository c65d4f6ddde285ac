"""The success of a reconstructed trigger on the holdout, against a count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.detection.backdoor.backdoors import alarms_path, save_patterns
from pipeline.detection.backdoor.window import Window
from pipeline.runs.directory import write_json
from pipeline.verification.triggers import before_and_after, trigger_success
from pipeline.workers.worker import run_data, run_model

from .small_run import digits_config, open_context

WINDOW = Window(np.full((1, 4, 4), 255, dtype=np.uint8), 2, 1, False, 8.0)


def test_success_is_what_pasting_adds_on_rows_of_other_classes(tmp_path: Path) -> None:
    open_context(tmp_path, digits_config())
    model = run_model(tmp_path, 0)
    assert trigger_success(tmp_path, model, torch.device("cpu")) == {}

    holdout = run_data(tmp_path).load_role("holdout")
    pasted = holdout.inputs.clone()
    pasted[:, :, 2:6, 1:5] = 255
    with torch.no_grad():
        before, after = model(holdout.inputs).argmax(1), model(pasted).argmax(1)
    target = int(after.mode().values)
    save_patterns(alarms_path(tmp_path).with_suffix(".safetensors"), [WINDOW])
    facts = {"target": target, "target_class": target, "kind": "window"}
    write_json(alarms_path(tmp_path).with_suffix(".json"), {"alarms": [facts], "notes": []})
    others = holdout.labels != target
    expected = (after == target)[others].double().mean() - (before == target)[others].double().mean()
    found = trigger_success(tmp_path, model, torch.device("cpu"))["trigger_success"]
    assert torch.allclose(found, expected[None])
    assert expected != 0


def test_without_alarms_there_is_nothing_before_or_after(tmp_path: Path) -> None:
    class Result:
        trigger_success = None

    assert before_and_after(tmp_path, Result(), Result()) == []  # type: ignore[arg-type]
