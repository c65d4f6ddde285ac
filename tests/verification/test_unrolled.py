"""Exact differentiation on the digits sample against a training loop written out here, recorded and unrolled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_stages
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from pipeline.attribution.objectives import get_objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder
from pipeline.attribution.unrolling.unrolled import UnrolledHarm, unrolled_harm
from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_text
from pipeline.training.setup import deterministic
from pipeline.training.stage import train_stage
from pipeline.verification import unrolled
from pipeline.verification.stage import verify
from pipeline.verification.unrolled import compare_with_unrolled, folder, harm_path
from pipeline.workers.worker import run_data, run_model

from .small_run import InlineWorkers, open_context

SETTINGS: dict[str, Any] = {
    "training__epochs": 4,
    "training__batch_size": 70,  # the last batch is smaller
    "training__class_weights": "balanced",
    "training__label_smoothing": 0.1,
    "model__hidden": [8],
    "detection__backdoors": False,
    "detection__halves": False,
    "verification__seeds": 0,
    "verification__unrolled": True,
}


def opened(path: Path, config: AuditConfig, last: str) -> AuditContext:
    context = AuditContext(config, RunDirectory(path), InlineWorkers(config.compute))
    write_text(path / "config.yaml", config.to_yaml())
    run_stages(context, last)
    return context


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    context = opened(tmp_path_factory.mktemp("unrolled"), digits_config(**SETTINGS), "detect")
    verify(context)
    return context


def by_hand(context: AuditContext, recording: Path) -> UnrolledHarm:
    """The main training as its documentation says it is, recorded, and differentiated with the plain query loss."""
    path, training = context.run.path, context.config.training
    data = run_data(path)
    rows, validation = data.load_role("train"), data.load_role("validation")
    inputs, labels = rows.inputs, rows.labels
    assert isinstance(inputs, torch.Tensor)
    weights = (len(rows) / (10 * torch.bincount(labels).double())).float()
    smoothed = get_objective("cross_entropy", label_smoothing=training.label_smoothing)
    size, count = training.batch_size, len(rows)
    with deterministic():
        model = run_model(path, training.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum)
        steps = training.epochs * -(-count // size)
        recorder = ReplayRecorder(model, optimizer, recording, steps=steps, train_rows=count)
        for epoch in range(training.epochs):
            order = torch.randperm(
                count, generator=torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
            )
            for chosen in order.split(size):
                losses = smoothed.losses(model(inputs[chosen]), labels[chosen])
                optimizer.zero_grad()
                ((losses * weights[labels[chosen]]).sum() / size).backward()
                optimizer.step()
                recorder.step(chosen, divisor=size)
        return unrolled_harm(
            model,
            Replay.load(recording),
            smoothed,
            lambda n: Batch(inputs[n], labels[n], n, weights[labels[n]]),
            [(validation.inputs, validation.labels)],
            query_objective=get_objective("cross_entropy"),
        )


def test_harm_and_correlation_are_those_of_the_training_written_out(
    audited: AuditContext, tmp_path: Path
) -> None:
    expected = by_hand(audited, tmp_path)
    last = max(int(path.stem) for path in (audited.run / "checkpoints").glob("[0-9]*[0-9].safetensors"))
    ours = load_file(audited.run / "checkpoints" / f"{last}.safetensors")
    for name, value in load_file(tmp_path / f"state-{last}.safetensors").items():
        if name.startswith("model/"):
            assert (ours[name.removeprefix("model/")] == value).all()
    harm = load_file(harm_path(audited.run.path))["harm"]
    assert harm == pytest.approx(expected.harm.numpy(), rel=1e-4, abs=1e-6 * np.abs(harm).max())
    scores = pq.read_table(audited.run / "rows.parquet")["validation_harm"].to_numpy()
    found = read_json(audited.run / "verification.json")["unrolled"]
    assert not found["chaotic"]
    assert found["growth"] == pytest.approx(expected.growth, rel=1e-4)
    correlation = found["correlation"]
    assert correlation["value"] == pytest.approx(spearmanr(scores, expected.harm.numpy())[0], abs=1e-4)
    assert correlation["value"] > 0.5
    drawn, state = [], np.random.default_rng(0)
    for _ in range(300):
        rows = state.integers(0, len(scores), len(scores))
        drawn.append(spearmanr(scores[rows], harm[rows])[0])
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert [correlation["low"], correlation["high"]] == pytest.approx([low, high], abs=0.02)


def test_nothing_but_the_harm_is_kept_and_it_is_not_computed_again(audited: AuditContext) -> None:
    path = audited.run.path
    assert {each.name for each in folder(path).iterdir()} == {"harm.safetensors", "training.json"}
    before, changed = compare_with_unrolled(audited), harm_path(path).stat().st_mtime_ns
    assert compare_with_unrolled(audited) == before
    assert harm_path(path).stat().st_mtime_ns == changed


def test_that_of_another_training_and_a_broken_recording_are_replaced(audited: AuditContext) -> None:
    path, stages = audited.run.path, audited.run.record["stages"]
    before = load_file(harm_path(path))["harm"]
    os.utime(harm_path(path), (0, 0))
    (folder(path) / "recording").mkdir()
    (folder(path) / "recording" / "state-0.safetensors").write_text("half a file")
    audited.run.finish_stage("train", "another", {"facts": stages["train"]["facts"]})
    compare_with_unrolled(audited)
    audited.run.finish_stage("train", stages["train"]["fingerprint"], {"facts": stages["train"]["facts"]})
    assert harm_path(path).stat().st_mtime > 0
    assert (load_file(harm_path(path))["harm"] == before).all()
    assert not (folder(path) / "recording").exists()


KILLED = """
import os, sys
from pathlib import Path
from pipeline.training.replayed import ReplayObserver
from pipeline.verification.unrolled import unroll

go_on = ReplayObserver.after_step
ReplayObserver.after_step = lambda self, step: go_on(self, step) if step < 40 else os._exit(9)
unroll(Path(sys.argv[1]))
"""


def test_a_recording_that_was_killed_is_made_anew(audited: AuditContext) -> None:
    path = audited.run.path
    compare_with_unrolled(audited)
    before = load_file(harm_path(path))["harm"]
    harm_path(path).unlink()
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    left = {each.name for each in (folder(path) / "recording").iterdir()}
    assert "state-0.safetensors" in left
    assert "replay.json" not in left
    compare_with_unrolled(audited)
    assert load_file(harm_path(path))["harm"] == pytest.approx(before, rel=1e-4, abs=1e-6)
    assert not (folder(path) / "recording").exists()


def test_a_chaotic_training_gives_no_correlation(
    audited: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_with_unrolled(audited)
    kept = load_file(harm_path(audited.run.path))
    for growth, said in ((50.0, 50.0), (float("inf"), None)):
        monkeypatch.setattr(
            unrolled, "load_file", lambda _, growth=growth: kept | {"growth": np.array(growth)}
        )
        found = compare_with_unrolled(audited)
        assert found == {"correlation": None, "growth": said, "limit": 10.0, "chaotic": True}


def test_it_is_off_unless_asked_for(audited: AuditContext) -> None:
    off = audited.config.with_changes({"verification.unrolled": False})
    assert compare_with_unrolled(AuditContext(off, audited.run, audited.workers)) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"model__name": "custom", "model__target": "own_model:with_batchnorm"},
            "BatchNorm in training mode",
        ),
        ({"training__memory_budget": 1000}, "rows are streamed"),
    ],
)
def test_a_training_that_cannot_be_repeated_is_refused_before_it_begins(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    context = open_context(tmp_path, digits_config(**SETTINGS | changes))
    with pytest.raises(InputError, match=f"verification.unrolled.*{named}"):
        train_stage(context)
    assert not (tmp_path / "training").exists()
