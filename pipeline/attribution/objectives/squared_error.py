"""Squared error, without a factor ½."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import Objective, no_margins
from pipeline.attribution.objectives.random_labels import random_signs


def squared_error() -> Objective:
    """Returns the squared error (output − label)², summed over outputs, without a factor ½.

    Its output Hessian is 2·I. Outputs are ``[batch, outputs]``. Labels are float ``[batch, outputs]``, or ``[batch]``
    for one output.
    """
    return Objective("squared_error", _losses, no_margins, _sampled, _exact)


def _losses(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.numel() != outputs.numel():
        raise AttributionError(
            f"The model's outputs have shape {tuple(outputs.shape)} but the labels {tuple(labels.shape)}.",
            "With squared error give one number per output.",
        )
    residuals = outputs - labels.reshape(outputs.shape).to(outputs.dtype)
    return residuals.square().flatten(1).sum(1)


def _sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG001
    # Random signs give the same covariance as Gaussian noise around the prediction, with a smaller fourth moment.
    return (2.0**0.5 * random_signs(uniforms, outputs.shape[1])).to(outputs.dtype)


def _exact(outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:  # noqa: ARG001
    columns = []
    for k in range(outputs.shape[1]):
        column = torch.zeros_like(outputs)
        column[:, k] = 2.0**0.5
        columns.append(column)
    return columns
