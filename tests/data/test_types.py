"""Shards whose columns have different types, and types that no feature takes."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.features.arrow as module
from pipeline.config import AuditConfig
from pipeline.data.encoded import EncodedData
from pipeline.data.first_look.inspect_files import look
from pipeline.data.prepare import prepare
from pipeline.errors import InputError
from pipeline.export.rewrite import Changes, difference, rewrite
from pipeline.features.arrow import filtered, taken, unified
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory
from pipeline.workers.cluster import Workers

ROWS = 30
RNG = np.random.default_rng(0)
WORDS = ["red", "green", "blue"] * (ROWS // 3)
WHOLE = [int(value) for value in RNG.integers(0, 100, ROWS)]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ([pa.string(), pa.large_string()], pa.large_string()),
        ([pa.string(), pa.string_view()], pa.large_string()),
        ([pa.string(), pa.dictionary(pa.int8(), pa.string())], pa.string()),
        ([pa.int8(), pa.int64(), pa.uint16()], pa.int64()),
        ([pa.int32(), pa.float32()], pa.float64()),
        ([pa.null(), pa.int16()], pa.int16()),
        ([pa.decimal128(5, 2), pa.int32()], pa.decimal128(12, 2)),
        ([pa.list_(pa.float32()), pa.list_(pa.float64(), 4)], pa.list_(pa.float64())),
        ([pa.int64(), pa.string()], None),
        ([pa.bool_(), pa.int64()], None),
    ],
)
def test_types_that_can_be_read_as_one(kinds, wanted):
    found = unified(kinds)
    if wanted is not None and pa.types.is_decimal(wanted):
        assert pa.types.is_decimal(found)
    else:
        assert found == wanted


def encoded(tables: list[pa.Table], features: dict[str, str], **data: object) -> np.ndarray:
    """The dense inputs of all rows, in the order of the files."""
    for place, table in enumerate(tables):
        pq.write_table(table, f"{place}.parquet")
    names = [f"{place}.parquet" for place in range(len(tables))]
    tree = {"train": names, "features": features, "label": "label", **data}
    config = AuditConfig.model_validate({"name": "a", "data": tree, "compute": {"workers": 1}})
    run = RunDirectory(Path("run"))
    prepare(AuditContext(config, run, Workers(config.compute)))
    found = EncodedData.open(run.path)
    return np.concatenate([found.load(chunk).inputs.numpy() for chunk in found.chunks("train")])


def test_shards_of_other_types_are_encoded_like_shards_of_one_type():
    def shard(rows: slice, number: pa.DataType, word: pa.DataType, label: pa.DataType) -> pa.Table:
        words = pa.array(WORDS[rows], word.value_type if pa.types.is_dictionary(word) else word)
        words = words.dictionary_encode() if pa.types.is_dictionary(word) else words
        labels = pa.array([str(value % 2) for value in WHOLE[rows]], label)
        return pa.table({"n": pa.array(WHOLE[rows], number), "word": words, "label": labels})

    one, two, three = slice(0, 10), slice(10, 20), slice(20, 30)
    coded = pa.dictionary(pa.int32(), pa.string())
    features = {"n": "numeric", "word": "category"}
    same = encoded(
        [shard(rows, pa.int64(), pa.string(), pa.string()) for rows in (one, two, three)], features
    )
    Path("run").rename("first")
    mixed = encoded(
        [
            shard(one, pa.int8(), pa.string_view(), pa.string()),
            shard(two, pa.uint32(), coded, pa.large_string()),
            shard(three, pa.float64(), pa.large_string(), pa.string_view()),
        ],
        features,
    )
    np.testing.assert_array_equal(mixed, same)


def test_a_shard_that_never_has_a_value_is_of_the_type_of_the_others():
    full = pa.table({"n": pa.array([1.0, 3.0]), "label": [0, 1]})
    empty = pa.table({"n": pa.nulls(2), "label": [0, 1]})
    found = encoded([empty, full], {"n": "numeric"}, missing_features="impute")
    np.testing.assert_allclose(found[:, 0], [0, 0, -1, 1], atol=1e-6)


def test_values_that_do_not_fit_are_said_with_their_file():
    one = pa.table({"n": pa.array([2**63 + 1, 1], pa.uint64()), "label": [0, 1]})
    other = pa.table({"n": pa.array([1, 2], pa.int64()), "label": [0, 1]})
    with pytest.raises(InputError, match=r"0.parquet: column 'n' is uint64 and can't be read as int64"):
        encoded([one, other], {"n": "numeric"})


def test_decimals_small_floats_and_nullable_integers_are_numbers():
    values = [1, 2, 3, 6]
    table = pa.table(
        {
            "decimal": pa.array([Decimal(value) for value in values], pa.decimal256(50, 2)),
            "half": pa.array(np.array(values, np.float16)),
            "nullable": pa.array([1, 2, 3, None], pa.int64()),
            "label": [0, 1, 0, 1],
        }
    )
    found = encoded(
        [table], dict.fromkeys(["decimal", "half", "nullable"], "auto"), missing_features="impute"
    )
    wanted = (np.array(values) - 3) / np.std(values)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-3)
    np.testing.assert_allclose(found[:, 1], wanted, rtol=1e-3)
    np.testing.assert_allclose(found[:, 2], [-1.2247, 0, 1.2247, 0], rtol=1e-3, atol=1e-6)


def strange() -> pa.Table:
    """Columns of types that no kind of feature takes, and views, for which Arrow lacks kernels."""
    matrix = pa.fixed_shape_tensor(pa.float32(), [2, 2], permutation=[1, 0])
    cells = pa.array(RNG.normal(size=(ROWS, 4)).astype(np.float32).tolist(), pa.list_(pa.float32(), 4))
    names = pa.array([uuid.UUID(int=row).bytes for row in range(ROWS)], pa.binary(16))
    return pa.table(
        {
            "x": RNG.normal(size=ROWS),
            "matrix": pa.ExtensionArray.from_storage(matrix, cells),
            "name": pa.ExtensionArray.from_storage(pa.uuid(), names),
            "view": pa.array(WORDS, pa.string_view()),
            "views": pa.array([[word, None] for word in WORDS], pa.list_(pa.string_view())),
            "bytes": pa.array([b"a"] * ROWS, pa.binary_view()),
            "map": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int8())),
            "when": pa.array(range(ROWS), pa.timestamp("us", "Europe/Berlin")),
            "duration": pa.array(range(ROWS), pa.duration("s")),
            "label": pa.array([value % 2 for value in WHOLE]),
        }
    )


def test_init_says_which_types_are_no_features_and_takes_views_as_strings():
    pq.write_table(strange(), "a.parquet")
    found = look(["a.parquet"])
    assert found.features == {"x": "numeric", "view": "category"}
    left = {name: choice.remark for name, choice in found.choices.items() if not choice.kind}
    assert left["name"] == "extension<arrow.uuid>"
    assert left["when"] == left["duration"] == "time"


def test_rows_are_taken_from_any_type():
    table = strange()
    mask = RNG.random(ROWS) < 0.5
    wanted = [row for row, keep in zip(table.to_pylist(), mask) if keep]
    assert filtered(table, mask).to_pylist() == wanted
    assert taken(table, np.flatnonzero(mask)).to_pylist() == wanted
    nothing = filtered(table, np.zeros(ROWS, dtype=bool))
    assert (nothing.num_rows, nothing.schema) == (0, table.schema)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_any_type_comes_back_from_the_export(tmp_path, kind):
    table = strange()
    labels = [str(value) for value in table["label"].to_pylist()]
    if pa.types.is_dictionary(kind):
        column = pa.array(labels).dictionary_encode().cast(kind)
    else:
        column = pa.array(labels).cast(pa.large_string()).cast(kind)
    at = table.schema.get_field_index("label")
    table = table.set_column(at, "label", column)
    pq.write_table(table, "a.parquet", row_group_size=12)
    relabel = np.array([False, True, False, False])
    places = np.array([1, 4, 13, 20])
    new = pa.array(["0", "1", "0", "0"]).cast(pa.int64() if kind == pa.int64() else pa.string())
    changes = Changes(places, relabel, new, pa.table({"why": ["a", "b", "c", "d"]}), "label")
    rewrite(Path("a.parquet"), changes, tmp_path / "cleaned.parquet", tmp_path / "away.parquet")
    assert (
        difference(Path("a.parquet"), changes, tmp_path / "cleaned.parquet", tmp_path / "away.parquet")
        is None
    )
    cleaned = pq.read_table(tmp_path / "cleaned.parquet")
    assert cleaned.schema == table.schema
    rows = table.to_pylist()
    rows[4]["label"] = 1 if kind == pa.int64() else "1"
    assert cleaned.to_pylist() == [row for place, row in enumerate(rows) if place not in (1, 13, 20)]
    assert pq.read_table(tmp_path / "away.parquet").num_rows == 4
    assert module.plain(pa.array(["a"], pa.string_view())).type == pa.large_string()


def test_lists_of_bytes_of_one_length_are_pictures_if_they_make_a_square(tmp_path: Path) -> None:
    """As pandas writes pictures: the type says neither a size nor a shape."""
    random = np.random.RandomState(0)
    for length, kind in ((64, "image"), (192, "image"), (70, "list"), (49, "list")):
        pixels = random.randint(0, 256, (40, length)).astype(np.uint8)
        lists = pa.array([None, *pixels.tolist()], pa.list_(pa.uint8()))
        path = tmp_path / f"{length}.parquet"
        pq.write_table(pa.table({"picture": lists, "label": pa.array([0, *[0, 1] * 20])}), path)
        found = look([str(path)])
        assert {name: choice.kind for name, choice in found.choices.items()} == {"picture": kind}
