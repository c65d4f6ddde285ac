"""Forecasts of other labels on the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import digits_config, run_until

from benchmarks.inline import Inline
from pipeline.attribution.front_door import attribute
from pipeline.attribution.methods import METHODS, RELABEL, audit_methods
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.detection.signals.evidence import read_score
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory
from pipeline.scoring.label_changes import label_change_effects
from pipeline.stages.repeats import repeat
from pipeline.training.main_run import role_labels, whole_trajectory
from pipeline.workers.worker import run_config, run_data, run_model

SMALL: dict[str, Any] = {
    "attribution__fisher": "exact",
    "attribution__group_harm": False,
    "data__validation_is_clean": False,
    "compute__chunk_rows": 350,
    "detection__halves": False,
    "training__epochs": 2,
    "training__checkpoints": 2,
    "model__hidden": [12],
}
PLACES = np.array([3, 900, 17, 351])


def inline_context(path: Path) -> AuditContext:
    config = run_config(path)
    return AuditContext(config, RunDirectory(path), Inline(config.compute), repeat=repeat)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("changes") / "run"
    run_until(digits_config(**SMALL), path, "train")
    return path


@pytest.mark.parametrize("method", [name for name in audit_methods() if RELABEL in METHODS[name].options])
def test_a_forecast_is_the_librarys_times_the_scale_of_harm(method: str, trained: Path) -> None:
    run_until(digits_config(**SMALL, attribution__method=method), trained, "attribute")
    context = inline_context(trained)
    data = run_data(trained)
    given = role_labels(data, "train").long()
    others = (given + 1) % 10
    found = label_change_effects(context, PLACES, others[PLACES])
    assert found is not None
    train, validation = data.load_role("train"), data.load_role("validation")
    expected = attribute(
        run_model(trained, 0),
        Trajectory.load(whole_trajectory(trained)),
        [(train.inputs, train.labels)],
        [(validation.inputs, validation.labels)],
        method=method,
        fisher="exact",
        relabel=others,
    )
    assert expected.relabel_effect is not None
    alpha = 1.0 if METHODS[method].refined else RunDirectory(trained).facts("factors")["alpha"] or 1.0
    wanted = expected.relabel_effect.numpy()[PLACES] * alpha
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-3 * np.abs(wanted).max())

    assert (label_change_effects(context, PLACES, given[PLACES]) == 0).all()


def test_what_a_new_label_adds_is_the_harm_that_the_row_would_have_with_it(trained: Path) -> None:
    """y → y' → y'' changes as much as y → y'', and the first part is the harm that attribution wrote."""
    run_until(digits_config(**SMALL), trained, "attribute")
    context, data = inline_context(trained), run_data(trained)
    given = role_labels(data, "train").long()[PLACES]
    harm = read_score(trained, data, "validation_harm")[PLACES]
    all_labels = [label_change_effects(context, PLACES, torch.full_like(given, label)) for label in range(10)]
    # Removing a row with the label y and adding it with y': −harm(y) + harm(y').
    harms = np.stack([effect + harm for effect in all_labels])
    np.testing.assert_allclose(harms[given.numpy(), range(4)], harm, rtol=1e-6)
    # The gradient of the cross-entropy, averaged over labels with the model's own probabilities, is 0.
    assert (harms.min(0) < 0).all()
    assert (harms.max(0) > 0).all()


def test_class_weights_are_those_of_the_new_label(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_until(digits_config(**SMALL, training__class_weights="balanced"), path, "attribute")
    context, data = inline_context(path), run_data(path)
    given = role_labels(data, "train").long()[PLACES]
    assert (label_change_effects(context, PLACES, given) == 0).all()
    counts = torch.tensor(data.encoding.class_counts, dtype=torch.float64)
    assert len(counts.unique()) > 1
    assert np.isfinite(label_change_effects(context, PLACES, (given + 1) % 10)).all()


def test_without_validation_rows_nothing_is_forecast(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_until(digits_config(**SMALL, data__validation=None, data__holdout=None), path, "attribute")
    assert label_change_effects(inline_context(path), PLACES, torch.zeros(4, dtype=torch.int64)) is None


def test_a_method_that_has_no_such_forecast_gives_none(trained: Path) -> None:
    run_until(digits_config(**SMALL, attribution__method="trak"), trained, "attribute")
    assert label_change_effects(inline_context(trained), PLACES, torch.zeros(4, dtype=torch.int64)) is None


def test_several_trainings_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_until(digits_config(**SMALL, attribution__ensemble=2), path, "attribute")
    context, data = inline_context(path), run_data(path)
    given = role_labels(data, "train").long()[PLACES]
    both = label_change_effects(context, PLACES, (given + 1) % 10)
    alone = AuditContext(
        context.config.with_changes({"attribution.ensemble": 1}), context.run, context.workers
    )
    first = label_change_effects(alone, PLACES, (given + 1) % 10)
    assert both is not None
    assert first is not None
    assert not np.allclose(both, first, rtol=1e-3)
    assert np.corrcoef(both, first)[0, 1] > 0.5
