"""Softmax cross-entropy with one label per example or per token, class weights and label smoothing.

Let t = (1 − ε)·onehot(y) + ε/K be the target distribution and w the class weights. The loss is −Σ_c w_c t_c log p_c, as
in torch's ``functional.cross_entropy``. Its output Hessian is s·(diag p − p pᵀ) with s = Σ_c w_c t_c. Without class
weights, s is 1. With class weights, the output Hessian depends on the given label and on ε.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import Objective
from pipeline.attribution.objectives.random_labels import random_signs
from pipeline.attribution.objectives.reductions import (
    MEAN,
    ROW_MEAN,
    SUM,
    check_reduction,
    divided,
    over_the_mean_size,
)

IGNORED = -100
"""The label of padding, which has no loss. It is torch's default ``ignore_index``."""


def cross_entropy(
    *, class_weights: Tensor | None = None, label_smoothing: float = 0.0, reduction: str = SUM
) -> Objective:
    """Returns softmax cross-entropy in nats. The loss of an example with several tokens is the sum over its tokens.

    Outputs are logits ``[batch, classes]`` with labels int64 ``[batch]``, or ``[batch, tokens, classes]`` with
    labels ``[batch, tokens]``. A label of −100 is padding. The margin is the logit of the label minus the largest other
    logit. Examples with several tokens have no margin.

    Args:
        class_weights: float ``[classes]``, positive. They multiply losses as torch's ``weight`` does. Losses are
            divided by the weights of the labels with ``reduction="mean"`` alone.
        label_smoothing: ε in [0, 1).
        reduction: ``sum`` over the tokens of an example; ``mean``, torch's default, over the tokens of a batch: the sum
            divided by the mean number of tokens, or sum of their labels' weights, of a training row; or ``row_mean``
            over the example's own tokens.

    Raises:
        AttributionError: an option is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise AttributionError(f"label_smoothing is {label_smoothing}.", "Give a share from 0, less than 1.")
    if class_weights is not None and not (
        class_weights.dim() == 1 and bool((torch.isfinite(class_weights) & (class_weights > 0)).all())
    ):
        raise AttributionError("Class weights have to be positive numbers, one per class.", "Correct them.")
    check_reduction(reduction, (SUM, MEAN, ROW_MEAN))
    rule = _CrossEntropy(class_weights, label_smoothing)
    options = {"class_weights": class_weights, "label_smoothing": label_smoothing, "reduction": reduction}
    sums = Objective("cross_entropy", rule.losses, rule.margins, rule.sampled, rule.exact, _unknown, options)
    if reduction == MEAN:
        return over_the_mean_size(sums, rule.sizes)
    return divided(sums, _own_tokens) if reduction == ROW_MEAN else sums


def _own_tokens(_outputs: Tensor, labels: Tensor | None) -> Tensor | float:
    """Returns the number of each example's tokens with a label, ``[batch]``, and 1 where there are none."""
    return 1.0 if labels is None else (labels != IGNORED).reshape(len(labels), -1).sum(1).clamp(min=1)


def _unknown(labels: Tensor, classes: int) -> Tensor:
    """Returns the labels that are neither one of the classes nor padding."""
    return labels[((labels < 0) & (labels != IGNORED)) | (labels >= classes)]


@dataclass(frozen=True)
class _CrossEntropy:
    class_weights: Tensor | None
    smoothing: float

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(outputs)
        labels = self._checked(outputs, labels)
        try:
            losses = functional.cross_entropy(
                outputs.movedim(-1, 1),
                labels,
                weight=weights,
                ignore_index=IGNORED,
                reduction="none",
                label_smoothing=self.smoothing,
            )
        except IndexError as error:
            raise AttributionError(
                f"A label is none of the model's {outputs.shape[-1]} classes ({error})",
                "Number the classes from 0.",
            ) from error
        return losses if losses.dim() == 1 else losses.flatten(1).sum(1)

    def sizes(self, labels: Tensor) -> Tensor:
        """Returns each example's part of torch's divisor: its number of tokens, or their labels' weights."""
        kept = (labels != IGNORED).double()
        if self.class_weights is not None:
            # Labels that aren't classes are refused where losses are computed.
            kept = kept * self.class_weights.to(kept)[labels.long().clamp(0, len(self.class_weights) - 1)]
        return kept.reshape(len(labels), -1).sum(1)

    def margins(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        if outputs.dim() > 2:
            return None
        place = self._checked(outputs, labels).clamp(min=0)[:, None]
        margins = outputs.gather(1, place).squeeze(1) - outputs.scatter(1, place, float("-inf")).amax(1)
        return margins.masked_fill(labels == IGNORED, 0.0)

    def sampled(self, outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns √s Σ_k ±√p_k (p − e_k), with random signs.

        Its covariance is that of the gradient of a label drawn from the model. It lacks the rare large gradients of
        improbable labels.
        """
        probabilities = outputs.detach().double().softmax(-1)
        signs = random_signs(uniforms, outputs[0].numel()).reshape(outputs.shape)
        parts = signs * probabilities.sqrt()
        return self._scaled(probabilities * parts.sum(-1, keepdim=True) - parts, outputs, labels)

    def exact(self, outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Returns one column per class, or one per class and token: K·T columns, which suits short sequences only."""
        probabilities = outputs.detach().double().softmax(-1)
        identity = torch.eye(outputs.shape[-1], dtype=torch.float64, device=outputs.device)
        # Σ_k p_k (p − e_k)(p − e_k)ᵀ = diag(p) − p pᵀ.
        columns = [
            self._scaled(
                probabilities[..., k : k + 1].sqrt() * (probabilities - identity[k]), outputs, labels
            )
            for k in range(outputs.shape[-1])
        ]
        if outputs.dim() == 2:
            return columns
        return [_only_token(column, token) for column in columns for token in range(outputs.shape[1])]

    def _scaled(self, gradients: Tensor, outputs: Tensor, labels: Tensor | None) -> Tensor:
        """Returns gradients times √s, where s is that of the module's docstring, and 0 at padding."""
        if labels is None:
            if self.class_weights is not None or outputs.dim() > 2:
                raise AttributionError(
                    "The curvature of cross-entropy with class weights or padding depends on the given labels.",
                    "Give the rows' labels as `given`.",
                )
            return gradients.to(outputs.dtype)
        kept = (self._checked(outputs, labels) != IGNORED).double()
        if self.class_weights is not None:
            weights = self.class_weights.to(kept)
            own = weights[labels.clamp(min=0)]
            kept = kept * ((1 - self.smoothing) * own + self.smoothing * weights.mean())
        return (gradients * kept.sqrt()[..., None]).to(outputs.dtype)

    def _checked(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.dim() < 2 or labels.shape != outputs.shape[:-1]:
            raise AttributionError(
                f"The model's outputs have shape {tuple(outputs.shape)} but the labels {tuple(labels.shape)}.",
                "With cross-entropy give logits whose last dimension is the classes, and one label for each.",
            )
        if self.class_weights is not None and len(self.class_weights) != outputs.shape[-1]:
            raise AttributionError(
                f"There are {len(self.class_weights)} class weights and {outputs.shape[-1]} classes.",
                "Give one weight per class.",
            )
        if labels.dtype != torch.int64:
            raise AttributionError(
                f"The labels are {str(labels.dtype).removeprefix('torch.')}.", "Give classes as int64."
            )
        return labels


def _only_token(column: Tensor, token: int) -> Tensor:
    """Returns a column ``[batch, tokens, classes]`` with zeros at all other tokens.

    The output Hessian has no entries between different tokens.
    """
    found = torch.zeros_like(column)
    found[:, token] = column[:, token]
    return found
