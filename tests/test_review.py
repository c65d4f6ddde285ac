"""The sheet that a person fills in, and what becomes of the answers, on a small run directory."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from digits_run import ROOT, digits_config, run_until
from review_run import TREE, WRONG, fill, make_run, ranked, read_sheet

from pipeline.config import AuditConfig
from pipeline.detection.noise.flag_counts import Counts
from pipeline.detection.people.answers import ReviewAnswers
from pipeline.detection.rules.choose import choose, write_candidates
from pipeline.detection.rules.decide import Ranked, decide, removable
from pipeline.errors import InputError
from pipeline.reviewing.review import (
    ANSWERS,
    ReviewedRun,
    review_state,
    reviewed_changes,
    take_answers,
    write_sheet,
)
from pipeline.runs.directory import RunDirectory
from pipeline.text.decisions import DECISIONS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path)


def asked(run: RunDirectory, sample: int) -> Path:
    sheet, _ = write_sheet(run.path, sample)
    assert sheet is not None
    return sheet


def test_a_sheet_shows_rows_labels_and_an_empty_verdict(run: RunDirectory) -> None:
    sheet = asked(run, 20)
    lines = read_sheet(sheet)
    assert len(lines) == 20
    for line in lines:
        place = int(line["row_key"][1:])
        assert line["label"] == str(place % 2)
        assert line["suggested_label"] == (f"{1 - place % 2} (83 %)" if place < WRONG else "")
        assert line["preview"] == f"text: {place}: a line and another, with a comma"
        assert line["verdict"] == ""
        assert line["stratum"] == "top 57"
    assert {line["sample"] for line in lines} == {ReviewedRun(run.path).answers.sample_id}


def test_rounds_add_up_until_nothing_is_left_to_ask(run: RunDirectory) -> None:
    keys: list[str] = []
    for _ in range(20):
        sheet, rows = write_sheet(run.path, 25)
        if sheet is None:
            break
        assert rows <= 25
        keys += [line["row_key"] for line in read_sheet(sheet)]
        state = take_answers(run.path, fill(sheet))
    assert len(keys) == len(set(keys)) == state.answered
    assert state.cutoffs[-1].state == "fails"
    assert state.shown >= WRONG - 3
    assert state.open == 0


def test_unfilled_lines_are_asked_again(run: RunDirectory) -> None:
    sheet = asked(run, 30)
    keys = [line["row_key"] for line in read_sheet(sheet)]
    state = take_answers(run.path, fill(sheet, lambda line: "wrong" if line["row_key"] in keys[:10] else ""))
    assert state.answered == 10
    again = [line["row_key"] for line in read_sheet(asked(run, 20))]
    assert again == keys[10:]


def test_a_sheet_can_be_parquet(run: RunDirectory) -> None:
    path, rows = write_sheet(run.path, 15, run.path / "mine.parquet")
    table = pq.read_table(path)
    verdicts = pa.array(["unsure"] * rows)
    pq.write_table(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts), path)
    assert take_answers(run.path, run.path / "mine.parquet").answered == 15
    assert set(ReviewAnswers.load(run / ANSWERS).verdicts.values()) == {"unsure"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_sheet_may_come_back_with_the_separator_of_a_spreadsheet(run: RunDirectory, separator: str) -> None:
    sheet = fill(asked(run, 10))
    lines = read_sheet(sheet)
    with sheet.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(lines[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(lines)
    assert take_answers(run.path, sheet).answered == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[3].update(verdict="maybe"), r"line 5: unknown verdict 'maybe' for row 'k"),
        (lambda lines: lines[0].update(row_key="k999"), "the sample has no row 'k999'"),
        (
            lambda lines: lines.append(lines[0] | {"verdict": "unsure"}),
            r"more than one verdict for row 'k\d+'",
        ),
        (
            lambda lines: lines.extend([line | {"verdict": "unsure"} for line in lines[:8]]),
            r"more than one verdict for row ('k\d+', ){4}'k\d+' and 3 more",
        ),
        (lambda lines: [line.update(verdict="") for line in lines], "no verdict is filled in"),
        (lambda lines: lines[2].update(sample="0000"), "line 4: the sheet belongs to another sample"),
        (lambda lines: [line.pop("verdict") for line in lines], "no column 'verdict'"),
        (lambda lines: lines.clear(), "no lines"),
    ],
)
def test_a_wrong_answer_is_named_by_row_and_file(run: RunDirectory, change: Any, message: str) -> None:
    sheet = fill(asked(run, 10))
    lines = read_sheet(sheet)
    names = [*lines[0]]
    change(lines)
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in names if not lines or name in lines[0]])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(InputError, match=message) as error:
        take_answers(run.path, sheet)
    assert str(sheet) in error.value.message
    assert ReviewedRun(run.path).answers.verdicts == {}


def test_a_newer_answer_takes_the_place_of_an_earlier_one(run: RunDirectory) -> None:
    sheet = fill(asked(run, 10), lambda _: "wrong")
    assert take_answers(run.path, sheet).changed == 0
    assert take_answers(run.path, sheet).changed == 0
    corrected = [line["row_key"] for line in read_sheet(sheet)][:3]
    fill(sheet, lambda line: "right" if line["row_key"] in corrected else line["verdict"])
    state = take_answers(run.path, sheet)
    assert (state.answered, state.changed) == (10, 3)
    verdicts = ReviewedRun(run.path).answers.verdicts
    assert {key for key, verdict in verdicts.items() if verdict == "right"} == set(corrected)
    assert review_state(run.path).changed == 0


def test_what_stands_in_the_way_is_said(run: RunDirectory) -> None:
    with pytest.raises(InputError, match="no sheet was written"):
        take_answers(run.path, run.path / "x.csv")
    with pytest.raises(InputError, match="no answers yet"):
        reviewed_changes(run.path)
    with pytest.raises(InputError, match=r"--sample 0"):
        write_sheet(run.path, 0)
    with pytest.raises(InputError, match=r"--precision 2"):
        write_sheet(run.path, 10, precision=2)
    sheet = asked(run, 10)
    with pytest.raises(InputError, match="exists already"):
        write_sheet(run.path, 10, sheet)
    with pytest.raises(InputError, match=r"neither \.csv nor"):
        write_sheet(run.path, 10, run.path / "sheet.xlsx")
    with pytest.raises(InputError, match="no such file"):
        take_answers(run.path, run.path / "nowhere.csv")
    with pytest.raises(InputError, match=r"precision of 0\.8, not 0\.9"):
        write_sheet(run.path, 10, precision=0.9)


def test_detection_takes_the_answers_and_keeps_what_was_called_right(run: RunDirectory) -> None:
    while (found := write_sheet(run.path, 100))[0] is not None:
        take_answers(run.path, fill(found[0]))
    shown = review_state(run.path).shown
    config = AuditConfig.model_validate(TREE).with_changes(reviewed_changes(run.path))
    choice, promise = choose(config, run.path, ranked(), Counts(70, 80))
    decision = np.array(DECISIONS)[decide(config.detection, ranked(), choice)]
    verdicts = ReviewedRun(run.path).answers.verdicts
    right = [int(key[1:]) for key, verdict in verdicts.items() if verdict == "right"]
    assert (decision[right] == "keep").all()
    assert set(np.flatnonzero(decision == "remove")) == set(range(max(shown, WRONG))) - set(right)
    assert promise.precision == 0.8
    assert f"the top {shown} candidates" in promise.text
    assert choice.confirmed.sum() == sum(verdict == "wrong" for verdict in verdicts.values())


def test_answers_that_show_nothing_remove_only_what_was_called_wrong(run: RunDirectory) -> None:
    take_answers(
        run.path, fill(asked(run, 57), lambda line: "wrong" if line["row_key"] in ("k1", "k4") else "unsure")
    )
    config = AuditConfig.model_validate(TREE).with_changes(reviewed_changes(run.path))
    choice, promise = choose(config, run.path, ranked(), Counts(70, 80))
    decision = np.array(DECISIONS)[decide(config.detection, ranked(), choice)]
    called = {
        int(key[1:]) for key, verdict in ReviewedRun(run.path).answers.verdicts.items() if verdict == "wrong"
    }
    assert set(np.flatnonzero(decision == "remove")) == called
    assert promise.abstains
    assert "can't be stated" in promise.text


def test_answers_about_another_ranking_are_refused(run: RunDirectory) -> None:
    take_answers(run.path, fill(asked(run, 20)))
    config = AuditConfig.model_validate(TREE).with_changes(reviewed_changes(run.path))
    other = Ranked(
        ranked().suspicion[::-1],
        *(getattr(ranked(), name) for name in ("row_ids", "strata", "relabel_probability", "carriers")),
    )
    with pytest.raises(InputError, match="another ranking"):
        choose(config, run.path, other, Counts(70, 80))
    with pytest.raises(InputError, match=r"not 0\.9 at 0\.95"):
        choose(config.with_changes({"detection.precision": 0.9}), run.path, ranked(), Counts(70, 80))
    write_candidates(run.path, removable(config.detection, other))
    with pytest.raises(InputError, match="detection has run again"):
        review_state(run.path)


def test_a_review_of_a_real_run_is_used_when_detection_runs_again(detected_run: Path) -> None:
    truth = pq.read_table(ROOT / "data_samples/digits/truth.parquet").to_pydict()
    wrong = dict(zip(map(str, truth["index"]), truth["is_wrong"]))
    while (found := write_sheet(detected_run, 200))[0] is not None:
        take_answers(
            detected_run, fill(found[0], lambda line: "wrong" if wrong[line["row_key"]] else "right")
        )
    state = review_state(detected_run)
    assert state.shown > 50
    assert len(list((detected_run / "review/pictures").iterdir())) == state.answered
    run_until(digits_config().with_changes(reviewed_changes(detected_run)), detected_run, "detect")
    assert RunDirectory(detected_run).facts("detect")["promise"]["precision"] == 0.8
    rows = pq.read_table(detected_run / "rows.parquet")
    removed = rows.filter(pc.equal(rows["decision"], "remove"))
    assert np.mean([wrong[key] for key in removed["row_key"].to_pylist()]) >= 0.8
    assert removed.num_rows >= 0.9 * state.shown - 10
    assert "reviewed" in {code for codes in removed["reasons"].to_pylist() for code in codes}
    assert review_state(detected_run) == state
