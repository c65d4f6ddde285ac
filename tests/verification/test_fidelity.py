"""Fidelity on the digits sample with real scores and real retrainings, and its arithmetic on made-up changes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import digits_config, run_stages
from scipy.stats import pearsonr

from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_text
from pipeline.stages.stages import fingerprints
from pipeline.verification.arms import read_decisions
from pipeline.verification.fidelity import (
    REMOVED_SHARE,
    calibration,
    compare,
    group_path,
    level,
    measure_fidelity,
    noise_share,
    removed_group,
)
from pipeline.verification.forecast import predicted_loss_change
from pipeline.verification.lds import Estimate
from pipeline.verification.stage import verify

from .small_run import InlineWorkers

GROUPS = 16
SMOOTH = {
    "training__weight_decay": 1e-3,
    "training__epochs": 6,
    "training__batch_size": 100,
    "model__hidden": [],
    "detection__backdoors": False,
    "detection__halves": False,
}


def groups_of(context: AuditContext) -> int:
    return context.config.verification.fidelity_groups(flagged=True)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """The digits up to rows.parquet, trained so that retrainings are alike."""
    config = digits_config(**SMOOTH, verification__fidelity=GROUPS, verification__arms=["removed"])
    path = tmp_path_factory.mktemp("fidelity")
    context = AuditContext(config, RunDirectory(path), InlineWorkers(config.compute))
    write_text(path / "config.yaml", config.to_yaml())
    run_stages(context, "detect")
    return context


@pytest.fixture(scope="module")
def report(audited: AuditContext) -> dict[str, Any]:
    verify(audited)
    return read_json(audited.run / "verification.json")


def harm(context: AuditContext) -> np.ndarray:
    return pq.read_table(context.run / "rows.parquet")["validation_harm"].to_numpy()


def with_harm(context: AuditContext, values: np.ndarray) -> None:
    table = pq.read_table(context.run / "rows.parquet")
    place = table.schema.get_field_index("validation_harm")
    pq.write_table(table.set_column(place, "validation_harm", pa.array(values)), context.run / "rows.parquet")


def test_real_scores_predict_what_retrainings_without_random_groups_measure(
    audited: AuditContext, report: dict[str, Any]
) -> None:
    found = report["fidelity"]
    assert found["level"] == "high"
    predicted, measured = (np.array(found[key]) for key in ("predicted", "measured"))
    assert found["noise"]["share"]["value"] < 0.5
    assert len(predicted) == len(measured) == found["groups"] == GROUPS
    assert found["correlation"]["value"] == pytest.approx(pearsonr(predicted, measured)[0])
    assert found["slope"]["value"] == pytest.approx(np.polyfit(predicted, measured, 1)[0])
    for name in ("correlation", "slope"):
        assert 0 < found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    rows = len(harm(audited))
    expected = [predicted_loss_change(-harm(audited), removed_group(rows, g, 1)) for g in range(GROUPS)]
    assert predicted == pytest.approx(expected)


def test_shuffled_scores_have_low_fidelity_and_nothing_is_retrained_for_them(
    audited: AuditContext, report: dict[str, Any]
) -> None:
    real, tasks = harm(audited), audited.workers.tasks  # type: ignore[attr-defined]
    before = len(tasks)
    shuffled = [np.random.RandomState(seed).permutation(real) for seed in range(5)]
    levels = []
    for values in shuffled:
        with_harm(audited, values)
        found = measure_fidelity(audited, groups_of(audited))
        assert found is not None
        assert found["measured"] == report["fidelity"]["measured"]
        assert calibration(found) is None
        levels.append(found["level"])
    with_harm(audited, real)
    assert levels.count("low") >= 4
    assert len(tasks) == before


def test_a_well_determined_slope_calibrates_the_forecasts(
    audited: AuditContext, report: dict[str, Any]
) -> None:
    removed, relabelled = read_decisions(audited.run.path).masks(report["exported"])
    assert not relabelled.any()
    plain = predicted_loss_change(-harm(audited), removed)
    assert report["calibrated_by"] == "fidelity groups"
    assert report["predicted_loss_change"] == pytest.approx(report["fidelity"]["slope"]["value"] * plain)


def test_groups_outlive_a_change_of_decisions_and_are_completed_one_by_one(
    audited: AuditContext, report: dict[str, Any]
) -> None:
    paths = [group_path(audited.run.path, group, 1) for group in range(GROUPS)]
    kept = {path: path.stat().st_mtime_ns for path in paths[1:]}
    paths[0].unlink()
    assert measure_fidelity(audited, groups_of(audited)) == report["fidelity"]
    assert {path: path.stat().st_mtime_ns for path in paths[1:]} == kept
    more = AuditContext(
        audited.config.with_changes({"detection.max_removed": 0.01}), audited.run, audited.workers
    )
    before, after = fingerprints(audited.config), fingerprints(more.config)
    assert before["verify"] != after["verify"]
    assert before["train"] == after["train"]
    assert measure_fidelity(more, groups_of(more)) == report["fidelity"]
    assert {path: path.stat().st_mtime_ns for path in paths[1:]} == kept


@pytest.mark.usefixtures("report")
def test_groups_of_another_training_are_thrown_away(audited: AuditContext) -> None:
    path = group_path(audited.run.path, 0, 1)
    os.utime(path, (0, 0))
    record = audited.run.record
    finished = record["stages"]["train"]
    audited.run.finish_stage("train", "another", {"facts": finished["facts"]})
    few = AuditContext(
        audited.config.with_changes({"verification.fidelity": 5}), audited.run, audited.workers
    )
    measure_fidelity(few, groups_of(few))
    audited.run.finish_stage("train", finished["fingerprint"], {"facts": finished["facts"]})
    assert path.stat().st_mtime > 0
    assert not group_path(audited.run.path, 5, 1).exists()


@pytest.mark.parametrize("changes", [{"verification.fidelity": 0}, {"verification.seeds": 0}])
def test_it_can_be_left_out(audited: AuditContext, changes: dict[str, Any]) -> None:
    context = AuditContext(audited.config.with_changes(changes), audited.run, audited.workers)
    assert measure_fidelity(context, groups_of(context)) is None


def test_groups_are_random_tenths_that_depend_on_seed_and_number() -> None:
    groups = [removed_group(500, group, seed) for seed in (1, 2) for group in range(3)]
    assert all(group.sum() == 500 * REMOVED_SHARE for group in groups)
    assert len({group.tobytes() for group in groups}) == 6
    assert (removed_group(500, 2, 1) == groups[2]).all()
    assert removed_group(4, 0, 0).sum() == 1


def test_the_common_offset_of_the_retrainings_of_all_rows_changes_neither_correlation_nor_slope() -> None:
    random = np.random.RandomState(0)
    effects, removed = random.standard_normal(100), random.rand(8, 100) < 0.1
    without, given = random.standard_normal(8), random.standard_normal(3)
    one, other = (compare(effects, removed, without, given + shift) for shift in (0.0, 5.0))
    for name in ("value", "low", "high"):
        assert one["correlation"][name] == pytest.approx(other["correlation"][name])
        assert one["slope"][name] == pytest.approx(other["slope"][name])
    assert one["measured"] == pytest.approx(without - given.mean())
    assert other["measured"] == pytest.approx(without - given.mean() - 5)


def test_the_share_of_noise_is_found_and_lies_in_its_interval() -> None:
    random = np.random.RandomState(1)
    inside, shares = 0, []
    for _ in range(400):
        given, without = random.normal(0, 1, 5), random.normal(0, 2, 16)
        share = noise_share(without, given)["share"]
        shares.append(share["value"])
        inside += share["low"] <= 0.25 <= share["high"]
    assert inside / 400 == pytest.approx(0.95, abs=0.04)
    assert np.median(shares) == pytest.approx(0.25, abs=0.06)


def test_what_the_scores_explain_is_no_noise() -> None:
    found = noise_share(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 9.0, 5.0]), correlation=0.8)
    assert found["share"]["value"] == pytest.approx(1 - 0.8**2)
    assert found["ceiling"] == pytest.approx(0.8)


def test_where_groups_differ_no_more_than_controls_all_is_noise() -> None:
    found = noise_share(np.ones(6), np.array([1.0, 2.0]))
    assert found["share"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["ceiling"] == 0.0


@pytest.mark.parametrize(
    ("value", "low", "expected"),
    [
        (0.8, 0.5, "high"),
        (0.8, 0.2, "moderate"),
        (0.8, -0.1, "low"),
        (0.5, 0.1, "moderate"),
        (0.2, 0.1, "low"),
    ],
)
def test_the_level_asks_for_an_interval_above_nothing(value: float, low: float, expected: str) -> None:
    assert level(Estimate(value, low, 0.9)) == expected


@pytest.mark.parametrize(
    ("slope", "factor"), [((0.8, 0.6, 1.1), 0.8), ((0.8, -0.1, 0.6), None), ((0.8, 0.3, 1.4), None)]
)
def test_only_a_tight_slope_above_nothing_calibrates(
    slope: tuple[float, float, float], factor: float | None
) -> None:
    fidelity = {"slope": dict(zip(("value", "low", "high"), slope))}
    assert calibration(fidelity) == factor
    assert calibration(None) is None
