"""Squared error, without a factor ½."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import Objective, no_margins
from pipeline.attribution.objectives.random_labels import random_signs
from pipeline.attribution.objectives.reductions import MEAN, SUM, check_reduction, per_output


def squared_error(*, reduction: str = SUM) -> Objective:
    """Returns the squared error (output − label)², summed over outputs, without a factor ½.

    Its output Hessian is 2·I. Outputs are ``[batch, outputs]``. Labels are float ``[batch, outputs]``, or ``[batch]``
    for one output.

    Args:
        reduction: ``sum`` over the outputs of an example, or ``mean``, torch's default.

    Raises:
        AttributionError: ``reduction`` is neither.
    """
    check_reduction(reduction, (SUM, MEAN))
    options = {"reduction": reduction}
    sums = Objective(
        "squared_error",
        _losses,
        no_margins,
        _sampled,
        _exact,
        options=options,
        hessian_products=lambda _outputs, _labels, changes: 2.0 * changes,
    )
    return per_output(sums) if reduction == MEAN else sums


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
