"""α where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import Batch
from pipeline.attribution.curvature.eigenbases import eigenbases
from pipeline.attribution.curvature.factors import covariance_sums, eigenvalue_sums
from pipeline.attribution.curvature.gauss_newton import gauss_newton_form
from pipeline.attribution.curvature.segment_functions import source_spectrum
from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.model.coverage import covered_layers
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.queries.curvature_rows import row_count, rows_inside, scale_rows
from pipeline.attribution.queries.scale import measured_scale, scale_correction

torch.manual_seed(0)


def random_direction(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: torch.randn(layer.shape, dtype=torch.float64) for layer in covered_layers(model)}


def test_alpha_is_one_where_ekfac_is_exact_and_the_filter_solves_its_system() -> None:
    """One Linear layer with one output and squared error: EK-FAC is the exact Gauss–Newton matrix."""
    model = nn.Sequential(nn.Linear(6, 1)).double()
    inputs, objective = torch.randn(50, 6).double(), get_objective("squared_error")
    ids = torch.arange(50)
    sums = covariance_sums(model, objective, inputs, ids, seed=0, checkpoint=0, fisher="exact")
    bases = eigenbases(sums)
    spectra = eigenvalue_sums(model, objective, inputs, ids, bases, seed=0, checkpoint=0, fisher="exact")
    values = {name: value / sums.examples for name, value in spectra.items()}
    segment = PreparedSegment((0,), bases, values, source_spectrum(3.0, 0.01))
    direction = query_filters({"0": torch.randn(1, 7, dtype=torch.float64)}, [segment])[0]
    form = gauss_newton_form(model, objective, Batch(inputs, torch.zeros(50), ids), direction) / 50
    assert scale_correction(segment, direction, form, damping=0.01 + 1 / 3.0) == pytest.approx(1.0, rel=1e-9)


def test_curvature_that_is_four_times_too_small_is_scaled_down_accordingly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = torch.randn(7, 5).double()
    objective, ids = get_objective("cross_entropy"), torch.arange(7)
    sums = covariance_sums(model, objective, inputs, ids, seed=0, checkpoint=0, fisher="exact")
    bases = eigenbases(sums)
    spectra = eigenvalue_sums(model, objective, inputs, ids, bases, seed=0, checkpoint=0, fisher="exact")
    direction = random_direction(model)

    def alpha(factor: float) -> float:
        values = {name: factor * value / sums.examples for name, value in spectra.items()}
        segment = PreparedSegment((0,), bases, values, source_spectrum(1.0))
        form = gauss_newton_form(model, objective, Batch(inputs, torch.zeros(7).long(), ids), direction)
        return scale_correction(segment, direction, form / 7, 0.0)

    assert alpha(0.25) == pytest.approx(alpha(1.0) / 4)


def test_alpha_is_measured_on_the_first_rows_of_an_order_each_at_one_checkpoint_in_turn() -> None:
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(3))
    parts = scale_rows(order, (2, 5, 7))
    found = {int(row): part.checkpoint for part in parts for row in part.rows}
    assert found == {int(row): (2, 5, 7)[place % 3] for place, row in enumerate(order[:1024])}
    assert row_count(parts) == len(found)
    assert [part.checkpoint for part in scale_rows(order[:2], (2, 5, 7))] == [2, 5]


def test_parts_of_the_rows_hold_every_chosen_row_once() -> None:
    parts = scale_rows(torch.randperm(300), (0, 1))
    found = [
        (part.checkpoint, first + int(row))
        for first in (0, 128, 256)
        for part in rows_inside(parts, first, min(128, 300 - first))
        for row in part.rows
    ]
    assert sorted(found) == sorted((part.checkpoint, int(row)) for part in parts for row in part.rows)


@pytest.mark.parametrize("size", [7, 64, 300])
def test_the_measured_alpha_does_not_depend_on_the_batches(size: int) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, ids = torch.randn(300, 5).double(), torch.arange(300)
    objective, direction = get_objective("cross_entropy"), random_direction(model)
    states = [{name: (1 + 0.2 * k) * value for name, value in model.state_dict().items()} for k in range(2)]

    def load(checkpoint: int) -> None:
        model.load_state_dict(states[checkpoint])

    batches = [Batch(inputs[part], torch.zeros(len(part)).long(), part) for part in ids.split(size)]
    bases = {
        layer.name: Eigenbasis(None, torch.ones(layer.shape[0]).double()) for layer in covered_layers(model)
    }
    values = {layer.name: torch.zeros(layer.shape).double() for layer in covered_layers(model)}
    segment = PreparedSegment((0, 1), bases, values, source_spectrum(1.0))
    found = measured_scale(model, load, objective, batches, segment, direction, 0.5, seed=4)
    order, form = torch.randperm(300, generator=torch.Generator().manual_seed(4)), 0.0
    for place, row in enumerate(order):  # all rows are taken, since there are fewer than 1,024
        load(place % 2)
        one = Batch(inputs[row][None], torch.zeros(1).long(), row[None])
        form += gauss_newton_form(model, objective, one, direction) / 300
    damped = 0.5 * sum(float(value.square().sum()) for value in direction.values())
    assert found == pytest.approx(damped / (form + damped), rel=1e-9)
