"""Softmax cross-entropy with one label per example or per token, class weights and label smoothing.

Let t = (1 − ε)·onehot(y) + ε/K be the target distribution and w the class weights. The loss is −Σ_c w_c t_c log p_c, as
in torch's ``functional.cross_entropy``. Its output Hessian is s·(diag p − p pᵀ) with s = Σ_c w_c t_c. Without class
weights, s is 1. With class weights, the output Hessian depends on the given label and on ε.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.products import slices_of
from pipeline.attribution.objectives.objective import Columns, Objective
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
"""The default of ``ignore_index``, as in torch."""
# The most bytes of float64 numbers per class and token that are computed at a time.
_SLICE_BYTES = 16 << 20


def cross_entropy(
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = SUM,
    ignore_index: int = IGNORED,
) -> Objective:
    """Returns softmax cross-entropy in nats. The loss of an example with several tokens is the sum over its tokens.

    Outputs are logits ``[batch, classes]`` with labels int64 ``[batch]``, or ``[batch, tokens, classes]`` with
    labels ``[batch, tokens]``. Tokens with the label ``ignore_index`` have no loss, such as padding and prompts. The
    margin is the logit of the label minus the largest other logit. Examples with several tokens have no margin.

    Args:
        class_weights: float ``[classes]``, positive. They multiply losses as torch's ``weight`` does. Losses are
            divided by the weights of the labels with ``reduction="mean"`` alone.
        label_smoothing: ε in [0, 1).
        reduction: ``sum`` over the tokens of an example; ``mean``, torch's default, over the tokens of a batch: the sum
            divided by the mean number of tokens, or sum of their labels' weights, of a training row; or ``row_mean``
            over the example's own tokens.
        ignore_index: the label of tokens without a loss.

    Raises:
        AttributionError: an option is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise AttributionError(f"label_smoothing is {label_smoothing}.", "Give a share from 0, less than 1.")
    if class_weights is not None and not (
        class_weights.dim() == 1 and bool((torch.isfinite(class_weights) & (class_weights > 0)).all())
    ):
        raise AttributionError("Class weights have to be positive numbers, one per class.", "Correct them.")
    if not isinstance(ignore_index, int):
        raise AttributionError(f"ignore_index is {ignore_index!r}.", "Give a whole number, such as -100.")
    check_reduction(reduction, (SUM, MEAN, ROW_MEAN))
    rule = _CrossEntropy(class_weights, label_smoothing, ignore_index)
    options = {
        "class_weights": class_weights,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "ignore_index": ignore_index,
    }
    sums = Objective(
        "cross_entropy",
        rule.losses,
        rule.margins,
        rule.sampled,
        rule.exact,
        rule.unknown,
        options,
        hessian_products=rule.hessian_products,
        token_losses=rule.token_losses,
    )
    if reduction == MEAN:
        return over_the_mean_size(sums, rule.sizes)
    return divided(sums, rule.own_tokens) if reduction == ROW_MEAN else sums


@dataclass(frozen=True)
class _CrossEntropy:
    class_weights: Tensor | None
    smoothing: float
    ignored: int

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.token_losses(outputs, labels).sum(1)

    def token_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the losses of each example's tokens, ``[batch, tokens]``."""
        weights = None if self.class_weights is None else self.class_weights.to(outputs)
        labels = self._checked(outputs, labels)
        try:
            losses = functional.cross_entropy(
                outputs.flatten(0, -2),
                labels.flatten(),
                weight=weights,
                ignore_index=self.ignored,
                reduction="none",
                label_smoothing=self.smoothing,
            )
        except IndexError as error:
            raise AttributionError(
                f"A label is none of the model's {outputs.shape[-1]} classes ({error})",
                "Number the classes from 0.",
            ) from error
        return losses[:, None] if labels.dim() == 1 else losses.view(labels.shape).flatten(1)

    def unknown(self, labels: Tensor, classes: int) -> Tensor:
        """Returns the labels that are neither one of the classes nor ignored."""
        return labels[((labels < 0) | (labels >= classes)) & (labels != self.ignored)]

    def own_tokens(self, _outputs: Tensor, labels: Tensor | None) -> Tensor | float:
        """Returns the number of each example's tokens with a loss, ``[batch]``, and 1 where there are none."""
        if labels is None:
            return 1.0
        return (labels != self.ignored).reshape(len(labels), -1).sum(1).clamp(min=1)

    def sizes(self, labels: Tensor) -> Tensor:
        """Returns each example's part of torch's divisor: its number of tokens, or their labels' weights."""
        kept = (labels != self.ignored).double()
        if self.class_weights is not None:
            # Labels that aren't classes are refused where losses are computed.
            kept = kept * self.class_weights.to(kept)[labels.long().clamp(0, len(self.class_weights) - 1)]
        return kept.reshape(len(labels), -1).sum(1)

    def margins(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        if outputs.dim() > 2:
            return None
        place = self._checked(outputs, labels).clamp(min=0)[:, None]
        margins = outputs.gather(1, place).squeeze(1) - outputs.scatter(1, place, float("-inf")).amax(1)
        return margins.masked_fill(labels == self.ignored, 0.0)

    def sampled(self, outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns √s Σ_k ±√p_k (p − e_k), with random signs.

        Its covariance is that of the gradient of a label drawn from the model. It lacks the rare large gradients of
        improbable labels.
        """
        scale, found = self._scale(outputs, labels), outputs.new_empty(outputs.shape)
        for place, logits in _slices(outputs):
            probabilities = logits.double().softmax(-1)
            rows, first = place[0], place[1].start * logits.shape[2]
            signs = random_signs(uniforms[rows], logits[0].numel(), first).reshape(logits.shape)
            parts = signs * probabilities.sqrt()
            drawn = probabilities * parts.sum(-1, keepdim=True) - parts
            _tokens_of(found)[place] = (drawn if scale is None else drawn * scale[place].sqrt()).to(found)
        return found

    def exact(self, outputs: Tensor, labels: Tensor | None = None) -> Columns:
        """Returns one column per class, or one per class and token: K·T columns, which suits short sequences only."""
        tokens = outputs.shape[1:-1].numel()
        scale = self._scale(outputs, labels)

        def column(place: int) -> Tensor:
            # Σ_k p_k (p − e_k)(p − e_k)ᵀ = diag(p) − p pᵀ, and no entries between different tokens.
            k, token = divmod(place, tokens)
            probabilities = _tokens_of(outputs.detach())[:, token].double().softmax(-1)
            found = probabilities.clone()
            found[:, k] -= 1.0
            found *= probabilities[:, k : k + 1].sqrt()
            if scale is not None:
                found *= scale[:, token].sqrt()
            whole = outputs.new_zeros(outputs.shape)
            _tokens_of(whole)[:, token] = found.to(outputs.dtype)
            return whole

        return Columns(tokens * outputs.shape[-1], column)

    def hessian_products(self, outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor:
        """Returns s (p ∘ v − p ⟨p, v⟩) of every token and change v, for a few tokens at a time."""
        scale, found = self._scale(outputs, labels), changes.new_empty(changes.shape)
        dtype = torch.promote_types(changes.dtype, torch.float32)
        for place, logits in _slices(outputs):
            probabilities = logits.to(dtype).softmax(-1)
            for change, product in zip(changes, found, strict=True):
                along = _tokens_of(change)[place].to(dtype)
                moved = probabilities * (along - (along * probabilities).sum(-1, keepdim=True))
                _tokens_of(product)[place] = moved if scale is None else moved * scale[place].to(moved)
        return found

    def _scale(self, outputs: Tensor, labels: Tensor | None) -> Tensor | None:
        """Returns s of the module's docstring, float64 ``[batch, tokens, 1]``, 0 at ignored tokens; None is 1."""
        if labels is None:
            if self.class_weights is not None or outputs.dim() > 2:
                raise AttributionError(
                    "The curvature of cross-entropy with class weights or padding depends on the given labels.",
                    "Give the rows' labels as `given`.",
                )
            return None
        kept = (self._checked(outputs, labels) != self.ignored).double()
        if self.class_weights is not None:
            weights = self.class_weights.to(kept)
            own = weights[labels.clamp(0, len(weights) - 1)]
            kept = kept * ((1 - self.smoothing) * own + self.smoothing * weights.mean())
        return kept.reshape(len(labels), -1, 1)

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


def _tokens_of(outputs: Tensor) -> Tensor:
    """Returns outputs as ``[batch, tokens, classes]``."""
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])


def _slices(outputs: Tensor, copies: int = 4) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Yields ((rows, tokens), their logits ``[rows, tokens, classes]``) within ``_SLICE_BYTES`` of float64 copies."""
    logits = _tokens_of(outputs.detach())
    batch, count, classes = logits.shape
    for rows in slices_of(batch, 8 * copies * count * classes, _SLICE_BYTES):
        some = logits[rows]
        for tokens in slices_of(count, 8 * copies * len(some) * classes, _SLICE_BYTES):
            yield (rows, tokens), some[:, tokens]
