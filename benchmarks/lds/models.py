"""The models of the tasks: without dropout and batch statistics, so that many can be trained at once."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PADDING = 0


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet() -> nn.Module:
    """Three convolutions with GroupNorm on pictures `[3, 32, 32]`, 16 to 64 channels."""

    def block(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1)
        return [convolution, nn.GroupNorm(4, channels), nn.ReLU()]

    layers = [*block(3, 16, 2), *block(16, 32, 2), *block(32, 64, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Attention(nn.Module):
    """Attention with several heads; hidden positions, bool `[batch, 1 or positions, positions]`, aren't looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        batch, positions, width = tokens.shape
        parts = self.inputs(tokens).view(batch, positions, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        looked = scores.masked_fill(hidden[:, None], -1e9).softmax(-1) @ value
        return self.output(looked.transpose(1, 2).reshape(batch, positions, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norms[0](tokens), hidden)
        return tokens + self.down(functional.gelu(self.up(self.norms[1](tokens))))


class TextTransformer(nn.Module):
    """Token numbers `[batch, positions]`, 0 is padding: two blocks, the mean over the words of a text."""

    def __init__(self, vocabulary: int, classes: int, positions: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(2)])
        self.head = nn.Linear(width, classes)

    def forward(self, numbers: Tensor) -> Tensor:
        padded = numbers == PADDING
        places = torch.arange(numbers.shape[1], device=numbers.device).expand_as(numbers)
        tokens = self.embedding(numbers) + self.places(places)
        for block in self.blocks:
            tokens = block(tokens, padded[:, None])
        words = (~padded).to(tokens).unsqueeze(-1)
        return self.head((tokens * words).sum(1) / words.sum(1).clamp(min=1))


class LanguageTransformer(nn.Module):
    """Token numbers `[batch, positions]`, 0 is padding: two blocks; logits of the next token at every position."""

    def __init__(self, vocabulary: int, positions: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, numbers: Tensor) -> Tensor:
        positions = numbers.shape[1]
        later = torch.ones(positions, positions, dtype=torch.bool, device=numbers.device).triu(1)
        hidden = (numbers == PADDING)[:, None] | later
        places = torch.arange(positions, device=numbers.device).expand_as(numbers)
        tokens = self.embedding(numbers) + self.places(places)
        for block in self.blocks:
            tokens = block(tokens, hidden)
        return self.head(self.norm(tokens))
