"""The tasks: rows, models and recipes, those of the paper where it has them (arXiv 2405.12186, App. B)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.lds.models import LanguageTransformer, TextTransformer, convnet, mlp
from benchmarks.lds.rows import (
    LENGTH,
    POSITIONS,
    VOCABULARY,
    WORDS,
    Data,
    cifar10,
    digits,
    fashion,
    language,
    rotated_fashion,
    trec,
    uci,
)
from pipeline.attribution import Objective, cross_entropy, get_objective

NEXT_TOKEN = "next_token"


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

    @property
    def objective(self) -> Objective:
        """The loss of a row; that of a sentence is the mean over its tokens."""
        if self.loss == NEXT_TOKEN:
            return cross_entropy(reduction="row_mean")
        return get_objective(self.loss)

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

    same_order: share of the rows -> how many masks remove it from the very training of every base model. Where masks
    are as many as the parts of a partition (100 of .01), every row is removed once.
    """

    read: Callable[[Path], Data]
    folder: str | None
    build: Callable[[], nn.Module]
    recipe: Recipe
    removals: dict[float, Removal]
    base_models: int = 3
    same_order: dict[float, int] = field(default_factory=dict)

    @property
    def measures_margins(self) -> bool:
        """Whether single queries are measured by their margins, which rise where losses fall."""
        return self.recipe.loss == "cross_entropy"

    def fingerprint(self) -> str:
        """Changes with whatever changes the retrainings, but for the code."""
        recipe = replace(self.recipe, at_once=1)
        torch.manual_seed(0)
        return hashlib.sha256(f"{recipe}{self.build()}".encode()).hexdigest()[:8]


DIGITS = Recipe((20,), (0.03,), 1e-3, 30, at_once=50)
FASHION = Recipe((20,), (0.03,), 1e-3, 64)
FASHION_MLP = partial(mlp, 784, 512, 256, 128, 10)
UCI = Recipe((20,), (0.03,), 1e-5, 32, loss="squared_error", at_once=50)
NOISY = replace(FASHION, epochs=(3,), learning_rate=(0.01,), weight_decay=3e-5)

SAME_ORDER = {0.01: 100, 0.1: 50}
LEAVE_ONE_OUT = 1 / 5000
FIVE_THOUSAND = partial(fashion, rows=5000, validation=500)
LONG = replace(FASHION, learning_rate=(0.01,))
LANGUAGE = Recipe((6,), (3e-3,), 1e-2, 20, optimizer="adamw", loss=NEXT_TOKEN, at_once=5)
LANGUAGE_MODEL = partial(LanguageTransformer, WORDS, LENGTH)

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
    "fashion_logistic": Task(
        FIVE_THOUSAND,
        "fashion_mnist",
        partial(mlp, 784, 10),
        replace(LONG, at_once=10),
        {0.5: Removal(50, 2)},
        base_models=1,
        same_order={LEAVE_ONE_OUT: 100},
    ),
    "fashion_small": Task(
        FIVE_THOUSAND,
        "fashion_mnist",
        partial(mlp, 784, 128, 64, 10),
        replace(LONG, epochs=(10,)),
        {0.5: Removal(50, 2)},
        base_models=1,
    ),
    "trec_language": Task(
        partial(language, other="test"),
        "trec",
        LANGUAGE_MODEL,
        LANGUAGE,
        {0.5: Removal(50, 2)},
        base_models=1,
        same_order={0.01: 100},
    ),
}
