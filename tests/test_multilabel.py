"""Sets of labels from Parquet to the cleaned export, with labels planted wrongly."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from digits_run import run_until
from multilabel_run import Planted, planted_sets, sets_of
from sklearn.metrics import average_precision_score, f1_score

from pipeline.config import AuditConfig
from pipeline.data.decisions_file import read_decisions
from pipeline.detection.people.decided_rows import Word, check_lines, find_rows
from pipeline.errors import InputError
from pipeline.reviewing.review import write_sheet
from pipeline.runs.directory import read_json
from pipeline.stages.audit import audit
from pipeline.trace.trace import trace
from pipeline.training.dynamics import f1_of_rows
from pipeline.workers.kept import drop_kept

CHANGES = {"detection.relabel_above": 0.97, "verification.gate": "off"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Path]:
    folder = tmp_path_factory.mktemp("sets")
    planted = planted_sets(folder / "data", rate=0.1, train=1000, **CHANGES)
    audit(planted.config, folder / "run")
    drop_kept()
    return planted, folder / "run"


@pytest.fixture(scope="module")
def rows(audited: tuple[Planted, Path]) -> pa.Table:
    return pq.read_table(audited[1] / "rows.parquet")


def test_wrong_sets_come_first(audited: tuple[Planted, Path], rows: pa.Table) -> None:
    wrong = audited[0].wrong
    found = average_precision_score(wrong, rows["suspicion"].to_numpy())
    assert found > 0.85  # at random: 0.1
    assert found > average_precision_score(wrong, rows["final_loss"].to_numpy()) + 0.02


def test_missing_and_spurious_labels_are_both_found(audited: tuple[Planted, Path], rows: pa.Table) -> None:
    planted, decision = audited[0], np.array(rows["decision"].to_pylist())
    missing = (planted.truth & ~planted.given).any(1)
    spurious = (~planted.truth & planted.given).any(1)
    assert missing.sum() > 20
    assert spurious.sum() > 20
    for wrong in (missing, spurious):
        assert (decision[wrong] != "keep").mean() > 0.6
    assert (decision[~planted.wrong] != "keep").mean() < 0.03


def test_the_suggestion_turns_the_wrong_label_round(audited: tuple[Planted, Path], rows: pa.Table) -> None:
    planted, suggested = audited[0], rows["suggested_label"].to_pylist()
    assert rows["label"].to_pylist() == [sets_of(row) for row in planted.given]
    said = [place for place, each in enumerate(suggested) if each is not None]
    assert all(len(set(suggested[place]) ^ set(sets_of(planted.given[place]) or [])) == 1 for place in said)
    wrong = [place for place in said if planted.wrong[place] and rows["decision"][place].as_py() != "keep"]
    right = [set(suggested[place]) == set(sets_of(planted.truth[place]) or []) for place in wrong]
    assert np.mean(right) > 0.9


def test_the_cleaned_export_has_the_new_sets(audited: tuple[Planted, Path], rows: pa.Table) -> None:
    cleaned = pq.read_table(audited[1] / "cleaned" / "part.parquet").select(["id", "tags"])
    decision = rows["decision"].to_pylist()
    assert {"keep", "remove", "relabel"} <= set(decision)
    expected = {
        key: suggested if choice == "relabel" else given
        for key, given, suggested, choice in zip(
            *(rows[name].to_pylist() for name in ("row_key", "label", "suggested_label")), decision
        )
        if choice != "remove"
    }
    assert dict(zip(cleaned["id"].to_pylist(), cleaned["tags"].to_pylist())) == expected
    gone = pq.read_table(audited[1] / "quarantine" / "part.parquet")["winnow_suggested_label"].to_pylist()
    shown = {", ".join(each) for each in rows["suggested_label"].to_pylist() if each is not None}
    assert {each for each in gone if each is not None} <= shown


def test_verification_measures_the_f1_of_the_rows(audited: tuple[Planted, Path]) -> None:
    report = read_json(audited[1] / "verification.json")
    assert (report["metric"], report["higher_is_better"]) == ("f1", True)
    arms = report["arms"]
    assert np.mean(arms["cleaned"]["metric"]) > np.mean(arms["as_given"]["metric"])
    assert all(0.5 < value < 1 for arm in arms.values() for value in arm["metric"])


def test_the_report_says_it(audited: tuple[Planted, Path]) -> None:
    text = (audited[1] / "report" / "index.html").read_text(encoding="utf-8")
    assert "mean F1" in text.lower().replace("f1", "F1")
    assert "Backdoors are not looked for where rows have sets of labels" in text
    summary = json.loads((audited[1] / "report" / "summary.json").read_text())
    assert summary["task"] == "multilabel"
    assert 0.005 < summary["estimated_noise"]["value"] < 0.06  # of all answers, 0.025 are wrong


def test_sets_of_other_roles_are_judged_where_they_may_be_wrong(tmp_path: Path) -> None:
    changes = {"data.validation_is_clean": False, "detection.halves": False, "training.epochs": 6}
    config = planted_sets(tmp_path / "data", train=1000, **changes).config
    holdout = tmp_path / "data/holdout/part.parquet"
    table = pq.read_table(holdout)
    sets = [set(each or []) for each in table["tags"].to_pylist()]
    given = [sorted(each ^ {"even"} if place % 10 == 0 else each) for place, each in enumerate(sets)]
    at = table.schema.get_field_index("tags")
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.array(given, table.schema.field(at).type)), holdout
    )
    run_until(config, tmp_path / "run", "detect")
    drop_kept()
    rows = pq.read_table(tmp_path / "run/rows.parquet")
    assert Counter(rows["split"].to_pylist()) == {"train": 1000, "validation": 300, "holdout": table.num_rows}
    rows = rows.filter(pc.equal(rows["split"], "holdout"))
    assert rows["label"].to_pylist() == given
    wrong = np.arange(table.num_rows) % 10 == 0
    assert average_precision_score(wrong, rows["suspicion"].to_numpy()) > 0.7  # at random: 0.1
    suggested = rows["suggested_label"].to_pylist()
    said = [place for place in np.flatnonzero(wrong) if suggested[place] is not None]
    assert len(said) > 0.8 * wrong.sum()
    assert np.mean([set(suggested[place]) == sets[place] for place in said]) > 0.9


def test_metric_is_the_mean_f1_of_scikit_learn() -> None:
    import torch

    random = torch.Generator().manual_seed(0)
    predicted, given = (torch.rand(60, 3, generator=random) < 0.4 for _ in range(2))
    expected = f1_score(given.numpy(), predicted.numpy(), average="samples", zero_division=1.0)
    assert float(f1_of_rows(predicted, given).mean()) == pytest.approx(expected)


def test_a_person_may_give_a_set_or_take_the_suggested_one(
    audited: tuple[Planted, Path], rows: pa.Table, tmp_path: Path
) -> None:
    config, run = audited[0].config, audited[1]
    suggested = rows["suggested_label"].to_pylist()
    place = next(p for p, each in enumerate(suggested) if each is not None)
    key, without = rows["row_key"][place].as_py(), rows["row_key"][suggested.index(None)].as_py()
    given = tmp_path / "own.csv"

    def read(text: str) -> Word:
        given.write_text(f"row_key,decision,label\n{text}\n")
        lines = read_decisions(given)
        check_lines(config, run, lines)
        return find_rows(config, run, lines)["train"][place]

    assert read(f'{key},wrong,"prime, even"').label in (["even", "prime"], None)
    assert read(f"{key},relabel,").label is None
    with pytest.raises(InputError, match="'odd' is no class"):
        read(f"{key},relabel,odd")
    with pytest.raises(InputError, match="no label is suggested"):
        read(f"{without},relabel,")


def test_what_is_not_there_for_sets_is_refused(audited: tuple[Planted, Path]) -> None:
    planted, run = audited
    with pytest.raises(InputError, match="can't be traced"):
        trace(run, planted.config.data.train[0])


def test_a_sheet_for_review_shows_sets(audited: tuple[Planted, Path], tmp_path: Path) -> None:
    planted, run = audited
    sheet, _ = write_sheet(run, 30, tmp_path / "sheet.csv")
    with Path(sheet or "").open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30
    for line in lines:
        assert line["label"] == (", ".join(sets_of(planted.given[int(line["row_key"][1:])]) or []) or "none")
    assert any(", " in line["suggested_label"] for line in lines)


def test_canaries_are_refused(audited: tuple[Planted, Path], tmp_path: Path) -> None:
    config: AuditConfig = audited[0].config.with_changes({"detection.canaries": 5})
    with pytest.raises(InputError, match="a set of labels can't be flipped"):
        audit(config, tmp_path / "run")
