from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.small import run_prepare, write

from pipeline.data.catalog import catalog_tables
from pipeline.data.first_look.inspect_files import look
from pipeline.data.schema import detect_task
from pipeline.errors import InputError
from pipeline.tasks.multilabel import LabelSets, as_sets

TAGS = [["a", "b"], None, ["b", "a", "b"], [], ["c"], ["c", "a"]]


def fitted(values: list[list[str] | None]) -> LabelSets:
    sets = LabelSets("tags", "string")
    column = pa.array(values, pa.list_(pa.string()))
    assert sets.update(column, np.zeros(len(values), np.uint8), str) == []
    sets.finish()
    return sets


def test_sets_are_rows_of_ones_and_come_back_sorted() -> None:
    sets = fitted(TAGS)
    assert (sets.classes, sets.class_counts, sets.outputs) == (["a", "b", "c"], [3, 2, 2], 3)
    column = pa.array([["z"], *TAGS, ["z"]], pa.list_(pa.string())).slice(1, len(TAGS))
    encoded = sets.encode(column)
    assert encoded.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert sets.decode(encoded).to_pylist() == [["a", "b"], [], ["a", "b"], [], ["c"], ["a", "c"]]
    large = column.cast(pa.large_list(pa.large_string()))
    assert (sets.encode(large.cast(pa.large_list(pa.string()))) == encoded).all()


def test_order_repetition_and_null_make_no_difference() -> None:
    told = as_sets(pa.array(TAGS, pa.list_(pa.string()))).to_pylist()
    assert told[0] == told[2]
    assert told[1] == told[3]
    assert len(set(told)) == 4
    assert as_sets(pa.array(["1", "1"])).to_pylist() == ["1", "1"]
    # A label with the separators of a list in it is not two labels.
    both = as_sets(pa.array([["a', 'b"], ["a", "b"]], pa.list_(pa.string()))).to_pylist()
    assert both[0] != both[1]


def prepared(folder: Path, tags: list[list[str] | None], **more: object) -> object:
    columns = {"x": np.arange(len(tags), dtype=float), "label": pa.array(tags, pa.list_(pa.string()))}
    path = write(folder / "train.parquet", columns)
    return run_prepare(folder / "run", train=path, **more)


def test_a_dataset_of_sets_is_encoded(tmp_path: Path) -> None:
    found = prepared(tmp_path, TAGS)
    assert (found.facts["task"], found.facts["classes"]) == ("multilabel", 3)
    assert found.facts["class_counts"] == {"a": 3, "b": 2, "c": 2}
    labels = found.data.load_role("train").labels
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert found.facts["dropped_labels"] == 0


def test_equal_features_with_equal_sets_are_no_conflict(tmp_path: Path) -> None:
    columns = {"x": [1.0, 1.0, 2.0, 2.0], "label": pa.array([["a", "b"], ["b", "a"], ["a"], []])}
    found = run_prepare(tmp_path / "run", train=write(tmp_path / "t.parquet", columns))
    tables = pa.concat_tables(catalog_tables(tmp_path / "run", "train", ["content_hash"]))
    first, second, third, fourth = tables["content_hash"].to_pylist()
    assert first == second
    assert third != fourth
    assert found.facts["duplicates"]["groups"] == 1


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ([["a"], ["a", None], []], r"row 1.*has a null in its list"),
        ([["a"], ["a", "b"], []], r"row 1|#1.*the only train row with the label 'b'"),
        ([["a"], ["a"]], "every train row has the label 'a'"),
        ([[], None], "no train row has any label"),
    ],
)
def test_what_can_not_be_learnt_is_named(tmp_path: Path, tags: list[list[str] | None], named: str) -> None:
    with pytest.raises(InputError, match=named):
        prepared(tmp_path, tags)


def test_a_label_that_train_lacks_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "t.parquet", {"x": [1.0, 2.0, 3.0], "label": pa.array([["a"], ["a"], []])})
    holdout = write(tmp_path / "h.parquet", {"x": [1.0], "label": pa.array([["a", "q"]])})
    with pytest.raises(InputError, match="the holdout label 'q' does not occur in train"):
        run_prepare(tmp_path / "run", train=train, holdout=holdout)


@pytest.mark.parametrize(
    "changes",
    [{"detection.repeats": 2}, {"training.class_weights": "balanced"}],
)
def test_options_that_sets_do_not_have_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    from data.small import config

    from pipeline.data.files import find_files, open_shards
    from pipeline.data.prepare import create_encoding

    path = write(tmp_path / "t.parquet", {"x": [1.0, 2.0], "label": pa.array([["a"], []])})
    asked = config(train=path).with_changes(changes)
    with pytest.raises(InputError, match="is not there for sets of labels"):
        create_encoding(open_shards(find_files(asked.data)), asked)


def test_the_task_has_to_fit_the_column(tmp_path: Path) -> None:
    from data.small import config

    from pipeline.data.files import find_files, open_shards

    path = write(tmp_path / "t.parquet", {"x": [1.0], "label": ["a"]})
    asked = config(train=path, task="multilabel")
    with pytest.raises(InputError, match="which holds no sets of labels"):
        detect_task(open_shards(find_files(asked.data)), asked.data)


def test_init_proposes_sets_when_the_column_is_named(tmp_path: Path) -> None:
    rows = 40
    tags = [["even"] if row % 2 == 0 else ["odd", "also"] if row % 3 else None for row in range(rows)]
    table = pa.table({"x": np.arange(rows) / 2, "tags": pa.array(tags, pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "t.parquet")
    text = look([str(tmp_path / "t.parquet")], label="tags").to_yaml()
    assert "task: multilabel" in text
    assert "3 labels" in text
