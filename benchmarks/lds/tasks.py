"""The tasks: rows, models and recipes, those of the paper where it has them (arXiv 2405.12186, App. B)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks import models as images
from benchmarks.lds.models import TextTransformer, convnet, mlp
from pipeline.seeds import random_state

QUERIES = 100


@dataclass(frozen=True)
class Data:
    """Train and validation rows; the first `QUERIES` validation rows are the single queries.

    stages: int64 `[rows]`, in which stage of training a row takes part.
    """

    inputs: Tensor
    labels: Tensor
    validation_inputs: Tensor
    validation_labels: Tensor
    stages: np.ndarray


@dataclass(frozen=True)
class Removal:
    """How many masks remove a share of the rows, and how often each is retrained."""

    masks: int
    retrainings: int


@dataclass(frozen=True)
class Recipe:
    """epochs, learning_rate: per stage, each with a new optimizer; at_once: models that are retrained together."""

    epochs: tuple[int, ...]
    learning_rate: tuple[float, ...]
    weight_decay: float
    batch_size: int
    momentum: float = 0.9
    optimizer: str = "sgd"
    loss: str = "cross_entropy"
    at_once: int = 1

    def steps(self, rows: tuple[int, ...]) -> list[int]:
        """Steps of each stage with so many rows."""
        return [
            epochs * -(-count // self.batch_size) for epochs, count in zip(self.epochs, rows, strict=True)
        ]

    def make_optimizer(self, parameters: list[Tensor], stage: int) -> torch.optim.Optimizer:
        rate = self.learning_rate[stage]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Task:
    """removals: share of the rows -> how it is measured; base_models: trained on all rows, attributed.

    same_order: share of the rows -> how many masks remove it from the very training of every base model.
    """

    read: Callable[[Path], Data]
    folder: str | None
    build: Callable[[], nn.Module]
    recipe: Recipe
    removals: dict[float, Removal]
    base_models: int = 3
    same_order: dict[float, int] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes with whatever changes the retrainings, but for the code."""
        recipe = replace(self.recipe, at_once=1)
        torch.manual_seed(0)
        return hashlib.sha256(f"{recipe}{self.build()}".encode()).hexdigest()[:8]


def one_stage(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Data:
    return Data(*train, *validation, stages=np.zeros(len(train[1]), dtype=np.int64))


def digits(_: Path, flipped: float = 0.0) -> Data:
    loaded = load_digits()
    order = random_state("lds digits").permutation(len(loaded.target))
    pixels = torch.tensor(loaded.data[order] / 16, dtype=torch.float32)
    labels = torch.tensor(loaded.target[order])
    wrong = labels[:1200].clone()
    state = random_state("lds flips")
    places = state.permutation(1200)[: round(flipped * 1200)]
    wrong[places] = (wrong[places] + torch.tensor(state.randint(1, 10, len(places)))) % 10
    return one_stage((pixels[:1200], wrong), (pixels[1200:], labels[1200:]))


def fashion(folder: Path, rows: int = 6144, noise: float = 0.0) -> Data:
    """The first rows, `noise` of them with a random label; validation rows are the next 1,000, as they are."""
    pixels, labels = images.fashion_mnist(folder.parent, "train")
    given = labels[:rows].clone()
    state = random_state("lds random labels")
    places = state.permutation(rows)[: round(noise * rows)]
    given[places] = torch.tensor(state.randint(0, 10, len(places)))
    last = rows + 1000
    return one_stage((pixels[:rows].clone(), given), (pixels[rows:last].clone(), labels[rows:last]))


def rotated_fashion(folder: Path, rows: int = 2048) -> Data:
    """Pictures as they are in the first stage, others turned by 90° in the second and for validation."""
    data = fashion(folder, 2 * rows)
    turned, validation = (turn(part) for part in (data.inputs[rows:], data.validation_inputs))
    inputs = torch.cat([data.inputs[:rows], turned])
    return replace(data, inputs=inputs, validation_inputs=validation, stages=np.repeat([0, 1], rows))


def turn(pixels: Tensor) -> Tensor:
    return pixels.view(-1, 28, 28).rot90(1, (1, 2)).reshape(len(pixels), -1)


def uci(folder: Path, rows: int, validation: int) -> Data:
    """Standardised columns and targets, by the train rows' mean and deviation."""
    parts = []
    for split, count in (("train", rows), ("test", validation)):
        table = pq.read_table(folder / f"{split}.parquet")
        names = [name for name in table.column_names if name not in DROPPED]
        table = table.take(random_state("lds rows", count).permutation(table.num_rows)[:count])
        columns = [table[name].to_numpy().astype(np.float64) for name in [*names, "target"]]
        parts.append(torch.tensor(np.stack(columns, 1)))
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    train, other = (((part - mean) / deviation).float() for part in parts)
    return one_stage((train[:, :-1].contiguous(), train[:, -1]), (other[:, :-1].contiguous(), other[:, -1]))


DROPPED = ("target", "index", "motor_updrs", "subject")


def cifar10(folder: Path, rows: int = 3000, validation: int = 1000) -> Data:
    parts = []
    for split, count in (("train", rows), ("test", validation)):
        table = pq.read_table(folder / f"{split}.parquet", columns=["image", "clean_label"]).slice(0, count)
        pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(-1, 32, 32, 3)
        parts.append((torch.tensor(pixels).permute(0, 3, 1, 2) / 255, torch.tensor(table[1].to_numpy())))
    mean, deviation = (parts[0][0].mean((0, 2, 3), True), parts[0][0].std((0, 2, 3), keepdim=True))
    train, other = (((pixels - mean) / deviation, labels.long()) for pixels, labels in parts)
    return one_stage(train, other)


def trec(folder: Path, rows: int = 3000, validation: int = 500) -> Data:
    """Words as numbers, by how frequent they are in the train rows; 1 stands for all other words."""
    tables = [pq.read_table(folder / f"{split}.parquet") for split in ("train", "test")]
    places = random_state("lds trec").permutation(tables[0].num_rows)[:rows]
    tables = [tables[0].take(places), tables[1].slice(0, validation)]
    texts = [[text.split() for text in table["text"].to_pylist()] for table in tables]
    common = Counter(word for text in texts[0] for word in text).most_common(VOCABULARY - 2)
    number = {word: place + 2 for place, (word, _) in enumerate(common)}
    parts = []
    for table, words in zip(tables, texts, strict=True):
        numbers = torch.zeros(len(words), POSITIONS, dtype=torch.int64)
        for row, text in zip(numbers, words, strict=True):
            found = [number.get(word, 1) for word in text[:POSITIONS]]
            row[: len(found)] = torch.tensor(found)
        parts.append((numbers, torch.tensor(table["label"].to_numpy().astype(np.int64))))
    return one_stage(*parts)


VOCABULARY, POSITIONS = 2000, 20
DIGITS = Recipe((20,), (0.03,), 1e-3, 30, at_once=50)
FASHION = Recipe((20,), (0.03,), 1e-3, 64)
FASHION_MLP = partial(mlp, 784, 512, 256, 128, 10)
UCI = Recipe((20,), (0.03,), 1e-5, 32, loss="squared_error", at_once=50)
NOISY = replace(FASHION, epochs=(3,), learning_rate=(0.01,), weight_decay=3e-5)

SAME_ORDER = {0.01: 50, 0.1: 50}

TASKS = {
    "digits": Task(
        digits,
        None,
        partial(mlp, 64, 128, 64, 10),
        DIGITS,
        {0.5: Removal(100, 40), 0.1: Removal(100, 40)},
        same_order=SAME_ORDER,
    ),
    "digits_noisy": Task(
        partial(digits, flipped=0.2),
        None,
        partial(mlp, 64, 128, 64, 10),
        DIGITS,
        {0.5: Removal(100, 40), 0.1: Removal(100, 40)},
        same_order=SAME_ORDER,
    ),
    "fashion_mnist_noisy": Task(
        partial(fashion, noise=0.3),
        "fashion_mnist",
        FASHION_MLP,
        NOISY,
        {0.5: Removal(100, 12), 0.1: Removal(60, 10)},
        base_models=2,
    ),
    "fashion_mnist": Task(
        fashion,
        "fashion_mnist",
        FASHION_MLP,
        FASHION,
        {0.5: Removal(100, 8), 0.1: Removal(60, 2)},
        base_models=3,
    ),
    "rotated_fashion_mnist": Task(
        rotated_fashion,
        "fashion_mnist",
        FASHION_MLP,
        replace(FASHION, epochs=(10, 10), learning_rate=(0.03, 0.01)),
        {0.5: Removal(100, 5), 0.1: Removal(60, 2)},
        base_models=2,
    ),
    "concrete": Task(
        partial(uci, rows=896, validation=103),
        "uci_concrete",
        partial(mlp, 8, 128, 128, 128, 1),
        UCI,
        {0.5: Removal(100, 20), 0.1: Removal(100, 20)},
    ),
    "parkinsons": Task(
        partial(uci, rows=5280, validation=587),
        "uci_parkinsons",
        partial(mlp, 19, 128, 128, 128, 1),
        replace(UCI, learning_rate=(0.01,), weight_decay=3e-5),
        {0.5: Removal(100, 5), 0.1: Removal(60, 5)},
        base_models=2,
    ),
    "cifar10_convnet": Task(
        cifar10,
        "cifar10_first4000",
        convnet,
        Recipe((15,), (0.03,), 1e-3, 64),
        {0.5: Removal(100, 2), 0.1: Removal(30, 2)},
        base_models=1,
    ),
    "trec_transformer": Task(
        trec,
        "trec",
        partial(TextTransformer, VOCABULARY, 6, POSITIONS),
        Recipe((8,), (1e-3,), 1e-2, 32, optimizer="adamw", at_once=5),
        {0.5: Removal(100, 2), 0.1: Removal(100, 2)},
        base_models=1,
    ),
}
