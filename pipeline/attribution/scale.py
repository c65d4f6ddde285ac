"""The scale of a forecast: one number that repairs what EK-FAC's curvature gets wrong along a query.

The sum of SOURCE's scores over rows is several times too large in nats, since EK-FAC misjudges the curvature along
the query's direction. With one segment, SOURCE's answer x = F_r(Ĥ) q nearly solves (Ĥ + λ) x = q for λ = weight
decay + 1/t, t the sum of effective learning rates; scaled by

    α = ⟨x, (Ĥ + λ) x⟩ / (⟨x, G x⟩ + λ ‖x‖²)

it has the right length for the true Gauss–Newton matrix G, whose product ⟨x, G x⟩ takes one forward-mode pass
over some rows. α is 1 where EK-FAC is exact. Rankings don't change.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from pipeline.attribution.capture import Inputs, covered_layers
from pipeline.attribution.gradients import rotate
from pipeline.attribution.objectives import Objective
from pipeline.attribution.transport import PreparedSegment


def gauss_newton_form(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    direction: Mapping[str, Tensor],
    weights: Tensor | None = None,
) -> float:
    """Σ over rows of xᵀ Jᵀ H J x at the model's present weights, J the Jacobian of a row's outputs, H the output
    Hessian of its loss.

    Args:
        direction: x as layer -> matrix ``[out, in]``, the bias as one more input.
        weights: ``[batch]`` row weights, or None.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    tangents = {name: torch.zeros_like(p) for name, p in parameters.items()}
    tangents |= as_parameters(model, direction)
    was_training = model.training
    model.eval()
    try:
        both = jvp(lambda p: functional_call(model, p, (inputs,)), (parameters,), (tangents,))
    finally:
        model.train(was_training)
    outputs, change = both[0], both[1]
    along = torch.zeros(len(outputs), dtype=torch.float64, device=outputs.device)
    for column in objective.exact_output_gradients(outputs):
        along += (column * change).sum(1).double().square()
    return float((along if weights is None else along * weights).sum())


def as_parameters(model: nn.Module, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer matrices ``[out, in]`` as tensors named and shaped like the parameters of the covered layers."""
    found = {}
    for layer in covered_layers(model):
        module, matrix = model.get_submodule(layer.name), matrices[layer.name]
        weight = module.get_parameter("weight")
        prefix = f"{layer.name}." if layer.name else ""
        if layer.bias:
            found[f"{prefix}bias"] = matrix[:, -1].to(weight)
            matrix = matrix[:, :-1]
        found[f"{prefix}weight"] = (
            (matrix.T if layer.kind == "embedding" else matrix).reshape(weight.shape).to(weight)
        )
    return found


def scale_correction(
    segment: PreparedSegment, direction: Mapping[str, Tensor], mean_form: float, damping: float
) -> float:
    """α of the module's text, for a trajectory of one segment.

    Args:
        segment: its EK-FAC curvature Ĥ.
        direction: x, the query's filter of that segment, as layer -> matrix ``[out, in]``.
        mean_form: ⟨x, G x⟩, `gauss_newton_form` as a mean over rows spread over the segment's checkpoints.
        damping: λ, weight decay plus one over the sum of effective learning rates.
    """
    squared = approximate = 0.0
    for name, matrix in direction.items():
        energy = rotate(matrix.double(), segment.bases[name].to(matrix.double())).square()
        squared += float(energy.sum())
        approximate += float((segment.eigenvalues[name].to(energy).clamp(min=0) * energy).sum())
    return (approximate + damping * squared) / (mean_form + damping * squared)
