"""The interface of per-example gradients of a layer, and their rotation into an eigenbasis."""

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
        input: the eigenvectors of A = E[a aᵀ], ``[in, in]``. None is the identity, for an A that is kept as its
            diagonal (embeddings and normalisations).
        gradient: the eigenvectors of S = E[g gᵀ], ``[out, out]``. Ones ``[out]`` are the identity, for an S that is
            kept as its diagonal (normalisations, and layers with very many outputs).
    """

    input: Tensor | None
    gradient: Tensor

    def to(self, like: Tensor) -> Eigenbasis:
        """Returns the same basis in the dtype and on the device of ``like``."""
        inputs = None if self.input is None else aligned(self.input.to(like))
        gradient = self.gradient.to(like)
        return Eigenbasis(inputs, gradient if gradient.dim() == 1 else aligned(gradient))


class HeldGradients(ABC):
    """Per-example gradients of one layer for one batch, in a form that can be stored and added up."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The size of the stored tensors in bytes."""

    @abstractmethod
    def joined(self, others: Sequence[HeldGradients]) -> HeldGradients:
        """Returns the sum, example by example, of these gradients and ``others``, which have the same form."""


class LayerGradients(HeldGradients):
    """Per-example gradients as the backward pass gives them, mostly as factors of the matrices ``[out, in]``."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """The number of outer products that an example's gradient is the sum of."""

    @abstractmethod
    def joined(self, others: Sequence[HeldGradients]) -> LayerGradients:
        """Returns the sum as ``HeldGradients.joined`` does."""

    @abstractmethod
    def with_inputs_of(self, other: HeldGradients) -> LayerGradients | None:
        """Returns these gradients with the input tensors of ``other``, or None unless both have equal inputs."""

    @abstractmethod
    def added(self, other: HeldGradients) -> LayerGradients:
        """Returns the sum, example by example, of these gradients and ``other``, which shares their input tensors."""

    @abstractmethod
    def compact(self) -> HeldGradients:
        """Returns the same gradients in the form that takes the fewest bytes."""

    @abstractmethod
    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        """Returns Σ s² a aᵀ over examples and positions.

        Args:
            row_scale: s, ``[batch]``; None is 1 for every example.

        Returns:
            float64 ``[in, in]``, or the diagonal ``[in]`` if the layer's rule has ``diagonal_input``.
        """

    @abstractmethod
    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        """Returns Σ g gᵀ over examples and positions.

        Args:
            widest: layers with more outputs than this give the diagonal alone; None gives all.

        Returns:
            float64 ``[out, out]``, or the diagonal ``[out]``, as always if the layer's rule has ``diagonal_gradient``.
        """

    @abstractmethod
    def squares(self, basis: Eigenbasis) -> Tensor:
        """Returns Σ over examples of the elementwise squares (Q_Sᵀ G Q_A)²: ``[out, in]``, summed in float64."""

    @abstractmethod
    def total(self) -> Tensor:
        """Returns Σ over examples of G: float64 ``[out, in]``."""

    @abstractmethod
    def matrices(self) -> Tensor:
        """Returns every example's G: ``[batch, out, in]``. This is meant for queries, which are few."""

    @abstractmethod
    def products(self, filters: Tensor) -> Tensor:
        """Returns the inner products ⟨filter, G⟩ of every filter and every example.

        Args:
            filters: ``[out, in]`` for one filter, or ``[queries, out, in]``.

        Returns:
            ``[batch]`` for one filter, else ``[queries, batch]``.
        """


def rotate_outputs(outputs: Tensor, basis: Eigenbasis) -> Tensor:
    """Returns g̃ = Q_Sᵀ g for output gradients g ``[..., out]``, and ``outputs`` itself where Q_S is the identity."""
    return outputs if basis.gradient.dim() == 1 else product(outputs, basis.gradient)


def rotate(matrices: Tensor, basis: Eigenbasis) -> Tensor:
    """Returns Q_Sᵀ G Q_A for matrices G ``[..., out, in]``."""
    rotated = matrices if basis.gradient.dim() == 1 else basis.gradient.T @ matrices
    return rotated if basis.input is None else product(rotated, basis.input)


def rotate_back(matrices: Tensor, basis: Eigenbasis) -> Tensor:
    """Returns Q_S G̃ Q_Aᵀ for matrices G̃ ``[..., out, in]``, the inverse of ``rotate``."""
    rotated = matrices if basis.gradient.dim() == 1 else basis.gradient @ matrices
    return rotated if basis.input is None else rotated @ basis.input.T
