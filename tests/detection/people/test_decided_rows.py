"""What people decided: found by key among the rows of every role, and put above what the rule says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data.small import config, run_prepare, write

from pipeline.config import AuditConfig
from pipeline.data.decisions_file import read_decisions
from pipeline.detection.people.decided_rows import (
    People,
    apply_people,
    check_lines,
    count_people,
    find_rows,
    read_people,
)
from pipeline.errors import InputError
from pipeline.stages.stages import fingerprints
from pipeline.text.decisions import Decider, Decision

KEEP, REVIEW, REMOVE, RELABEL = Decision
NOBODY, RULE, PERSON, _ = Decider

ROWS = 40
SPLIT = {"column": "part"}
Read = Callable[[str], dict[str, dict[int, tuple[int, Any]]]]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepared(labels: pa.Array | list[Any], metadata: dict[str, str] | None = None, **data: Any) -> Read:
    """Rows k0 … k39 of one file, of which every fourth is a holdout and every fourth a validation row."""
    parts = ["train", "validation", "train", "holdout"]
    columns = {
        "id": [f"k{row}" for row in range(ROWS)],
        "x": np.linspace(0, 1, ROWS),
        "part": [parts[row % 4] for row in range(ROWS)],
        "label": labels,
    }
    table = pa.table(columns)
    write("all.parquet", table.replace_schema_metadata(metadata), row_group_size=7)
    data = {"train": "all.parquet", "key": "id", "split": {"column": "part"}} | data
    run_prepare(Path("run"), chunk_rows=6, **data)

    def read(text: str) -> dict[str, dict[int, tuple[int, Any]]]:
        Path("d.csv").write_text(f"row_key,decision,label\n{text}\n")
        found = find_rows(config(**data), Path("run"), read_decisions(Path("d.csv")))
        return {role: {at: (w.decision, w.label) for at, w in words.items()} for role, words in found.items()}

    return read


def strings() -> Read:
    return prepared(["ham", "ham", "spam", "spam"] * (ROWS // 4))


def test_rows_of_every_role_are_found_at_their_place() -> None:
    read = strings()
    assert read("k0,remove,\nk38,keep,\nk5,wrong,spam\nk39,unsure,\nk2,relabel,") == {
        "train": {0: (REMOVE, None), 19: (KEEP, None), 1: (RELABEL, None)},
        "validation": {1: (RELABEL, "spam")},
        "holdout": {9: (REVIEW, None)},
    }


def test_words_and_labels_mean_what_the_docs_say() -> None:
    read = strings()  # k0 is ham
    for line, wanted in {
        "k0,keep,": (KEEP, None),
        "k0,right,": (KEEP, None),
        "k0,right,ham": (KEEP, None),
        "k0,wrong,": (REMOVE, None),
        "k0,wrong,ham": (REMOVE, None),  # a sheet shows the given label there
        "k0,wrong,spam": (RELABEL, "spam"),
        "k0,relabel,spam": (RELABEL, "spam"),
        "k0,relabel,": (RELABEL, None),
        "k0,unsure,": (REVIEW, None),
    }.items():
        assert read(line) == {"train": {0: wanted}}, line


WRONG = {
    "unknown key": ("z,keep,", "line 2: no audited row has the key 'z'"),
    "two unknown keys": ("z,keep,\ny,keep,", r"no audited row has the key 'z' \(1 more is unknown\)"),
    "unknown class": ("k0,wrong,eggs", "'eggs' is no class"),
    "its own label": ("k0,relabel,ham", "has the label 'ham' already"),
    "another label on right": ("k0,right,spam", "is called right, and 'spam' is not its label"),
    "another label on keep": ("k0,keep,spam", "is called keep"),
    "another label on remove": ("k0,remove,spam", "is called remove"),
    "another label on unsure": ("k0,unsure,spam", "is called unsure"),
}


@pytest.mark.parametrize(("line", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_by_line_and_row(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        strings()(line)


def test_a_new_label_in_a_sheet_needs_a_verdict() -> None:
    strings()
    data = {"train": "all.parquet", "key": "id", "split": SPLIT}
    Path("sheet.csv").write_text("row_key,label,verdict\nk0,spam,\nk2,spam,right\n")
    with pytest.raises(InputError, match="a new label without a verdict"):
        find_rows(config(**data), Path("run"), read_decisions(Path("sheet.csv")))
    Path("sheet.csv").write_text("row_key,label,verdict\nk0,ham,\nk2,spam,right\n")
    assert list(find_rows(config(**data), Path("run"), read_decisions(Path("sheet.csv")))["train"]) == [1]


@pytest.mark.parametrize("role", ["validation", "holdout"])
def test_rows_of_roles_that_are_declared_right_have_nothing_to_decide(role: str) -> None:
    read = prepared(["ham", "ham", "spam", "spam"] * (ROWS // 4), **{f"{role}_is_clean": True})
    with pytest.raises(InputError, match=f"is a {role} row, and these are declared right"):
        read(f"{'k1' if role == 'validation' else 'k3'},remove,")


@pytest.mark.parametrize("text", ["1", "1.0", "cat"])
def test_a_class_may_be_written_as_number_or_by_its_name(text: str) -> None:
    labels = pa.array([0, 0, 1, 1] * (ROWS // 4), pa.int16())
    read = prepared(labels, {"classes": '["dog", "cat"]'})
    assert read(f"k0,wrong,{text}") == {"train": {0: (RELABEL, 1)}}
    assert read("k0,right,dog") == {"train": {0: (KEEP, None)}}


def test_booleans_may_be_written_in_lower_case() -> None:
    read = prepared([True, True, False, False] * (ROWS // 4))
    assert read("k0,wrong,false") == {"train": {0: (RELABEL, False)}}


def test_a_regression_target_may_be_any_number_of_the_columns_kind() -> None:
    read = prepared([row + 0.123456 for row in range(ROWS)])
    assert read("k0,wrong,2.25") == {"train": {0: (RELABEL, 2.25)}}
    assert read("k0,right,0.1235") == {"train": {0: (KEEP, None)}}  # as sheets show it
    with pytest.raises(InputError, match="'much' is no number"):
        read("k0,wrong,much")
    read = prepared([3 * row for row in range(ROWS)], task="regression")
    assert read("k0,wrong,7") == {"train": {0: (RELABEL, 7)}}
    with pytest.raises(InputError, match=r"'7\.5' is no whole number"):
        read("k0,wrong,7.5")


@pytest.mark.parametrize("text", ['"b, a"', '"[""a"", ""b""]"'])
def test_sets_of_labels_are_lists(text: str) -> None:
    read = prepared(pa.array([["a"], ["b"], ["b"], ["a", "b"]] * (ROWS // 4)), task="multilabel")
    assert read(f"k0,wrong,{text}") == {"train": {0: (RELABEL, ["a", "b"])}}
    assert read("k0,wrong,[]") == read("k0,wrong,none") == {"train": {0: (RELABEL, [])}}
    assert read(f"k3,right,{text}") == {"holdout": {0: (KEEP, None)}}
    with pytest.raises(InputError, match="'c' is no class"):
        read('k0,wrong,"a, c"')


def people(text: str) -> People:
    data = {"train": "all.parquet", "key": "id", "split": SPLIT}
    Path("d.csv").write_text(f"row_key,decision,label\n{text}\n")
    return find_rows(config(**data), Path("run"), read_decisions(Path("d.csv")))["train"]


def test_people_stand_above_the_rule() -> None:
    strings()
    decision = np.array([REMOVE, KEEP, RELABEL, REVIEW, KEEP, REMOVE], dtype=np.uint8)
    has_suggestion = np.array([False, True, True, False, True, False])
    found = people("k0,right,\nk2,remove,\nk4,unsure,\nk6,wrong,ham\nk8,relabel,")
    applied = apply_people(decision, found, has_suggestion)
    assert applied.decision.tolist() == [KEEP, REMOVE, REVIEW, RELABEL, RELABEL, REMOVE]
    assert applied.decided_by.tolist() == [PERSON] * 5 + [RULE]
    assert applied.people.tolist() == [True] * 5 + [False]
    assert applied.own_labels == {3: "ham"}
    assert decision.tolist() == [REMOVE, KEEP, RELABEL, REVIEW, KEEP, REMOVE]
    assert count_people([applied, applied]) == {"keep": 2, "remove": 2, "relabel": 4, "review": 2}
    with pytest.raises(InputError, match="row 'k8' can't be relabelled: no label is suggested"):
        apply_people(decision, found, np.zeros(6, dtype=bool))


def test_without_people_decisions_are_those_of_the_rule() -> None:
    decision = np.array([REMOVE, KEEP], dtype=np.uint8)
    applied = apply_people(decision, None, np.zeros(2, dtype=bool))
    assert applied.decision.tolist() == decision.tolist()
    assert applied.decided_by.tolist() == [RULE, NOBODY]
    assert count_people([applied]) == {"keep": 0, "remove": 0, "relabel": 0, "review": 0}


def test_relabelling_without_a_suggestion_is_said_before_anything_runs() -> None:
    strings()
    data = {"train": "all.parquet", "key": "id", "split": SPLIT}
    suggestions = pa.array([None if row % 2 else "ham" for row in range(ROWS)], pa.string())
    write("run/rows.parquet", {"row_key": [f"k{r}" for r in range(ROWS)], "suggested_label": suggestions})
    Path("d.csv").write_text("row_key,decision,label\nk2,relabel,\nk1,wrong,ham\nk3,remove,\n")
    check_lines(config(**data), Path("run"), read_decisions(Path("d.csv")))
    Path("d.csv").write_text("row_key,decision,label\nk2,relabel,\nk1,relabel,\n")
    with pytest.raises(InputError, match="line 3: row 'k1' can't be relabelled"):
        check_lines(config(**data), Path("run"), read_decisions(Path("d.csv")))


def test_a_changed_file_of_decisions_is_another_fingerprint_of_detection() -> None:
    strings()
    data = {"train": "all.parquet", "key": "id", "split": SPLIT, "features": {"x": "auto"}, "label": "label"}
    found = []
    for text in ("k0,keep", "k0,remove", "k0,keep"):
        Path("d.csv").write_text(f"row_key,decision\n{text}\n")
        tree = {"name": "small", "data": data, "detection": {"decisions": "d.csv"}}
        found.append(fingerprints(AuditConfig.model_validate(tree)))
    assert found[0]["attribute"] == found[1]["attribute"]
    assert found[0]["detect"] != found[1]["detect"]
    assert found[0] == found[2]
    assert read_people(AuditConfig.model_validate(tree), Path("run"))["train"][0].decision == KEEP
