"""A model for text: the mean of the tokens' embeddings, optionally joined with the columns of a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.mlp import dense_layers

PADDING = 0


class BagOfEmbeddings(nn.Module):
    """Classifies the mean embedding of a text, optionally joined with dense columns, by an MLP.

    The input is a tensor of tokens `[batch, length]` (0 is padding), or a dict of `tokens` and `dense`
    `[batch, columns]`. The output is `[batch, outputs]`.

    Args:
        vocabulary: how many tokens there are, with padding.
        width: of an embedding.
        hidden: widths of the hidden layers.
        outputs: classes, labels, or 1 for regression.
        dense: columns of `dense`; 0 for text alone.
        dropout: probability after each hidden layer.
    """

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
