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
from pipeline.attribution.model.coverage import covered_layers
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.queries.scale import scale_correction

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
