from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.data.encoded import Chunk
from pipeline.data.hashing import key_ids

from .small import Prepared, run_prepare, write


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    """50 train rows in two shards and 10 validation rows, in chunks of at most 8."""
    for name, first, rows in (("train/a", 0, 20), ("train/b", 20, 30), ("validation/a", 50, 10)):
        index = np.arange(first, first + rows)
        columns = {
            "x": index * 1.0,
            "text": [f"word{i % 3}" for i in index],
            "label": index % 2,
            "key": index,
        }
        write(tmp_path / f"{name}.parquet", columns)
    return run_prepare(
        tmp_path / "run",
        chunk_rows=8,
        train=str(tmp_path / "train"),
        validation=str(tmp_path / "validation"),
        features={"x": "numeric", "text": "text"},
        key="key",
        max_tokens=4,
    )


def test_chunks_follow_one_another(prepared):
    chunks = prepared.data.chunks("train")
    assert [chunk.first for chunk in chunks] == [sum(c.rows for c in chunks[:i]) for i in range(len(chunks))]
    assert max(chunk.rows for chunk in chunks) <= 8
    assert prepared.data.count("train") == 50
    assert (prepared.data.count("validation"), prepared.data.count("holdout")) == (10, 0)


def test_a_role_is_its_chunks_in_order(prepared):
    rows = prepared.data.load_role("train")
    assert rows.labels.tolist() == [i % 2 for i in range(50)]
    assert rows.row_ids.tolist() == key_ids([str(i) for i in range(50)]).tolist()
    chunk = prepared.data.chunks("train")[3]
    part = prepared.data.load(chunk)
    assert len(part) == chunk.rows
    assert torch.equal(part.inputs["dense"], rows.inputs["dense"][chunk.first : chunk.first + chunk.rows])


def test_bytes_are_those_of_the_tensors(prepared):
    rows = prepared.data.load_role("train")
    tensors = [*rows.inputs.values(), rows.labels, rows.row_ids]
    assert prepared.data.nbytes("train") == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("which", [slice(3, 9), torch.tensor([7, 0, 7]), torch.arange(50) % 7 == 0])
def test_selecting_takes_the_same_rows_of_every_tensor(prepared, which):
    rows = prepared.data.load_role("train")
    some = rows.select(which)
    assert torch.equal(some.inputs["tokens"], rows.inputs["tokens"][which])
    assert torch.equal(some.inputs["dense"], rows.inputs["dense"][which])
    assert torch.equal(some.labels, rows.labels[which])
    assert torch.equal(some.row_ids, rows.row_ids[which])
    assert some.weights is None


def test_a_single_kind_of_input_is_a_tensor(tmp_path):
    columns = {"x": [1.0, 2, 3, 4], "w": [1.0, 1, 3, 3], "label": [0, 1, 0, 1]}
    path = write(tmp_path / "a.parquet", columns)
    rows = run_prepare(tmp_path / "run", train=path, features={"x": "numeric"}, weight="w").data.load_role(
        "train"
    )
    assert rows.inputs.shape == (4, 1)
    assert rows.weights is not None
    assert rows.select([3, 0]).weights.tolist() == [1.5, 0.5]


def test_a_role_without_rows_is_an_error(prepared):
    with pytest.raises(ValueError, match="no holdout rows"):
        prepared.data.load_role("holdout")


def test_chunk_names_tell_role_shard_and_row(prepared):
    train = [chunk.id for chunk in prepared.data.chunks("train")]
    assert train[0] == "train-00000-000000000"
    assert train[3] == "train-00001-000000000"
    assert prepared.data.chunks("validation")[0].id == "validation-00002-000000000"


def test_the_source_is_not_touched(tmp_path):
    table = pa.table({"x": [1.0, 2, 3, 4], "label": [0, 1, 0, 1]})
    path = tmp_path / "a.parquet"
    write(path, table)
    before = path.read_bytes()
    run_prepare(tmp_path / "run", train=str(path))
    assert path.read_bytes() == before


def test_a_chunk_says_which_places_it_holds() -> None:
    chunk = Chunk("c", "train", rows=4, first=10)
    assert chunk.holds(np.array([13, 2, 14, 10, 9, 12])).tolist() == [0, 3, 5]
    assert chunk.holds(np.zeros(0, dtype=np.int64)).tolist() == []
