"""Parts for an objective of one's own: output gradients from a rule for drawing labels, or from exact columns."""

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
    """``sampled_output_gradients`` of a loss that is a negative log-likelihood: ∇ loss(outputs, drawn labels).

    Their covariance is the output Hessian when it doesn't depend on the label (an exponential family in its natural
    parameter), and else its mean over the model's labels, the Fisher information.

    Args:
        losses: the objective's own.
        draw: ``(outputs, uniforms float64 [batch] in [0, 1)) -> labels`` as ``losses`` takes them, drawn from the
            distribution that the outputs stand for. More numbers per example: ``random_labels.random_uniforms``.
    """

    def sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG001
        fixed = outputs.detach()
        drawn = draw(fixed, uniforms)
        with torch.enable_grad():
            fixed.requires_grad_()
            return torch.autograd.grad(losses(fixed, drawn).sum(), fixed)[0]

    return sampled


def signed_columns(exact: ExactGradients) -> SampledGradients:
    """``sampled_output_gradients`` from exact columns c: Σ_k ±c_k, whose covariance is Σ_k c_k c_kᵀ."""

    def sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        columns = torch.stack(exact(outputs, labels))
        signs = random_signs(uniforms, len(columns)).to(columns)
        return torch.einsum("kb...,bk->b...", columns, signs)

    return sampled


def no_exact_gradients(_outputs: Tensor, _labels: Tensor | None = None) -> list[Tensor]:
    """The ``exact_output_gradients`` of an objective that only has a rule for drawing labels."""
    raise AttributionError("This objective has no exact output gradients.", "Use labels='sampled'.")
