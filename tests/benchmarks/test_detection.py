"""The detection benchmark's arithmetic, on rankings and flags that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detection import Finding, measure, summarise

WRONG = np.array([True, False, True, False])


def test_a_perfect_ranking_has_average_precision_and_area_one() -> None:
    found = measure(Finding("m", np.array([0.9, 0.1, 0.8, 0.2])), WRONG)
    assert found == {("average_precision", None): 1.0, ("auroc", None): 1.0}


def test_flags_are_measured_by_name() -> None:
    flags = {"remove": np.array([True, False, False, False]), "all": np.ones(4, dtype=bool)}
    found = measure(Finding("m", np.arange(4.0), flags, trainings=3, full_trainings=2.0), WRONG)
    assert (found["precision", "remove"], found["recall", "remove"]) == (1.0, 0.5)
    assert found["f1", "remove"] == pytest.approx(2 / 3)
    assert (found["precision", "all"], found["flagged_share", "all"]) == (0.5, 1.0)
    assert (found["trainings", None], found["full_trainings", None]) == (3.0, 2.0)


def test_nothing_flagged_is_precision_zero_and_no_error() -> None:
    found = measure(Finding("m", np.arange(4.0), {"remove": np.zeros(4, dtype=bool)}), WRONG)
    assert found["precision", "remove"] == found["recall", "remove"] == 0.0


def test_seeds_are_summed_up_by_mean_and_extremes_and_the_lead_is_paired() -> None:
    metric = "average_precision"
    of_seeds = [
        {(method, metric, None): value for method, value in seed.items()}
        for seed in (
            {"winnow": 0.9, "cleanlab": 0.7, "cleanlab_early": 0.8, "aum": 0.9},
            {"winnow": 0.8, "cleanlab": 0.5, "cleanlab_early": 0.7, "aum": 0.9},
        )
    ]
    rows = {row["method"]: row for row in summarise(("fashion_mnist/uniform/0.1",) * 2, tuple(of_seeds))}
    assert rows["winnow"]["value"] == pytest.approx(0.85)
    assert (rows["winnow"]["low"], rows["winnow"]["high"], rows["winnow"]["n"]) == (0.8, 0.9, 2)
    lead = rows["winnow - cleanlab"]
    assert (lead["value"], lead["low"], lead["high"]) == pytest.approx((0.25, 0.2, 0.3))
    assert lead["met"] is True
