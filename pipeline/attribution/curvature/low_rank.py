"""Low-rank forms of the map that carries a training gradient from the end of training back to an earlier segment.

F ∘ (g aᵀ) is no outer product. But F = exp(−tΛ) is numerically of low rank: with F ≈ Σ_r u_r v_rᵀ, it is the sum
Σ_r (u_r ∘ g)(v_r ∘ a)ᵀ. Over several segments the numbers of terms multiply. The map is a sum of Kronecker products, so
it can be compressed by a singular value decomposition in the Frobenius norm (Van Loan, Pitsianis, "Approximation with
Kronecker products", 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.attribution.gradients.products import aligned_width, product

# The smallest relative singular value that is kept. The decompositions go through Gram matrices, which leave half of
# float64's digits.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class OuterMap:
    """The map gᵀ a -> Σ_k (g B_k)ᵀ (a A_k), with g and a written as rows.

    Attributes:
        inputs: A, ``[terms, in, in]``.
        outputs: B, ``[terms, out, out]``, or the diagonals ``[terms, out]`` where every B is diagonal.
    """

    inputs: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def apply(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the map to outer products given as their factors.

        Args:
            inputs: a, ``[batch, positions, in]``.
            outputs: g, ``[batch, positions, out]``.

        Returns:
            (a A_k ``[batch, positions · terms, in]``, g B_k ``[batch, positions · terms, out]``).
        """
        if self.outputs.dim() == 2:
            found = (outputs[:, :, None] * self.outputs).flatten(1, 2)
        else:
            found = _mapped(outputs, self._flat_outputs)
        return _mapped(inputs, self._flat_inputs), found

    def scaled(self, left: Tensor, right: Tensor) -> OuterMap:
        """Returns this map followed by an elementwise product with F = Σ_r left_r right_rᵀ.

        Args:
            left: ``[rank, out]``.
            right: ``[rank, in]``.
        """
        factor = left if self.outputs.dim() == 2 else left[:, None]
        inputs, outputs = self.inputs[:, None] * right[:, None], self.outputs[:, None] * factor
        return OuterMap(inputs.flatten(0, 1), outputs.flatten(0, 1))

    def compressed(self, tolerance: float) -> OuterMap:
        """Returns the map without the singular values below ``tolerance`` times the largest, in the fewest terms."""
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
    """Decomposes a matrix into outer products, without singular values below ``tolerance`` times the largest.

    Args:
        matrix: ``[out, in]``.
        tolerance: the share of the largest singular value.

    Returns:
        (left ``[rank, out]``, right ``[rank, in]``); the matrix is about Σ_r left_r right_rᵀ.
    """
    wide = matrix.shape[0] > matrix.shape[1]
    short = (matrix.T if wide else matrix).double()
    values, vectors = torch.linalg.eigh(short @ short.T)
    kept = values > (max(tolerance, _SMALLEST) ** 2) * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
    near = vectors[:, kept].T.flip(0)
    found = (near.to(matrix), (near @ short).to(matrix))
    return (found[1], found[0]) if wide else found


def weighted_low_rank(matrix: Tensor, weights: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Decomposes a matrix into outer products that fit best where the weights are large.

    The outer products are singular vectors of the matrix after its rows and columns have been scaled by the roots of
    the mean weights per row and column. There are enough of them for
    Σ weights |matrix − their sum| ≤ tolerance · Σ weights |matrix|.

    Args:
        matrix: ``[out, in]``.
        weights: ``[out, in]``, none negative.
        tolerance: the share of the weighted sum that may be missing.

    Returns:
        (left ``[rank, out]``, right ``[rank, in]``), as ``low_rank`` does.
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
    """Returns the roots of relative weights, none so small that products lose their digits; 1 if all weights are 0."""
    largest = weights.max()
    return (weights / largest).clamp(min=1e-8).sqrt() if largest > 0 else torch.ones_like(weights)


def _gram_root(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Factorises the Gram matrix of terms.

    Returns:
        (R ``[rank, terms]`` for which RᵀR is the Gram matrix, the matrix ``[terms, rank]`` that makes the terms
        orthonormal).
    """
    flat = terms.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = values > _SMALLEST**2 * values[-1]
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    return (vectors * roots).T, vectors / roots


def _mixed(mix: Tensor, terms: Tensor) -> Tensor:
    """Returns Σ_t mix[t, k] terms[t] for every k: ``[kept, size, size]``."""
    return (mix.T @ terms.flatten(1)).view(-1, *terms.shape[1:])


def _side_by_side(terms: Tensor) -> Tensor:
    """Returns terms ``[terms, size, size]`` side by side, ``[size, terms · aligned size]``.

    Each term is padded with zeros so that its rows are aligned.
    """
    count, size, _ = terms.shape
    wide = terms.new_zeros(size, count, aligned_width(size))
    wide[..., :size] = terms.transpose(0, 1)
    return wide.flatten(1)


def _mapped(vectors: Tensor, flat: Tensor) -> Tensor:
    """Returns vectors ``[batch, positions, size]`` times every term: ``[batch, positions · terms, size]``."""
    size = vectors.shape[2]
    found = product(vectors, flat)
    return found.view(len(found), -1, aligned_width(size))[..., :size]
