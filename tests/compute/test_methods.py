"""Every method and optimizer: the stages on workers agree with `attribute` in one process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until

from pipeline.attribution.front_door import attribute
from pipeline.attribution.methods import CALIBRATE, METHODS, SEGMENTS, audit_methods
from pipeline.attribution.queries.refined import RefinedSettings
from pipeline.attribution.scores.table import Scores
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.detection.signals.evidence import read_score
from pipeline.runs.directory import RunDirectory
from pipeline.scoring import queries
from pipeline.stages.stages import fingerprints
from pipeline.training.main_run import whole_trajectory
from pipeline.workers.worker import run_config, run_data, run_model

SMALL = {
    "attribution__fisher": "exact",  # no drawn labels, which go by other row numbers
    "attribution__group_harm": False,
    "data__validation_is_clean": False,  # no early window
    "compute__chunk_rows": 350,
    "detection__halves": False,
    "training__epochs": 2,
    "training__checkpoints": 2,
    "model__hidden": [12],
}


def in_one_process(path: Path, refined: RefinedSettings | None = None, label: int | None = None) -> Scores:
    """label: only the validation rows of a class are asked about."""
    data, trajectory = run_data(path), Trajectory.load(whole_trajectory(path))
    train, validation = data.load_role("train"), data.load_role("validation")
    if label is not None:
        validation = validation.select(torch.nonzero(validation.labels == label)[:, 0])
    return attribute(
        run_model(path, 0),
        trajectory,
        [(train.inputs, train.labels)],
        [(validation.inputs, validation.labels)],
        method=run_config(path).attribution.method,
        fisher="exact",
        segments=run_config(path).attribution.segments,
        refined=refined,
    )


def assert_agrees(path: Path, alpha: float, refined: RefinedSettings | None = None) -> None:
    """α is measured on other rows than in one process, so harm is compared without it."""
    data, expected = run_data(path), in_one_process(path, refined)
    assert expected.harm is not None
    for name, wanted in (
        ("self_influence", expected.self_influence),
        ("validation_harm", expected.harm * alpha),
    ):
        found = read_score(path, data, name)
        np.testing.assert_allclose(
            found, wanted.numpy(), rtol=0, atol=2e-3 * np.abs(found).max(), err_msg=name
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("methods") / "run"
    run_until(digits_config(**SMALL), path, "train")
    return path


@pytest.mark.parametrize(
    ("method", "segments"),
    [(method, 1) for method in audit_methods() if method != "source"]
    + [(method, 2) for method in audit_methods() if SEGMENTS in METHODS[method].options],
)
def test_a_method_agrees_with_the_library(method: str, segments: int, trained: Path) -> None:
    changes = {"attribution__method": method, "attribution__segments": segments}
    run_until(digits_config(**SMALL, **changes), trained, "attribute")
    facts = RunDirectory(trained).facts("factors")
    assert facts["method"] == method
    refined, scaled = METHODS[method].refined, CALIBRATE in METHODS[method].options and segments == 1
    assert (facts["alpha"] is not None) == (refined or scaled)
    assert_agrees(trained, facts["alpha"] if scaled and not refined else 1.0)
    if not refined:
        last = Trajectory.load(whole_trajectory(trained)).load_weights(-1)
        model, rows = run_model(trained, 0), run_data(trained).load_role("train")
        model.load_state_dict(last)
        losses = torch.nn.functional.cross_entropy(model(rows.inputs), rows.labels, reduction="none")
        found = read_score(trained, run_data(trained), "final_loss")
        np.testing.assert_allclose(found, losses.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("method", "segments"), [("tracin", 1), ("trak", 1), ("source", 2), ("source_refined", 2)]
)
def test_harm_to_a_group_is_that_of_a_query_of_its_rows(method: str, segments: int, trained: Path) -> None:
    changes = {"attribution__method": method, "attribution__segments": segments}
    run_until(digits_config(**SMALL | {"attribution__group_harm": True}, **changes), trained, "attribute")
    groups = RunDirectory(trained).facts("attribute")["groups"]
    (place,) = (place for place, group in enumerate(groups) if group["label"] == 3)
    alone = in_one_process(trained, label=3).harm
    assert alone is not None
    limit = 2e-3 * float(alone.abs().max())
    np.testing.assert_allclose(group_harm(trained)[:, place], alone.numpy(), rtol=0, atol=limit)


def group_harm(path: Path) -> np.ndarray:
    """`[rows, groups]`."""
    files = sorted((path / "scores").glob("*.parquet"))
    return np.concatenate([np.stack(pq.read_table(file)["group_harm"].to_numpy()) for file in files])


def test_settings_of_a_refined_solve_are_the_configs_and_change_nothing_before_it(trained: Path) -> None:
    record = RunDirectory(trained).record["stages"]
    changes = {"attribution__refined_prior": 0.1, "attribution__refined_rows": 300}
    config = digits_config(
        **SMALL, **changes, attribution__method="source_refined", attribution__refined_iterations=3
    )
    run_until(config, trained, "attribute")
    settings = RefinedSettings(prior=0.1, rows=300, iterations=3, scale_rows=1024, seed=0)
    assert RunDirectory(trained).facts("factors")["refined"] == asdict(settings)
    assert_agrees(trained, 1.0, settings)
    after = RunDirectory(trained).record["stages"]
    assert after["train"] == record["train"]
    again = fingerprints(config.with_changes({"attribution.refined_iterations": 4}))
    assert again["train"] == after["train"]["fingerprint"]
    assert again["factors"] != after["factors"]["fingerprint"]


def test_refined_groups_are_solved_together_as_each_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    covered = 12 * 65 + 10 * 13
    monkeypatch.setattr(queries, "SOLVED_NUMBERS", 4 * covered)  # ten classes in three solves
    changes = {"attribution__method": "source_refined", "attribution__refined_rows": 300}
    run_until(digits_config(**SMALL | {"attribution__group_harm": True}, **changes), trained, "attribute")
    groups = RunDirectory(trained).facts("attribute")["groups"]
    harm = group_harm(trained)
    for label in (0, 3, 9):
        (place,) = (p for p, group in enumerate(groups) if group["label"] == label)
        alone = in_one_process(trained, RefinedSettings(rows=300), label).harm
        assert alone is not None
        limit = 2e-3 * float(alone.abs().max())
        np.testing.assert_allclose(harm[:, place], alone.numpy(), rtol=0, atol=limit)


def test_adamw_is_attributed_in_its_own_coordinates(tmp_path: Path) -> None:
    changes = {"training__optimizer": "adamw", "training__learning_rate": 0.002}
    run_until(digits_config(**SMALL, **changes), tmp_path / "run", "attribute")
    trajectory = Trajectory.load(whole_trajectory(tmp_path / "run"))
    assert trajectory.optimizer.kind == "adamw"
    assert trajectory.load_second_moments(0)
    assert_agrees(tmp_path / "run", RunDirectory(tmp_path / "run").facts("factors")["alpha"])
