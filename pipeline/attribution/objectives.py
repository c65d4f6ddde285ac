"""Training objectives: per-example loss, margin, and output gradients with the loss's output Hessian.

The curvature needs vectors g in output space with E[g gᵀ] = ∂²loss/∂outputs². Either one vector per example
from a label *sampled from the model* (the true Fisher; the data's labels would give the empirical Fisher,
which collapses as the loss falls), or all columns of an exact root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.random_labels import random_signs


@dataclass(frozen=True)
class Objective:
    """What a model was trained on, as pure functions of its outputs ``[batch, outputs]``.

    Attributes:
        name: the name that ``get_objective`` knows.
        losses: ``(outputs, labels) -> [batch]``, the loss of each example, without row weights.
        margins: ``(outputs, labels) -> [batch]``, or -> None where the notion doesn't exist.
        sampled_output_gradients: ``(outputs, uniforms float64 [batch]) -> [batch, outputs]``, one draw per
            example whose covariance is the output Hessian of the loss.
        exact_output_gradients: ``outputs -> list of [batch, outputs]``; the sum of their outer products is
            the output Hessian.
    """

    name: str
    losses: Callable[[Tensor, Tensor], Tensor]
    margins: Callable[[Tensor, Tensor], Tensor | None]
    sampled_output_gradients: Callable[[Tensor, Tensor], Tensor]
    exact_output_gradients: Callable[[Tensor], list[Tensor]]


def cross_entropy() -> Objective:
    """Softmax cross-entropy in nats; outputs are logits ``[batch, classes]``, labels int64 ``[batch]``.

    The margin is the label's logit minus the largest other logit.
    """
    return Objective(
        "cross_entropy",
        _entropy_losses,
        _entropy_margins,
        _entropy_sampled_gradients,
        _entropy_exact_gradients,
    )


def squared_error() -> Objective:
    """(output − label)², summed over outputs, without a factor ½; its output Hessian is 2·I.

    Outputs are ``[batch, outputs]``, labels float ``[batch, outputs]`` or ``[batch]`` for one output.
    """
    return Objective(
        "squared_error", _squared_losses, _no_margins, _squared_sampled_gradients, _squared_exact
    )


_OBJECTIVES = {"cross_entropy": cross_entropy, "squared_error": squared_error}


def get_objective(name: str) -> Objective:
    """The objective called ``name``.

    Raises:
        AttributionError: there is none of that name.
    """
    if name not in _OBJECTIVES:
        raise AttributionError(f"There is no loss called {name!r}.", f"Use one of: {', '.join(_OBJECTIVES)}.")
    return _OBJECTIVES[name]()


def _entropy_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def _entropy_margins(outputs: Tensor, labels: Tensor) -> Tensor:
    own = outputs.gather(1, labels[:, None]).squeeze(1)
    others = outputs.scatter(1, labels[:, None], float("-inf"))
    return own - others.amax(1)


def _entropy_sampled_gradients(outputs: Tensor, uniforms: Tensor) -> Tensor:
    probabilities = outputs.detach().double().softmax(1)
    cumulative = probabilities.cumsum(1)
    # Scaled by the last entry: rounding may leave it a little off 1.
    below = cumulative <= uniforms[:, None] * cumulative[:, -1:]
    sampled = below.sum(1).clamp(max=outputs.shape[1] - 1)
    hot = functional.one_hot(sampled, outputs.shape[1])
    return (probabilities - hot).to(outputs.dtype)


def _entropy_exact_gradients(outputs: Tensor) -> list[Tensor]:
    probabilities = outputs.detach().double().softmax(1)
    identity = torch.eye(outputs.shape[1], dtype=torch.float64, device=outputs.device)
    # Σ_k p_k (p − e_k)(p − e_k)ᵀ = diag(p) − p pᵀ.
    return [
        (probabilities[:, k : k + 1].sqrt() * (probabilities - identity[k])).to(outputs.dtype)
        for k in range(outputs.shape[1])
    ]


def _residuals(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.numel() != outputs.numel():
        raise AttributionError(
            f"The model's outputs have shape {tuple(outputs.shape)} but the labels {tuple(labels.shape)}.",
            "With squared error give one number per output.",
        )
    return outputs - labels.reshape(outputs.shape).to(outputs.dtype)


def _squared_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return _residuals(outputs, labels).square().flatten(1).sum(1)


def _no_margins(_outputs: Tensor, _labels: Tensor) -> None:
    return None


def _squared_sampled_gradients(outputs: Tensor, uniforms: Tensor) -> Tensor:
    # Random signs have the covariance of Gaussian noise around the prediction, and a smaller fourth moment.
    return (2.0**0.5 * random_signs(uniforms, outputs.shape[1])).to(outputs.dtype)


def _squared_exact(outputs: Tensor) -> list[Tensor]:
    columns = []
    for k in range(outputs.shape[1]):
        column = torch.zeros_like(outputs)
        column[:, k] = 2.0**0.5
        columns.append(column)
    return columns
