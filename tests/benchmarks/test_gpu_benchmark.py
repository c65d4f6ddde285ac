"""The benchmark for GPUs: its words where there is none, and its measurements with the CPU in place of one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

SAMPLES = Path(__file__).parents[2] / "data_samples"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here, so nothing was measured"):
        gpu.main()


def test_all_work_is_timed_beside_bare_passes_and_compared_with_the_cpu() -> None:
    rows = gpu.measured("mlp", SAMPLES, 300, 1, torch.device("cpu"))
    named = {(row["task"], row["metric"]): row["value"] for row in rows}
    assert named["mlp: passes", "ratio to bare passes"] == 1.0
    for name in ("factors", "mean query and self-influence", "single queries"):
        assert named[f"mlp: {name}", "ratio to bare passes"] > 0
    for name in ("self_influence", "harm"):
        assert named[f"mlp: {name}", "max_relative_difference"] == 0.0
