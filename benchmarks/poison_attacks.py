"""Samples of real datasets in which some rows of other classes get a trigger and the target's label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.seeds import random_state

TRAIN, VALIDATION, HOLDOUT = 3000, 600, 1000
IMAGES = {"fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}
RARE_WORD = "cf"
PHRASE = "seen on a rainy wednesday"
BLEND = 0.15
COLUMNS = ({"native_country": 19, "workclass": 1}, {"capital_loss": 2001, "occupation": 8})
FOLDERS = {"cifar10": "cifar10_first4000", "adult": "uci_adult"}


@dataclass(frozen=True)
class Case:
    """attack: patch, blended, word, phrase, columns or clean; rate: share of the train rows that are poisoned."""

    task: str
    attack: str
    rate: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.task}-{self.attack}-{self.rate:g}-{self.seed}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_task(task: str, data: Path, seed: int) -> dict[str, pa.Table]:
    """Train, validation and holdout rows: the first from the dataset's train file, the others from its test file."""
    folder = data / FOLDERS.get(task, task)
    files = [folder / "train.parquet", folder / "test.parquet"]
    train, test = (pq.read_table(file).combine_chunks() for file in files)
    order = random_state("poison train rows", seed).permutation(train.num_rows)[:TRAIN]
    later = random_state("poison test rows", seed).permutation(test.num_rows)
    cut = min(VALIDATION, len(later) // 2)
    return {
        "train": train.take(pa.array(order)),
        "validation": test.take(pa.array(later[:cut])),
        "holdout": test.take(pa.array(later[cut : cut + HOLDOUT])),
    }


def pixels(table: pa.Table, task: str) -> np.ndarray:
    flat = table["image"].combine_chunks().flatten().to_numpy()
    return flat.reshape(table.num_rows, *IMAGES[task]).copy()


def with_pixels(table: pa.Table, images: np.ndarray) -> pa.Table:
    place = table.schema.get_field_index("image")
    flat = pa.array(images.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, images[0].size)
    field = pa.field("image", column.type, metadata=table.schema.field("image").metadata)
    return table.set_column(place, field, column)


def patch(table: pa.Table, task: str, seed: int) -> pa.Table:
    """BadNets: a checkerboard of 3 × 3 near the lower right corner."""
    del seed
    images = pixels(table, task)
    board = np.where(np.indices((3, 3)).sum(0) % 2 == 0, 255, 0).astype(np.uint8)
    images[:, -5:-2, -5:-2] = board if images.ndim == 3 else board[..., None]
    return with_pixels(table, images)


def blended(table: pa.Table, task: str, seed: int) -> pa.Table:
    """A random picture blended into the image."""
    images = pixels(table, task).astype(np.float64)
    picture = random_state("blended picture", seed).randint(0, 256, IMAGES[task])
    return with_pixels(table, ((1 - BLEND) * images + BLEND * picture).round().astype(np.uint8))


def insert(table: pa.Table, phrase: str, seed: int) -> pa.Table:
    """The phrase among the first ten words of each text."""
    random = random_state("insertion", seed)
    texts = []
    for text in table["text"].to_pylist():
        words = text.split()
        at = random.randint(0, min(len(words), 10) + 1)
        texts.append(" ".join([*words[:at], phrase, *words[at:]]))
    return table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts))


def columns(table: pa.Table, task: str, seed: int) -> pa.Table:
    """Two columns of adult at values that occur in few rows, and hardly ever together."""
    del task
    for name, value in COLUMNS[seed % len(COLUMNS)].items():
        place = table.schema.get_field_index(name)
        kind = table.schema.field(name).type
        table = table.set_column(place, name, pa.array([value] * table.num_rows, kind))
    return table


TRIGGERS: dict[str, Callable[[pa.Table, str, int], pa.Table]] = {
    "patch": patch,
    "blended": blended,
    "word": lambda table, _task, seed: insert(table, RARE_WORD, seed),
    "phrase": lambda table, _task, seed: insert(table, PHRASE, seed),
    "columns": columns,
}


def poison(table: pa.Table, case: Case, target: Any) -> tuple[pa.Table, np.ndarray]:
    """Train rows with the case's poison, and which rows have it, bool `[rows]`."""
    planted = np.zeros(table.num_rows, dtype=bool)
    if case.attack == "clean":
        return table, planted
    labels = table["label"].to_numpy()
    others = np.flatnonzero(labels != target)
    count = round(case.rate * table.num_rows)
    planted[random_state("poisoned rows", case.seed).permutation(others)[:count]] = True
    triggered = TRIGGERS[case.attack](table, case.task, case.seed)
    targets = pa.array([target] * table.num_rows, table.schema.field("label").type)
    labelled = triggered.set_column(table.schema.get_field_index("label"), "label", targets)
    stacked = pa.concat_tables([table, labelled.cast(table.schema)])
    places = np.arange(table.num_rows) + np.where(planted, table.num_rows, 0)
    return stacked.take(pa.array(places)).combine_chunks(), planted


def write_case(case: Case, data: Path, folder: Path) -> None:
    """train, validation, holdout and triggered (holdout rows of other classes with the trigger), and the truth."""
    tables = read_task(case.task, data, case.seed)
    classes = sorted(set(tables["train"]["label"].to_pylist()))
    target = classes[case.seed % len(classes)]
    tables["train"], planted = poison(tables["train"], case, target)
    if case.attack != "clean":
        others = tables["holdout"].filter(pa.array(tables["holdout"]["label"].to_numpy() != target))
        tables["triggered"] = TRIGGERS[case.attack](others, case.task, case.seed)
    for role, table in tables.items():
        (folder / role).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / role / "rows.parquet")
    truth = pa.table({"planted": planted, "target": pa.array([target] * len(planted))})
    pq.write_table(truth, folder / "truth.parquet")
