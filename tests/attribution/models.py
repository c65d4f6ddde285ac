"""Tiny models and data of every kind that attribution covers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.attribution import Batch


class Tokens(nn.Module):
    """Embedding (padding 0), a layer on every token, mean over positions, a head."""

    def __init__(self, vocabulary: int = 7, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.mixing = nn.Linear(width, 5)
        self.head = nn.Linear(5, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixing(self.embedding(inputs))).mean(1))


class Twice(nn.Module):
    """One Linear layer that is used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(inputs)))))


class TinyTransformer(nn.Module):
    """Tokens of which 0 is padding, a torch encoder layer that masks it, the mean of the others, a head."""

    def __init__(
        self, vocabulary: int = 7, width: int = 4, classes: int = 3, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 6, batch_first=batch_first)
        self.head = nn.Linear(width, classes)
        self.batch_first = batch_first

    def forward(self, inputs: Tensor) -> Tensor:
        padding = inputs == 0
        tokens = self.embedding(inputs)
        if self.batch_first:
            found = self.encoder(tokens, src_key_padding_mask=padding)
        else:
            found = self.encoder(tokens.transpose(0, 1), src_key_padding_mask=padding).transpose(0, 1)
        seen = (~padding).to(found)[:, :, None]
        return self.head((found * seen).sum(1) / seen.sum(1))


class Tied(nn.Module):
    """A small language model whose head is its embedding; the logits of the mean position."""

    def __init__(self, vocabulary: int = 3, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.mixing = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixing(self.embedding(inputs)))).square().mean(1)


class LanguageModel(nn.Module):
    """A causal language model: tokens and positions, a transformer layer, logits for every token."""

    def __init__(self, vocabulary: int = 11, width: int = 4, tied: bool = True) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(16, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, dtype=self.head.weight.dtype)
        found = self.embedding(inputs) + self.positions(torch.arange(length))
        return self.head(self.norm(self.block(found, src_mask=mask)))


def grouped() -> nn.Module:
    """One dimension, groups, and a norm of each kind."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Conv1d(4, 4, 2, groups=2),
        nn.BatchNorm1d(4),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 6),
        nn.RMSNorm(6),
        nn.Linear(6, 3),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def model_and_rows(kind: str, rows: int = 9, seed: int = 0) -> tuple[nn.Module, Batch]:
    """A float64 model with its rows, of 3 classes.

    ``mlp``, ``convnet``, ``tokens``, ``twice``, ``grouped``, ``tied``, ``transformer``, or ``sequence first``, a
    transformer whose layers have the batch second.
    """
    torch.manual_seed(seed)
    if kind == "tokens":
        model: nn.Module = Tokens()
        inputs = torch.randint(0, 7, (rows, 5))
    elif kind in ("transformer", "sequence first"):
        model = TinyTransformer(batch_first=kind == "transformer")
        inputs = torch.randint(0, 7, (rows, 5))
        inputs[:, 0] = 1
    elif kind == "tied":
        model, inputs = Tied(), torch.randint(0, 3, (rows, 5))
    elif kind == "grouped":
        model, inputs = grouped(), torch.randn(rows, 2, 5, dtype=torch.float64)
    elif kind == "convnet":
        model, inputs = convnet(), torch.randn(rows, 2, 5, 5, dtype=torch.float64)
    else:
        model = mlp() if kind == "mlp" else Twice()
        inputs = torch.randn(rows, 4, dtype=torch.float64)
    return model.double(), Batch(inputs, torch.randint(0, 3, (rows,)), torch.arange(100, 100 + rows))


def perturbed_states(model: nn.Module, count: int, scale: float = 0.2) -> list[dict[str, Tensor]]:
    """State dicts that stand for a trajectory's checkpoints."""
    torch.manual_seed(5)
    states = []
    for _ in range(count):
        states.append(
            {
                name: value + scale * torch.randn_like(value) ** 2
                if value.is_floating_point()
                else value.clone()
                for name, value in model.state_dict().items()
            }
        )
    return states
