"""Embeddings and probabilities that a user brings: in the order of the rows, or refused with file, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import AuditConfig
from pipeline.data.encode import ENCODING, Encoding
from pipeline.data.evidence.collect import collect_evidence, evidence_path
from pipeline.errors import InputError
from pipeline.stages.stages import fingerprints

from .small import config, run_prepare, write

ROWS = 40
KEYS = [f"k{row}" for row in range(ROWS)]
VECTORS = np.random.RandomState(0).normal(size=(ROWS, 3)).astype(np.float32)
LABELS = ["ham", "spam"] * (ROWS // 2)
SPAM = np.linspace(0.05, 0.95, ROWS).astype(np.float32)
PROBS = np.stack([1 - SPAM, SPAM], 1)


def columns(**more: Any) -> dict[str, Any]:
    return {"id": KEYS, "x": np.arange(ROWS), "label": LABELS} | more


def collected(tmp_path: Path, table: dict[str, Any], **data: Any) -> dict[str, np.ndarray]:
    """Prepare a file whose rows are split by hash and collect its evidence; key → the values that it got, by name."""
    data = {"key": "id", "split": {"fractions": [0.6, 0.2, 0.2]}} | data
    path = write(tmp_path / "data.parquet", table, row_group_size=7)
    found = run_prepare(tmp_path / "run", train=path, chunk_rows=5, **data)
    settings: AuditConfig = config(5, train=path, **data)
    encoding = Encoding.load(tmp_path / "run" / ENCODING)
    collect_evidence(settings, tmp_path / "run", encoding, tmp_path / "own")
    catalog, by_name = found.catalog(), {}
    for name in settings.data.evidence:
        values: dict[str, np.ndarray] = {}
        for role in set(catalog["split"]):
            keys = [key for key, of in zip(catalog["row_key"], catalog["split"]) if of == role]
            values |= dict(zip(keys, np.load(evidence_path(tmp_path / "own", name, role)), strict=True))
        by_name[name] = np.stack([values[key] for key in KEYS])
    return by_name


def shuffled(**values: Any) -> dict[str, Any]:
    order = np.random.RandomState(1).permutation(ROWS)
    table = {"id": [KEYS[row] for row in order]}
    return table | {name: [each[row] for row in order] for name, each in values.items()}


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float16())]
)
def test_a_column_of_the_data_is_read_in_the_order_of_the_rows(tmp_path: Path, kind: pa.DataType) -> None:
    vectors = pa.array([list(row.astype(np.float16)) for row in VECTORS], pa.list_(pa.float16())).cast(kind)
    found = collected(tmp_path, columns(vector=vectors), embeddings="vector")
    np.testing.assert_array_equal(found["embeddings"], VECTORS.astype(np.float16).astype(np.float32))


def test_a_file_is_joined_by_key_and_its_other_rows_are_counted(tmp_path: Path) -> None:
    table = shuffled(vector=list(VECTORS))
    table = {name: [*values, values[0]] for name, values in table.items()}
    table["id"][-1] = "a row of no audit"
    joined = write(tmp_path / "emb.parquet", table, row_group_size=6)
    given = {"file": joined, "column": "vector"}
    found = collected(tmp_path, columns(), embeddings=given)
    np.testing.assert_array_equal(found["embeddings"], VECTORS)
    settings = config(train=str(tmp_path / "data.parquet"), key="id", embeddings=given)
    (facts,) = collect_evidence(
        settings, tmp_path / "run", Encoding.load(tmp_path / "run" / ENCODING)
    ).values()
    assert (facts.width, facts.unused) == (3, 1)


@pytest.mark.parametrize(
    ("table", "given"),
    [
        ({"p": list(PROBS)}, "p"),
        ({"p": list(PROBS[:, ::-1])}, {"column": "p", "classes": ["spam", "ham"]}),
        ({"a": PROBS[:, 1], "b": PROBS[:, 0]}, {"columns": {"spam": "a", "ham": "b"}}),
    ],
    ids=["sorted classes", "named classes", "a column per class"],
)
def test_probabilities_are_in_the_order_of_the_classes(
    tmp_path: Path, table: dict[str, Any], given: Any
) -> None:
    found = collected(tmp_path, columns(**table), pred_probs=given)
    np.testing.assert_allclose(found["pred_probs"], PROBS, atol=1e-6)


def test_classes_that_are_numbers_and_switches_are_named_as_yaml_has_them(tmp_path: Path) -> None:
    labels = [value == "spam" for value in LABELS]
    table = columns(label=labels, a=PROBS[:, 1], b=PROBS[:, 0])
    found = collected(tmp_path, table, pred_probs={"columns": {True: "a", False: "b"}})
    np.testing.assert_allclose(found["pred_probs"], PROBS, atol=1e-6)


def test_rounded_probabilities_are_divided_by_their_sum(tmp_path: Path) -> None:
    found = collected(tmp_path, columns(p=list(PROBS * 0.995)), pred_probs="p")
    np.testing.assert_allclose(found["pred_probs"], PROBS, atol=1e-6)


def spoiled(values: np.ndarray, row: int, value: Any) -> list[Any]:
    found: list[Any] = list(values)
    found[row] = value
    return found


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "embeddings",
            spoiled(VECTORS, 11, VECTORS[0, :2]),
            "row 11: column 'own' has 2 numbers, the first row has 3",
        ),
        (
            "embeddings",
            spoiled(VECTORS, 12, [1, np.nan, 2]),
            "row 12: column 'own', element 1 is null or NaN",
        ),
        ("embeddings", spoiled(VECTORS, 12, [1, 1e300, 2]), "row 12: column 'own', element 1 is infinite"),
        ("embeddings", spoiled(VECTORS, 13, None), "row 13: column 'own' is null"),
        ("embeddings", SPAM, "column 'own' is float, and data.embeddings is a column of lists of numbers"),
        (
            "embeddings",
            [["a"]] * ROWS,
            r"column 'own' is list<.*string>, and data.embeddings is a column of lists",
        ),
        (
            "pred_probs",
            spoiled(PROBS, 9, [0.2, 0.7]),
            "row 9: column 'own': the probabilities sum to 0.9, not to 1",
        ),
        (
            "pred_probs",
            spoiled(PROBS, 9, [1.2, -0.2]),
            "row 9: column 'own' has 1.2, which is no probability",
        ),
        ("pred_probs", spoiled(PROBS, 9, [np.nan, 1]), "row 9: column 'own', element 0 is null or NaN"),
        (
            "pred_probs",
            spoiled(PROBS, 9, [1.0]),
            r"row 9: column 'own' has 1 probabilities, and the data have 2 classes \(ham, spam\)",
        ),
    ],
)
@pytest.mark.parametrize("joined", [False, True], ids=["own column", "joined"])
def test_a_bad_value_is_named_by_file_row_and_column(
    tmp_path: Path, joined: bool, name: str, values: Any, said: str
) -> None:
    own = pa.array(
        [None if each is None else list(each) for each in values] if np.ndim(values[0]) else values
    )
    given: Any = "own"
    table, where = columns(own=own), "data.parquet"
    if joined:
        where = "own.parquet"
        given = {"file": write(tmp_path / where, {"id": KEYS, "own": own}), "column": "own"}
        table = columns()
    with pytest.raises(InputError, match=f"{where}(, |: ){said}") as error:
        collected(tmp_path, table, **{name: given})
    assert error.value.hint


def test_a_column_per_class_names_the_column_that_is_wrong(tmp_path: Path) -> None:
    given = {"columns": {"ham": "a", "spam": "b"}}
    with pytest.raises(InputError, match="row 3: column 'b' is null or NaN"):
        collected(tmp_path, columns(a=PROBS[:, 0], b=spoiled(PROBS[:, 1], 3, None)), pred_probs=given)
    with pytest.raises(InputError, match="row 3: column 'a' has 2, which is no probability"):
        collected(tmp_path, columns(a=spoiled(PROBS[:, 0], 3, 2.0), b=PROBS[:, 1]), pred_probs=given)
    given = {"columns": {"ham": "a", "spam": "s"}}
    with pytest.raises(InputError, match=r"column 's' is string, and data.pred_probs.columns are numbers"):
        collected(tmp_path, columns(a=PROBS[:, 0], s=LABELS), pred_probs=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"columns": {"ham": "a"}}, "data.pred_probs.columns lacks the class 'spam'"),
        ({"columns": {"ham": "a", "spam": "b", "eggs": "x2"}}, "data.pred_probs.columns has 'eggs'"),
        ({"column": "p", "classes": ["ham"]}, "data.pred_probs.classes lacks the class 'spam'"),
    ],
)
def test_every_class_has_to_be_named_once(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    table = columns(a=PROBS[:, 0], b=PROBS[:, 1], x2=np.zeros(ROWS), p=list(PROBS))
    with pytest.raises(InputError, match=said) as error:
        collected(tmp_path, table, pred_probs=given)
    assert "The classes are ham, spam" in error.value.hint


def test_keys_that_are_missing_doubled_or_empty_are_named(tmp_path: Path) -> None:
    def joined(keys: list[Any]) -> None:
        table = {"name": keys, "vector": [[0.0, 1.0]] * len(keys)}
        path = write(tmp_path / "emb.parquet", table, row_group_size=8)
        collected(tmp_path, columns(), embeddings={"file": path, "key": "name", "column": "vector"})

    with pytest.raises(
        InputError, match=r"emb.parquet: no row has the key 'k5' in column 'name', .*, row 5"
    ) as error:
        joined([key for key in KEYS if key not in ("k5", "k8", "k30")])
    assert "2 more rows without" in error.value.hint
    with pytest.raises(
        InputError, match=r"emb.parquet, row 40: key 'k3' is also that of .*emb.parquet, row 3"
    ):
        joined([*KEYS, "k3"])
    with pytest.raises(
        InputError, match=r"emb.parquet, row 1: key 'k0' is also that of .*emb.parquet, row 0"
    ):
        joined(["k0", *KEYS])
    with pytest.raises(InputError, match=r"emb.parquet, row 17: key 'name' is null"):
        joined([*KEYS[:17], None, *KEYS[17:]])


def test_a_file_or_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.embeddings.file: .*nowhere.parquet: no file matches"):
        collected(tmp_path, columns(), embeddings={"file": str(tmp_path / "nowhere.parquet"), "column": "v"})
    path = write(tmp_path / "emb.parquet", {"name": KEYS, "vector": list(VECTORS)})
    with pytest.raises(InputError, match=r"emb.parquet: column 'id' is not there"):
        collected(tmp_path, columns(), embeddings={"file": path, "column": "vector"})
    with pytest.raises(InputError, match=r"emb.parquet: column 'vec' is not there"):
        collected(tmp_path, columns(), embeddings={"file": path, "column": "vec", "key": "name"})
    with pytest.raises(InputError, match=r"data.parquet: no column 'vec'"):
        collected(tmp_path, columns(), embeddings="vec")


def test_probabilities_of_numbers_and_sets_are_refused(tmp_path: Path) -> None:
    table = columns(p=list(PROBS), label=SPAM)
    with pytest.raises(InputError, match="the labels are a regression task"):
        collected(tmp_path, table, pred_probs="p")


def test_a_row_that_takes_no_part_needs_no_evidence(tmp_path: Path) -> None:
    table = columns(vector=spoiled(VECTORS, 4, None), label=spoiled(np.array(LABELS, object), 4, None))
    path = write(tmp_path / "data.parquet", table)
    found = run_prepare(tmp_path / "run", train=path, missing_label="drop", embeddings="vector")
    assert found.facts["rows"]["train"] == ROWS - 1


def test_a_changed_file_makes_the_stages_from_the_panel_on_anew(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", columns())
    joined = write(tmp_path / "emb.parquet", {"id": KEYS, "vector": list(VECTORS)})
    settings = config(train=data, key="id", embeddings={"file": joined, "column": "vector"})
    before = fingerprints(settings)
    write(joined, {"id": KEYS, "vector": list(VECTORS[:, :2])})
    after = fingerprints(settings)
    same = [name for name in before if before[name] == after[name]]
    assert same == ["prepare", "train", "factors", "attribute"]
