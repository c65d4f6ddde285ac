"""Per-example gradients of the scale and shift of a normalisation; their curvature is taken as diagonal.

The block's matrix is ``[channels, 1]``, or ``[channels, 2]`` with a bias: the first column is the gradient of the
weight, the second that of the bias. The eigenvectors are the identity, and Λ = E[G²] is the diagonal of the Fisher
information matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients.formed_gradients import FormedGradients
from pipeline.attribution.gradients.layer_gradients import HeldGradients


@dataclass(frozen=True)
class DiagonalGradients(FormedGradients):
    """Gradients that are stored as matrices.

    Attributes:
        values: ``[batch, channels, 1]``, or ``[batch, channels, 2]`` with a bias.
    """

    values: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        batch, size_out, size_in = self.values.shape
        return batch, size_out, size_in

    @property
    def positions(self) -> int:
        return 1

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def dense(self, rows: slice) -> Tensor:
        return self.values[rows]

    def with_inputs_of(self, other: HeldGradients) -> None:  # noqa: ARG002 - inputs aren't kept
        return None

    def added(self, other: HeldGradients) -> DiagonalGradients:
        assert isinstance(other, DiagonalGradients)
        return DiagonalGradients(self.values + other.values)

    def joined(self, others: Sequence[HeldGradients]) -> DiagonalGradients:
        parts = [other.values for other in others if isinstance(other, DiagonalGradients)]
        return DiagonalGradients(sum(parts, self.values))

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:  # noqa: ARG002 - in the gradients already
        """Returns Σ G² of every column over examples and channels: float64 ``[in]``.

        ``row_scale`` isn't applied: the gradients contain it already.
        """
        return self.values.double().square().sum((0, 1))

    def gradient_covariance(self, widest: int | None = None) -> Tensor:  # noqa: ARG002 - always diagonal
        """Returns Σ G² of every channel over examples and columns: float64 ``[out]``."""
        return self.values.double().square().sum((0, 2))


def affine_gradients(normalised: Tensor, output_gradients: Tensor, bias: bool) -> DiagonalGradients:
    """Returns the gradients of a layer that computes weight ∘ normalised + bias.

    Args:
        normalised: the values that the weight multiplies, ``[batch, channels, positions]``.
        output_gradients: ``[batch, channels, positions]``.
        bias: whether a bias is trained.
    """
    columns = [(normalised * output_gradients).sum(2)]
    if bias:
        columns.append(output_gradients.sum(2))
    return DiagonalGradients(torch.stack(columns, 2))
