"""What the tokens of training rows add to their rows' harm.

A row's loss is a sum over its tokens, so its harm is too: token t of row i adds −⟨u, ∇ℓ_it⟩ / N, summed over segments
and averaged over their checkpoints. A forward-mode pass along the filter u gives these products for all tokens at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.errors import AttributionError, NonFiniteError
from pipeline.attribution.model.coverage import matrix_parameters
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.derivatives import token_products
from pipeline.attribution.rows.pass_size import parts_of


def token_harm(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Sequence[Batch],
    segments: Sequence[PreparedSegment],
    train_rows: int,
    filters: Sequence[Mapping[str, Tensor]],
    *,
    trained_in: Sequence[int],
) -> Tensor:
    """Returns the harm of every token, float64 ``[rows, tokens]`` on the CPU. The sum over a row is the row's harm.

    Shorter rows are padded with 0. The model is left with the weights of some checkpoint.

    Args:
        model, load_checkpoint, objective, batches, segments, train_rows, trained_in: as in ``rows.score_rows``.
        filters: per segment, layer -> the filter of one query, ``[out, in]``.

    Raises:
        AttributionError: the objective has no losses of tokens.
        NonFiniteError: a token's harm is NaN or infinite. The message names the row.
    """
    check_tokens(objective)
    found: list[Tensor | None] = [None] * len(batches)
    for place in trained_in:
        segment = segments[place]
        direction = matrix_parameters(model, filters[place])
        for checkpoint in segment.checkpoints:
            load_checkpoint(checkpoint)
            weights = {name: model.get_parameter(name).detach() for name in direction}
            for number, batch in enumerate(batches):
                with evaluation_mode(model):
                    parts = [
                        token_products(model, objective, part, weights, direction).double().cpu()
                        for part in parts_of(model, batch, passes=2)
                    ]
                added = torch.cat(parts) / (-train_rows * len(segment.checkpoints))
                before = found[number]
                found[number] = added if before is None else before + added
    harms = [each for each in found if each is not None]
    for batch, harm in zip(batches, harms, strict=True):
        wrong = ~torch.isfinite(harm).all(1)
        if wrong.any():
            raise NonFiniteError(
                f"The harm of a token of row {int(batch.row_ids[wrong.cpu()][0])} is NaN or infinite.",
                "Look for NaN in the row and for a training run that diverged.",
            )
    return padded(harms)


def check_tokens(objective: Objective) -> None:
    """Raises AttributionError where the objective has no losses of tokens."""
    if objective.token_losses is None:
        raise AttributionError(
            f"The loss {objective.name!r} isn't a sum over tokens.",
            "Leave per_token out, use cross_entropy, or give your objective token_losses.",
        )


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Returns tensors ``[rows, tokens]`` one below the other, the narrower ones padded with 0."""
    widest = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, widest - part.shape[1])) for part in parts])
