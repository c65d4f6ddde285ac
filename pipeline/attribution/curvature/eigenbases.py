"""The eigenvectors of EK-FAC's covariances, and their form in files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import FactorSums, check_finite
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.trajectory.weights import under

# The most bytes of covariances that are decomposed in one call.
_BATCH_BYTES = 256 << 20


def eigenbases(sums: FactorSums, widest: int | None = None) -> dict[str, Eigenbasis]:
    """Computes the eigenvectors of every layer's covariances.

    The calculation is in float64. Float32 takes a third of the time, but with few rows it changed scores by 1e-3 of the
    largest score.

    Args:
        sums: the covariance sums over all rows and the segment's checkpoints.
        widest: the widest covariance that is decomposed as a whole. A wider one is treated as block diagonal, with
            blocks of at most this width. The cost falls from width³ to width · widest², and the eigenvectors are
            coarser. None never splits.

    Returns:
        layer -> eigenbasis, float64.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity. The message names the layer.
        AttributionError: no examples were summed.
    """
    if sums.examples == 0:
        raise AttributionError("The factors hold no examples.", "Give at least one batch of training rows.")
    covariances: dict[tuple[str, str], Tensor] = {}
    for name, gradient in sums.gradient.items():
        check_finite(sums.input[name], name, "input covariance")
        check_finite(gradient, name, "gradient covariance")
        if gradient.dim() == 2:
            covariances["gradient", name] = gradient
        if sums.input[name].dim() == 2:
            covariances["input", name] = sums.input[name]
    vectors = _all_eigenvectors(covariances, widest)
    return {
        name: Eigenbasis(
            vectors.get(("input", name)), vectors.get(("gradient", name), torch.ones_like(gradient))
        )
        for name, gradient in sums.gradient.items()
    }


def eigenbases_to_tensors(bases: Mapping[str, Eigenbasis]) -> dict[str, Tensor]:
    """Returns the eigenbases as a flat dictionary for safetensors."""
    tensors = {f"gradient/{name}": basis.gradient for name, basis in bases.items()}
    return tensors | {
        f"input/{name}": basis.input for name, basis in bases.items() if basis.input is not None
    }


def eigenbases_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Eigenbasis]:
    """Returns layer -> eigenbasis: the inverse of ``eigenbases_to_tensors``."""
    inputs = under("input/", tensors)
    return {name: Eigenbasis(inputs.get(name), value) for name, value in under("gradient/", tensors).items()}


Key = tuple[str, str]


def _all_eigenvectors(covariances: Mapping[Key, Tensor], widest: int | None) -> dict[Key, Tensor]:
    """Returns the eigenvectors of every covariance. Matrices (or blocks) of one size are decomposed in one call."""
    found = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in covariances.items()}
    by_size: dict[int, list[tuple[Key, slice]]] = {}
    for key, covariance in covariances.items():
        for block in _blocks(len(covariance), widest):
            by_size.setdefault(block.stop - block.start, []).append((key, block))
    for size, places in by_size.items():
        together = max(1, _BATCH_BYTES // (8 * size**2))
        for first in range(0, len(places), together):
            some = places[first : first + together]
            stacked = torch.stack([covariances[key][block, block] for key, block in some]).double()
            vectors = torch.linalg.eigh((stacked + stacked.mT) / 2).eigenvectors
            for (key, block), one in zip(some, vectors, strict=True):
                found[key][block, block] = one
    return found


def _blocks(size: int, widest: int | None) -> list[slice]:
    """Cuts ``size`` into equal parts of at most ``widest``."""
    count = 1 if widest is None else -(-size // widest)
    bounds = [size * place // count for place in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
