"""Labels as files have them: floats, spellings, the empty string, rare classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.data.catalog import read_catalog
from pipeline.data.encode import ENCODING, Encoding
from pipeline.data.prepare import prepare
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory
from pipeline.tasks.classification import ClassLabel
from pipeline.workers.cluster import Workers

RNG = np.random.default_rng(0)
FRACTIONS = {"fractions": [0.7, 0.15, 0.15]}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepared(labels: pa.Array | list, x: np.ndarray | None = None, **data: object) -> tuple[dict, Encoding]:
    """The facts of the stage and its encoding, for a file with these labels."""
    x = RNG.normal(size=len(labels)) if x is None else x
    pq.write_table(pa.table({"x": x, "label": labels}), "a.parquet")
    tree = {"train": "a.parquet", "features": {"x": "numeric"}, "label": "label", **data}
    config = AuditConfig.model_validate({"name": "a", "data": tree, "compute": {"workers": 1}})
    run = RunDirectory(Path("run"))
    return prepare(AuditContext(config, run, Workers(config.compute))), Encoding.load(run / ENCODING)


def test_floats_are_classes_when_asked_for():
    labels = pa.array([0.0, 1.0, 2.0, 1.0, 0.0, 2.0])
    _, encoding = prepared(labels, task="classification")
    assert encoding.classes == [0.0, 1.0, 2.0]
    assert encoding.label.encode(labels).tolist() == [0, 1, 2, 1, 0, 2]
    assert encoding.decode_labels(np.array([2, 0])).equals(pa.array([2.0, 0.0]))
    assert prepared(labels)[1].task == "regression"


def test_a_fraction_is_no_class():
    with pytest.raises(InputError, match=r"row 3: the train label 0.5 is no class"):
        prepared(pa.array([0.0, 1.0, 0.0, 0.5, 1.0]), task="classification")


CAFES = ["café"] * 3 + [" café"] * 2 + ["Cafe\u0301"] + ["pub"] * 3 + [""] * 2


def test_spellings_of_one_label_are_told():
    label = ClassLabel("label", "string")
    label.update(pa.array(CAFES), np.zeros(len(CAFES), dtype=np.uint8), str)
    assert label.alike() == [["café", " café", "Cafe\u0301"]]


def test_spellings_are_one_class_when_asked_for():
    x = np.arange(len(CAFES), dtype=float)
    x[3] = x[0]  # a copy of the first row, with its label in another spelling
    facts, encoding = prepared(CAFES, x, merge_spellings=True)
    assert facts["class_counts"] == {"": 2, "café": 6, "pub": 3}
    assert encoding.label.encode(pa.array(["Cafe\u0301", "pub", "café"])).tolist() == [1, 2, 1]
    assert facts["duplicates"] == {"groups": 1, "rows": 2, "conflicting_rows": 0}


def test_spellings_are_classes_of_their_own_unless_asked_for():
    facts, _ = prepared([*CAFES, "Cafe\u0301"])
    assert facts["class_counts"] == {"": 2, " café": 2, "café": 3, "pub": 3, "Cafe\u0301": 2}


def test_only_strings_have_spellings():
    with pytest.raises(InputError, match=r"data.merge_spellings is true, but the label 'label' is int64"):
        prepared([0, 1, 0, 1], merge_spellings=True)


def roles_of(x: np.ndarray) -> dict[float, str]:
    """Value of the feature → role, of all rows that take part."""
    catalog = read_catalog(Path("run"), columns=["row", "split"]).to_pydict()
    return dict(zip(x[catalog["row"]].tolist(), catalog["split"]))


def test_three_hundred_classes_of_six_rows_keep_two_in_train_and_the_other_rows_keep_their_roles():
    labels, x = np.arange(1800) % 300, RNG.normal(size=1800)
    facts, _ = prepared(pa.array(labels), x, split=FRACTIONS)
    assert min(facts["class_counts"].values()) >= 2
    assert facts["set_aside"] == 0
    assert any("rare classes" in text for text in facts["warnings"])
    roles = roles_of(x)
    many = pa.array(np.zeros(1800, dtype=np.int64) + (np.arange(1800) % 2))
    prepared(many, x, split=FRACTIONS)  # what a hash of the features says
    by_hash = roles_of(x)
    moved = [row for row in range(1800) if roles[x[row]] != by_hash[x[row]]]
    assert 0 < len(moved) < 30
    assert {roles[x[row]] for row in moved} == {"train"}
    in_train = Counter(labels[[row for row in range(1800) if by_hash[x[row]] == "train"]].tolist())
    assert all(in_train[labels[row]] < 2 for row in moved)


def test_copies_of_a_row_that_goes_to_train_go_with_it():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=60)
        labels = ["a", "b"] * 29 + ["rare", "rare"]
        x[0], x[1] = x[58], x[59]
        prepared(labels, x, split=FRACTIONS)
        catalog = read_catalog(Path("run"), columns=["row", "split"]).to_pydict()
        roles = dict(zip(catalog["row"], catalog["split"]))
        assert roles[58] == roles[59] == roles[0] == roles[1] == "train"


@pytest.mark.parametrize("split", [FRACTIONS, None])
def test_a_class_of_one_row_takes_no_part(split):
    labels = ["a", "b"] * 30 + ["alone"]
    facts, encoding = prepared(labels, **({"split": split} if split else {}))
    assert encoding.classes == ["a", "b"]
    assert (facts["set_aside"], sum(facts["rows"].values())) == (1, 60)
    assert any("'alone'" in text and "stay in the export" in text for text in facts["warnings"])


def test_if_many_rows_had_to_be_set_aside_the_labels_are_no_classes():
    with pytest.raises(InputError, match="the only train row of the class"):
        prepared(pa.array(np.arange(40) % 37))
