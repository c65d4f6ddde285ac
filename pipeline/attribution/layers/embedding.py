"""Embeddings: a Linear layer whose inputs are one-hot vectors.

The one-hot vectors are never formed. The padding token has no gradient.
"""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.layers import ModuleRule, register


@register(nn.Embedding)
class EmbeddingRule(ModuleRule):
    kind = "embedding"
    diagonal_input = True
    takes_positions = True
    transposed = True

    def supports(self, module: nn.Embedding) -> bool:
        # max_norm changes the weights in the forward pass. With scale_grad_by_freq, the gradient of a row depends on
        # the other rows of its batch.
        return module.max_norm is None and not module.scale_grad_by_freq

    def weight_shape(self, module: nn.Embedding) -> tuple[int, int]:
        return module.embedding_dim, module.num_embeddings

    def weight_gradients(
        self,
        module: nn.Embedding,
        inputs: Tensor,
        output_gradients: Tensor,
        bias: bool,  # noqa: ARG002 - has none
    ) -> IndexedGradients:
        """``inputs`` are token numbers ``[batch, …]``, ``output_gradients`` ``[batch, …, embedding_dim]``."""
        positions = prod(inputs.shape[1:])
        tokens = inputs.reshape(len(inputs), positions).long()
        outputs = output_gradients.reshape(len(inputs), positions, module.embedding_dim)
        padding = module.padding_idx
        if padding is not None:
            outputs = outputs.masked_fill((tokens == padding)[:, :, None], 0.0)
        return IndexedGradients(tokens, outputs, module.num_embeddings, padding)
