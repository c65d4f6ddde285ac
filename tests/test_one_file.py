"""One file whose labels are wrong in every part: what becomes of each row, from the decision to the exported file."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from one_file_run import ROWS, judge_all_roles, one_file_config, write_source

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.report.verdict import consequence
from pipeline.results.result import AuditResult
from pipeline.reviewing.holdout import (
    holdout_state,
    is_holdout_sheet,
    read_review,
    take_holdout_answers,
    write_holdout_sheet,
)
from pipeline.reviewing.review import take_answers, write_sheet
from pipeline.runs.directory import RunDirectory, write_json, write_text
from pipeline.stages.again import export_again
from pipeline.stages.audit import audit


@pytest.fixture(scope="module")
def _audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    write_source(folder / "all.parquet")
    audit(one_file_config(folder / "all.parquet"), folder / "run")
    return folder


@pytest.fixture
def folder(_audited: Path, tmp_path: Path) -> Path:
    """A copy of a finished audit; its source is the original one."""
    shutil.copytree(_audited / "run", tmp_path / "run")
    return tmp_path


@pytest.fixture
def run(folder: Path) -> RunDirectory:
    return RunDirectory(folder / "run")


def source_rows(run: RunDirectory) -> dict[str, dict[str, Any]]:
    path = load_config(run / "config.yaml").data.train[0]
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


def judged(run: RunDirectory) -> dict[str, dict[str, Any]]:
    return {row["row_key"]: row for row in pq.read_table(run / "rows.parquet").to_pylist()}


def set_gate(run: RunDirectory, gate: str) -> None:
    config = load_config(run / "config.yaml", {"verification.gate": gate})
    write_text(run / "config.yaml", config.to_yaml())


def exported(run: RunDirectory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    cleaned = pq.read_table(run / "cleaned/all.parquet").to_pylist()
    away = run / "quarantine/all.parquet"
    return cleaned, pq.read_table(away).to_pylist() if away.exists() else []


def test_every_row_stands_once_in_the_table_and_in_cleaned_and_quarantine(run: RunDirectory) -> None:
    wanted = judge_all_roles(run)
    set_gate(run, "off")
    export_again(run.path)
    source, rows = source_rows(run), judged(run)
    assert len(rows) == pq.read_metadata(run / "rows.parquet").num_rows == ROWS
    assert set(rows) == set(source)
    assert Counter(row["split"] for row in rows.values()) == {
        role: len(keys) for role, keys in wanted.items()
    }
    cleaned, away = exported(run)
    removed = {key for key, row in rows.items() if row["decision"] == "remove"}
    relabelled = {key for key, row in rows.items() if row["decision"] == "relabel"}
    assert {rows[key]["split"] for key in removed} == {"train", "validation", "holdout"}
    assert [row["id"] for row in cleaned] == [key for key in source if key not in removed]
    assert {row["id"] for row in away} == removed | relabelled
    for row in cleaned:
        new = rows[row["id"]]["new_label"] if row["id"] in relabelled else source[row["id"]]["label"]
        assert row == source[row["id"]] | {"label": new}
        assert (row["label"] != source[row["id"]]["label"]) == (row["id"] in relabelled)
    for row in away:
        assert {name: row[name] for name in source[row["id"]]} == source[row["id"]]
    summary = AuditResult(run).summary
    assert summary["rows_audited"] == ROWS
    assert summary["decisions"] == Counter(row["decision"] for row in rows.values())
    for role, decisions in wanted.items():
        counts = Counter(decisions.values())
        assert summary["decisions_by_role"][role] == {
            d: counts[d] for d in ("keep", "review", "remove", "relabel")
        }


def test_what_is_not_supported_is_left_for_review_and_can_be_exported_as_proposed(run: RunDirectory) -> None:
    wanted = {key: decision for of_role in judge_all_roles(run).values() for key, decision in of_role.items()}
    facts = export_again(run.path)  # not tested
    assert (facts["rows_removed"], facts["rows_relabelled"]) == (0, 0)
    cleaned, away = exported(run)
    assert cleaned == list(source_rows(run).values())
    assert away == []
    for key, row in judged(run).items():
        changed = wanted[key] in ("remove", "relabel")
        assert row["decision"] == ("review" if changed else wanted[key])
        assert row["proposed"] == (wanted[key] if changed else None)
    counts = Counter(wanted.values())
    assert AuditResult(run).summary["proposed"] == {name: counts[name] for name in ("remove", "relabel")}

    assert "left for review" in consequence(AuditResult(run).summary)

    facts = export_again(run.path, proposed=True)
    assert (facts["rows_removed"], facts["rows_relabelled"]) == (counts["remove"], counts["relabel"])
    assert "what was proposed" in consequence(AuditResult(run).summary)
    assert facts["proposed"] is True
    assert json.loads((run / "cleaned.json").read_text())["proposed"] is True
    assert AuditResult(run).summary["export"]["proposed"] is True
    assert {key: row["decision"] for key, row in judged(run).items()} == wanted

    export_again(run.path)
    assert json.loads((run / "cleaned.json").read_text())["proposed"] is False
    assert exported(run) == (cleaned, [])


def test_a_proposal_that_makes_things_worse_is_not_exported_either(run: RunDirectory) -> None:
    judge_all_roles(run)
    write_json(run / "verification.json", {"verdict": "worse"})
    before = (run / "cleaned/all.parquet").read_bytes()
    assert export_again(run.path, proposed=True) == {"refused": True, "verdict": "worse"}
    assert (run / "cleaned/all.parquet").read_bytes() == before


def test_a_persons_label_is_exported_whatever_the_verdict_and_decisions_add_up(
    run: RunDirectory, folder: Path
) -> None:
    source = source_rows(run)
    train = [key for key, row in judged(run).items() if row["split"] == "train"]
    other = {"ham": "spam", "spam": "ham"}
    new = other[source[train[0]]["label"]]
    (folder / "mine.csv").write_text(
        f"row_key,decision,label\n{train[0]},wrong,{new}\n{train[1]},remove,\n{train[2]},unsure,\n"
    )
    facts = export_again(run.path, folder / "mine.csv")
    assert (facts["rows_removed"], facts["rows_relabelled"]) == (1, 1)
    rows, (cleaned, away) = judged(run), exported(run)
    assert [rows[key]["decision"] for key in train[:3]] == ["relabel", "remove", "review"]
    assert {rows[key]["decided_by"] for key in train[:3]} == {"person"}
    assert rows[train[0]]["new_label"] == new
    assert "reviewed" in rows[train[0]]["reasons"]
    labels = {row["id"]: row["label"] for row in cleaned}
    assert labels == {k: r["label"] for k, r in source.items() if k != train[1]} | {train[0]: new}
    assert [row["winnow_decided_by"] for row in away] == ["person", "person"]
    assert RunDirectory(run.path).facts("detect")["by_people"] == {
        "keep": 0,
        "remove": 1,
        "relabel": 1,
        "review": 1,
    }
    assert AuditResult(run).summary["by_people"]["relabel"] == 1

    (folder / "more.csv").write_text(f"row_key,decision\n{train[1]},right\n")
    facts = export_again(run.path, folder / "more.csv")
    assert (facts["rows_removed"], facts["rows_relabelled"]) == (0, 1)
    assert load_config(run / "config.yaml").detection.decisions == str(run / "review/decisions.csv")
    shutil.rmtree(run / "cleaned")
    assert export_again(run.path, folder / "more.csv")["rows_relabelled"] == 1
    assert len(exported(run)[0]) == ROWS


def test_a_wrong_decision_changes_nothing(run: RunDirectory, folder: Path) -> None:
    before = (run / "config.yaml").read_bytes(), (run / "cleaned.json").read_bytes()
    (folder / "mine.csv").write_text("row_key,decision\nnowhere,remove\n")
    with pytest.raises(InputError, match="'nowhere'"):
        export_again(run.path, folder / "mine.csv")
    assert ((run / "config.yaml").read_bytes(), (run / "cleaned.json").read_bytes()) == before
    assert not (run / "review/decisions.csv").exists()


def filled(sheet: Path, wrong: set[str], labels: dict[str, str]) -> Path:
    import csv

    with sheet.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["verdict"] = "wrong" if line["row_key"] in wrong else "right"
        line["label"] = labels.get(line["row_key"], line["label"])
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return sheet


def test_a_person_answers_for_holdout_rows_in_rounds(run: RunDirectory) -> None:
    judge_all_roles(run)
    source, other = source_rows(run), {"ham": "spam", "spam": "ham"}
    wrong = {f"k{row}" for row in range(ROWS) if row % 9 == 4}
    right_labels = {key: other[source[key]["label"]] for key in sorted(wrong)[::2]}
    holdout = [key for key, row in judged(run).items() if row["split"] == "holdout"]
    rounds = 0
    while True:
        sheet, rows = write_holdout_sheet(run.path, 25)
        if sheet is None:
            break
        rounds += 1
        assert sheet == run / f"review/holdout-{rounds}.csv"
        assert is_holdout_sheet(sheet)
        assert rows <= 25
        state = take_holdout_answers(run.path, filled(sheet, wrong, right_labels))
        assert state.share is not None
        assert state.share.low - 1e-9 <= len(wrong & set(holdout)) / len(holdout) <= state.share.high + 1e-9
    assert state.answered == state.rows == len(holdout)
    assert state.share.value == pytest.approx(len(wrong & set(holdout)) / len(holdout))
    assert state == holdout_state(run.path)
    review = read_review(run.path)
    assert review is not None
    assert review.keys == holdout
    assert review.labels == {key: label for key, label in right_labels.items() if key in holdout}
    assert {key for key, verdict in review.verdicts.items() if verdict == "wrong"} == wrong & set(holdout)
    assert np.allclose(review.chance, 1)


def test_a_sheet_of_the_holdout_is_one_of_its_own(run: RunDirectory) -> None:
    judge_all_roles(run)
    assert holdout_state(run.path) is None
    with pytest.raises(InputError, match="no sheet of holdout rows"):
        take_holdout_answers(run.path, run / "x.csv")
    sheet, _ = write_holdout_sheet(run.path, 5)
    assert sheet is not None
    with pytest.raises(InputError, match="no decision is filled in"):
        take_holdout_answers(run.path, sheet)
    train = next(key for key, row in judged(run).items() if row["split"] == "train")
    sheet.write_text(f"row_key,verdict,stratum\n{train},wrong,holdout\n")
    with pytest.raises(InputError, match=f"{train}' is not in the sample of holdout rows"):
        take_holdout_answers(run.path, sheet)
    config = load_config(run / "config.yaml", {"data.holdout_is_clean": True})
    write_text(run / "config.yaml", config.to_yaml())
    with pytest.raises(InputError, match="declared right"):
        write_holdout_sheet(run.path, 5)


def test_a_label_in_a_sheet_of_flagged_rows_is_kept_with_the_answer(run: RunDirectory) -> None:
    from pipeline.detection.people.answers import ReviewAnswers
    from pipeline.reviewing.review import ANSWERS, reviewed_changes

    sheet, _ = write_sheet(run.path, 10)
    assert sheet is not None
    keys = [line.split(",")[0] for line in sheet.read_text(encoding="utf-8-sig").splitlines()[1:]]
    new = {"ham": "spam", "spam": "ham"}[source_rows(run)[keys[0]]["label"]]
    take_answers(run.path, filled(sheet, {keys[0], keys[1]}, {keys[0]: new}))
    assert ReviewAnswers.load(run / ANSWERS).labels == {keys[0]: new}
    audit(load_config(run / "config.yaml", reviewed_changes(run.path)), run.path)
    rows = judged(run)
    assert (rows[keys[0]]["decision"], rows[keys[0]]["new_label"]) == ("relabel", new)
    assert rows[keys[1]]["decision"] == "remove"
    assert {rows[key]["decided_by"] for key in keys} == {"person"}
    filled(sheet, {keys[0]}, {keys[2]: {"ham": "spam", "spam": "ham"}[source_rows(run)[keys[2]]["label"]]})
    with pytest.raises(InputError, match="is called right"):
        take_answers(run.path, sheet)
