from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runs.directory import read_json

from .small import Prepared, run_prepare, write

RANDOM = np.random.default_rng(0)
WORDS = np.array(["red", "green", "blue", "dark", "light", "sky"])


def mixed(rows: int) -> pa.Table:
    """Rows of every kind of feature, with nulls where they are allowed."""
    return pa.table(
        {
            "n": RANDOM.normal(5, 2, rows),
            "b": RANDOM.random(rows) < 0.5,
            "c": pa.array(
                [None if i % 11 == 0 else str(word) for i, word in enumerate(RANDOM.choice(WORDS, rows))]
            ),
            "l": pa.array(list(RANDOM.normal(size=(rows, 3))), pa.list_(pa.float32(), 3)),
            "t": [" ".join(RANDOM.choice(WORDS, 5)) for _ in range(rows)],
            "i": pa.array(list(RANDOM.integers(0, 256, (rows, 4), dtype=np.uint8)), pa.list_(pa.uint8(), 4)),
            "w": RANDOM.random(rows) + 0.5,
            "label": [("yes", "no")[i % 2] for i in range(rows)],
            "key": [f"k{i}" for i in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    table = mixed(260)
    write(path / "train/a.parquet", table.slice(0, 150), 40)
    write(path / "train/b.parquet", table.slice(150, 60), 60)
    write(path / "validation.parquet", table.slice(210, 50), 7)
    return path


def prepare_mixed(sources: Path, run: Path, chunk_rows: int = 8192) -> Prepared:
    kinds = {"n": "auto", "b": "auto", "c": "auto", "l": "auto", "t": "auto", "i": "image"}
    return run_prepare(
        run,
        chunk_rows,
        train=str(sources / "train"),
        validation=str(sources / "validation.parquet"),
        features=kinds,
        weight="w",
        key="key",
        max_tokens=6,
    )


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory) -> Prepared:
    return prepare_mixed(sources, tmp_path_factory.mktemp("whole"))


@settings(max_examples=10, deadline=None)
@given(chunk_rows=st.integers(3, 170))
def test_encoded_rows_do_not_depend_on_the_size_of_chunks(sources, whole, tmp_path_factory, chunk_rows):
    cut = prepare_mixed(sources, tmp_path_factory.mktemp("cut"), chunk_rows)
    assert (cut.path / "encoding.json").read_bytes() == (whole.path / "encoding.json").read_bytes()
    assert cut.catalog() == whole.catalog()
    for role in ("train", "validation"):
        one, other = whole.data.load_role(role), cut.data.load_role(role)
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in ("dense", "image", "tokens"))
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.row_ids, other.row_ids)
        assert torch.equal(one.weights, other.weights)


def test_rows_are_those_of_the_source_in_order(sources, tmp_path):
    prepared = prepare_mixed(sources, tmp_path)
    table = pa.concat_tables(pq.read_table(sources / "train" / name) for name in ("a.parquet", "b.parquet"))
    rows, catalog = prepared.data.load_role("train"), prepared.catalog()
    numbers = table["n"].to_numpy()
    np.testing.assert_allclose(
        rows.inputs["dense"][:, 0], (numbers - numbers.mean()) / numbers.std(), rtol=1e-4, atol=1e-6
    )
    assert rows.inputs["image"].flatten(1).tolist() == table["i"].to_pylist()
    assert [prepared.encoding.classes[i] for i in rows.labels] == table["label"].to_pylist()
    assert rows.weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert catalog["row_key"] == [f"k{i}" for i in range(260)]
    assert catalog["split"] == ["train"] * 210 + ["validation"] * 50
    assert catalog["shard"][150] == str(sources / "train/b.parquet")
    assert catalog["row"][:151] == [*range(150), 0]
    assert catalog["row_group"][:151] == [i // 40 for i in range(150)] + [0]


def test_validation_rows_have_no_say_in_the_statistics(tmp_path):
    train = {"x": [1.0, 3.0, 1.0, 3.0], "label": [0, 1, 0, 1]}
    paths = {"train": write(tmp_path / "t.parquet", train)}
    alone = run_prepare(tmp_path / "1", **paths)
    other = {"x": [1000.0], "label": [1]}
    beside = run_prepare(tmp_path / "2", **paths, holdout=write(tmp_path / "h.parquet", other))
    assert (alone.path / "encoding.json").read_bytes() == (beside.path / "encoding.json").read_bytes()


def test_facts_say_what_was_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = {"x": [1.0, 1.0, 1.0, 2.0, 2.0], "label": ["a", "a", "b", "b", "b"]}
    write("train.parquet", train, 2)
    write("holdout.parquet", {"x": [2.0, 5.0], "label": ["b", "a"]})
    facts = run_prepare(Path("run"), train="train.parquet", holdout="holdout.parquet").facts
    expected = {
        "rows": {"train": 5, "validation": 0, "holdout": 2},
        "shards": 2,
        "chunks": 2,
        "features": {"x": "numeric"},
        "task": "classification",
        "classes": 2,
        "class_counts": {"a": 2, "b": 3},
        "duplicates": {"groups": 2, "rows": 4, "conflicting_rows": 3},
        "content_in_two_roles": 1,
        "dropped_labels": 0,
    }
    assert {name: facts[name] for name in expected} == expected
    stat = Path("train.parquet").stat()
    assert facts["sources"][0] == {
        "path": "train.parquet",
        "role": "train",
        "rows": 5,
        "row_groups": 3,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": hashlib.sha256(Path("train.parquet").read_bytes()).hexdigest(),
    }
    assert [warning.split()[0] for warning in facts["warnings"]] == ["4", "3", "1"]


def test_without_a_key_rows_are_named_by_path_and_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("d/a.parquet", {"x": [1, 2, 3, 4], "label": [0, 1, 0, 1]}, 3)
    catalog = run_prepare(Path("run"), train="d").catalog()
    assert catalog["row_key"] == [f"d/a.parquet#{i}" for i in range(4)]


def split_table(rows: int = 100) -> dict:
    parts = ["train", "holdout", "train", "validation", "train"]
    return {
        "x": np.arange(rows) * 1.0,
        "label": np.arange(rows) % 2,
        "s": [parts[i % 5] for i in range(rows)],
        "id": np.arange(rows),
    }


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_a_split_column_gives_roles_row_by_row(tmp_path, chunk_rows):
    table = split_table()
    path = write(tmp_path / "a.parquet", table, 30)
    prepared = run_prepare(tmp_path / "run", chunk_rows, train=path, split={"column": "s"}, key="id")
    catalog = prepared.catalog()
    assert catalog["row"] == list(range(100))
    assert catalog["split"] == table["s"]
    for role in ("train", "validation", "holdout"):
        mine = [i for i, word in enumerate(table["s"]) if word == role]
        assert prepared.facts["rows"][role] == len(mine)
        assert prepared.data.load_role(role).labels.tolist() == [i % 2 for i in mine]
    train = table["x"][np.array(table["s"]) == "train"]
    assert prepared.encoding.features[0].mean == [pytest.approx(train.mean())]


def test_fractions_do_not_depend_on_the_shards(tmp_path):
    table = pa.table(split_table())
    split = {"fractions": [0.6, 0.2, 0.2], "seed": 3}
    one = write(tmp_path / "one.parquet", table)
    two = [write(tmp_path / f"{name}.parquet", part) for name, part in (("p", table[60:]), ("q", table[:60]))]
    roles = []
    for run, paths in (("1", one), ("2", two)):
        catalog = run_prepare(tmp_path / run, train=paths, split=split, key="id").catalog()
        roles.append(dict(zip(catalog["row_key"], catalog["split"])))
    assert roles[0] == roles[1]
    assert set(roles[0].values()) == {"train", "validation", "holdout"}


def test_a_split_column_without_a_role_is_a_warning(tmp_path):
    table = {"x": [1, 2, 3, 4, 5], "label": [0, 1, 0, 1, 1], "s": ["train"] * 4 + ["holdout"]}
    facts = run_prepare(
        tmp_path / "run", train=write(tmp_path / "a.parquet", table), split={"column": "s"}
    ).facts
    assert facts["warnings"] == ["The split column 's' gives no row the role validation."]


@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_rows_without_a_label_can_be_left_out(tmp_path, chunk_rows):
    # the third chunk of two rows has no labels at all, and its features are not looked at
    table = {"x": [1.0, 2, 3, 4, None, None, 7], "label": [0, 1, None, 0, None, None, 1]}
    path = write(tmp_path / "a.parquet", table)
    prepared = run_prepare(tmp_path / "run", chunk_rows, train=path, missing_label="drop")
    assert prepared.catalog()["row"] == [0, 1, 3, 6]
    assert prepared.data.load_role("train").labels.tolist() == [0, 1, 0, 1]
    assert prepared.facts["dropped_labels"] == 3
    assert prepared.encoding.features[0].mean == [14 / 4]
    assert prepared.facts["warnings"] == ["3 rows have no label: they take no part and stay in the export."]


def test_regression_targets_without_a_value_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.parquet", {"x": [1, 2, 3, 4], "label": [0.5, None, float("nan"), 1.5]})
    prepared = run_prepare(tmp_path / "run", train=path, missing_label="drop")
    assert prepared.data.load_role("train").labels.tolist() == [-1.0, 1.0]


def test_the_list_of_chunks_is_written_last(sources, tmp_path):
    prepared = prepare_mixed(sources, tmp_path, 50)
    listed = {entry["id"] for entry in read_json(tmp_path / "encoded/chunks.json")["chunks"]}
    assert listed == {path.stem for path in (tmp_path / "encoded").glob("*.safetensors")}
    newest = max((tmp_path / "encoded").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "chunks.json"
    assert len(listed) == prepared.facts["chunks"]


def test_preparing_twice_writes_the_same_bytes(sources, tmp_path):
    for name in ("1", "2"):
        prepare_mixed(sources, tmp_path / name, 40)
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
