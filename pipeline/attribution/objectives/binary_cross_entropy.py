"""Sigmoid cross-entropy, for one binary label per example or for several (multi-label)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import Objective
from pipeline.attribution.objectives.random_labels import random_signs
from pipeline.attribution.objectives.reductions import MEAN, SUM, check_reduction, per_output


def binary_cross_entropy(*, label_smoothing: float = 0.0, reduction: str = SUM) -> Objective:
    """Returns sigmoid cross-entropy in nats, summed over an example's labels.

    Outputs are logits ``[batch, labels]``. Labels are bool, integer or float in [0, 1]: ``[batch, labels]``, or
    ``[batch]`` for one label per example. The margin of a label is its logit, with the sign reversed if the label is at
    most ½. The margin of an example is the smallest of its labels' margins.

    Args:
        label_smoothing: ε in [0, 1). A label y becomes (1 − ε)·y + ε/2. The output Hessian, diag p(1 − p), doesn't
            depend on ε.
        reduction: ``sum`` over the labels of an example, or ``mean``, torch's default.

    Raises:
        AttributionError: an option is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise AttributionError(f"label_smoothing is {label_smoothing}.", "Give a share from 0, less than 1.")
    check_reduction(reduction, (SUM, MEAN))
    rule = _BinaryCrossEntropy(label_smoothing)
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    sums = Objective(
        "binary_cross_entropy",
        rule.losses,
        _margins,
        _sampled,
        _exact,
        options=options,
        hessian_products=_hessian_products,
    )
    return per_output(sums) if reduction == MEAN else sums


@dataclass(frozen=True)
class _BinaryCrossEntropy:
    smoothing: float

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if bool(((labels < 0) | (labels > 1)).any()):
            wrong = labels[(labels < 0) | (labels > 1)][0]
            raise AttributionError(
                f"A label is {float(wrong):g}.", "With binary cross-entropy give labels from 0 to 1."
            )
        targets = _like(outputs, labels).to(outputs.dtype) * (1 - self.smoothing) + self.smoothing / 2
        found = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return found.flatten(1).sum(1)


def _margins(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.where(_like(outputs, labels) > 0.5, outputs, -outputs).flatten(1).amin(1)


def _sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG001
    # Random signs give the same covariance as labels drawn from the model, with a smaller fourth moment.
    signs = random_signs(uniforms, outputs[0].numel()).reshape(outputs.shape)
    return (_deviations(outputs) * signs).to(outputs.dtype)


def _exact(outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:  # noqa: ARG001
    deviations = _deviations(outputs).to(outputs.dtype).flatten(1)
    columns = []
    for k in range(deviations.shape[1]):
        column = torch.zeros_like(deviations)
        column[:, k] = deviations[:, k]
        columns.append(column.reshape(outputs.shape))
    return columns


def _hessian_products(outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor:  # noqa: ARG001
    return changes * _deviations(outputs).square().to(changes.dtype)


def _deviations(outputs: Tensor) -> Tensor:
    """Returns √(p (1 − p)), float64."""
    logits = outputs.detach().double()
    return (torch.sigmoid(logits) * torch.sigmoid(-logits)).sqrt()


def _like(outputs: Tensor, labels: Tensor) -> Tensor:
    if outputs.dim() < 2 or len(labels) != len(outputs) or labels.numel() != outputs.numel():
        raise AttributionError(
            f"The model's outputs have shape {tuple(outputs.shape)} but the labels {tuple(labels.shape)}.",
            "With binary cross-entropy give logits [batch, labels], and a label in [0, 1] for each.",
        )
    return labels.reshape(outputs.shape)
