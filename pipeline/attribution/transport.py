"""Queries go backwards through the segments of training (arXiv 2405.12186, Eq. 24).

    q ← ∇f(query, final weights)
    for segment = last … first:
        filter of the segment ← F_r(H) q        what the segment's training gradients are multiplied with
        q ← F_S(H) q

H is EK-FAC: F(H) V = Q_S [F(Λ) ∘ (Q_Sᵀ V Q_A)] Q_Aᵀ. Bases differ between segments, so queries return to
parameter space in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients import Eigenbasis, rotate, rotate_back
from pipeline.attribution.spectrum import Spectrum


@dataclass(frozen=True)
class PreparedSegment:
    """All that scoring needs of one segment of training.

    Attributes:
        checkpoints: the segment's checkpoints, as places in the trajectory, ascending.
        bases: layer -> eigenvectors of the segment's mean covariances.
        eigenvalues: layer -> Λ ``[out, in]``, means over examples and checkpoints.
        spectrum: what the segment does to a direction of eigenvalue σ.
    """

    checkpoints: tuple[int, ...]
    bases: Mapping[str, Eigenbasis]
    eigenvalues: Mapping[str, Tensor]
    spectrum: Spectrum


@dataclass(frozen=True)
class LayerSegment:
    """One layer of one segment, ready to multiply with.

    Attributes:
        basis: eigenvectors.
        injection: F_r(Λ) ``[out, in]``.
        transport: F_S(Λ) ``[out, in]``.
        transport_factors: ``[rank, out]`` and ``[rank, in]`` with F_S(Λ) ≈ Σ_r u_r v_rᵀ, or None.
        checkpoints: how many checkpoints the segment averages over.
    """

    basis: Eigenbasis
    injection: Tensor
    transport: Tensor
    transport_factors: tuple[Tensor, Tensor] | None
    checkpoints: int


def layer_segments(
    segments: Sequence[PreparedSegment], like: Tensor, tolerance: float
) -> dict[str, list[LayerSegment]]:
    """Layer -> its segments, first to last, in the dtype and on the device of ``like``.

    ``tolerance`` > 0 factorises the transport of later segments: singular values below ``tolerance`` times
    the largest are dropped.
    """
    return {
        name: [
            _layer_segment(segment, name, like, tolerance if place > 0 else 0.0)
            for place, segment in enumerate(segments)
        ]
        for name in segments[0].bases
    }


def _layer_segment(segment: PreparedSegment, name: str, like: Tensor, tolerance: float) -> LayerSegment:
    basis, sigma = segment.bases[name], segment.eigenvalues[name]
    transport = segment.spectrum.transport(sigma).to(like)
    factors = None
    if tolerance > 0 and basis.input is not None:
        left, values, right = torch.linalg.svd(transport, full_matrices=False)
        kept = values > tolerance * values[0]
        factors = (left[:, kept] * values[kept]).T, right[kept]
    injection = segment.spectrum.injection(sigma).to(like)
    return LayerSegment(basis.to(like), injection, transport, factors, len(segment.checkpoints))


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
            basis, sigma = segment.bases[name].to(gradient), segment.eigenvalues[name].to(gradient)
            rotated = rotate(gradient, basis)
            filters[place][name] = rotate_back(segment.spectrum.injection(sigma) * rotated, basis)
            gradient = rotate_back(segment.spectrum.transport(sigma) * rotated, basis)
    return filters
