"""What every kind of per-example gradients of a layer can do, and rotation into an eigenbasis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.attribution.gradients.products import (
    aligned,
    product,
)


@dataclass(frozen=True)
class Eigenbasis:
    """Eigenvectors of a layer's Kronecker factors, as columns.

    Attributes:
        input: ``[in, in]`` of A = E[a aᵀ]; None is the identity (inputs that are one-hot).
        gradient: ``[out, out]`` of S = E[g gᵀ]; ones ``[out]``, a diagonal, are the identity.
    """

    input: Tensor | None
    gradient: Tensor

    def to(self, like: Tensor) -> Eigenbasis:
        """The same basis in the dtype and on the device of ``like``."""
        inputs = None if self.input is None else aligned(self.input.to(like))
        gradient = self.gradient.to(like)
        return Eigenbasis(inputs, gradient if gradient.dim() == 1 else aligned(gradient))


class HeldGradients(ABC):
    """Per-example gradients of one layer for one batch, in any form that can be kept and added up."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the stored tensors take."""

    @abstractmethod
    def joined(self, others: Sequence[HeldGradients]) -> HeldGradients:
        """The sum, example by example, of these gradients and others of the same form."""


class LayerGradients(HeldGradients):
    """Per-example gradients as the backward pass gives them: factors of matrices ``[out, in]``."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """How many outer products make up an example's gradient."""

    @abstractmethod
    def joined(self, others: Sequence[HeldGradients]) -> LayerGradients:
        """As in ``HeldGradients``."""

    @abstractmethod
    def with_inputs_of(self, other: HeldGradients) -> LayerGradients | None:
        """These gradients with the input tensors of ``other``; None unless the two have equal inputs."""

    @abstractmethod
    def added(self, other: HeldGradients) -> LayerGradients:
        """The sum, example by example, with gradients that have the very input tensors of these."""

    @abstractmethod
    def compact(self) -> HeldGradients:
        """The same gradients in whichever form takes the fewest bytes."""

    @abstractmethod
    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        """Σ s² a aᵀ over examples and positions, float64; ``row_scale`` s is ``[batch]`` or None for 1.

        ``[in, in]``, or its diagonal ``[in]`` where it counts as diagonal.
        """

    @abstractmethod
    def gradient_covariance(self) -> Tensor:
        """Σ g gᵀ over examples and positions, float64: ``[out, out]``, or ``[out]`` where it counts as diagonal."""

    @abstractmethod
    def squares(self, basis: Eigenbasis) -> Tensor:
        """Σ over examples of (Q_Sᵀ G Q_A)², elementwise: ``[out, in]``, accumulated in float64."""

    @abstractmethod
    def total(self) -> Tensor:
        """Σ over examples of G: ``[out, in]``, float64."""

    @abstractmethod
    def matrices(self) -> Tensor:
        """Every example's G: ``[batch, out, in]``; for queries, which are few."""

    @abstractmethod
    def products(self, filters: Tensor) -> Tensor:
        """Inner products <filter, G>.

        Filters ``[out, in]`` give ``[batch]``; ``[queries, out, in]`` give ``[queries, batch]``.
        """


def rotate(matrices: Tensor, basis: Eigenbasis) -> Tensor:
    """Q_Sᵀ G Q_A for matrices ``[..., out, in]``."""
    rotated = matrices if basis.gradient.dim() == 1 else basis.gradient.T @ matrices
    return rotated if basis.input is None else product(rotated, basis.input)


def rotate_back(matrices: Tensor, basis: Eigenbasis) -> Tensor:
    """Q_S G̃ Q_Aᵀ for matrices ``[..., out, in]``: the inverse of ``rotate``."""
    rotated = matrices if basis.gradient.dim() == 1 else basis.gradient @ matrices
    return rotated if basis.input is None else rotated @ basis.input.T
