"""What a worker does for the factors of some chunks: counted passes, no reading twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from digits_run import digits_config, run_until
from safetensors.torch import load_file

from pipeline.attribution import capture
from pipeline.attribution.curvature import passes
from pipeline.attribution.curvature.factors import sampled_rows
from pipeline.attribution.curvature.fit import bases_of, covariances_of, squares_of
from pipeline.runs.tensors import save_tensors
from pipeline.scoring import plan, row_sums
from pipeline.scoring.plan import ScoringPlan, attribution_model
from pipeline.scoring.row_sums import of_part, write_derived
from pipeline.workers.worker import run_data

CHECKPOINTS = 3


def test_each_pass_visits_every_batch_once_per_checkpoint(
    detected_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = ScoringPlan("whole", detected_run, 1), run_data(detected_run).chunks("train")
    batches = sum(1 for chunk in chunks for _ in plan.batches(detected_run, chunk))
    forwards, backwards, loads, read, converted = [], [], [], [], []
    grad, load, read_chunk, convert = (
        torch.autograd.grad,
        ScoringPlan.load_checkpoint,
        row_sums.batches,
        passes.local_bases,
    )
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (backwards.append(1), grad(*a, **k))[1])
    monkeypatch.setattr(ScoringPlan, "load_checkpoint", lambda *a: (loads.append(a[2]), load(*a))[1])
    monkeypatch.setattr(row_sums, "batches", lambda *a: (read.append(a[1].id), read_chunk(*a))[1])
    monkeypatch.setattr(passes, "local_bases", lambda *a: (converted.append(1), convert(*a))[1])
    model = attribution_model(detected_run)
    with capture(model) as watched:  # the first batch of a model is looked at once, by passes over a few rows
        watched.forward(next(iter(plan.batches(detected_run, chunks[0]))).inputs)
    backwards.clear()
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        save_tensors(tmp_path / "sums.safetensors", of_part(covariances_of, whole, chunks))
        assert len(forwards) == len(backwards) == CHECKPOINTS * batches
        write_derived(bases_of, whole, tmp_path / "bases.safetensors", tmp_path / "sums.safetensors")
        of_part(squares_of, whole, chunks, tmp_path / "bases.safetensors")
        assert len(forwards) == len(backwards) == 2 * CHECKPOINTS * batches
    finally:
        handle.remove()
    # All chunks fit in one group: its checkpoints are loaded in turn, and its rows are read once per pass.
    assert loads == 2 * list(range(CHECKPOINTS))
    assert read == 2 * [chunk.id for chunk in chunks]
    assert len(converted) == 1


def test_sampled_rows_and_blocks_are_used_where_the_config_asks_for_them(tmp_path: Path) -> None:
    config = digits_config(
        attribution__covariance_sample=0.5, attribution__widest_block=16, detection__halves=False
    )
    run_until(config, tmp_path, "factors")
    whole, data = ScoringPlan("whole", tmp_path, 1), run_data(tmp_path)
    chunks, seed = data.chunks("train"), config.attribution.seed
    chosen = sampled_rows(torch.cat([data.load(chunk).row_ids for chunk in chunks]), seed=seed, share=0.5)
    assert 0.4 < chosen.float().mean() < 0.6
    images = torch.cat([data.load(chunk).inputs for chunk in chunks])[chosen].flatten(1)
    sums = of_part(covariances_of, whole, chunks)
    found = next(value for name, value in sums.items() if "input" in name and len(value) == 65)
    expected = with_bias(attribution_model(tmp_path), images)
    torch.testing.assert_close(found, CHECKPOINTS * 2 * expected.T @ expected, rtol=1e-4, atol=1e-2)
    tensors = load_file(whole.segment_path(0))
    basis = next(tensor for name, tensor in tensors.items() if tensor.shape == (65, 65))
    assert (basis != 0).sum(0).max() <= 16


def with_bias(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the first layer sees, float64 `[rows, 65]`, the bias counting as an input that is 1."""
    seen: list[torch.Tensor] = []
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    handle = first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        model(images.reshape(-1, 1, 8, 8))
    handle.remove()
    return torch.cat([seen[0], torch.ones(len(images), 1)], 1).double()
