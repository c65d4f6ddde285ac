"""The front door for a torch loop and nothing else: a trajectory and batches in, one tensor per score out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.capture import Inputs
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.factors import add_tensors
from pipeline.attribution.objectives import Objective, get_objective
from pipeline.attribution.prepare import prepare_segment
from pipeline.attribution.scores import Batch, BatchScores, mean_gradient_sums, query_gradients, score_rows
from pipeline.attribution.spectrum import Spectrum, influence_spectrum, source_spectrum
from pipeline.attribution.trajectory import Trajectory
from pipeline.attribution.transport import query_filters
from pipeline.attribution.weights import restore_weights

# Rows whose batches are held in memory at once while they are scored.
_ROWS_AT_ONCE = 8192
_QUERY = "query"


@dataclass(frozen=True)
class Scores:
    """Scores of all training rows in their order, float64, in nats.

    Attributes:
        self_influence: ``[rows]``, predicted rise of a row's own loss when it is removed.
        harm: ``[rows]``, > 0: removing the row is predicted to lower the mean query loss. None without
            queries.
        influence: ``[queries, rows]``, > 0: removing the row is predicted to raise that query's loss. None
            unless queries are kept apart.
        losses: ``[checkpoints, rows]``; influence functions visit the last checkpoint alone.
        margins: ``[checkpoints, rows]``, or None where the loss has none.
    """

    self_influence: Tensor
    harm: Tensor | None
    influence: Tensor | None
    losses: Tensor
    margins: Tensor | None


@dataclass(frozen=True)
class _TrainBatches:
    """The caller's (inputs, labels) as rows numbered from 0; can be iterated again and again."""

    pairs: Iterable[tuple[Inputs, Tensor]]

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for inputs, labels in self.pairs:
            yield Batch(inputs, labels, torch.arange(first, first + len(labels)))
            first += len(labels)

    def in_groups(self) -> Iterator[list[Batch]]:
        """Consecutive batches with at least ``_ROWS_AT_ONCE`` rows together, except for the last."""
        group: list[Batch] = []
        for batch in self:
            group.append(batch)
            if sum(len(held.row_ids) for held in group) >= _ROWS_AT_ONCE:
                yield group
                group = []
        if group:
            yield group


def attribute(
    model: nn.Module,
    trajectory: Trajectory,
    train: Iterable[tuple[Inputs, Tensor]],
    query: Iterable[tuple[Inputs, Tensor]] | None = None,
    *,
    loss: str = "cross_entropy",
    method: str = "source",
    segments: int = 1,
    query_at: str = "tail",
    labels: str = "sampled",
    seed: int = 0,
    damping: float | None = None,
    reduce_queries: bool = True,
) -> Scores:
    """Attributes the query loss, and every row's own, to the training rows.

    Args:
        model: built as for training; its weights and modes are put back at the end.
        trajectory: the recorded training run.
        train: the training rows as (inputs, labels), always in the same order; iterated several times, so a
            list or a loader without shuffling and augmentation.
        query: rows whose loss is attributed, for example a validation set; also iterated several times.
        loss: ``cross_entropy`` or ``squared_error``, as in training.
        method: ``source``, or ``influence`` for influence functions at the last checkpoint.
        segments: how many segments SOURCE cuts training into; must divide the number of checkpoints.
        query_at: where the query's gradient is taken: at the ``tail`` average or the ``final`` checkpoint.
        labels: ``sampled`` or ``exact`` curvature, as in ``factors.covariance_sums``.
        seed: for sampled labels.
        damping: of influence functions; None means a tenth of each layer's mean eigenvalue.
        reduce_queries: score the mean query loss; False scores every query as well.

    Raises:
        AttributionError: an option is unknown, or ``train`` is empty or can be iterated only once.
    """
    if method not in ("source", "influence") or query_at not in ("tail", "final"):
        raise AttributionError(
            f"method={method!r} with query_at={query_at!r} isn't known.",
            "Use method 'source' or 'influence', and query_at 'tail' or 'final'.",
        )
    if iter(train) is train or (query is not None and iter(query) is query):
        raise AttributionError("The batches can be iterated only once.", "Give a list or a data loader.")
    objective, rows = get_objective(loss), _TrainBatches(train)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def load(checkpoint: int) -> None:
        restore_weights(model, trajectory.load_weights(checkpoint), trajectory.checkpoints[checkpoint].path)

    try:
        prepared = [
            prepare_segment(model, load, objective, rows, places, spectrum, seed=seed, labels=labels)
            for places, spectrum in _spectra(trajectory, method, segments, damping)
        ]
        queries = {}
        if query is not None:
            _load_query_point(model, trajectory, load, rows, query_at)
            gradient = _query_gradient(model, objective, query, reduce_queries)
            queries[_QUERY] = query_filters(gradient, prepared)
        parts = [
            score_rows(model, load, objective, group, prepared, trajectory.train_rows, queries)
            for group in rows.in_groups()
        ]
    finally:
        model.load_state_dict(before)
    return _scores(parts, reduce_queries)


def _spectra(
    trajectory: Trajectory, method: str, count: int, damping: float | None
) -> list[tuple[tuple[int, ...], Spectrum]]:
    """(checkpoints, spectrum) of each segment."""
    if method == "influence":
        return [((len(trajectory.checkpoints) - 1,), influence_spectrum(damping))]
    return [
        (segment.checkpoints, source_spectrum(segment.lr_sum, segment.weight_decay))
        for segment in trajectory.segments(count)
    ]


def _load_query_point(
    model: nn.Module,
    trajectory: Trajectory,
    load: Callable[[int], None],
    rows: Iterable[Batch],
    query_at: str,
) -> None:
    if query_at == "final":
        load(len(trajectory.checkpoints) - 1)
        return
    restore_weights(model, trajectory.load_tail(), trajectory.tail or "")
    if has_batchnorm(model):
        reestimate_batchnorm(model, (batch.inputs for batch in rows))


def _query_gradient(
    model: nn.Module, objective: Objective, query: Iterable[tuple[Inputs, Tensor]], reduce_queries: bool
) -> Mapping[str, Tensor]:
    """Layer -> mean gradient ``[out, in]``, or one per query ``[queries, out, in]``; float64."""
    if not reduce_queries:
        found = [query_gradients(model, objective, inputs, labels) for inputs, labels in query]
        if not found:
            raise AttributionError(
                "There are no queries.", "Give at least one batch of queries, or query=None."
            )
        return {name: torch.cat([part[name] for part in found]).double() for name in found[0]}
    sums: dict[str, Tensor] = {}
    count = 0
    for inputs, labels in query:
        sums = add_tensors(sums, mean_gradient_sums(model, objective, inputs, labels))
        count += len(labels)
    if count == 0:
        raise AttributionError("There are no queries.", "Give at least one batch of queries, or query=None.")
    return {name: value / count for name, value in sums.items()}


def _scores(parts: list[BatchScores], reduce_queries: bool) -> Scores:
    own = [part.self_influence for part in parts if part.self_influence is not None]
    margins = [part.margins for part in parts if part.margins is not None]
    harm = influence = None
    if parts[0].harm:
        harm = torch.cat([part.harm[_QUERY] for part in parts], -1)
        if not reduce_queries:
            influence, harm = -harm, harm.mean(0)
    losses = torch.cat([part.losses for part in parts], 1)
    return Scores(torch.cat(own), harm, influence, losses, torch.cat(margins, 1) if margins else None)
