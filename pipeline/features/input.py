"""What a model is given under one name, and what rows of such numbers are to the stages that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

    from pipeline.features.encoder import Encoder


class View(Protocol):
    """A space that hardly sees a small pattern that was pasted onto a row."""

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """float `[rows, width]` for encoded rows `[rows, …]`."""


class Input:
    """An input of models. A kind that fills one of its own derives from this class and changes what differs.

    Attributes:
        name: the key of the tensor where a model is given several inputs.
        dtype: of the encoded numbers.
        joins: whether the columns of several features stand side by side in it; else one feature fills it.
        models: the built-in models that take it, the usual one first. `mlp` takes floats of any shape.
        beside: names of the inputs that these models take beside it.
    """

    name: str
    dtype: str = "float32"
    joins: bool = False
    models: tuple[str, ...] = ("mlp",)
    beside: frozenset[str] = frozenset()

    @property
    def stands_alone(self) -> bool:
        """Whether the built-in models take nothing beside it, and one feature in it."""
        return not (self.joins or self.beside)

    def statistics(self, encoders: Sequence[Encoder]) -> dict[str, Any]:  # noqa: ARG002
        """Facts of the train rows that a model is built from, by name; `encoders` are those that fill the input."""
        return {}

    def settle(self, encoders: Sequence[Encoder]) -> None:
        """Called once, when all encoders that fill the input are fitted; here nothing is left to do."""

    def likeness(self, one: np.ndarray, other: np.ndarray, encoders: Sequence[Encoder]) -> np.ndarray:  # noqa: ARG002
        """How alike two rows are, for near-duplicates.

        Args:
            one: encoded rows `[pairs, …]`.
            other: as many.
            encoders: those that fill the input.

        Returns:
            float64 `[pairs]`, 1 for equal rows; here 1 − |a − b|² / (|a|² + |b|²).
        """
        return norm_likeness(one, other)

    def mix(self, rows: np.ndarray, partners: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Half of each row and half of its partner, `[rows, …]`; here each number from either."""
        return np.where(random.random_sample(rows.shape) < 0.5, rows, partners)

    def view(self, rows: np.ndarray, seed: int) -> View:  # noqa: ARG002
        """A view fitted on rows `[rows, …]`; here the first principal components of the standardised numbers."""
        from pipeline.features.views import Components  # sklearn takes a second to load

        return Components(flat, rows)

    def content(self, rows: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """What a model of the rows' content sees, float `[rows, width]`; here the standardised numbers."""
        from pipeline.features.views import standardised

        return standardised(flat(rows))


def flat(rows: np.ndarray) -> np.ndarray:
    """float32 `[rows, width]`."""
    return rows.reshape(len(rows), -1).astype(np.float32)


def norm_likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 `[pairs]`: 1 − |a − b|² / (|a|² + |b|²)."""
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (one, other))
    return 1 - ((a - b) ** 2).sum(1) / np.maximum((a**2).sum(1) + (b**2).sum(1), 1e-12)
