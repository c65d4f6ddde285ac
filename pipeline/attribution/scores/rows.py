"""Scores of training rows: one forward and backward pass per checkpoint gives them all.

Sign and unit, in nats: ``influence`` τ(query, row) is the predicted *rise* of the query's loss when the row
is removed (Eq. 24, with its 1/N); ``harm`` = −τ for the mean query loss, so harm > 0 means that removing the
row lowers it; ``self_influence`` is the predicted rise of the row's own loss when it is removed.

Sums over layers and checkpoints stay on the model's device. The host waits for the device once a batch, when the batch
has been visited at all checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.segments import (
    LayerChain,
    PreconditionedChain,
    PreparedSegment,
    layer_chains,
)
from pipeline.attribution.errors import AttributionError, NonFiniteError
from pipeline.attribution.gradients.layer_gradients import HeldGradients, LayerGradients
from pipeline.attribution.gradients.outer_products import DenseGradients
from pipeline.attribution.model.capture import Capture, capture
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import Filter, products
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.self_influence import self_products

# Bytes of factored gradients that may be held while the checkpoints of a group of batches are visited.
HELD_BYTES = 256 << 20
# Singular values of a segment's transport, relative to the largest, that self-influence neglects.
SELF_INFLUENCE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class BatchScores:
    """Scores of rows, float64 on the CPU, in the order of the rows.

    Attributes:
        self_influence: ``[rows]`` nats, predicted rise of the row's own (weighted) loss on its removal;
            None if not asked for.
        harm: name of the query -> ``[rows]`` nats, > 0: removing the row lowers the query's loss.
            ``[queries, rows]`` where the query's filters hold several.
        losses: ``[checkpoints, rows]`` nats, unweighted, of the checkpoints visited, ascending.
        margins: ``[checkpoints, rows]``, or None where the objective has none.
    """

    self_influence: Tensor | None
    harm: dict[str, Tensor]
    losses: Tensor
    margins: Tensor | None


def score_rows(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Sequence[Batch],
    segments: Sequence[PreparedSegment],
    train_rows: int,
    queries: Mapping[str, Sequence[Mapping[str, Filter]]] | None = None,
    *,
    self_influence: bool = True,
    self_influence_tolerance: float = SELF_INFLUENCE_TOLERANCE,
    held_bytes: int = HELD_BYTES,
    trained_in: Sequence[int] | None = None,
) -> BatchScores:
    """Scores all rows of a chunk with one forward and backward pass per checkpoint.

    Args:
        model: changed in place by ``load_checkpoint``; left with the weights of some checkpoint.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        batches: the chunk's rows; a row's scores don't depend on how they are batched.
        segments: first to last; the last one's last checkpoint is the end of training.
        train_rows: N, the number of rows that training averaged over.
        queries: name -> filters per segment, from ``transport.query_filters`` or, of many queries, from
            ``conductor.find_filters``.
        self_influence: whether to score that as well.
        self_influence_tolerance: singular values of a segment's transport smaller than this share of the
            largest are dropped; the largest error is of the order of this share of the largest score (a few
            times it with few rows, measured). Where Gram matrices are the cheapest form, F_r(Λ) is a sum of outer
            products that misses at most this share of the mean self-influence. 0 is exact and slow.
        held_bytes: how many bytes of gradients self-influence may hold; batches are grouped accordingly, and
            each group loads every checkpoint once.
        trained_in: places of the segments that trained on the rows; None is all. The others only carry on what
            these did, and are not visited but for the end of training, where self-influence asks.

    Raises:
        NonFiniteError: a loss or a score is NaN or infinite; names the row and the checkpoint.
    """
    if not batches or not segments:
        raise AttributionError("There is nothing to score.", "Give at least one batch and one segment.")
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    filters = {name: [_to(one, like) for one in per_segment] for name, per_segment in (queries or {}).items()}
    chains = layer_chains(segments, like, self_influence_tolerance) if self_influence else None
    places = range(len(segments)) if trained_in is None else trained_in
    done: list[_BatchState] = []
    with capture(model) as captured:
        task = _Task(captured, load_checkpoint, objective, segments, train_rows, filters, chains, places)
        while len(done) < len(batches):
            done.extend(task.score_group(batches[len(done) :], held_bytes))
    return _collect(done, filters)


def score_batch(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batch: Batch,
    segments: Sequence[PreparedSegment],
    train_rows: int,
    queries: Mapping[str, Sequence[Mapping[str, Filter]]] | None = None,
    *,
    self_influence: bool = True,
) -> BatchScores:
    """``score_rows`` for a single batch."""
    return score_rows(
        model,
        load_checkpoint,
        objective,
        [batch],
        segments,
        train_rows,
        queries,
        self_influence=self_influence,
    )


@dataclass
class _BatchState:
    """What has been computed so far for one batch."""

    batch: Batch
    losses: dict[int, Tensor] = field(default_factory=dict)
    margins: dict[int, Tensor] = field(default_factory=dict)
    harm: dict[str, Tensor] = field(default_factory=dict)
    self_influence: Tensor | None = None
    query: dict[str, HeldGradients] = field(default_factory=dict)
    training: dict[tuple[int, str], list[HeldGradients]] = field(default_factory=dict)
    merged: dict[tuple[int, str], LayerGradients] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the gradients of one checkpoint."""
        return sum(held.nbytes for held in (self.query | dict(self.merged)).values())

    def merge(self, segment: int, layer: str, gradients: LayerGradients) -> bool:
        """Adds a checkpoint's gradients to those with the same inputs; False if the inputs are others.

        Inputs that are the same at all checkpoints, as the data are, are multiplied and rotated only once.
        """
        first = next((held for (_, name), held in self.merged.items() if name == layer), None)
        same = gradients if first is None else gradients.with_inputs_of(first)
        if same is None:
            return False
        key = (segment, layer)
        self.merged[key] = self.merged[key].added(same) if key in self.merged else same
        return True

    def hold(self, segment: int, layer: str, compact: HeldGradients) -> None:
        """Keeps a checkpoint's gradients, in their smallest form."""
        held = self.training.setdefault((segment, layer), [])
        if held and isinstance(compact, DenseGradients):
            held[0] = held[0].joined([compact])
        else:
            held.append(compact)

    def to_host(self) -> None:
        """Moves what has been computed to the host.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        self.losses, self.margins = _on_host(self.losses), _on_host(self.margins)
        for checkpoint, losses in self.losses.items():
            _check_finite(losses, self.batch, f"The loss at checkpoint {checkpoint}")
        self.harm = {name: values.cpu() for name, values in self.harm.items()}
        if self.self_influence is not None:
            self.self_influence = self.self_influence.cpu()


@dataclass(frozen=True)
class _Task:
    """What is the same for all batches of a chunk."""

    captured: Capture
    load_checkpoint: Callable[[int], None]
    objective: Objective
    segments: Sequence[PreparedSegment]
    train_rows: int
    filters: Mapping[str, Sequence[Mapping[str, Filter]]]
    chains: Mapping[str, LayerChain | PreconditionedChain] | None
    trained_in: Sequence[int]

    def score_group(self, batches: Sequence[Batch], held_bytes: int) -> list[_BatchState]:
        """Scores as many of the first batches as fit in ``held_bytes``, at least one."""
        visits: list[tuple[int | None, int]] = [
            (place, c) for place in self.trained_in for c in self.segments[place].checkpoints
        ]
        visits.reverse()  # the final checkpoint first: it says what is held, and is self-influence's query
        last = self.segments[-1].checkpoints[-1]
        if self.chains is not None and visits[0][1] != last:
            visits.insert(0, (None, last))
        states: list[_BatchState] = []
        self.load_checkpoint(visits[0][1])
        expected_bytes = 0
        for batch in batches:
            state = _BatchState(batch)
            self._visit(state, *visits[0])
            states.append(state)
            expected_bytes += state.nbytes * (1 + len(visits))
            if expected_bytes >= held_bytes:
                break
        for place, checkpoint in visits[1:]:
            self.load_checkpoint(checkpoint)
            for state in states:
                self._visit(state, place, checkpoint)
        for state in states:
            for (place, layer), gradients in state.merged.items():
                self._harm(state, place, layer, gradients)
            if self.chains is not None:
                self._self_influence(state, self.chains)
            state.merged.clear()
            state.to_host()
        return states

    def _visit(self, state: _BatchState, place: int | None, checkpoint: int) -> None:
        """One forward and backward pass of one batch at one checkpoint of a segment, or for the query alone."""
        batch = state.batch
        outputs = self.captured.forward(batch.inputs)
        losses = self.objective.losses(outputs, batch.labels)
        margins = self.objective.margins(outputs.detach(), batch.labels)
        state.losses[checkpoint] = losses.detach().double()
        if margins is not None:
            state.margins[checkpoint] = margins.double()
        if not self.filters and self.chains is None:
            return
        weights = torch.ones_like(losses) if batch.weights is None else batch.weights.to(losses)
        fixed = self.captured.fixed_layers()
        for layer, gradients in self.captured.gradients(losses, weights):
            if place is None:
                state.query[layer] = gradients.compact()
                continue
            merged = layer in fixed and state.merge(place, layer, gradients)
            if not merged:
                self._harm(state, place, layer, gradients)
            if self.chains is None:
                continue
            held = gradients if merged else gradients.compact()
            state.query.setdefault(layer, held)  # the first visit is the final checkpoint's
            if not merged:
                state.hold(place, layer, held)

    def _harm(self, state: _BatchState, place: int, layer: str, gradients: LayerGradients) -> None:
        share = self.train_rows * len(self.segments[place].checkpoints)
        for name, filters in self.filters.items():
            filtered = filters[place][layer]
            if isinstance(filtered, Tensor):
                found = gradients.products(filtered)
            else:
                found = products(gradients, filtered)
            added = -found.double() / share
            state.harm[name] = state.harm[name] + added if name in state.harm else added

    def _self_influence(
        self, state: _BatchState, chains: Mapping[str, LayerChain | PreconditionedChain]
    ) -> None:
        for (place, layer), gradients in state.merged.items():
            compact = gradients.compact()
            if gradients is state.query[layer]:
                state.query[layer] = compact
            state.hold(place, layer, compact)
        total = state.losses[self.segments[-1].checkpoints[-1]].new_zeros(len(state.batch.row_ids))
        for layer, query in state.query.items():
            if layer not in chains:  # frozen in all segments
                continue
            held = [state.training.get((place, layer)) for place in range(len(self.segments))]
            training = [None if parts is None else parts[0].joined(parts[1:]) for parts in held]
            mine = query.compact() if isinstance(query, LayerGradients) else query
            total += self_products(mine, training, chains[layer]) / self.train_rows
        state.self_influence = total
        state.query.clear()
        state.training.clear()


def _on_host(by_checkpoint: dict[int, Tensor]) -> dict[int, Tensor]:
    """Moves tensors of one shape to the host in one copy."""
    if not by_checkpoint:
        return {}
    return dict(zip(by_checkpoint, torch.stack(list(by_checkpoint.values())).cpu(), strict=True))


def _to(filters: Mapping[str, Filter], like: Tensor) -> dict[str, Filter]:
    return {layer: value.to(like) for layer, value in filters.items()}


def _collect(states: Sequence[_BatchState], filters: Mapping[str, object]) -> BatchScores:
    checkpoints = sorted(states[0].losses)
    own = [state.self_influence for state in states if state.self_influence is not None]
    for state in states:
        if state.self_influence is not None:
            _check_finite(state.self_influence, state.batch, "The self-influence")
        for name, values in state.harm.items():
            _check_finite(values, state.batch, f"The harm to {name!r}")
    with_margins = bool(states[0].margins)
    return BatchScores(
        torch.cat(own) if own else None,
        {name: torch.cat([state.harm[name] for state in states], -1) for name in filters},
        torch.stack([torch.cat([state.losses[c] for state in states]) for c in checkpoints]),
        torch.stack([torch.cat([state.margins[c] for state in states]) for c in checkpoints])
        if with_margins
        else None,
    )


def _check_finite(values: Tensor, batch: Batch, what: str) -> None:
    """Values ``[rows]`` or ``[queries, rows]``."""
    wrong = ~torch.isfinite(values)
    if wrong.any():
        place = int(wrong.reshape(-1, values.shape[-1]).any(0).nonzero()[0])
        raise NonFiniteError(
            f"{what} of row {int(batch.row_ids[place])} is NaN or infinite.",
            "Look for NaN in the row and for a training run that diverged.",
        )
