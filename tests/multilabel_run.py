"""A dataset of sets of labels, made of the digits that scikit-learn ships, with labels planted wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from pipeline.config import AuditConfig, validate

LABELS = ("even", "five or more", "loop", "prime")
TRUTH = {
    "even": {0, 2, 4, 6, 8},
    "five or more": {5, 6, 7, 8, 9},
    "loop": {0, 6, 8, 9},
    "prime": {2, 3, 5, 7},
}


@dataclass(frozen=True)
class Planted:
    """config, and what was planted among the train rows: true and given sets, bool `[rows, labels]`."""

    config: AuditConfig
    truth: np.ndarray
    given: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return (self.truth != self.given).any(1)


def planted_sets(folder: Path, rate: float = 0.1, train: int = 1100, **changes: object) -> Planted:
    """Parquet files with pixels and `tags`; of a share of the train rows one answer is turned round."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    pixels, target = digits.data[order].astype(np.float32), digits.target[order]
    truth = np.stack([np.isin(target, list(TRUTH[label])) for label in LABELS], 1)
    given, random = truth.copy(), np.random.RandomState(1)
    wrong = random.choice(train, round(rate * train), replace=False)
    which = random.randint(0, len(LABELS), len(wrong))
    given[wrong, which] = ~given[wrong, which]
    roles = {
        "train": slice(0, train),
        "validation": slice(train, train + 300),
        "holdout": slice(train + 300, None),
    }
    for role, rows in roles.items():
        table = {
            "id": pa.array([f"r{row}" for row in range(len(target))][rows]),
            "tags": pa.array([sets_of(row) for row in given[rows]], pa.list_(pa.string())),
        }
        lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels[rows].reshape(-1)), 64)
        (folder / role).mkdir(parents=True)
        pq.write_table(pa.table(table | {"pixels": lists}), folder / role / "part.parquet")
    tree = {
        "name": "sets",
        "data": {role: str(folder / role) for role in roles}
        | {"features": {"pixels": "list"}, "label": "tags", "key": "id", "validation_is_clean": True},
        "model": {"hidden": [64]},
        "training": {"epochs": 12, "checkpoints": 3, "batch_size": 32},
        "compute": {"workers": 1},
        "verification": {"seeds": 2, "fidelity": 0},
    }
    return Planted(validate(tree, "test").with_changes(dict(changes)), truth[:train], given[:train])


def sets_of(row: np.ndarray) -> list[str] | None:
    """The labels of a row; of a row without any, null."""
    return [label for label, there in zip(LABELS, row) if there] or None
