"""The audit as a Python function, from shards to the proven export."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from digits_run import digits_config

import pipeline
from pipeline.errors import InputError
from pipeline.results.result import AuditResult


def checksums(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    before = checksums(Path("data_samples/digits"))
    config = digits_config(verification__gate="off")  # exported whatever two retrainings prove
    found = pipeline.audit(config, tmp_path_factory.mktemp("audit") / "run")
    assert checksums(Path("data_samples/digits")) == before, "source files were written to"
    return found


def test_counts_agree_everywhere(result: AuditResult) -> None:
    decisions = result.rows["decision"].to_pylist()
    removed, relabelled = decisions.count("remove"), decisions.count("relabel")
    assert removed + relabelled > 0
    assert result.summary["decisions"] == {
        d: decisions.count(d) for d in ("keep", "review", "remove", "relabel")
    }
    manifest = json.loads((result.run / "cleaned.json").read_text())
    assert (manifest["rows_in"], manifest["rows_removed"]) == (1200, removed)
    assert result.cleaned.count_rows() == 1200 - removed
    assert result.flagged.num_rows == len(decisions) - decisions.count("keep")
    quarantined = sum(
        pq.ParquetFile(p).metadata.num_rows for p in result.paths["quarantine"].glob("*.parquet")
    )
    assert quarantined == removed + relabelled


def test_verification_has_every_arm_and_seed(result: AuditResult) -> None:
    arms = result.verification["arms"]
    assert {"as_given", "cleaned", "random_removal", result.verification["exported"]} <= set(arms)
    assert all(len(arm["metric"]) == 2 for arm in arms.values())
    assert arms["cleaned"]["rows"] == arms["random_removal"]["rows"]
    assert result.verdict in ("improved", "no evidence", "worse")
    assert result.summary["verdict"] == result.verdict


def test_the_record_says_how_the_result_came_about(result: AuditResult) -> None:
    record = result.run.record
    assert list(record["stages"]) == [
        "prepare",
        "train",
        "factors",
        "attribute",
        "panel",
        "detect",
        "verify",
        "export",
        "report",
    ]
    assert record["versions"]["torch"]
    assert record["seeds"]["training"] == 0
    assert all(
        stage["seconds"] >= 0 and stage["peak_memory_bytes"] > 0 for stage in record["stages"].values()
    )


def test_nothing_is_pickled_and_nothing_partial_is_left(result: AuditResult) -> None:
    suffixes = {p.suffix for p in result.run.path.rglob("*") if p.is_file()}
    assert suffixes <= {".parquet", ".safetensors", ".json", ".yaml", ".html", ".npy", "", ".lock"}


def test_the_flagged_rows_come_most_suspicious_first(result: AuditResult) -> None:
    suspicion = result.flagged["suspicion"].to_pylist()
    assert suspicion == sorted(suspicion, reverse=True)


def test_a_result_shows_itself_in_a_notebook(result: AuditResult) -> None:
    html = result._repr_html_()
    assert result.run.run_id in html
    assert "<script" not in html
    assert html.count("<tr>") == 1 + min(8, result.flagged.num_rows)
    assert result.flagged["row_key"][0].as_py() in html


def test_a_directory_without_a_finished_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished run"):
        AuditResult(tmp_path)


def test_a_diverging_training_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the loss became") as error:
        pipeline.audit(digits_config(training__learning_rate=1e30), tmp_path / "run")
    assert "learning_rate" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training__checkpoints": 600, "attribution__segments": 1}, "only 240 steps"),
        ({"model__target": "nowhere.module:build"}, "nowhere.module:build can't be imported"),
        ({"model__target": "torch.nn:Linear", "model__kwargs": {"in_features": 64}}, "can't be called"),
        (
            {"model__target": "torch.nn:Linear", "model__kwargs": {"in_features": 8, "out_features": 3}},
            "the model can't take",
        ),
        ({"model__name": "bag_of_embeddings"}, "takes tokens"),
    ],
    ids=["too many checkpoints", "no such module", "missing argument", "wrong input", "wrong kind of model"],
)
def test_a_model_that_does_not_fit_is_said_before_training(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        pipeline.audit(digits_config(**changes), tmp_path / "run")
