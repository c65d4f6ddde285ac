from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from pipeline.config import AuditConfig
from pipeline.context import AuditContext
from pipeline.detection.strata import prediction_strata, write_strata
from pipeline.run import read_json
from pipeline.verification.stage import verify

from .small_run import SAMPLES, digits_config, open_context, planted, write_rows


def digits_run(path: Path, config: AuditConfig, decision: str = "remove") -> AuditContext:
    """A run that removes (or relabels) exactly the planted wrong labels."""
    context = open_context(path, config)
    wrong, true = planted(1200)
    harm = np.where(wrong, 2e-4, -1e-5) if config.data.validation else None
    suggestions = pa.array([label if bad else None for label, bad in zip(true, wrong)], pa.int64())
    write_rows(path, np.where(wrong, decision, "keep").tolist(), suggestions, harm)
    return context


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [number for value in tree.values() for number in numbers(value)]
    if isinstance(tree, list):
        return [number for value in tree for number in numbers(value)]
    return [tree] if isinstance(tree, int | float) else []


def test_removing_planted_wrong_labels_is_found_to_improve_the_holdout(tmp_path: Path) -> None:
    # 597 holdout rows: the 300 of the sample alone are too few to prove a gain of 1.5 %.
    holdout = [str(SAMPLES / "digits" / role) for role in ("holdout", "validation")]
    changes = {"data.holdout": holdout, "verification.seeds": 5, "verification.relabelled": True}
    config = digits_config(roles=("train",), **changes, **{"training.epochs": 15})
    context = digits_run(tmp_path, config)
    told: list[tuple[str, int, int, str]] = []
    context.progress = lambda *what: told.append(what)
    facts = verify(context)
    found = read_json(tmp_path / "verification.json")

    assert found["verdict"] == facts["verdict"] == "improved"
    assert facts["retrainings"] == 20
    assert facts["seconds_per_training"] > 0
    assert (found["metric"], found["higher_is_better"]) == ("accuracy", True)
    arms = found["arms"]
    names = ["as_given", "cleaned", "random_removal", "relabelled"]
    assert [arms[name]["rows"] for name in names] == [1200, 1080, 1080, 1200]
    assert all(len(arm[key]) == 5 for arm in arms.values() for key in ("metric", "metric_final", "loss"))
    assert np.mean(arms["relabelled"]["loss"]) < np.mean(arms["as_given"]["loss"])
    for name, difference in found["differences"].items():
        arm, other = name.split(" - ")
        for measure, interval in difference.items():
            mean = np.mean(arms[arm][measure]) - np.mean(arms[other][measure])
            assert interval["mean"] == pytest.approx(mean)
            assert interval["low"] <= interval["mean"] <= interval["high"]
    assert found["differences"]["cleaned - as_given"]["loss"]["high"] < 0
    assert all(math.isfinite(number) for number in numbers(found))

    order = [(seed, arm) for _, arm, seed in context.workers.tasks]  # type: ignore[attr-defined]
    assert order == [(seed, arm) for seed in range(1, 6) for arm in names]
    assert told == [("verify", done, 20, "retrainings") for done in range(21)]


def test_the_forecast_stands_beside_the_measured_change_of_the_validation_loss(tmp_path: Path) -> None:
    verify(digits_run(tmp_path, digits_config()))
    found = read_json(tmp_path / "verification.json")
    assert found["calibrated_by"] == "uncalibrated"
    # 120 of 1,200 rows have a harm of 2e-4, the others of -1e-5.
    assert found["predicted_loss_change"] == pytest.approx(-1200 / 1080 * 120 * (2e-4 - 1.1e-5))
    losses = {}
    for arm in ("cleaned", "as_given"):
        files = [load_file(tmp_path / f"verification/{arm}-{seed}.safetensors") for seed in (1, 2)]
        losses[arm] = np.array([float(file["validation_loss"]) for file in files])
    measured = found["measured_loss_change"]
    assert measured["mean"] == pytest.approx((losses["cleaned"] - losses["as_given"]).mean())
    assert measured["low"] < measured["mean"] < measured["high"]


def test_an_interrupted_verification_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    context = digits_run(tmp_path, digits_config())
    verify(context)
    whole = (tmp_path / "verification.json").read_text()
    for name in ("cleaned-1", "as_given-2"):
        (tmp_path / f"verification/{name}.safetensors").unlink()
    tasks = context.workers.tasks  # type: ignore[attr-defined]
    tasks.clear()
    verify(context)
    assert [(arm, seed) for _, arm, seed in tasks] == [("cleaned", 1), ("as_given", 2)]
    assert (tmp_path / "verification.json").read_text() == whole


def test_without_a_validation_set_there_is_no_forecast(tmp_path: Path) -> None:
    verify(digits_run(tmp_path, digits_config(roles=("train", "holdout"))))
    found = read_json(tmp_path / "verification.json")
    assert found["predicted_loss_change"] is None
    assert found["measured_loss_change"] is None
    assert set(found["arms"]) == {"as_given", "cleaned", "random_removal"}


def test_rows_that_get_another_label_are_verified_without_a_forecast(tmp_path: Path) -> None:
    verify(digits_run(tmp_path, digits_config(), decision="relabel"))
    found = read_json(tmp_path / "verification.json")
    assert found["predicted_loss_change"] is None
    assert [arm["rows"] for arm in found["arms"].values()] == [1200, 1200, 1200]
    assert found["arms"]["random_removal"]["metric"] == found["arms"]["as_given"]["metric"]
    assert found["arms"]["cleaned"]["loss"] != found["arms"]["as_given"]["loss"]


@pytest.mark.parametrize(
    ("roles", "decision", "changes", "note"),
    [
        (("train", "validation", "holdout"), "review", {}, "Nothing was to be removed"),
        (("train", "validation", "holdout"), "remove", {"verification.seeds": 0}, "seeds is 0"),
        (("train", "validation"), "remove", {}, "holdout set has 0 rows"),
    ],
)
def test_what_can_not_be_tested_says_why(
    tmp_path: Path, roles: tuple[str, ...], decision: str, changes: dict[str, Any], note: str
) -> None:
    context = digits_run(tmp_path, digits_config(roles=roles, **changes), decision)
    facts = verify(context)
    found = json.loads((tmp_path / "verification.json").read_text())
    assert found["verdict"] == "not tested"
    assert note in found["note"]
    assert found["arms"] == {}
    assert facts["retrainings"] == 0
    assert facts["seconds_per_training"] is None
    assert context.workers.tasks == []  # type: ignore[attr-defined]


def test_a_regression_is_judged_by_r2(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    data = {}
    for role, rows in (("train", 300), ("validation", 60), ("holdout", 80)):
        x = random.standard_normal((rows, 3))
        y = x @ [1.0, -2.0, 0.5] + 0.1 * random.standard_normal(rows) + 10
        if role == "train":
            y[:60] = random.permutation(y[:60])
        table = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})
        pq.write_table(table, tmp_path / f"{role}.parquet")
        data[role] = [str(tmp_path / f"{role}.parquet")]
    tree = {
        "name": "line",
        "data": data | {"features": {"a": "numeric", "b": "numeric", "c": "numeric"}, "label": "y"},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 15, "batch_size": 20, "checkpoints": 3, "learning_rate": 0.01},
        "verification": {"seeds": 5},
    }
    run = tmp_path / "run"
    context = open_context(run, AuditConfig.model_validate(tree))
    write_rows(run, ["remove"] * 60 + ["keep"] * 240, pa.nulls(300, pa.float64()), np.zeros(300))
    write_strata(run, prediction_strata(random.standard_normal(300)))
    verify(context)
    found = read_json(run / "verification.json")
    assert found["metric"] == "r2"
    assert found["verdict"] == "improved"
    # Both are about the same squared errors: R² = 1 − loss / (loss of the mean).
    metric, loss = (np.array(found["arms"]["cleaned"][key]) for key in ("metric", "loss"))
    ratio = (1 - metric) / loss
    assert ratio == pytest.approx(ratio[0], rel=1e-5)
