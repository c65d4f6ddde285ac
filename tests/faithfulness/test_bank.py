"""Truth banks: scores of somebody's method beside kept retrainings, and files that don't fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from scipy.stats import spearmanr

from flows.cli import run
from flows.cli.shared import WRONG
from pipeline import read_bank, score_bank
from pipeline.errors import InputError
from pipeline.faithfulness.bank import Bank, Question, write_bank
from pipeline.faithfulness.row_hashes import row_hashes
from pipeline.verification.lds import Estimate

ROWS, QUERIES, MASKS = 30, 4, 12


@pytest.fixture
def bank() -> Bank:
    """Margins of four queries and their mean loss, as random numbers."""
    random = np.random.default_rng(0)
    published = {"source @tail": Estimate(0.5, 0.4, 0.6)}
    margins, loss = random.normal(size=(MASKS, 3, QUERIES)), random.normal(size=(MASKS, 3, 1))
    return Bank(
        task="small",
        dataset="numbers of this test, places in their order",
        columns=("x", "y"),
        recipe="none",
        code="abc",
        made={"commit": "0", "date": "2026-01-01", "command": "none"},
        removed=random.random((MASKS, ROWS)) < 0.5,
        row_places=np.arange(ROWS),
        row_hashes=row_hashes(rows()),
        row_labels=np.zeros(ROWS),
        query_places=np.arange(QUERIES),
        query_labels=np.zeros(QUERIES),
        questions={
            "margins": Question("margins", True, margins, Estimate(0.9, 0.8, 1.0), published),
            "loss": Question("the mean loss", False, loss, None, {}),
        },
    )


def rows() -> np.ndarray:
    return np.arange(2 * ROWS).reshape(ROWS, 2) / 3


@pytest.fixture
def path(bank: Bank, tmp_path: Path) -> Path:
    write_bank(tmp_path / "small.safetensors", bank)
    return tmp_path / "small.safetensors"


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    np.save(tmp_path / "scores.npy", np.random.default_rng(1).normal(size=(ROWS, QUERIES)))
    return tmp_path / "scores.npy"


def test_a_bank_is_read_as_it_was_written(bank: Bank, path: Path) -> None:
    found = read_bank(path)
    assert (found.task, found.columns, found.made) == (bank.task, bank.columns, bank.made)
    assert np.array_equal(found.removed, bank.removed)
    for name, question in bank.questions.items():
        assert np.allclose(found.questions[name].truth, question.truth, atol=1e-6)
        assert found.questions[name].ceiling == question.ceiling
        assert found.questions[name].published == question.published


def test_the_score_is_spearmans_correlation_and_help_raises_margins(bank: Bank, scores: Path) -> None:
    given = np.load(scores)
    found = score_bank(bank, given)
    # Where helping rows are gone, the margin is lower.
    real, forecast = bank.questions["margins"].truth.mean(1), -bank.removed.astype(float) @ given
    expected = np.mean([spearmanr(real[:, one], forecast[:, one])[0] for one in range(QUERIES)])
    assert list(found) == ["margins"]
    assert found["margins"].value == pytest.approx(expected)
    assert found["margins"].low < expected < found["margins"].high


def test_one_column_is_about_the_mean_loss_which_falls_with_help(bank: Bank) -> None:
    given = np.random.default_rng(2).normal(size=ROWS)
    found = score_bank(bank, given)
    expected = spearmanr(bank.questions["loss"].truth.mean(1)[:, 0], bank.removed.astype(float) @ given)[0]
    assert {name: each.value for name, each in found.items()} == {"loss": pytest.approx(expected)}
    assert score_bank(bank, given[:, None]) == found


def test_perfect_scores_of_an_additive_truth_reach_one(bank: Bank) -> None:
    helps = np.random.default_rng(3).normal(size=(ROWS, QUERIES))
    truth = (-bank.removed.astype(float) @ helps)[:, None]
    exact = replace(bank, questions={"margins": replace(bank.questions["margins"], truth=truth)})
    assert score_bank(exact, helps)["margins"].value == pytest.approx(1)
    assert score_bank(exact, -helps)["margins"].value == pytest.approx(-1)


def test_the_command_prints_lds_ceiling_and_published_numbers(
    path: Path, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lds", "--bank", str(path), "--scores", str(scores)]) == 0
    said = capsys.readouterr().out
    assert "small: 30 rows" in said
    assert "12 masks, 3 retrainings of each" in said
    assert "your scores" in said
    assert "ceiling" in said
    assert "0.90 (0.80 – 1.00)" in said
    assert "0.50 (0.40 – 0.60)" in said
    assert run(["lds", "--bank", str(path), "--scores", str(scores), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["questions"]
    assert found["margins"]["lds"] == score_bank(read_bank(path), np.load(scores))["margins"].as_json()
    assert found["loss"]["lds"] is None


def test_the_sense_is_said_where_scores_are_turned_round(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = np.random.default_rng(3).normal(size=(ROWS, QUERIES))
    truth = (-bank.removed.astype(float) @ helps)[:, None]
    exact = replace(bank, questions={"margins": replace(bank.questions["margins"], truth=truth)})
    write_bank(tmp_path / "exact.safetensors", exact)
    np.save(tmp_path / "turned.npy", -helps)
    run(["lds", "--bank", str(tmp_path / "exact.safetensors"), "--scores", str(tmp_path / "turned.npy")])
    assert "Your LDS is below 0" in capsys.readouterr().out


def test_parquet_scores_are_those_of_numpy(path: Path, scores: Path, tmp_path: Path) -> None:
    given = np.load(scores)
    table = pa.table({f"query {place}": given[:, place] for place in range(QUERIES)})
    pq.write_table(table, tmp_path / "scores.parquet")
    from pipeline.faithfulness.bank_scores import lds_of_bank

    both = [lds_of_bank(path, each) for each in (scores, tmp_path / "scores.parquet")]
    assert both[0] == both[1]
    assert both[0]["questions"]["margins"]["lds"] is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((QUERIES, ROWS)), "queries by rows"),
        (np.zeros((ROWS - 1, QUERIES)), r"shape \(29, 4\)"),
        (np.zeros((ROWS, QUERIES + 1)), r"give \(30, 4\) or \(30, 1\)"),
        (
            np.where(np.arange(ROWS * QUERIES).reshape(ROWS, QUERIES) == 6, np.nan, 0.0),
            "row 1 and query 2 is nan",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused(bank: Bank, given: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        score_bank(bank, given)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pickled.npy", None, "not an array of numbers"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "not an array of numbers"),
        ("text.parquet", b"no parquet", "not a Parquet file"),
        ("nowhere.npy", b"", "no such file"),
    ],
)
def test_score_files_that_cannot_be_read_are_refused(
    path: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is None:
        np.save(tmp_path / name, np.array([{"a": 1}]), allow_pickle=True)
    elif content:
        (tmp_path / name).write_bytes(content)
    assert run(["lds", "--bank", str(path), "--scores", str(tmp_path / name)]) == WRONG
    assert said in capsys.readouterr().err


def test_columns_of_words_are_refused(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"id": ["a"] * ROWS}), tmp_path / "words.parquet")
    assert run(["lds", "--bank", str(path), "--scores", str(tmp_path / "words.parquet")]) == WRONG
    assert "column 'id' is string, not numbers" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_damaged_bank_is_refused(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_bank(path)


def test_a_bank_that_was_cut_short_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a truth bank, or damaged"):
        read_bank(path)


def test_other_tensors_and_other_forms_are_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no truth bank"):
        read_bank(tmp_path / "weights.safetensors")
    save_file({"a": np.zeros(2)}, tmp_path / "new.safetensors", {"winnow_bank": "2"})
    with pytest.raises(InputError, match="form 2"):
        read_bank(tmp_path / "new.safetensors")
    with pytest.raises(InputError, match="no such file"):
        read_bank(tmp_path / "nowhere.safetensors")


def test_equal_numbers_have_equal_hashes_and_texts_are_utf8() -> None:
    numbers = np.arange(6).reshape(2, 3)
    assert np.array_equal(row_hashes(numbers.astype(np.uint8)), row_hashes(numbers.astype(np.float32)))
    # sha256("abc") begins with ba7816bf8f01cfea (FIPS 180-2).
    assert row_hashes(["abc"])[0].tobytes().hex() == "ba7816bf8f01cfea"


def test_rows_are_compared_with_those_of_the_bank(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "mine.npy", rows())
    given = ["lds", "--bank", str(path), "--rows", str(tmp_path / "mine.npy")]
    assert run(given) == 0
    assert "Your rows are the bank's" in capsys.readouterr().out
    pq.write_table(pa.table({"y": rows()[:, 1], "x": rows()[:, 0]}), tmp_path / "mine.parquet")
    assert run([*given[:-1], str(tmp_path / "mine.parquet")]) == 0


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (
            np.where(np.arange(ROWS)[:, None] == 7, 0.5, rows()),
            "row 7 is not the bank's row 7, and 1 of 30 rows",
        ),
        (rows()[::-1], "in another order"),
        (rows()[:-1], "there are 29 rows, and the bank has 30"),
    ],
)
def test_other_rows_are_refused(bank: Bank, mine: np.ndarray, said: str) -> None:
    with pytest.raises(InputError) as raised:
        bank.check_rows(mine)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["lds"], "neither a config, a run nor a bank is given"),
        (["lds", "--scores", "s.npy"], "go with --bank"),
        (["lds", "config.yaml", "--bank", "b.safetensors"], "--bank goes without a config or a run"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(given) == WRONG
    assert said in capsys.readouterr().err
