"""Low-rank forms of what happens to an outer product between the end of training and an earlier segment.

F ∘ (g aᵀ) is not an outer product, but F = exp(−tΛ) is numerically of low rank, and with F ≈ Σ_r u_r v_rᵀ it
is the sum Σ_r (u_r ∘ g)(v_r ∘ a)ᵀ. Over several segments the numbers of terms multiply; as a sum of Kronecker
products the map is compressed again, by a singular value decomposition in the Frobenius norm (Van Loan,
Pitsianis, "Approximation with Kronecker products", 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.attribution.gradients.products import aligned_width, product

# The decompositions go through Gram matrices, which leave half of float64's digits.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class OuterMap:
    """g aᵀ -> Σ_k (g B_k)(a A_k)ᵀ, with g and a as rows.

    Attributes:
        inputs: A ``[terms, in, in]``.
        outputs: B ``[terms, out, out]``.
    """

    inputs: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def apply(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """a ``[batch, positions, in]`` and g ``[batch, positions, out]`` to ``[batch, positions · terms, …]``."""
        return _mapped(inputs, self._flat_inputs), _mapped(outputs, self._flat_outputs)

    def scaled(self, left: Tensor, right: Tensor) -> OuterMap:
        """Followed by F∘ with F = Σ_r left_r right_rᵀ, ``[rank, out]`` and ``[rank, in]``."""
        inputs, outputs = self.inputs[:, None] * right[:, None], self.outputs[:, None] * left[:, None]
        return OuterMap(inputs.flatten(0, 1), outputs.flatten(0, 1))

    def compressed(self, tolerance: float) -> OuterMap:
        """With the fewest terms that neglect singular values below ``tolerance`` times the largest only."""
        if tolerance <= 0:
            return self
        root_in, back_in = _gram_root(self.inputs)
        root_out, back_out = _gram_root(self.outputs)
        left, values, right = torch.linalg.svd(root_out @ root_in.T)
        kept = int((values > max(tolerance, _SMALLEST) * values[0]).sum())
        mix_out = (back_out @ left[:, :kept] * values[:kept]).to(self.outputs)
        mix_in = (back_in @ right[:kept].T).to(self.inputs)
        return OuterMap(_mixed(mix_in, self.inputs), _mixed(mix_out, self.outputs))

    @cached_property
    def _flat_inputs(self) -> Tensor:
        return _side_by_side(self.inputs)

    @cached_property
    def _flat_outputs(self) -> Tensor:
        return _side_by_side(self.outputs)


def low_rank(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Left ``[rank, out]`` and right ``[rank, in]`` vectors whose outer products sum to ``[out, in]``.

    Singular values below ``tolerance`` times the largest are dropped.
    """
    wide = matrix.shape[0] > matrix.shape[1]
    short = (matrix.T if wide else matrix).double()
    values, vectors = torch.linalg.eigh(short @ short.T)
    kept = values > (max(tolerance, _SMALLEST) ** 2) * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
    near = vectors[:, kept].T.flip(0)
    found = (near.to(matrix), (near @ short).to(matrix))
    return (found[1], found[0]) if wide else found


def weighted_low_rank(matrix: Tensor, weights: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Like ``low_rank``, with terms enough for Σ weights |matrix − their sum| ≤ tolerance · Σ weights |matrix|.

    Singular vectors of the matrix scaled by the means of its ``weights`` (``[out, in]``, none negative) per row and
    column, so that the terms fit where the weights are.
    """
    rows, columns = (_scale(weights.double().mean(dim)) for dim in (1, 0))
    scaled = rows[:, None] * matrix.double() * columns
    left, right = low_rank(scaled, 0.0)
    left, right = left / rows, right / columns
    rest, weights = matrix.double().clone(), weights.double()
    allowed, count = tolerance * (weights * rest.abs()).sum(), 0
    while count < len(left) and (weights * rest.abs()).sum() > allowed:
        rest.addr_(left[count], right[count], alpha=-1)
        count += 1
    return left[:count].to(matrix), right[:count].to(matrix)


def _scale(weights: Tensor) -> Tensor:
    """Roots, of a range that leaves the products their digits; 1 where there are no weights."""
    largest = weights.max()
    return (weights / largest).clamp(min=1e-8).sqrt() if largest > 0 else torch.ones_like(weights)


def _gram_root(terms: Tensor) -> tuple[Tensor, Tensor]:
    """R ``[rank, terms]`` with RᵀR the terms' Gram matrix, and ``[terms, rank]`` that makes them orthonormal."""
    flat = terms.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = values > _SMALLEST**2 * values[-1]
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    return (vectors * roots).T, vectors / roots


def _mixed(mix: Tensor, terms: Tensor) -> Tensor:
    """Σ_t mix[t, k] terms[t]: ``[kept, size, size]``."""
    return (mix.T @ terms.flatten(1)).view(-1, *terms.shape[1:])


def _side_by_side(terms: Tensor) -> Tensor:
    """``[terms, size, size]`` as ``[size, terms · wider]``, each term filled up with zeros to aligned rows."""
    count, size, _ = terms.shape
    wide = terms.new_zeros(size, count, aligned_width(size))
    wide[..., :size] = terms.transpose(0, 1)
    return wide.flatten(1)


def _mapped(vectors: Tensor, flat: Tensor) -> Tensor:
    """``[batch, positions, size]`` by every term: ``[batch, positions · terms, size]``."""
    size = vectors.shape[2]
    found = product(vectors, flat)
    return found.view(len(found), -1, aligned_width(size))[..., :size]
