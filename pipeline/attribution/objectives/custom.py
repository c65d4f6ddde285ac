"""Functions with which you can build an objective: output gradients from drawn labels or from exact columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import ExactGradients, SampledGradients
from pipeline.attribution.objectives.random_labels import random_signs


def gradients_of_drawn_labels(
    losses: Callable[[Tensor, Tensor], Tensor], draw: Callable[[Tensor, Tensor], Tensor]
) -> SampledGradients:
    """Returns ``sampled_output_gradients`` for a loss that is a negative log-likelihood: ∇ loss(outputs, drawn labels).

    Their covariance is the Fisher information: the mean of the output Hessian over labels drawn from the model. It is
    the output Hessian itself if that doesn't depend on the label, as for an exponential family in its natural
    parameter.

    Args:
        losses: the objective's ``losses``.
        draw: ``(outputs, uniforms float64 [batch] in [0, 1)) -> labels``, drawn from the distribution that the outputs
            describe, in the form that ``losses`` takes. ``random_labels.random_uniforms`` makes more random numbers
            per example.
    """

    def sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG001
        fixed = outputs.detach()
        drawn = draw(fixed, uniforms)
        with torch.enable_grad():
            fixed.requires_grad_()
            return torch.autograd.grad(losses(fixed, drawn).sum(), fixed)[0]

    return sampled


def signed_columns(exact: ExactGradients) -> SampledGradients:
    """Returns ``sampled_output_gradients`` made of exact columns c: Σ_k ±c_k, with the covariance Σ_k c_k c_kᵀ.

    Args:
        exact: the objective's ``exact_output_gradients``.
    """

    def sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        columns = torch.stack(list(exact(outputs, labels)))
        signs = random_signs(uniforms, len(columns)).to(columns)
        return torch.einsum("kb...,bk->b...", columns, signs)

    return sampled


def no_exact_gradients(_outputs: Tensor, _labels: Tensor | None = None) -> list[Tensor]:
    """The ``exact_output_gradients`` of an objective that can only draw labels.

    Raises:
        AttributionError: always.
    """
    raise AttributionError("This objective has no exact output gradients.", "Use fisher='mc'.")
