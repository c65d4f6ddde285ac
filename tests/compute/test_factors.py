"""What a worker does for the factors of some chunks: counted passes, no reading twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.compute import factors, plan
from pipeline.compute.factors import covariance_leaf, spectrum_leaf, write_bases
from pipeline.compute.plan import Plan, attribution_model
from pipeline.compute.worker import run_data
from pipeline.training.state import save_tensors

CHECKPOINTS = 3


def test_each_pass_visits_every_batch_once_per_checkpoint(
    detected_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = Plan("whole", detected_run, 1), run_data(detected_run).chunks("train")
    batches = sum(1 for chunk in chunks for _ in plan.batches(detected_run, chunk))
    forwards, backwards, loads, read, converted = [], [], [], [], []
    grad, load, read_chunk, convert = (
        torch.autograd.grad,
        Plan.load_checkpoint,
        factors.batches,
        factors.fit_spectrum.__globals__["local_bases"],
    )
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (backwards.append(1), grad(*a, **k))[1])
    monkeypatch.setattr(Plan, "load_checkpoint", lambda *a: (loads.append(a[2]), load(*a))[1])
    monkeypatch.setattr(factors, "batches", lambda *a: (read.append(a[1].id), read_chunk(*a))[1])
    monkeypatch.setitem(
        factors.fit_spectrum.__globals__, "local_bases", lambda *a: (converted.append(1), convert(*a))[1]
    )
    handle = attribution_model(detected_run).register_forward_hook(lambda *_: forwards.append(1))
    try:
        save_tensors(tmp_path / "sums.safetensors", covariance_leaf(whole, chunks))
        assert len(forwards) == len(backwards) == CHECKPOINTS * batches
        write_bases(whole, tmp_path / "sums.safetensors", tmp_path / "bases.safetensors")
        spectrum_leaf(whole, chunks, tmp_path / "bases.safetensors")
        assert len(forwards) == len(backwards) == 2 * CHECKPOINTS * batches
    finally:
        handle.remove()
    # All chunks fit in one group: its checkpoints are loaded in turn, and its rows are read once per pass.
    assert loads == 2 * list(range(CHECKPOINTS))
    assert read == 2 * [chunk.id for chunk in chunks]
    assert len(converted) == 1
