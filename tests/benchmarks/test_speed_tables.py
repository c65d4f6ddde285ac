"""The tables of the speed benchmark, from a few rows of results."""

from __future__ import annotations

from benchmarks.speed_pairs_tables import speed_pairs
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


def test_single_queries_have_time_ratio_and_memory_of_both_sides_in_one_line() -> None:
    pairs = {"task": "pairs_mlp", "rows": 1000, "queries": 100}
    rows = [
        pairs | {"method": "winnow", "metric": "seconds", "value": 2.0},
        pairs | {"method": "kronfluence", "metric": "seconds", "value": 5.0},
        pairs | {"method": "kronfluence", "metric": "ratio", "value": 2.5, "low": 2, "high": 3},
        pairs | {"method": "kronfluence", "metric": "max_relative_difference", "value": 1e-5},
        pairs | {"method": "winnow", "metric": "peak_mb", "value": 900.4},
        pairs | {"method": "kronfluence", "metric": "peak_mb", "value": 1000.0},
    ]
    line = "| MLP | 1,000 × 100 | 2 | 5 | 2.5 (2 – 3) | ≥ 2 | 900 | 1,000 | 1e-05 |"
    assert speed_pairs(rows).splitlines()[-1] == line
