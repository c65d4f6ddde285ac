"""Text as the mean of its tokens' embeddings, optionally beside a table's columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.mlp import dense_layers

PADDING = 0


class BagOfEmbeddings(nn.Module):
    """Takes tokens `[batch, length]` (0 = padding), or a dict with `tokens` and `dense` `[batch, columns]`."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        hidden: list[int],
        outputs: int,
        dense: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.head = nn.Sequential(*dense_layers(width + dense, hidden, outputs, dropout))

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        tokens = inputs["tokens"] if isinstance(inputs, dict) else inputs
        present = (tokens != PADDING).unsqueeze(-1)
        total = (self.embedding(tokens.long()) * present).sum(1)
        features = total / present.sum(1).clamp(min=1)
        if isinstance(inputs, dict):
            features = torch.cat([features, inputs["dense"]], dim=1)
        return self.head(features)
