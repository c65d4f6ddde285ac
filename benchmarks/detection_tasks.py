"""The tasks of the detection benchmark: clean rows, drawn anew for every seed, and how a user would train on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional

from data_samples import originals
from pipeline.config import AuditConfig, validate
from pipeline.runs.directory import write_atomically
from pipeline.seeds import random_state

SAMPLES = Path(__file__).parents[1] / "data_samples"
ROLES = ("train", "validation", "holdout")
TRUE, GIVEN, KEY = "true_label", "label", "index"
ADULT = {
    "numeric": "age fnlwgt education_num capital_gain capital_loss hours_per_week",
    "category": "workclass education marital_status occupation relationship race sex native_country",
}
CONCRETE = "cement slag fly_ash water superplasticizer coarse_aggregate fine_aggregate age_days"
PATCH, STRIDE, PATCHES = 6, 2, 200
COMPONENTS = 300


@dataclass(frozen=True)
class Task:
    """Where a task's rows come from, and what is trained on them.

    read: gives all rows with their true labels in column `label`; folder: that of the original set in the data
    directory, None where the project or scikit-learn has it; rows: how many of each role.
    """

    read: Callable[[Path], pa.Table]
    folder: str | None
    rows: tuple[int, int, int]
    features: dict[str, str]
    model: dict[str, Any]
    training: dict[str, Any]
    regression: bool = False
    human: tuple[str, ...] = ()


def sample(name: str) -> pa.Table:
    """All rows of a shipped sample with their true labels."""
    parts = {role: pq.read_table(SAMPLES / name / role) for role in ROLES}
    truth = pq.read_table(SAMPLES / name / "truth.parquet")
    places = pc.index_in(parts["train"][KEY], value_set=truth[KEY].combine_chunks())
    column = parts["train"].schema.get_field_index(GIVEN)
    parts["train"] = parts["train"].set_column(column, GIVEN, truth[TRUE].take(places))
    schema = parts["train"].schema.remove_metadata()
    return pa.concat_tables([part.replace_schema_metadata().cast(schema) for part in parts.values()])


def digits(_: Path) -> pa.Table:
    original = originals.digits()
    return original.features.append_column(GIVEN, original.labels.take(pa.array(original.classes)))


def breast_cancer(_: Path) -> pa.Table:
    loaded = load_breast_cancer()
    columns = {name.replace(" ", "_"): loaded.data[:, i] for i, name in enumerate(loaded.feature_names)}
    return pa.table(columns | {GIVEN: loaded.target})


def all_files(folder: Path) -> pa.Table:
    """The rows of every Parquet file in a folder."""
    return pa.concat_tables(
        [pq.read_table(path).replace_schema_metadata() for path in sorted(folder.glob("*.parquet"))]
    )


def concrete(folder: Path) -> pa.Table:
    table = all_files(folder).drop_columns([KEY])
    return table.rename_columns([GIVEN if name == "target" else name for name in table.column_names])


def cifar10(folder: Path) -> pa.Table:
    """Pictures as fixed patch features, so that training takes seconds: see `patch_features`."""
    table = all_files(folder)
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(-1, 32, 32, 3)
    found = patch_features(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255)
    flat = pa.array(found.numpy().reshape(-1))
    columns = {
        "patches": pa.FixedSizeListArray.from_arrays(flat, found.shape[1]),
        GIVEN: table["clean_label"],
    }
    columns |= {f"human_{name}": table[f"noisy_label_{name}"] for name in TASKS["cifar10"].human}
    return pa.table(columns)


def patch_features(images: torch.Tensor) -> torch.Tensor:
    """float32 `[images, 4 · PATCHES]`: how near random patches of the images come to each place, summed over quadrants.

    Coates & Ng 2011 ("triangle" activation, a dictionary of random patches): patches are brought to mean 0
    and variance 1 and whitened.
    """

    def patches(part: torch.Tensor) -> torch.Tensor:
        found = functional.unfold(part, PATCH, stride=STRIDE).transpose(1, 2)
        return (found - found.mean(2, keepdim=True)) / (found.var(2, keepdim=True) + 0.01).sqrt()

    random = torch.Generator().manual_seed(0)
    some = patches(images[torch.randperm(len(images), generator=random)[:500]]).flatten(0, 1)
    mean = some.mean(0)
    values, vectors = torch.linalg.eigh((some - mean).T.cov())
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    chosen = (some[torch.randperm(len(some), generator=random)[:PATCHES]] - mean) @ whiten
    parts = []
    for batch in images.split(100):
        distances = torch.cdist((patches(batch) - mean) @ whiten, chosen)
        near = (distances.mean(2, keepdim=True) - distances).clamp(min=0)
        side = int(near.shape[1] ** 0.5)
        places = near.transpose(1, 2).reshape(len(batch), PATCHES, side, side)
        parts.append(functional.adaptive_avg_pool2d(places, 2).flatten(1))
    return torch.cat(parts)


def sst2(folder: Path) -> pa.Table:
    """Sentences as principal components of TF-IDF: trained from scratch on so few, embeddings stay near chance."""
    table = all_files(folder)
    weights = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(
        table["text"].to_pylist()
    )
    found = TruncatedSVD(COMPONENTS, random_state=0).fit_transform(weights).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), COMPONENTS)
    return pa.table({"components": column, GIVEN: table[GIVEN]})


TEXT_MODEL = {"name": "bag_of_embeddings", "embedding": 64, "hidden": [64]}
TEXT_TRAINING = {"learning_rate": 0.3, "epochs": 15}
IMAGE = {"image": "image"}
TASKS = {
    "digits": Task(
        digits, None, (1000, 300, 497), IMAGE, {"hidden": [128, 64]}, {"epochs": 20, "batch_size": 32}
    ),
    "breast_cancer": Task(
        breast_cancer,
        None,
        (350, 100, 119),
        {name.replace(" ", "_"): "numeric" for name in load_breast_cancer().feature_names},
        {"hidden": [64, 32]},
        {"epochs": 20, "batch_size": 32},
    ),
    "fashion_mnist": Task(
        lambda _: sample("fashion_mnist"), None, (3000, 1000, 2000), IMAGE, {"hidden": [256, 128]}, {}
    ),
    "adult": Task(
        lambda _: sample("adult"),
        None,
        (4000, 1000, 2000),
        {name: kind for kind, names in ADULT.items() for name in names.split()},
        {"hidden": [128, 64]},
        {"learning_rate": 0.01, "epochs": 15},
    ),
    "trec": Task(all_files, "trec", (3000, 800, 1000), {"text": "text"}, TEXT_MODEL, TEXT_TRAINING),
    "sst2": Task(
        sst2,
        "sst2",
        (4000, 1000, 2000),
        {"components": "list"},
        {"hidden": [128, 64]},
        {"learning_rate": 0.01, "epochs": 15},
    ),
    "cifar10": Task(
        cifar10,
        "cifar10_first4000",
        (3000, 400, 600),
        {"patches": "list"},
        {"hidden": [256, 128]},
        {"learning_rate": 0.01},
        human=("worse", "random1"),
    ),
    "concrete": Task(
        concrete,
        "uci_concrete",
        (700, 130, 200),
        dict.fromkeys(CONCRETE.split(), "numeric"),
        {"hidden": [64, 32]},
        {"learning_rate": 0.01, "epochs": 40, "batch_size": 32},
        regression=True,
    ),
}


def read_rows(name: str, data: Path, cache: Path) -> pa.Table:
    """All rows of a task with their true labels; what takes long to make is kept in `cache`."""
    path = cache / f"{name}.parquet"
    if not path.exists():
        table = TASKS[name].read(data / (TASKS[name].folder or ""))
        with write_atomically(path) as temporary:
            pq.write_table(table, temporary)
    return pq.read_table(path)


def draw_roles(name: str, rows: pa.Table, seed: int) -> dict[str, pa.Table]:
    """Train, validation and holdout rows, with a key of their own; no row is in two of them."""
    order = random_state("detection rows", seed).permutation(rows.num_rows)
    keep = [column for column in rows.column_names if column != KEY]
    drawn, start = {}, 0
    for role, count in zip(ROLES, TASKS[name].rows):
        places = np.sort(order[start : start + count])
        drawn[role] = rows.select(keep).take(pa.array(places)).append_column(KEY, pa.array(places))
        start += count
    return drawn


def task_config(name: str, folder: Path, seed: int) -> AuditConfig:
    """The audit of the rows in `folder`/ROLE.parquet, without backdoors and verification."""
    task = TASKS[name]
    roles = {role: [str(folder / f"{role}.parquet")] for role in ROLES}
    columns = {"features": task.features, "label": GIVEN, "key": KEY, "validation_is_clean": True}
    tree = {
        "name": name,
        "data": roles | columns | {"task": "regression" if task.regression else "classification"},
        "model": task.model,
        "training": task.training | {"seed": seed},
        "compute": {"device": "cpu"},
        "detection": {"backdoors": False},
    }
    return validate(tree, "benchmarks.detection")
