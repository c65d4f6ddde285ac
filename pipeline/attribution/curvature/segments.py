"""The backward pass of query gradients through the segments of training (arXiv 2405.12186, Eq. 24).

    q ← ∇f(query, final weights)
    for segment = last … first:
        filter of the segment ← F_r(H) q
        q ← F_S(H) q

The score of a training gradient is its inner product with the filter of its segment. H is the EK-FAC curvature:
F(H) V = Q_S [F(Λ) ∘ (Q_Sᵀ V Q_A)] Q_Aᵀ. Eigenbases differ between segments, so a query gradient returns to parameter
space after each segment. Under Adam, a segment has coordinates of its own (``preconditioners.py``).
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
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.curvature.segment_functions import Spectrum
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, rotate, rotate_back
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.products import aligned
from pipeline.attribution.model.coverage import LayerInfo


@dataclass(frozen=True)
class PreparedSegment:
    """The fitted curvature of one segment of training, with which rows are scored.

    Attributes:
        checkpoints: the places of the segment's checkpoints in the trajectory, ascending.
        bases: layer -> eigenvectors of the segment's mean covariances. A frozen layer has none.
        eigenvalues: layer -> Λ ``[out, in]``, means over examples and checkpoints. A frozen layer has none.
        spectrum: the functions of the eigenvalues that the segment applies.
        preconditioners: layer -> its preconditioner. Bases and eigenvalues are those of preconditioned gradients.
        chains: the cache of ``layer_chains``.
    """

    checkpoints: tuple[int, ...]
    bases: Mapping[str, Eigenbasis]
    eigenvalues: Mapping[str, Tensor]
    spectrum: Spectrum
    preconditioners: Mapping[str, Preconditioner] = field(default_factory=dict)
    chains: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def curvature(self, layer: str) -> Tensor:
        """Returns the argument of the spectrum for a layer: Λ plus the weight decay that the spectrum doesn't add.

        The result is ``[out, in]``.
        """
        sigma, preconditioner = self.eigenvalues[layer], self.preconditioners.get(layer)
        if preconditioner is None or preconditioner.decay is None:
            return sigma
        return sigma.clamp(min=0.0) + torch.as_tensor(preconditioner.decay_in(self.bases[layer])).to(sigma)

    def scaled(self, layer: str) -> bool:
        """Returns whether the layer's gradients are scaled in this segment."""
        return layer in self.preconditioners and self.preconditioners[layer].root is not None

    def frozen(self, layer: str) -> bool:
        """Returns whether the whole layer is frozen in this segment."""
        return layer in self.preconditioners and self.preconditioners[layer].frozen


@dataclass(frozen=True)
class LayerSegment:
    """One layer in one segment, with the functions of its eigenvalues evaluated.

    Attributes:
        basis: the eigenvectors.
        injection: F_r(Λ), ``[out, in]``.
        transport: F_S(Λ), ``[out, in]``.
        checkpoints: the number of checkpoints that the segment averages over.
    """

    basis: Eigenbasis
    injection: Tensor
    transport: Tensor
    checkpoints: int


@dataclass(frozen=True)
class PreconditionedSegment:
    """One layer in one segment, with its preconditioner.

    Attributes:
        layer: the layer in the preconditioned coordinates, where gradients are P^{1/2} ∘ G; None if it is frozen.
        preconditioner: P and the weight decay, in the dtype of the layer.
    """

    layer: LayerSegment | None
    preconditioner: Preconditioner


@dataclass(frozen=True)
class PreconditionedChain:
    """One layer in all segments, at least one of which has a preconditioner.

    Attributes:
        segments: the layer in each segment, first to last.
    """

    segments: Sequence[PreconditionedSegment]


@dataclass(frozen=True)
class LayerChain:
    """One layer in all segments, none of which has a preconditioner for it.

    Attributes:
        segments: the layer in each segment, first to last.
        tolerance: the singular values of a transport below this share of the largest are dropped. It is also the
            share of the mean self-influence that Gram matrices may miss. 0 drops nothing.
        eigenvalues: Λ of each segment, as fitted.
    """

    segments: Sequence[LayerSegment]
    tolerance: float
    eigenvalues: Sequence[Tensor]

    @cached_property
    def uniform(self) -> float | None:
        """The number that F_r is for every direction, if there is one segment without curvature; else None."""
        first = self.segments[0]
        if len(self.segments) > 1 or first.basis.input is not None:
            return None
        value = first.injection[0, 0]
        return float(value) if bool((first.injection == value).all()) else None

    @cached_property
    def maps_from_end(self) -> list[OuterMap]:
        """For each segment, the map of an outer product from the end of training to that segment's eigenbasis.

        The map of the last segment is exact. Those of earlier segments use a low-rank form of the transports,
        F_S(Λ) ≈ Σ_r u_r v_rᵀ.
        """
        last = self.segments[-1].basis
        assert last.input is not None  # one-hot inputs are transported column by column
        found = [OuterMap(last.input[None], last.gradient[None])]
        for earlier, later in reversed(list(pairwise(self.segments))):
            assert earlier.basis.input is not None
            assert later.basis.input is not None
            passed = found[0].scaled(*low_rank(later.transport, self.tolerance)).compressed(self.tolerance)
            turn_in = later.basis.input.T @ earlier.basis.input
            found.insert(0, OuterMap(passed.inputs @ turn_in, turn_outputs(passed.outputs, later, earlier)))
        return found

    @cached_property
    def injections(self) -> list[tuple[Tensor, Tensor]]:
        """For each segment, the low-rank form F_r(Λ) ≈ Σ_k u_k v_kᵀ: (u ``[rank, out]``, v ``[rank, in]``).

        The approximation is weighted by Λ, the mean of squared gradients. The weighted error of F_r is then the error
        of the mean self-influence of the fitted rows.
        """
        return [
            weighted_low_rank(segment.injection, sigma.to(segment.injection).clamp(min=0.0), self.tolerance)
            for segment, sigma in zip(self.segments, self.eigenvalues, strict=True)
        ]


def turn_outputs(outputs: Tensor, later: LayerSegment, earlier: LayerSegment) -> Tensor:
    """Returns output gradients ``[..., out]`` in one segment's eigenbasis in that of an earlier segment.

    A layer's basis is the identity in all segments or in none.
    """
    if later.basis.gradient.dim() == 1:
        return outputs
    return outputs @ (later.basis.gradient.T @ earlier.basis.gradient)


def flat_segment(
    layers: Iterable[LayerInfo],
    checkpoints: Sequence[int],
    spectrum: Spectrum,
    preconditioners: Mapping[str, Preconditioner],
) -> PreparedSegment:
    """Returns a segment without curvature, in which nothing is fitted.

    Args:
        layers: the covered layers.
        checkpoints: the places of the segment's checkpoints in the trajectory.
        spectrum: the functions of the eigenvalues, which are all 0.
        preconditioners: layer -> its preconditioner.
    """
    bases, values = {}, {}
    for layer in layers:
        bases[layer.name] = Eigenbasis(None, torch.ones(layer.shape[0], dtype=torch.float64))
        values[layer.name] = torch.zeros((), dtype=torch.float64).expand(layer.shape)
    return PreparedSegment(tuple(checkpoints), bases, values, spectrum, preconditioners)


def layer_chains(
    segments: Sequence[PreparedSegment], like: Tensor, tolerance: float
) -> Mapping[str, LayerChain | PreconditionedChain]:
    """Returns layer -> its chain through all segments, in the dtype and on the device of ``like``.

    The last segment keeps the chains, so a second call with the same segments returns the same objects.

    Args:
        segments: first to last.
        like: a tensor with the dtype and device.
        tolerance: as in ``LayerChain``.
    """
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
) -> LayerChain | PreconditionedChain:
    identity = Preconditioner(None, None)
    preconditioners = [segment.preconditioners.get(name, identity).to(like) for segment in segments]
    if any(preconditioner.root is not None for preconditioner in preconditioners):
        return PreconditionedChain(
            [
                PreconditionedSegment(
                    None if segment.frozen(name) else _layer_segment(segment, name, like), preconditioner
                )
                for segment, preconditioner in zip(segments, preconditioners, strict=True)
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
    query: Mapping[str, Tensor | OuterProducts], segments: Sequence[PreparedSegment]
) -> list[dict[str, Tensor]]:
    """Returns the filters of every segment: the matrices that training gradients are multiplied by.

    Args:
        query: layer -> loss gradient of the query ``[out, in]``, or of several ``[queries, out, in]`` or as outer
            products, which take fewer operations to rotate. float64 is best.
        segments: first to last.

    Returns:
        One dictionary per segment, first to last, with the layers and shapes of ``query``.
    """
    filters: list[dict[str, Tensor]] = [{} for _ in segments]
    for name, gradient in query.items():
        if isinstance(gradient, OuterProducts) and segments[-1].scaled(name):
            gradient = gradient.matrices()
        for place in range(len(segments) - 1, -1, -1):
            segment = segments[place]
            like = gradient.inputs if isinstance(gradient, OuterProducts) else gradient
            if segment.frozen(name):
                filters[place][name] = torch.zeros_like(like)
                continue
            basis, sigma = segment.bases[name].to(like), segment.curvature(name).to(like)
            preconditioner = segment.preconditioners.get(name, Preconditioner(None, None))
            if isinstance(gradient, OuterProducts):
                rotated = gradient.dense(slice(None), basis)
            else:
                rotated = rotate(preconditioner.preconditioned(gradient), basis)
            injected = rotate_back(segment.spectrum.injection(sigma) * rotated, basis)
            filters[place][name] = preconditioner.preconditioned(injected)
            if not place:
                continue
            moved = rotate_back(segment.spectrum.transport(sigma) * rotated, basis)
            before = moved if isinstance(gradient, OuterProducts) else gradient
            gradient = preconditioner.passed(before, moved)
    return filters
