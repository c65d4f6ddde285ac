"""The Gauss–Newton form against a dense matrix, and α where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from pipeline.attribution.coverage import covered_layers, matrix_parameters
from pipeline.attribution.factors import covariance_sums, eigenbases, spectrum_sums
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.scale import gauss_newton_form, scale_correction
from pipeline.attribution.spectrum import source_spectrum
from pipeline.attribution.transport import PreparedSegment, query_filters

torch.manual_seed(0)


def small(kind: str) -> tuple[nn.Module, Tensor]:
    if kind == "mlp":
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(7, 5).double()
    if kind == "conv":
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
        return model.double(), torch.randn(7, 2, 3, 3).double()
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 3))
    return model.double(), torch.randint(6, (7, 3))


def random_direction(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: torch.randn(layer.shape, dtype=torch.float64) for layer in covered_layers(model)}


@pytest.mark.parametrize("kind", ["mlp", "conv", "embedding"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_form_agrees_with_a_dense_gauss_newton_matrix(kind: str, weighted: bool) -> None:
    model, inputs = small(kind)
    direction = random_direction(model)
    weights = torch.rand(7, dtype=torch.float64) if weighted else None
    tensors = matrix_parameters(model, direction)
    names = list(tensors)
    x = torch.cat([tensors[name].flatten() for name in names])
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (inputs,)))(parameters)
    dense = torch.cat([jacobian[name].reshape(7, 3, -1) for name in names], 2)
    p = model(inputs).softmax(1).detach()
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    each = torch.einsum("i,nki,nkl,nlj,j->n", x, dense, hessian, dense, x)
    expected = (each if weights is None else each * weights).sum().item()
    found = gauss_newton_form(model, get_objective("cross_entropy"), inputs, direction, weights)
    assert found == pytest.approx(expected, rel=1e-9)


def test_alpha_is_one_where_ekfac_is_exact_and_the_filter_solves_its_system() -> None:
    """One Linear layer with one output and squared error: EK-FAC is the exact Gauss–Newton matrix."""
    model = nn.Sequential(nn.Linear(6, 1)).double()
    inputs, objective = torch.randn(50, 6).double(), get_objective("squared_error")
    ids = torch.arange(50)
    sums = covariance_sums(model, objective, inputs, ids, seed=0, checkpoint=0, labels="exact")
    bases = eigenbases(sums)
    spectra = spectrum_sums(model, objective, inputs, ids, bases, seed=0, checkpoint=0, labels="exact")
    values = {name: value / sums.examples for name, value in spectra.items()}
    segment = PreparedSegment((0,), bases, values, source_spectrum(3.0, 0.01))
    direction = query_filters({"0": torch.randn(1, 7, dtype=torch.float64)}, [segment])[0]
    form = gauss_newton_form(model, objective, inputs, direction) / 50
    assert scale_correction(segment, direction, form, damping=0.01 + 1 / 3.0) == pytest.approx(1.0, rel=1e-9)


def test_curvature_that_is_four_times_too_small_is_scaled_down_accordingly() -> None:
    model, inputs = small("mlp")
    objective, ids = get_objective("cross_entropy"), torch.arange(7)
    sums = covariance_sums(model, objective, inputs, ids, seed=0, checkpoint=0, labels="exact")
    bases = eigenbases(sums)
    spectra = spectrum_sums(model, objective, inputs, ids, bases, seed=0, checkpoint=0, labels="exact")
    direction = random_direction(model)

    def alpha(factor: float) -> float:
        values = {name: factor * value / sums.examples for name, value in spectra.items()}
        segment = PreparedSegment((0,), bases, values, source_spectrum(1.0))
        return scale_correction(
            segment, direction, gauss_newton_form(model, objective, inputs, direction) / 7, 0.0
        )

    assert alpha(0.25) == pytest.approx(alpha(1.0) / 4)
