"""SOURCE with one segment per step against exact differentiation through training, for every optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .unrolling import LinearRun, StageSpec, correlation, regression_rows, relative_error

ROWS = regression_rows(24, 0)
ALL = range(24)
SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS = {
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.8}),
    "dampening": (SGD, {"lr": 0.4, "momentum": 0.8, "dampening": 0.5}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "decay": (SGD, {"lr": 0.3, "weight_decay": 0.5}),
    "adam": (ADAM, {"lr": 0.3, "betas": (0.8, 0.9)}),
    "adam-l2": (ADAM, {"lr": 0.3, "betas": (0.5, 0.9), "weight_decay": 0.3}),
    "adamw": (ADAMW, {"lr": 0.3, "betas": (0.5, 0.9), "weight_decay": 0.5}),
}


def run_of(directory: Path, name: str, steps: int, total: float = 1.0, **spec: object) -> LinearRun:
    optimizer, options = OPTIMIZERS[name]
    options = options | {"lr": total * options["lr"] / steps}
    return LinearRun(directory, ROWS, [StageSpec(ALL, steps, steps, optimizer, options, **spec)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_segment_per_step_converges_to_exact_unrolling(tmp_path: Path, name: str) -> None:
    errors = []
    for place, steps in enumerate((30, 90)):
        run = run_of(tmp_path / str(place), name, steps)
        exact, found = run.unrolled_harm(), run.scores(segments=steps).harm
        errors.append(relative_error(found, exact))
    assert errors[1] < 0.04
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("name", ["momentum", "dampening", "nesterov", "adam"])
def test_so_short_a_run_has_exact_sums_where_curvature_is_negligible(tmp_path: Path, name: str) -> None:
    """Twelve steps, where the steady state's factor 1/(1 − β) is far off."""
    run = run_of(tmp_path, name, 12, total=1e-4)
    exact = run.unrolled_harm()
    assert relative_error(run.scores(segments=12).harm, exact) < 1e-3
    assert relative_error(run.scores(segments=3).harm, exact) < 1e-2


def test_learning_rate_schedules_enter_by_their_sums(tmp_path: Path) -> None:
    rates = [0.02 * min(step + 1, 40 - step) / 20 for step in range(40)]
    run = LinearRun(tmp_path, ROWS, [StageSpec(ALL, 40, 40, SGD, {"lr": 0.1, "momentum": 0.5}, rates=rates)])
    assert relative_error(run.scores(segments=40).harm, run.unrolled_harm()) < 0.06


@pytest.mark.parametrize("name", ["decay", "adamw", "adam-l2"])
def test_groups_have_their_own_learning_rates_and_weight_decay(tmp_path: Path, name: str) -> None:
    errors = []
    for place, steps in enumerate((30, 90)):
        rate = OPTIMIZERS[name][1]["lr"] / steps
        groups = ({"lr": rate, "weight_decay": 0.5}, {"lr": rate / 3, "weight_decay": 0.0})
        run = run_of(tmp_path / str(place), name, steps, groups=groups)
        errors.append(relative_error(run.scores(segments=steps).harm, run.unrolled_harm()))
    # The decay's part off the diagonal of the eigenbasis is neglected.
    assert errors[1] < 0.06


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_few_segments_correlate_with_exact_unrolling(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path, name, 60)
    exact = run.unrolled_harm()
    for segments in (2, 6):
        assert correlation(run.scores(segments=segments).harm, exact) > 0.99


def test_taking_adam_for_gradient_descent_is_far_off(tmp_path: Path) -> None:
    run = run_of(tmp_path, "adamw", 60)
    exact = run.unrolled_harm()
    wrong = run.scores(segments=60, method="source_sgd_formula").harm
    assert relative_error(wrong, exact) > 5 * relative_error(run.scores(segments=60).harm, exact)


def test_self_influence_is_the_harm_of_the_row_to_itself(tmp_path: Path) -> None:
    """Through the dense path of preconditioned layers: one query per row, in several segments."""
    for name in ("adamw", "momentum"):
        run = run_of(tmp_path / name, name, 30)
        run.query = run.rows
        found = run.scores(segments=5, reduce_queries=False)
        torch.testing.assert_close(found.self_influence, found.influence.diagonal(), rtol=1e-3, atol=1e-9)


PRE, FINE = range(12), range(8, 24)


def two_stages(directory: Path, first: str, second: str, steps: int) -> LinearRun:
    rows = regression_rows(24, 0, shift=0.3)
    specs = []
    for name, ids in ((first, PRE), (second, FINE)):
        optimizer, options = OPTIMIZERS[name]
        specs.append(StageSpec(ids, steps, steps, optimizer, options | {"lr": options["lr"] / steps}))
    return LinearRun(directory, rows, specs)


@pytest.mark.parametrize(
    ("first", "second"), [("momentum", "decay"), ("momentum", "adamw"), ("adamw", "adam")]
)
def test_two_stages_with_rows_of_their_own_converge_to_exact_unrolling(
    tmp_path: Path, first: str, second: str
) -> None:
    errors = []
    for place, steps in enumerate((30, 90)):
        run = two_stages(tmp_path / str(place), first, second, steps)
        exact, found = run.unrolled_harm(), run.scores(segments=steps)
        errors.append(relative_error(found.harm, exact))
    assert errors[1] < 0.08
    assert errors[1] < 0.6 * errors[0]
    assert run.trajectory.stages[0].train_rows == 12
    assert torch.isnan(found.losses[:90, 12:]).all()
    assert torch.isfinite(found.losses[-1]).all()
    assert correlation(run.scores(segments=1).harm, exact) > 0.95


def test_self_influence_in_stages_sums_what_each_did(tmp_path: Path) -> None:
    run = two_stages(tmp_path, "momentum", "adamw", 30)
    run.query = run.rows
    found = run.scores(segments=(2, 3), reduce_queries=False)
    torch.testing.assert_close(found.self_influence, found.influence.diagonal(), rtol=2e-3, atol=1e-9)


def test_a_frozen_parameter_is_not_moved_and_its_rows_not_blamed(tmp_path: Path) -> None:
    specs = [
        StageSpec(PRE, 40, 40, SGD, {"lr": 0.2 / 40, "momentum": 0.5}),
        StageSpec(FINE, 40, 40, ADAMW, {"lr": 0.3 / 40, "betas": (0.5, 0.9)}, trains=(False, True)),
    ]
    run = LinearRun(tmp_path, ROWS, specs)
    exact, found = run.unrolled_harm(), run.scores(segments=40).harm
    # Only what the frozen weight does to the bias of its own layer is neglected.
    assert correlation(found[12:], exact[12:]) > 0.999
    assert relative_error(found[12:], exact[12:]) < 0.05
    assert correlation(found[:8], exact[:8]) > 0.9
