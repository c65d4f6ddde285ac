from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Training
from pipeline.errors import InputError
from pipeline.training.recipe import Recipe, make_recipe


def recipe(schedule: str, steps: int) -> Recipe:
    return Recipe(0.1, 0.9, 0.0, schedule, 8, steps, 0)


def test_steps_are_epochs_times_batches_with_the_last_batch_smaller() -> None:
    made = make_recipe(Training(epochs=3, batch_size=10, checkpoints=2), rows=25, seed=4)
    assert (made.steps, made.batch_size, made.seed) == (9, 10, 4)


def test_fewer_steps_than_checkpoints_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match="only 2 steps") as error:
        make_recipe(Training(epochs=1, batch_size=16, checkpoints=6), rows=20, seed=0)
    assert "Lower training.checkpoints" in str(error.value)


@given(st.integers(2, 500))
def test_schedules_stay_between_zero_and_the_peak(steps: int) -> None:
    for schedule in ("constant", "cosine", "triangular"):
        rates = [recipe(schedule, steps).learning_rate_at(step) for step in range(steps)]
        assert 0 <= min(rates) <= max(rates) <= 0.1 + 1e-12


def test_cosine_falls_and_triangular_rises_then_falls() -> None:
    cosine = [recipe("cosine", 100).learning_rate_at(step) for step in range(100)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[50] == pytest.approx(0.05)
    triangular = [recipe("triangular", 100).learning_rate_at(step) for step in range(100)]
    assert max(triangular) == pytest.approx(0.1)
    assert triangular.index(max(triangular)) in (19, 20)
    assert triangular[0] == pytest.approx(0.005)
    assert triangular[-1] == pytest.approx(0.1 / 80)
