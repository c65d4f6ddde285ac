"""Queries go backwards through the segments of training (arXiv 2405.12186, Eq. 24).

    q ← ∇f(query, final weights)
    for segment = last … first:
        filter of the segment ← F_r(H) q        what the segment's training gradients are multiplied with
        q ← F_S(H) q

H is EK-FAC: F(H) V = Q_S [F(Λ) ∘ (Q_Sᵀ V Q_A)] Q_Aᵀ. Bases differ between segments, so queries return to
parameter space in between. Under Adam a segment works in its own coordinates (``conditioners``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import is_
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.curvature.low_rank import OuterMap, low_rank, weighted_low_rank
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.curvature.segment_functions import Spectrum
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, rotate, rotate_back
from pipeline.attribution.gradients.products import aligned
from pipeline.attribution.model.coverage import LayerInfo


@dataclass(frozen=True)
class PreparedSegment:
    """All that scoring needs of one segment of training.

    Attributes:
        checkpoints: the segment's checkpoints, as places in the trajectory, ascending.
        bases: layer -> eigenvectors of the segment's mean covariances.
        eigenvalues: layer -> Λ ``[out, in]``, means over examples and checkpoints.
        spectrum: what the segment does to a direction of eigenvalue σ.
        conditioners: layer -> what its optimizer does besides; bases and eigenvalues are of conditioned gradients.
            A frozen layer has neither.
        chains: what ``layer_chains`` has made of it.
    """

    checkpoints: tuple[int, ...]
    bases: Mapping[str, Eigenbasis]
    eigenvalues: Mapping[str, Tensor]
    spectrum: Spectrum
    conditioners: Mapping[str, Conditioner] = field(default_factory=dict)
    chains: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def curvature(self, layer: str) -> Tensor:
        """Λ with whatever weight decay the spectrum doesn't add: what the spectrum is a function of."""
        sigma, conditioner = self.eigenvalues[layer], self.conditioners.get(layer)
        if conditioner is None or conditioner.decay is None:
            return sigma
        return sigma.clamp(min=0.0) + torch.as_tensor(conditioner.decay_in(self.bases[layer])).to(sigma)

    def frozen(self, layer: str) -> bool:
        """Whether this segment leaves the layer as it is."""
        return layer in self.conditioners and self.conditioners[layer].frozen


@dataclass(frozen=True)
class LayerSegment:
    """One layer of one segment, ready to multiply with.

    Attributes:
        basis: eigenvectors.
        injection: F_r(Λ) ``[out, in]``.
        transport: F_S(Λ) ``[out, in]``.
        checkpoints: how many checkpoints the segment averages over.
    """

    basis: Eigenbasis
    injection: Tensor
    transport: Tensor
    checkpoints: int


@dataclass(frozen=True)
class ConditionedSegment:
    """One layer of one segment whose gradients are conditioned.

    Attributes:
        layer: in the coordinates P^{1/2} ∘ G; None where the segment leaves the layer as it is.
        conditioner: P, in the layer's precision.
    """

    layer: LayerSegment | None
    conditioner: Conditioner


@dataclass(frozen=True)
class ConditionedChain:
    """One layer in all segments, first to last, at least one of which conditions its gradients."""

    segments: Sequence[ConditionedSegment]


@dataclass(frozen=True)
class LayerChain:
    """One layer in all segments, first to last.

    Attributes:
        segments: the layer in each.
        tolerance: share of the largest singular value below which parts of a transport are dropped, and share of
            the mean self-influence that Gram matrices may miss; 0 drops nothing.
        eigenvalues: Λ in each segment, as fitted.
    """

    segments: Sequence[LayerSegment]
    tolerance: float
    eigenvalues: Sequence[Tensor]

    @cached_property
    def uniform(self) -> float | None:
        """The one number that F_r is in the only segment, where no curvature counts; None elsewhere."""
        first = self.segments[0]
        if len(self.segments) > 1 or first.basis.input is not None:
            return None
        value = first.injection[0, 0]
        return float(value) if bool((first.injection == value).all()) else None

    @cached_property
    def arrivals(self) -> list[OuterMap]:
        """Per segment, how an outer product at the end of training arrives in that segment's eigenbasis.

        Exact for the last segment; through a transport F_S(Λ) ≈ Σ_r u_r v_rᵀ for those before.
        """
        last = self.segments[-1].basis
        assert last.input is not None  # one-hot inputs are transported column by column
        found = [OuterMap(last.input[None], last.gradient[None])]
        for earlier, later in reversed(list(pairwise(self.segments))):
            assert earlier.basis.input is not None
            assert later.basis.input is not None
            passed = found[0].scaled(*low_rank(later.transport, self.tolerance)).compressed(self.tolerance)
            turn_in, turn_out = (
                later.basis.input.T @ earlier.basis.input,
                later.basis.gradient.T @ earlier.basis.gradient,
            )
            found.insert(0, OuterMap(passed.inputs @ turn_in, passed.outputs @ turn_out))
        return found

    @cached_property
    def injections(self) -> list[tuple[Tensor, Tensor]]:
        """Per segment F_r(Λ) ≈ Σ_k u_k v_kᵀ: u ``[rank, out]`` and v ``[rank, in]``.

        Λ is the mean of squared gradients: weighted by it, what F_r misses is what the mean
        self-influence of the fitted rows misses.
        """
        return [
            weighted_low_rank(segment.injection, sigma.to(segment.injection).clamp(min=0.0), self.tolerance)
            for segment, sigma in zip(self.segments, self.eigenvalues, strict=True)
        ]


def flat_segment(
    layers: Iterable[LayerInfo],
    checkpoints: Sequence[int],
    spectrum: Spectrum,
    conditioners: Mapping[str, Conditioner],
) -> PreparedSegment:
    """A segment without curvature: nothing is fitted."""
    bases, values = {}, {}
    for layer in layers:
        size_out, _ = layer.shape
        bases[layer.name] = Eigenbasis(None, torch.eye(size_out, dtype=torch.float64))
        values[layer.name] = torch.zeros((), dtype=torch.float64).expand(layer.shape)
    return PreparedSegment(tuple(checkpoints), bases, values, spectrum, conditioners)


def layer_chains(
    segments: Sequence[PreparedSegment], like: Tensor, tolerance: float
) -> Mapping[str, LayerChain | ConditionedChain]:
    """Layer -> its chain in the dtype and on the device of ``like``; kept as long as the last segment is."""
    key = (like.dtype, like.device, tolerance)
    kept = segments[-1].chains.get(key)
    if kept is not None and len(kept[0]) == len(segments) and all(map(is_, kept[0], segments)):
        return kept[1]
    names = dict.fromkeys(name for segment in segments for name in segment.bases)
    chains = {name: _chain(segments, name, like, tolerance) for name in names}
    segments[-1].chains[key] = (tuple(segments), chains)
    return chains


def _chain(
    segments: Sequence[PreparedSegment], name: str, like: Tensor, tolerance: float
) -> LayerChain | ConditionedChain:
    identity = Conditioner(None, None)
    conditioners = [segment.conditioners.get(name, identity).to(like) for segment in segments]
    if any(conditioner.root is not None for conditioner in conditioners):
        return ConditionedChain(
            [
                ConditionedSegment(
                    None if segment.frozen(name) else _layer_segment(segment, name, like), conditioner
                )
                for segment, conditioner in zip(segments, conditioners, strict=True)
            ]
        )
    return LayerChain(
        [_layer_segment(segment, name, like) for segment in segments],
        tolerance,
        [segment.eigenvalues[name] for segment in segments],
    )


def _layer_segment(segment: PreparedSegment, name: str, like: Tensor) -> LayerSegment:
    sigma = segment.curvature(name)
    injection = aligned(segment.spectrum.injection(sigma).to(like))
    transport = segment.spectrum.transport(sigma).to(like)
    return LayerSegment(segment.bases[name].to(like), injection, transport, len(segment.checkpoints))


def query_filters(
    query: Mapping[str, Tensor], segments: Sequence[PreparedSegment]
) -> list[dict[str, Tensor]]:
    """The query as each segment's training gradients see it.

    Args:
        query: layer -> gradient of the query ``[out, in]`` or of several ``[queries, out, in]``; float64 is
            best.
        segments: first to last.

    Returns:
        One dictionary per segment, first to last, of the same layers and shapes.
    """
    filters: list[dict[str, Tensor]] = [{} for _ in segments]
    for name, gradient in query.items():
        for place in range(len(segments) - 1, -1, -1):
            segment = segments[place]
            if segment.frozen(name):
                filters[place][name] = torch.zeros_like(gradient)
                continue
            basis, sigma = segment.bases[name].to(gradient), segment.curvature(name).to(gradient)
            conditioner = segment.conditioners.get(name, Conditioner(None, None))
            rotated = rotate(conditioner.conditioned(gradient), basis)
            injected = rotate_back(segment.spectrum.injection(sigma) * rotated, basis)
            filters[place][name] = conditioner.conditioned(injected)
            moved = rotate_back(segment.spectrum.transport(sigma) * rotated, basis)
            gradient = conditioner.passed(gradient, moved)
    return filters
