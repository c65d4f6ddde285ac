"""One noisy file: what is decided about train rows doesn't depend on the labels of the rows that measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from digits_run import run_until

from pipeline.config import AuditConfig

ROWS, CLASSES = 600, np.array(["ash", "beech", "cedar"])
Run = Callable[[str, dict[str, str]], pa.Table]


def write_file(path: Path, changed: dict[str, str]) -> None:
    """Three blobs, of which vendor 1 labels a third wrongly and the others a twentieth; `changed`: id → label."""
    random = np.random.default_rng(0)
    truth, vendor = random.integers(3, size=ROWS), random.integers(4, size=ROWS)
    wrong = random.uniform(size=ROWS) < np.where(vendor == 1, 0.33, 0.05)
    given = np.where(wrong, (truth + random.integers(1, 3, size=ROWS)) % 3, truth)
    centre = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])[truth]
    ids = [f"k{row}" for row in range(ROWS)]
    columns = {
        "id": ids,
        "x": centre[:, 0] + random.normal(size=ROWS),
        "y": centre[:, 1] + random.normal(size=ROWS),
        "vendor": [f"v{number}" for number in vendor],
        "label": [changed.get(key, label) for key, label in zip(ids, CLASSES[given])],
    }
    pq.write_table(pa.table(columns), path)


def config(source: Path) -> AuditConfig:
    tree = {
        "name": "one",
        "data": {
            "train": str(source),
            "split": {"fractions": [0.6, 0.2, 0.2]},
            "features": {"x": "numeric", "y": "numeric", "vendor": "category"},
            "label": "label",
            "key": "id",
            "group": ["vendor"],
        },
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 6, "checkpoints": 2, "batch_size": 20},
        "compute": {"workers": 1},
        "verification": {"seeds": 0, "fidelity": 0},
    }
    return AuditConfig.model_validate(tree)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Audits the file with some labels changed (id → label), up to the decisions; returns rows.parquet."""

    def run(name: str, changed: dict[str, str]) -> pa.Table:
        folder = tmp_path_factory.mktemp(name)
        write_file(folder / "all.parquet", changed)
        run_until(config(folder / "all.parquet"), folder / "run", "detect")
        return pq.read_table(folder / "run/rows.parquet")

    return run


@pytest.fixture(scope="module")
def as_given(audited: Run) -> pa.Table:
    return audited("given", {})


def train_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pa.compute.equal(rows["split"], "train"))


def with_other_labels(rows: pa.Table, role: str, share: float) -> dict[str, str]:
    """A share of the role's rows, each with another label than it has."""
    random = np.random.default_rng(1)
    following = dict(zip(CLASSES.tolist(), np.roll(CLASSES, 1).tolist()))
    return {
        row["row_key"]: following[row["label"]]
        for row in rows.select(["row_key", "split", "label"]).to_pylist()
        if row["split"] == role and random.uniform() < share
    }


def test_every_row_of_the_file_stands_in_the_list_once(as_given: pa.Table) -> None:
    assert sorted(as_given["row_key"].to_pylist()) == sorted(f"k{row}" for row in range(ROWS))
    assert set(as_given["split"].to_pylist()) == {"train", "validation", "holdout"}
    assert as_given["suspicion"].null_count == 0


def test_wrong_labels_are_flagged_in_every_role(as_given: pa.Table) -> None:
    flagged = as_given.filter(pa.compute.not_equal(as_given["decision"], "keep"))
    assert set(flagged["split"].to_pylist()) == {"train", "validation", "holdout"}


def test_no_holdout_label_has_a_say_about_a_train_row(audited: Run, as_given: pa.Table) -> None:
    changed = with_other_labels(as_given, "holdout", 1.0)
    assert len(changed) > 80
    again = audited("holdout", changed)
    before, after = train_rows(as_given), train_rows(again)
    for column in ("row_key", "decision", "suspicion", "suggested_label", "suggested_probability", "reasons"):
        assert before[column].to_pylist() == after[column].to_pylist(), column
    of_holdout = again.filter(pa.compute.equal(again["split"], "holdout"))
    assert pa.compute.mean(pa.compute.not_equal(of_holdout["decision"], "keep").cast("int8")).as_py() > 0.5


def test_noise_in_validation_moves_hardly_a_decision(audited: Run, as_given: pa.Table) -> None:
    changed = with_other_labels(as_given, "validation", 0.2)
    assert len(changed) > 10
    before, after = train_rows(as_given), train_rows(audited("validation", changed))
    assert before["row_key"].to_pylist() == after["row_key"].to_pylist()
    moved = [a != b for a, b in zip(before["decision"].to_pylist(), after["decision"].to_pylist())]
    assert np.mean(moved) < 0.02
    assert before["suspicion"].to_pylist() == after["suspicion"].to_pylist()
