"""Per-example gradients of a grouped convolution, in which each group has its own part of the inputs.

The weight ``[out, in]`` has the groups one below the other. Each group of an example is treated as an example of its
own, of a smaller layer. All groups therefore share one A. S is block diagonal, with one block per group, and so are its
eigenvectors. Λ has an entry of its own for every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients.formed_gradients import FormedGradients
from pipeline.attribution.gradients.layer_gradients import HeldGradients
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.patch_gradients import PatchGradients
from pipeline.attribution.gradients.products import SUMMED_ROWS, slices_of


@dataclass(frozen=True)
class GroupedGradients(FormedGradients):
    """Gradients of several small layers side by side.

    Attributes:
        parts: the gradients of ``batch · groups`` small examples; the groups of an example follow one another.
        groups: the number of groups.
    """

    parts: PatchGradients | OuterProducts
    groups: int

    @property
    def shape(self) -> tuple[int, int, int]:
        examples, _, size_out = self.parts.outputs.shape
        return examples // self.groups, self.groups * size_out, self.parts.size_in

    @property
    def positions(self) -> int:
        return self.parts.positions

    @property
    def nbytes(self) -> int:
        return self.parts.nbytes

    def dense(self, rows: slice) -> Tensor:
        found = self.parts.dense(slice(rows.start * self.groups, rows.stop * self.groups))
        return found.reshape(-1, *self.shape[1:])

    def with_inputs_of(self, other: HeldGradients) -> GroupedGradients | None:
        same = self.parts.with_inputs_of(other.parts) if isinstance(other, GroupedGradients) else None
        return None if same is None else GroupedGradients(same, self.groups)

    def added(self, other: HeldGradients) -> GroupedGradients:
        assert isinstance(other, GroupedGradients)
        return GroupedGradients(self.parts.added(other.parts), self.groups)

    def joined(self, others: Sequence[HeldGradients]) -> GroupedGradients:
        parts = [other.parts for other in others if isinstance(other, GroupedGradients)]
        return GroupedGradients(self.parts.joined(parts), self.groups) if parts else self

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        repeated = None if row_scale is None else row_scale.repeat_interleave(self.groups)
        return self.parts.input_covariance(repeated)

    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        """Returns Σ g gᵀ within each group, as a block diagonal matrix: float64 ``[out, out]``, or its diagonal."""
        batch, size_out, _ = self.shape
        if widest is not None and size_out > widest:
            squares = self.parts.outputs.unflatten(0, (batch, self.groups)).double().square()
            return squares.sum((0, 2)).flatten()
        by_group = self.parts.outputs.unflatten(0, (batch, self.groups))
        size = size_out // self.groups
        blocks = by_group.new_zeros(size, size, self.groups, dtype=torch.float64)
        for rows in slices_of(batch, self.positions, SUMMED_ROWS):
            blocks += torch.einsum("bgpi,bgpj->ijg", by_group[rows], by_group[rows])
        return torch.block_diag(*blocks.unbind(2))
