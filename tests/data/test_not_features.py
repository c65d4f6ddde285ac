"""Columns that `winnow init` keeps away from the model: row numbers, and the label in another form."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from pipeline.data.first_look.giveaway import told
from pipeline.data.first_look.inspect_files import look

ROWS = 400
RNG = np.random.default_rng(3)
LABEL = RNG.integers(0, 2, ROWS)
X = RNG.normal(size=ROWS) + LABEL


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def remarks(*files: dict, **metadata: dict) -> dict[str, str]:
    """Column → why it is left out, of files with these columns."""
    for place, columns in enumerate(files):
        rows = len(next(iter(columns.values())))
        table = pa.table({"x": X[:rows], "label": LABEL[:rows]} | columns)
        pq.write_table(table.replace_schema_metadata(metadata or None), f"{place}.parquet")
    found = look([f"{place}.parquet" for place in range(len(files))])
    return {name: choice.remark for name, choice in found.choices.items() if not choice.kind}


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "Unnamed: 0.1", ""])
def test_what_pandas_calls_an_index_without_a_name_is_no_feature(name):
    assert remarks({name: RNG.normal(size=ROWS)}) == {name: "the index that pandas stored"}


def test_the_index_is_told_by_the_metadata_of_pandas_too():
    about = json.dumps({"index_columns": ["rank", {"kind": "range", "name": None}]})
    assert remarks({"rank": RNG.normal(size=ROWS)}, pandas=about) == {"rank": "the index that pandas stored"}
    assert remarks({"rank": RNG.normal(size=ROWS)}, pandas="broken") == {}


@pytest.mark.parametrize(
    "files",
    [
        [np.arange(ROWS)],
        [np.arange(1, ROWS + 1)],
        [np.arange(ROWS, dtype=np.float64)],
        [np.arange(100), np.arange(100)],
        [np.arange(100), np.arange(100, 200)],
    ],
)
def test_row_numbers_are_no_feature_also_where_every_file_begins_anew(files):
    assert remarks(*({"n": values} for values in files)) == {"n": "row numbers"}


def test_whole_numbers_that_name_rows_are_no_feature():
    rising = np.flatnonzero(RNG.random(2 * ROWS) < 0.8)[:ROWS]
    shuffled = RNG.permutation(rising)
    drawn = RNG.integers(0, 10**9, ROWS)
    few = RNG.integers(0, 500, ROWS)
    found = remarks({"rising": rising, "shuffled": shuffled, "drawn": drawn, "few": few})
    assert list(found) == ["rising", "shuffled"]  # numbers of a wide range may all differ by chance


def test_a_column_with_a_gap_or_a_fraction_numbers_no_rows():
    gap = [None, *range(1, ROWS)]
    assert remarks({"gap": gap, "fraction": np.arange(ROWS) + 0.5}) == {}


def flipped(share: float) -> np.ndarray:
    return np.where(RNG.random(ROWS) < share, 1 - LABEL, LABEL)


@pytest.mark.parametrize(
    "column",
    [
        [["no", "yes"][value] for value in LABEL],
        LABEL.astype(bool),
        LABEL * 0.5,
        [None if value else "here" for value in LABEL],
    ],
)
def test_the_label_in_another_form_is_left_out(column):
    left = remarks({"coat": column})
    assert left == {"coat": "the label in another form: it tells the label in 100.0 % of the rows"}


def test_a_column_that_tells_the_label_well_stays_and_is_spoken_of():
    clean = flipped(0.1)  # what the labels were before a tenth of them went wrong
    pq.write_table(
        pa.table({"x": X, "score": LABEL + RNG.uniform(0, 0.9, ROWS), "clean": clean, "label": LABEL}),
        "a.parquet",
    )
    found = look(["a.parquet"])
    assert set(found.features) == {"x", "score", "clean"}
    agree = 100 * (clean == LABEL).mean()
    lines = [text for name, text in found.describe() if name == "suspicious"]
    assert re.match(r"score alone tells the label in (99\.\d|100.0) % of the rows", lines[0])
    assert lines[1].startswith(f"clean alone tells the label in {agree:.1f} % of the rows")
    assert f"alone it tells the label in {agree:.1f} % of the rows" in found.to_yaml()


def test_an_honest_feature_is_not_spoken_of():
    assert told(pa.array(X), pa.array(LABEL), "classification").skill < 0.6
    noise = told(pa.array(RNG.normal(size=ROWS)), pa.array(LABEL), "classification")
    assert noise.skill < 0.2
    rare = pa.array([int(row % 50 == 0) for row in range(ROWS)])
    constant_guess = told(pa.array(X), rare, "classification")  # right in 98 % without knowing anything
    assert constant_guess.skill < 0.2


def test_the_same_number_in_another_unit_is_left_out():
    price = RNG.gamma(2, 100, ROWS)
    columns = {"label": price, "euros": 0.9 * price, "size": np.log(price) + RNG.normal(size=ROWS) / 20}
    assert list(remarks(columns)) == ["euros"]
    found = look(["0.parquet"])
    assert list(found.giveaways) == ["size"]


def test_wrong_labels_of_a_sorted_frame_are_found_with_the_proposed_features_and_not_with_the_index():
    truth = RNG.integers(0, 2, ROWS)
    wrong = RNG.random(ROWS) < 0.08
    frame = pd.DataFrame(RNG.normal(size=(ROWS, 5)) + 2 * truth[:, None] - 1).rename(columns=str)
    frame = frame.assign(label=np.where(wrong, 1 - truth, truth), is_wrong=wrong)
    frame = frame.sort_values("label").reset_index(drop=True).drop(index=[3, 40, 77])
    frame.drop(columns="is_wrong").to_parquet("a.parquet")
    stored = pq.read_table("a.parquet").to_pandas(ignore_metadata=True)
    label = stored["label"].to_numpy()

    def found(columns: list[str]) -> float:
        model = RandomForestClassifier(100, random_state=0)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        guessed = cross_val_predict(model, stored[columns], label, cv=folds)
        return (guessed != label)[frame["is_wrong"]].mean()

    proposed = list(look(["a.parquet"]).features)
    assert "__index_level_0__" in stored.columns
    assert "__index_level_0__" not in proposed
    assert found(proposed) > 0.9
    assert found([*proposed, "__index_level_0__"]) < 0.3
