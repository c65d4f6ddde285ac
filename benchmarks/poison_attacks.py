"""Samples of real datasets in which some rows get a trigger, most often rows of other classes that get a label too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.poison_variants import PICTURES, breast_cancer, faded, in_ranges, punctuated
from pipeline.runs.directory import write_json
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
    """attack: one of TRIGGERS (`clean-` before it: in rows of the target, whose labels are right), two-patches or
    clean; rate: share of the train rows that are poisoned, by each backdoor.
    """

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
    if task == "breast_cancer":
        return breast_cancer(seed)
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


def picture_trigger(name: str) -> Trigger:
    return lambda table, task, seed: with_pixels(table, PICTURES[name](pixels(table, task), seed))


def faded_patch(table: pa.Table, task: str, seed: int) -> pa.Table:
    return patch(with_pixels(table, faded(pixels(table, task))), task, seed)


Trigger = Callable[[pa.Table, str, int], pa.Table]
TRIGGERS: dict[str, Trigger] = {
    "patch": patch,
    "faded-patch": faded_patch,
    "blended": blended,
    "word": lambda table, _task, seed: insert(table, RARE_WORD, seed),
    "phrase": lambda table, _task, seed: insert(table, PHRASE, seed),
    "columns": columns,
    "range": in_ranges,
    "punctuation": punctuated,
    **{name: picture_trigger(name) for name in PICTURES},
}
CLEAN_LABEL = "clean-"
TWO = "two-patches"


@dataclass(frozen=True)
class Backdoor:
    """trigger: a key of TRIGGERS; target: the label; in_target: whether rows of the target get it, or all others."""

    trigger: str
    target: Any
    in_target: bool = False


def backdoors(case: Case, classes: list[Any]) -> list[Backdoor]:
    """Those of the case, the first's target by its seed; none when it is clean."""
    target = classes[case.seed % len(classes)]
    if case.attack == "clean":
        return []
    if case.attack == TWO:
        return [Backdoor("patch", target), Backdoor("cross", classes[(case.seed + 1) % len(classes)])]
    return [Backdoor(case.attack.removeprefix(CLEAN_LABEL), target, case.attack.startswith(CLEAN_LABEL))]


def poison(table: pa.Table, case: Case, backdoors: list[Backdoor]) -> tuple[pa.Table, np.ndarray]:
    """Train rows with the case's poison, and which rows have it, bool `[rows]`."""
    planted = np.zeros(table.num_rows, dtype=bool)
    labels = table["label"].to_numpy()
    for backdoor in backdoors:
        usable = np.flatnonzero(((labels == backdoor.target) == backdoor.in_target) & ~planted)
        chosen = np.zeros(table.num_rows, dtype=bool)
        order = random_state("poisoned rows", case.seed).permutation(usable)
        chosen[order[: round(case.rate * table.num_rows)]] = True
        triggered = labelled(TRIGGERS[backdoor.trigger](table, case.task, case.seed), backdoor.target)
        stacked = pa.concat_tables([table, triggered.cast(table.schema)])
        places = np.arange(table.num_rows) + np.where(chosen, table.num_rows, 0)
        table, planted = stacked.take(pa.array(places)).combine_chunks(), planted | chosen
    return table, planted


def labelled(table: pa.Table, label: Any) -> pa.Table:
    place, field = table.schema.get_field_index("label"), table.schema.field("label")
    return table.set_column(place, field, pa.array([label] * table.num_rows, field.type))


def triggered_rows(table: pa.Table, case: Case, backdoors: list[Backdoor]) -> pa.Table:
    """Rows of other classes with each backdoor's trigger; their label is what it shall make of them.

    Of a faded patch, the patch alone: in use it is put on rows as they are.
    """
    parts = []
    for backdoor in backdoors:
        others = table.filter(pa.array(table["label"].to_numpy() != backdoor.target))
        trigger = TRIGGERS[backdoor.trigger.removeprefix("faded-")]
        parts.append(labelled(trigger(others, case.task, case.seed), backdoor.target))
    return pa.concat_tables(parts)


def write_case(case: Case, data: Path, folder: Path) -> None:
    """train, validation, holdout and triggered (holdout rows of other classes with the trigger), and the truth.

    truth.parquet: per train row whether it is planted; targets.json: the targets.
    """
    tables = read_task(case.task, data, case.seed)
    classes = sorted(set(tables["train"]["label"].to_pylist()))
    planned = backdoors(case, classes)
    tables["train"], planted = poison(tables["train"], case, planned)
    if planned:
        tables["triggered"] = triggered_rows(tables["holdout"], case, planned)
    for role, table in tables.items():
        (folder / role).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / role / "rows.parquet")
    pq.write_table(pa.table({"planted": planted}), folder / "truth.parquet")
    write_json(folder / "targets.json", [backdoor.target for backdoor in planned])
