from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import load_config
from pipeline.data.catalog import read_catalog
from pipeline.detection import table as module
from pipeline.detection.reasons import bit
from pipeline.detection.suspicion import SignalValues
from pipeline.detection.table import (
    ColumnReader,
    Judgement,
    conflicting_duplicates,
    in_parts,
    judged_roles,
    with_labels,
    write_rows,
    write_signals,
)
from pipeline.text.decisions import DECISIONS, Decider, Decision
from pipeline.text.reasons import SUSPICIOUS
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_config, run_data

KEEP, REVIEW, REMOVE, RELABEL = Decision
NOBODY, RULE, PERSON, _ = Decider


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 10)


@pytest.mark.parametrize("sizes", [[3, 4, 30, 1], [10, 10], [5], [25]])
def test_parts_have_all_rows_in_order_and_the_same_size_but_the_last(sizes: list[int]) -> None:
    numbers = iter(range(sum(sizes)))
    tables = [pa.table({"x": [next(numbers) for _ in range(size)]}) for size in sizes]
    parts = list(in_parts(tables))
    assert pa.concat_tables(parts)["x"].to_pylist() == list(range(sum(sizes)))
    assert all(part.num_rows == 10 for part in parts[:-1])
    assert 1 <= parts[-1].num_rows <= 10


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_column_is_read_forwards_at_the_rows_asked_for(tmp_path: Path, dictionary: bool) -> None:
    values = pa.array([f"class {row % 7}" for row in range(95)])
    column = values.dictionary_encode() if dictionary else values
    pq.write_table(pa.table({"label": column}), tmp_path / "shard.parquet", row_group_size=33)
    rows = np.flatnonzero(np.random.default_rng(0).random(95) < 0.6)
    reader = ColumnReader(str(tmp_path / "shard.parquet"), "label")
    found = [reader.take(rows[start : start + 8]).to_pylist() for start in range(0, len(rows), 8)]
    assert [value for part in found for value in part] == values.take(pa.array(rows)).to_pylist()


def test_labels_are_those_of_each_rows_shard(tmp_path: Path) -> None:
    shards = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    for number, shard in enumerate(shards):
        pq.write_table(pa.table({"y": [100 * number + row for row in range(40)]}), shard)
    places = [(shards[0], [0, 5, 39]), (shards[1], [2, 3]), (shards[1], [17])]
    catalog = [pa.table({"shard": [shard] * len(rows), "row": rows}) for shard, rows in places]
    labels = [table["label"].to_pylist() for table in with_labels(catalog, "y")]
    assert labels == [[0, 5, 39], [102, 103], [117]]


def judgement(rows: int, classes: np.ndarray, seed: int) -> Judgement:
    """Some judgement of rows with these labels: every third is contradicted, by the next class."""
    random = np.random.default_rng(seed)
    decision = random.integers(0, len(DECISIONS), rows).astype(np.uint8)
    contradicted = (np.arange(rows) % 3 == 0) | (decision == RELABEL)
    return Judgement(
        suspicion=random.uniform(size=rows),
        suggested=(classes + 1) % 10,
        suggested_probability=np.where(contradicted, random.uniform(size=rows), np.nan),
        contradicted=contradicted,
        decision=decision,
        reasons=np.where(decision == KEEP, 0, bit(SUSPICIOUS)).astype(np.uint16),
    )


@pytest.fixture
def noisy_run(detected_run: Path) -> Path:
    """A detected run none of whose labels are declared right."""
    config = load_config(detected_run / "config.yaml", {"data.validation_is_clean": False})
    (detected_run / "config.yaml").write_text(config.to_yaml())
    return detected_run


def judgements(run: Path) -> dict[str, Judgement]:
    data = run_data(run)
    return {
        role: judgement(data.count(role), role_labels(data, role).numpy(), seed)
        for seed, role in enumerate(judged_roles(run_config(run), data))
    }


def test_every_labelled_row_of_every_role_stands_in_the_table_once_in_the_order_of_the_roles(
    noisy_run: Path,
) -> None:
    before = pq.read_table(noisy_run / "rows.parquet")
    made = judgements(noisy_run)
    write_rows(noisy_run, made)
    rows = pq.read_table(noisy_run / "rows.parquet")
    catalog = pa.concat_tables([read_catalog(noisy_run, role) for role in ("train", "validation", "holdout")])
    for name in ("row_key", "shard", "row", "split"):
        assert rows[name].to_pylist() == catalog[name].to_pylist()
    assert len(set(rows["row_key"].to_pylist())) == rows.num_rows
    labels = [role_labels(run_data(noisy_run), role).numpy() for role in made]
    assert rows["label"].to_numpy().tolist() == np.concatenate(labels).tolist()
    suspicion = np.concatenate([each.suspicion for each in made.values()])
    assert rows["suspicion"].to_numpy().tolist() == suspicion.tolist()
    train = rows.slice(0, before.num_rows)
    for name in ("row_key", "label", "predicted_label", "self_influence", "validation_harm", "final_loss"):
        assert train[name].equals(before[name])
    assert rows["self_influence"].null_count == rows.num_rows - before.num_rows
    assert rows.schema.types[: len(before.schema.types)] == before.schema.types


def test_a_relabelled_row_gets_the_suggestion_or_a_persons_own_label_and_others_none(noisy_run: Path) -> None:
    made = judgements(noisy_run)
    holdout = made["holdout"]
    relabelled = np.flatnonzero(holdout.decision == RELABEL)
    own = {int(relabelled[3]): 7, int(relabelled[-1]): 2, int(np.flatnonzero(holdout.decision == KEEP)[0]): 5}
    decided = np.where(holdout.decision == KEEP, NOBODY, RULE).astype(np.uint8)
    decided[list(own)] = PERSON
    made["holdout"] = replace(holdout, own_labels=own, decided_by=decided)
    write_rows(noisy_run, made)
    rows = pq.read_table(noisy_run / "rows.parquet").to_pylist()
    for row in rows:
        assert (row["new_label"] is not None) == (row["decision"] == "relabel")
        assert row["proposed"] is None
    holdout_rows = [row for row in rows if row["split"] == "holdout"]
    for at, row in enumerate(holdout_rows):
        if row["decision"] == "relabel":
            assert row["new_label"] == own.get(at, row["suggested_label"])
        wanted = "person" if at in own else None if row["decision"] == "keep" else "rule"
        assert row["decided_by"] == wanted


def test_rows_of_roles_whose_labels_are_declared_right_are_left_out(noisy_run: Path) -> None:
    made = judgements(noisy_run)
    config = load_config(noisy_run / "config.yaml", {"data.holdout_is_clean": True})
    (noisy_run / "config.yaml").write_text(config.to_yaml())
    write_rows(noisy_run, made)
    assert set(pq.read_table(noisy_run / "rows.parquet")["split"].to_pylist()) == {"train", "validation"}
    write_rows(noisy_run, {"train": made["train"], "validation": None})
    assert set(pq.read_table(noisy_run / "rows.parquet")["split"].to_pylist()) == {"train"}


def test_signals_stand_beside_the_same_rows_and_are_null_where_a_role_lacks_them(noisy_run: Path) -> None:
    made = judgements(noisy_run)
    write_rows(noisy_run, made)
    one = {role: np.random.default_rng(0).normal(size=len(each.decision)) for role, each in made.items()}
    signals = {role: [SignalValues("panel_trees", values, True, "words")] for role, values in one.items()}
    signals["train"].append(SignalValues("early_loss", one["train"] + 1, True, "words"))
    write_signals(noisy_run, signals)
    found = pq.read_table(noisy_run / "signals.parquet")
    assert found["row_key"].equals(pq.read_table(noisy_run / "rows.parquet")["row_key"])
    assert found["panel_trees"].to_numpy().tolist() == np.concatenate(list(one.values())).tolist()
    train = len(one["train"])
    assert found["early_loss"].to_pylist()[:train] == (one["train"] + 1).tolist()
    assert set(found["early_loss"].to_pylist()[train:]) == {None}


def test_conflicts_of_train_rows_do_not_depend_on_the_other_roles(noisy_run: Path) -> None:
    catalog = read_catalog(noisy_run)
    features, contents = catalog["features_hash"].to_pylist(), catalog["content_hash"].to_pylist()
    splits = catalog["split"].to_pylist()
    first = {role: splits.index(role) for role in ("train", "validation", "holdout")}
    for role in ("validation", "holdout"):
        features[first[role]] = features[first["train"]]  # contents differ: the label is another one
    for name, values in (("features_hash", features), ("content_hash", contents)):
        place = catalog.schema.get_field_index(name)
        catalog = catalog.set_column(place, name, pa.array(values))
    pq.write_table(catalog, noisy_run / "catalog.parquet")
    assert not conflicting_duplicates(noisy_run)[0]
    for role in ("validation", "holdout"):
        assert conflicting_duplicates(noisy_run, role).tolist()[:1] == [True]
        assert len(conflicting_duplicates(noisy_run, role)) == run_data(noisy_run).count(role)
