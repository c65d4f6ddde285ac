"""Scores of all rows, put together from stages and groups of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.attribution.scores.rows import BatchScores


@dataclass(frozen=True)
class Scores:
    """Scores of all training rows in their order, float64, in nats.

    Attributes:
        self_influence: ``[rows]``, predicted rise of a row's own loss when it is removed; of a row that several
            stages trained on, the sum of what each did. None of ``representation`` and ``loss``.
        harm: ``[rows]``, > 0: removing the row is predicted to lower the mean query loss. None without
            queries.
        influence: ``[queries, rows]``, > 0: removing the row is predicted to raise that query's loss. None
            unless queries are kept apart.
        losses: ``[checkpoints, rows]``; methods that take gradients at one point alone visit that, ``fast_source`` the
            mean weights of each segment. NaN at checkpoints of stages that didn't train on the row.
        margins: ``[checkpoints, rows]`` in the same way, or None where the loss has none.
        scale: what ``harm`` has been multiplied with to be in nats (``scale.measured_scale``); None means that it is
            uncalibrated: right in order, several times too large in sums. 1 for unrolled methods.
        method: whose ``harm`` is: ``source`` also where unrolling fell back.
        growth: of unrolled methods' derivatives through training (``unrolled.UnrolledHarm``).
        relabel_effect: ``[rows]``, predicted change of the mean query loss when the row gets the label that ``relabel``
            has for it: < 0 helps. With ``harm``'s scale. None without ``relabel``.
        token_harm: ``[rows, tokens]``, what each token of a row adds to the row's ``harm``. It is 0 at tokens without a
            loss and beyond the end of shorter rows. None without ``per_token``.
    """

    self_influence: Tensor | None
    harm: Tensor | None
    influence: Tensor | None
    losses: Tensor
    margins: Tensor | None
    scale: float | None = None
    method: str = "source"
    growth: float | None = None
    relabel_effect: Tensor | None = None
    token_harm: Tensor | None = None


@dataclass
class ScoreTable:
    """Scores as they come in.

    Attributes:
        points: where losses are known, ascending.
        reduced: whether queries are reduced to their mean already.
    """

    points: Sequence[int]
    reduced: bool
    _parts: list[tuple[Tensor, BatchScores, list[int]]] = field(default_factory=list)
    _relabelled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, row_ids: Tensor, part: BatchScores, points: Sequence[int]) -> None:
        """Adds scores of rows ``row_ids`` ``[rows]``, whose losses are of ``points``."""
        self._parts.append((row_ids, part, [self.points.index(point) for point in points]))

    def add_relabelling(self, row_ids: Tensor, effects: Tensor) -> None:
        """Adds what new labels do, ``[rows]``, of rows ``row_ids``."""
        self._relabelled.append((row_ids, effects))

    def add_tokens(self, row_ids: Tensor, harm: Tensor) -> None:
        """Adds what the tokens of rows ``row_ids`` do, ``[rows, tokens]``."""
        self._tokens.append((row_ids, harm))

    def scores(self, scale: float | None) -> Scores:
        rows = 1 + max(int(row_ids.max()) for row_ids, _, _ in self._parts)
        own, harm = torch.zeros(rows, dtype=torch.float64), None
        losses = torch.full((len(self.points), rows), float("nan"), dtype=torch.float64)
        margins: Tensor | None = None
        for row_ids, part, places in self._parts:
            row_ids = row_ids.cpu()
            assert part.self_influence is not None
            own.index_add_(0, row_ids, part.self_influence)
            for found in part.harm.values():
                harm = found.new_zeros(*found.shape[:-1], rows) if harm is None else harm
                harm.index_add_(-1, row_ids, found)
            columns = torch.tensor(places)[:, None]
            losses[columns, row_ids] = part.losses
            if part.margins is not None:
                margins = torch.full_like(losses, float("nan")) if margins is None else margins
                margins[columns, row_ids] = part.margins
        influence = None
        if harm is not None and not self.reduced:
            influence, harm = -harm, harm.mean(0)
        if harm is not None and scale is not None:
            harm = harm * scale
        relabelled = None
        for row_ids, effects in self._relabelled:
            relabelled = own.new_zeros(rows) if relabelled is None else relabelled
            relabelled.index_add_(0, row_ids.cpu(), effects * (1.0 if scale is None else scale))
        return Scores(
            own,
            harm,
            influence,
            losses,
            margins,
            scale,
            relabel_effect=relabelled,
            token_harm=self._token_harm(rows, 1.0 if scale is None else scale),
        )

    def _token_harm(self, rows: int, scale: float) -> Tensor | None:
        if not self._tokens:
            return None
        found = torch.zeros(rows, max(harm.shape[1] for _, harm in self._tokens), dtype=torch.float64)
        for row_ids, harm in self._tokens:
            found[:, : harm.shape[1]].index_add_(0, row_ids.cpu(), harm * scale)
        return found
