"""The detection benchmark's arithmetic, on rankings and flags that can be checked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.detection_drop import weighted_accuracy_drop
from benchmarks.detection_findings import Finding
from benchmarks.detection_summary import Measured, bootstrap, summarise
from benchmarks.detection_tables import detection

WRONG = np.array([True, False, False, False])
FIRST, SECOND = np.array([0.9, 0.1, 0.2, 0.3]), np.array([0.5, 0.1, 0.2, 0.9])  # AP 1 and ½
NOTHING = np.zeros(4, dtype=bool)


def measured(task: str, noise: str = "uniform", rate: float = 0.1, **holdout: float) -> Measured:
    flags = {"remove": FIRST > 0.5, "remove + review": FIRST > 0.25}
    findings = {"winnow": Finding("winnow", FIRST, flags)}
    findings["winnow_no_halves"] = Finding("winnow_no_halves", FIRST, dict(flags))
    findings["cleanlab"] = Finding("cleanlab", SECOND, {"default filter": NOTHING})
    others = ("cleanlab_early", "aum", *("early_margin", "early_loss", "early_harm"))
    for name in (*others, "neighbour_margin", "clean_neighbours", "half_confidence"):
        findings[name] = Finding(name, SECOND)
    arms = {"as_given": 0.5, "winnow": 0.75, "cleanlab": 0.5} | holdout
    facts = {"estimated_noise": 0.35, "trainings_beyond": {"winnow": 1.0}}
    wrong = WRONG if noise != "none" else NOTHING
    removal = {"winnow": [0.9, 0.8, 0.5], "aum": [0.9, 0.9, 0.9]}
    return Measured(task, noise, rate, 0, False, findings, wrong, facts, arms, removal)


def rows_of(*done: Measured) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = summarise(done, planned=10)
    keys = [(r["task"], r["method"], r["metric"], r.get("flags"), "target" in r) for r in rows]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, rows))


def test_rankings_are_means_over_noisy_configurations_and_leads_are_held_against_targets() -> None:
    rows = rows_of(measured("a"), measured("b", "pairs", 0.2), measured("a", "none", 0))
    mean = rows["all", "winnow", "average_precision", None, False]
    assert (mean["value"], mean["n"]) == (1.0, 2)
    assert rows["a", "cleanlab", "average_precision", None, False]["value"] == 0.5
    lead = rows["all", "winnow - cleanlab", "average_precision", None, True]
    assert (lead["value"], lead["low"], lead["high"], lead["n"]) == (0.5, 0.5, 0.5, 2)
    assert (lead["sense"], lead["target"], lead["met"]) == (">=", 0.1, True)
    assert rows["all", "winnow - cleanlab", "share_below_slack", None, True]["value"] == 0


def test_early_losses_of_accuracy_weigh_more_than_late_ones() -> None:
    assert weighted_accuracy_drop([0.9, 0.8, 0.5]) == pytest.approx(0.1 / 1 + 0.4 / 2)
    assert weighted_accuracy_drop([0.9, 0.5, 0.8]) == pytest.approx(0.4 / 1 + 0.1 / 2)
    rows = rows_of(measured("a"))
    assert rows["a", "winnow", "weighted_accuracy_drop", None, False]["value"] == pytest.approx(0.3)
    assert rows["all", "aum", "weighted_accuracy_drop", None, False]["value"] == 0


def test_flags_are_measured_where_labels_are_wrong_and_counted_where_none_is() -> None:
    rows = rows_of(measured("a"), measured("a", "none", 0))
    flags = "remove + review"
    figures = [rows["a", "winnow", m, flags, False]["value"] for m in ("precision", "recall", "f1")]
    assert figures == pytest.approx([0.5, 1, 2 / 3])
    assert rows["a", "winnow - cleanlab", "f1", flags, True]["value"] == pytest.approx(2 / 3)
    assert rows["all/uniform/0.1", "winnow", "precision", "remove", True]["met"] is True
    clean = rows["all", "winnow", "flagged_share", "remove", True]
    assert (clean["value"], clean["met"]) == (0.25, False)


def test_a_task_that_is_worse_after_cleaning_is_counted() -> None:
    rows = rows_of(measured("a", winnow=0.25), measured("b"))
    worse = rows["all", "winnow - as_given", "share_of_tasks_worse", None, True]
    assert (worse["value"], worse["met"]) == (0.5, False)
    assert rows["all", "winnow - cleanlab", "holdout_gain", None, True]["value"] == 0.0
    assert rows["a/uniform/0.1", "winnow - as_given", "holdout_gain", None, False]["value"] == -0.25


def test_the_estimate_is_compared_with_what_was_planted() -> None:
    rows = rows_of(measured("a"))
    assert rows["all", "winnow", "estimated_noise_error", None, False]["value"] == pytest.approx(0.1)


def test_the_bootstrap_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.RandomState(0).randn(400)
    interval = bootstrap(list(values))
    error = values.std() / 20
    assert interval["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert interval["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_tables_have_a_column_per_dataset_and_say_what_is_missed() -> None:
    page = detection(summarise([measured("a"), measured("b", "pairs", 0.2), measured("a", "none", 0)], 10))
    assert page.startswith("3 of 10 configurations are in.")
    assert "| method | all classification | a | b |" in page
    assert "| **winnow** | 1.000 | 1.000 | 1.000 |" in page
    assert "| all | winnow − cleanlab: average precision | 0.500 (0.500 – 0.500) | ≥ 0.1 | yes |" in page
    assert "| all | winnow: share of clean rows flagged, remove | 0.250 | < 0.032 | **no** |" in page
    assert (
        "| **winnow**: remove | 1.000 / 1.000 / 1.000 | – / – / – | 1.000 / 1.000 / 1.000 | 0.250 |" in page
    )
