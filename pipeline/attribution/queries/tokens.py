"""Queries that are single tokens of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs, select_inputs
from pipeline.attribution.objectives import IGNORED


def token_queries(
    inputs: Inputs, labels: Tensor, *, ignore_index: int = IGNORED
) -> tuple[Inputs, Tensor, Tensor]:
    """Makes a query of every token that has a loss: the row's inputs, and labels that are ignored everywhere else.

    With ``reduce_queries=False``, ``attribute`` then scores every token apart. A span of tokens is a query as well:
    labels that are ``ignore_index`` outside of it.

    Args:
        inputs: the model's inputs; the batch is the first dimension.
        labels: int64 ``[batch, tokens]``.
        ignore_index: that of ``cross_entropy``.

    Returns:
        (inputs of the queries, their labels ``[queries, tokens]``, where they are: int64 ``[queries, 2]``, the row and
        the token).

    Raises:
        AttributionError: labels aren't ``[batch, tokens]``, or no token has a loss.
    """
    if labels.dim() != 2:
        raise AttributionError(
            f"The labels have shape {tuple(labels.shape)}.", "Give one label for each token: [rows, tokens]."
        )
    places = (labels != ignore_index).nonzero()
    if not len(places):
        raise AttributionError(f"All labels are {ignore_index}.", "Give tokens with labels.")
    rows, tokens = places.unbind(1)
    own = torch.full((len(places), labels.shape[1]), ignore_index, dtype=labels.dtype, device=labels.device)
    own.scatter_(1, tokens[:, None], labels[rows, tokens][:, None])
    return select_inputs(inputs, rows), own, places
