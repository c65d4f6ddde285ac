"""The files and flips that a rule needs: said by the pre-flight, and a part of the stages' fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.small import run_prepare, write

from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.preflight.data_lines import rule_lines
from pipeline.stages.stages import fingerprints


@pytest.fixture
def data(tmp_path: Path) -> dict[str, object]:
    write(tmp_path / "train.parquet", {"id": range(40), "x": [0.5] * 20 + [1.5] * 20, "label": [0, 1] * 20})
    return {
        "train": str(tmp_path / "train.parquet"),
        "features": {"x": "numeric"},
        "label": "label",
        "key": "id",
    }


def configured(data: dict[str, object], **detection: object) -> AuditConfig:
    return AuditConfig.model_validate({"name": "small", "data": data, "detection": detection})


def trusted(tmp_path: Path, rows: int) -> str:
    (tmp_path / "trusted.csv").write_text("id\n" + "".join(f"{key}\n" for key in range(rows)))
    return str(tmp_path / "trusted.csv")


def test_the_preflight_says_whether_there_are_enough_trusted_rows(
    data: dict[str, object], tmp_path: Path
) -> None:
    run_prepare(tmp_path / "run", **data)
    path = trusted(tmp_path, 25)
    config = configured(data, rule="trusted", trusted=path, false_flag_rate=0.05)
    (line,) = rule_lines(config, tmp_path / "run")
    assert (line.text, line.status) == ("25 rows", "ok")
    (line,) = rule_lines(config.with_changes({"detection.false_flag_rate": 0.01}), tmp_path / "run")
    assert line.status.startswith("warning: 99 are needed for a false-flag rate of 1.0 %")


def test_the_preflight_names_canaries_and_a_wrong_file_of_answers(
    data: dict[str, object], tmp_path: Path
) -> None:
    (line,) = rule_lines(configured(data, canaries=3), tmp_path)
    assert line.status.startswith("warning: such a run exports nothing")
    assert rule_lines(configured(data), tmp_path) == []
    with pytest.raises(InputError, match="not a file of answers"):
        rule_lines(configured(data, rule="reviewed", answers=trusted(tmp_path, 2)), tmp_path)
    with pytest.raises(InputError, match=r"nowhere\.parquet: no such file"):
        rule_lines(configured(data, rule="reviewed", answers="nowhere.parquet"), tmp_path)


def test_a_changed_file_is_judged_anew_and_nothing_before_it(data: dict[str, object], tmp_path: Path) -> None:
    config = configured(data, rule="trusted", trusted=trusted(tmp_path, 20))
    before = fingerprints(config)
    trusted(tmp_path, 21)
    after = fingerprints(config)
    changed = [stage for stage in before if before[stage] != after[stage]]
    assert changed == ["detect", "verify", "export", "report"]
    (tmp_path / "trusted.csv").unlink()
    with pytest.raises(InputError, match=r"trusted\.csv: no such file"):
        fingerprints(config)


def test_a_file_that_was_moved_is_the_same_file(data: dict[str, object], tmp_path: Path) -> None:
    """Its content counts, not its path: a run may be moved, and the answers in it are moved along."""
    before = fingerprints(configured(data, rule="trusted", trusted=trusted(tmp_path, 20)))
    moved = (tmp_path / "trusted.csv").rename(tmp_path / "elsewhere.csv")
    assert fingerprints(configured(data, rule="trusted", trusted=str(moved))) == before


def test_canaries_begin_with_the_encoded_rows(data: dict[str, object]) -> None:
    before, after = fingerprints(configured(data)), fingerprints(configured(data, canaries=5))
    assert all(before[stage] != after[stage] for stage in before)
