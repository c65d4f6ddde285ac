"""The tables of the speed benchmark, from a few rows of results."""

from __future__ import annotations

from benchmarks.speed_tables import against_peer, by_rows, in_passes


def test_ratio_goal_and_difference_of_a_task_stand_in_one_line() -> None:
    rows = [
        {"task": "mlp_factors", "method": "winnow", "metric": "seconds", "value": 0.25, "rows": 512},
        {"task": "mlp_factors", "method": "kronfluence", "metric": "seconds", "value": 10.0, "rows": 512},
        {
            "task": "mlp_factors",
            "method": "kronfluence",
            "metric": "ratio",
            "value": 40.0,
            "low": 38,
            "high": 41,
            "rows": 512,
        },
    ]
    assert against_peer(rows).splitlines()[-1] == "| mlp_factors | 512 | 0.25 | 10 | 40 (38 – 41) | ≥ 20 |  |"


def test_audits_are_told_apart_by_segments_and_by_what_factors_are_fitted_on() -> None:
    audit = {
        "task": "source_audit",
        "method": "winnow",
        "metric": "ratio",
        "model": "mlp",
        "rows": 64,
        "segments": 1,
    }
    rows = [
        audit | {"factors": False, "value": 1.5, "low": 1, "high": 2},
        audit | {"factors": True, "covariance_sample": 0.25, "value": 3.5, "low": 3, "high": 4},
    ]
    assert in_passes(rows).splitlines()[-1] == "| mlp | 64 | 1.5 (1 – 2) |  |  |  | 3.5 (3 – 4) |"


def test_growth_has_a_line_per_number_of_rows() -> None:
    line = {"task": "scaling_rows", "method": "winnow", "rows": 10000}
    rows = [
        line | {"metric": "seconds", "value": 0.5},
        line | {"metric": "ratio", "value": 1.0, "low": 0.9, "high": 1.1},
    ]
    assert by_rows(rows).splitlines()[-1] == "| 10,000 | 0.5 | 1 (0.9 – 1.1) |"
