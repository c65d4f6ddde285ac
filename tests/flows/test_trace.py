from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import run
from flows.cli.shared import DONE, WRONG

HOLDOUT = Path(__file__).parents[2] / "data_samples/digits/holdout"


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "seen.parquet"
    pq.write_table(pq.read_table(HOLDOUT).slice(0, 4).drop_columns(["label"]), path)
    return path


def test_the_rows_behind_predictions_are_printed_and_written(
    detected_run: Path, queries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["trace", str(detected_run), "--queries", str(queries), "--top", "3"]
    assert run([*arguments, "--backdoor"]) == DONE
    folder = detected_run / "trace" / "seen"
    said = capsys.readouterr().out
    assert str(folder / "index.html") in said
    assert "predicted rise of the query's loss" in said
    assert "No common trigger was found in these queries." in said
    table = pq.read_table(folder / "influences.parquet")
    assert max(table["rank"].to_pylist()) == 3
    assert set(table["query"].to_pylist()) == {0, 1, 2, 3}
    assert sorted(path.name for path in folder.iterdir()) == [
        "backdoor.json",
        "backdoor.safetensors",
        "carriers.parquet",
        "index.html",
        "influences.parquet",
        "nearest.parquet",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["seen"]
    assert "No common pattern was found" in (folder / "index.html").read_text()
    assert run([*arguments, "--refined", "--json"]) == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["refined"]
    assert document["triggers"] is None
    assert document["page"] == str(folder / "index.html")
    assert not (folder / "carriers.parquet").exists()


def test_what_is_wrong_is_said_in_words(
    detected_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", str(detected_run), "--queries", str(tmp_path / "none.parquet")]) == WRONG
    assert "no such file" in capsys.readouterr().err
    assert not (detected_run / "trace").exists()
