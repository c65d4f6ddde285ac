"""The models of the speed benchmark and the trained checkpoints they are attributed with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution import Batch

CHECKPOINTS = 6
_PIXEL_MEAN, _PIXEL_STD = 72.9, 90.0


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.second(functional.relu(self.first(functional.relu(images))))


class Attention(nn.Module):
    """Multi-head self-attention built of Linear layers, without a mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape

        def split(values: Tensor) -> Tensor:
            return values.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(tokens)), split(self.key(tokens)), split(self.value(tokens))
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norms[0](tokens))
        return tokens + self.down(functional.gelu(self.up(self.norms[1](tokens))))


class PatchTransformer(nn.Module):
    """A 32×32 image as 64 tokens of 4×4 pixels: d 128, 4 layers, mean over tokens."""

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.places = nn.Parameter(0.02 * torch.randn(64, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        padded = functional.pad(images.view(-1, 1, 28, 28), (2, 2, 2, 2))
        patches = functional.unfold(padded, 4, stride=4).transpose(1, 2)
        return self.head(self.blocks(self.embed(patches) + self.places).mean(1))


def mlp(inputs: int = 784, hidden: tuple[int, ...] = (512, 256)) -> nn.Module:
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def convnet() -> nn.Module:
    """A small residual network on 28×28 pixels: 32 and 64 channels, five convolutions."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        Residual(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convnet": convnet, "transformer": PatchTransformer}


def fashion_mnist(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Standardised pixels ``[rows, 784]`` float32 and labels int64 of ``data/fashion_mnist/split``."""
    pixels = torch.tensor(fashion_pixels(data, split)).float()
    labels = torch.tensor(_fashion_column(data, split, "label").to_numpy())
    return (pixels - _PIXEL_MEAN) / _PIXEL_STD, labels


def fashion_pixels(data: Path, split: str) -> np.ndarray:
    """Pixels as they are, uint8 ``[rows, 784]``."""
    images = _fashion_column(data, split, "image")
    found: np.ndarray = images.flatten().to_numpy(zero_copy_only=False).reshape(-1, 784)
    return found


def _fashion_column(data: Path, split: str, name: str) -> pa.Array:
    folder = data / "fashion_mnist"
    found = sorted((folder / split).glob("*.parquet")) or [folder / f"{split}.parquet"]
    return pa.concat_tables([pq.read_table(path, columns=[name]) for path in found])[name].combine_chunks()


@dataclass(frozen=True)
class Trained:
    """A model with the checkpoints of a short training and the mean of the last iterates.

    Attributes:
        states: state dicts of the checkpoints, ascending.
        lr_sums: effective learning rates summed up to each checkpoint from the one before.
    """

    model: nn.Module
    states: list[dict[str, Tensor]]
    lr_sums: list[float]

    def load(self, checkpoint: int) -> None:
        self.model.load_state_dict(self.states[checkpoint])


def train(
    model: nn.Module, pixels: Tensor, labels: Tensor, steps: int, checkpoints: int = CHECKPOINTS
) -> Trained:
    """Plain SGD with momentum 0.9, batches of 64, a checkpoint after every ``steps / checkpoints``."""
    rate, momentum = 0.02, 0.9
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    order = torch.Generator().manual_seed(0)
    states = []
    for step in range(1, steps + 1):
        rows = torch.randint(len(labels), (64,), generator=order)
        optimizer.zero_grad()
        functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
        optimizer.step()
        if step % (steps // checkpoints) == 0:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
    return Trained(model, states, [rate / (1 - momentum) * (steps // checkpoints)] * checkpoints)


def batches(pixels: Tensor, labels: Tensor, size: int) -> list[Batch]:
    """Rows numbered from 0, in batches of ``size``."""
    ids = torch.arange(len(labels))
    parts = zip(pixels.split(size), labels.split(size), ids.split(size))
    return [Batch(inputs, targets, rows) for inputs, targets, rows in parts]
