"""The measures of the benchmark on one file, against numbers that can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.detection_findings import Finding
from benchmarks.one_file.arms import Arm, arms_of_decisions
from benchmarks.one_file.audits import proposals_of
from benchmarks.one_file.configurations import Configuration
from benchmarks.one_file.measures import (
    accuracy_rows,
    bins_of,
    calibration_error,
    calibration_floor,
    finding_rows,
    noise_rows,
    paired,
)
from benchmarks.one_file.summary import Measured, targets


def by_metric(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["metric"]: row["value"] for row in rows}


def test_rows_that_were_not_judged_do_not_count() -> None:
    finding = Finding(
        "m", np.array([0.9, 0.8, np.nan, 0.1]), {"flagged": np.array([True, True, False, False])}
    )
    rows = finding_rows(finding, np.array([True, False, True, False]))
    assert by_metric(rows) == {
        "average_precision": 1.0,
        "flagged_share": pytest.approx(2 / 3),
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
    }
    assert {row["n"] for row in rows} == {3}


def test_a_clean_file_has_a_flagged_share_and_no_precision() -> None:
    finding = Finding("m", np.array([0.9, 0.8]), {"flagged": np.array([True, False])})
    assert by_metric(finding_rows(finding, np.zeros(2, dtype=bool))) == {"flagged_share": 0.5}


def test_an_estimate_is_held_against_the_truth_and_its_interval() -> None:
    found = by_metric(noise_rows("winnow", {"value": 0.08, "low": 0.05, "high": 0.09}, 0.1, 10))
    assert found["noise_error"] == pytest.approx(0.02)
    assert found["noise_interval_holds"] == 0.0
    assert by_metric(noise_rows("winnow", None, 0.1, 10)) == {"noise_estimated": 0.0}


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    # Bin .9-1: mean probability .95, right 1/2; bin .2-.3: .25, right 1/4. (2 * .45 + 4 * 0) / 6.
    probability = np.array([0.95, 0.95, 0.25, 0.25, 0.25, 0.25])
    right = np.array([True, False, True, False, False, False])
    assert calibration_error(bins_of(probability, right)) == pytest.approx(2 * 0.45 / 6)
    assert calibration_error(bins_of(np.array([1.0]), np.array([True]))) == 0.0


def test_calibration_floor_is_what_right_probabilities_show() -> None:
    random = np.random.RandomState(0)
    probability = random.random_sample(60)
    shown = [
        calibration_error(bins_of(probability, random.random_sample(60) < probability)) for _ in range(400)
    ]
    floor = calibration_floor(bins_of(probability, probability > 0.5))
    assert floor == pytest.approx(np.mean(shown), rel=0.1)


def test_a_t_interval_over_paired_seeds() -> None:
    mean, low, high = paired(np.array([0.01, 0.02, 0.03]))
    assert mean == pytest.approx(0.02)
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(4.30265 * 0.01 / np.sqrt(3), rel=1e-4)


def test_worse_takes_more_than_half_a_point_and_an_interval_below_zero() -> None:
    given = [0.9, 0.9, 0.9]
    for scores, expected in (
        ([0.89, 0.889, 0.891], 1.0),
        ([0.897, 0.8971, 0.8969], 0.0),  # below, but by less than half a point
        ([0.85, 0.9, 0.9], 0.0),  # its interval holds 0
    ):
        rows = accuracy_rows({"as_given": given, "removed": scores})
        found = {row["metric"]: row["value"] for row in rows if row["method"] == "removed"}
        assert found["got_worse"] == expected
        assert found["lower_at_all"] == 1.0


def lines(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


def test_a_proposal_is_what_the_rule_said_before_the_gate() -> None:
    table = lines(decision=["review", "keep", None], proposed=["remove", None, None])
    assert proposals_of(table).to_pylist() == ["remove", "keep", None]
    assert proposals_of(table.select(["decision"])).to_pylist() == ["review", "keep", None]


def test_arms_follow_the_proposals() -> None:
    given = pa.array([0, 1, 2, 0, 1])
    proposals = pa.array(["remove", "relabel", "relabel", "review", None])
    table = lines(suggested_label=[1, 2, None, 1, None], new_label=[None, 0, None, None, None])
    arms = arms_of_decisions(given, proposals, table)
    assert arms["removed"].keep.tolist() == [False, False, False, True, True]
    assert arms["relabelled"].keep.tolist() == [True, True, False, True, True]
    assert arms["relabelled"].labels is not None
    assert arms["relabelled"].labels.to_pylist() == [1, 2, 2, 0, 1]
    assert arms["mixed"].keep.tolist() == [False, True, False, True, True]
    assert arms["mixed"].labels is not None
    assert arms["mixed"].labels.to_pylist() == [0, 0, 2, 0, 1]


def test_an_arm_is_known_by_its_rows_and_labels() -> None:
    keep = np.array([True, False, True])
    first = Arm(keep, pa.array([0, 1, 2]))
    assert (
        first.hash == Arm(keep.copy(), pa.array([0, 9, 2])).hash
    )  # the label of a removed row is no part of it
    assert first.hash != Arm(keep, pa.array([0, 1, 1])).hash
    assert first.hash != Arm(keep).hash


def row(method: str, metric: str, value: Any) -> tuple[tuple[str, str], dict[str, Any]]:
    return (method, metric), {"method": method, "metric": metric, "value": value}


def test_targets_say_what_is_met() -> None:
    values = dict(
        [
            row("planted", "share", 0.1),
            row("winnow", "noise_estimated", 1.0),
            row("winnow", "noise_estimate", 0.004),
            row("winnow", "noise_error", 0.096),
            row("winnow", "f1", 0.6),
            row("winnow", "average_precision", 0.8),
            row("panel_trees", "average_precision", 0.7),
            row("cleanlab_mlp", "f1", 0.5),
            row("cleanlab_mlp", "average_precision", 0.82),
        ]
    )
    found = {
        line["metric"]: line
        for line in targets([Measured(Configuration("digits", "uniform", 0.1, 0), values, {})])
    }
    assert not found["noise_error"]["met"]
    assert found["estimates below 1 % of 5 % and more"]["value"] == 1.0
    assert found["f1 over cleanlab"]["value"] == pytest.approx(0.1)
    assert found["f1 over cleanlab"]["met"]
    assert found["average_precision over cleanlab"]["value"] == pytest.approx(-0.02)
    assert found["average_precision over cleanlab, lowest of a set"]["set"] == "digits"
    assert not found["average_precision over cleanlab, lowest of a set"]["met"]
    assert found["average_precision over the best single judge"]["value"] == pytest.approx(0.1)
