"""What a training row's other label would do to the query loss: one more gradient at the same checkpoints.

A row with the label y' instead of y is one row removed and one row added, so that the predicted change of the
query loss is Σ ⟨u, ∇L(x, y) − ∇L(x, y')⟩ / N over segments and checkpoints: the harm of (x, y') minus that of (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import Filter
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.rows import score_rows

_QUERY = "query"


def relabel_effects(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Sequence[Batch],
    new_labels: Sequence[Tensor],
    segments: Sequence[PreparedSegment],
    train_rows: int,
    filters: Sequence[Mapping[str, Filter]],
    *,
    new_weights: Sequence[Tensor | None] | None = None,
    harm: Tensor | None = None,
    trained_in: Sequence[int] | None = None,
) -> Tensor:
    """The predicted change of a query's loss when rows get other labels, float64 ``[rows]``; < 0: it falls.

    Args:
        model, load_checkpoint, objective, batches, segments, train_rows, trained_in: as in ``score_rows``.
        new_labels: of every batch, labels as the batch has them.
        filters: of one query, per segment.
        new_weights: weights of the rows of every batch under their new labels, where labels decide them; None: the
            batches' own.
        harm: ``[rows]`` of the batches as they are, where ``score_rows`` has given it already with the same batches.

    Raises:
        NonFiniteError: as ``score_rows``.
    """
    weights = [batch.weights for batch in batches] if new_weights is None else new_weights
    changed = [
        replace(batch, labels=labels.to(batch.labels), weights=weight)
        for batch, labels, weight in zip(batches, new_labels, weights, strict=True)
    ]

    def harm_of(rows: Sequence[Batch]) -> Tensor:
        return score_rows(
            model,
            load_checkpoint,
            objective,
            rows,
            segments,
            train_rows,
            {_QUERY: filters},
            self_influence=False,
            trained_in=trained_in,
        ).harm[_QUERY]

    return harm_of(changed) - (harm_of(batches) if harm is None else harm)


def check_new_labels(labels: Tensor | None, stages: Sequence[StageRows]) -> None:
    """Raises AttributionError unless there is one new label, of the shape of those given, for every row."""
    if labels is None:
        return
    rows, shape = 0, None
    for batch in (batch for stage in stages for batch in stage):
        rows, shape = max(rows, int(batch.row_ids.max()) + 1), batch.labels.shape[1:]
    if len(labels) != rows or labels.shape[1:] != shape:
        raise AttributionError(
            f"relabel has the shape {tuple(labels.shape)}, "
            f"and the labels of the training rows {(rows, *(shape or ()))}.",
            "Give one label for every training row; rows that keep theirs get their own again.",
        )
