"""Which configurations the detection benchmark plans, and what it does without their data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection import Configuration, available, plan
from benchmarks.detection_findings import Finding, load_findings, save_findings
from benchmarks.detection_tasks import TASKS


def test_the_first_seed_of_all_tasks_comes_before_the_second() -> None:
    planned = plan(list(TASKS), seeds=2, quick=False)
    assert len(planned) == len(set(planned))
    assert [each.seed for each in planned] == sorted(each.seed for each in planned)
    assert {each.noise for each in planned if each.task == "cifar10"} >= {"human_worse", "human_random1"}
    assert {each.noise for each in planned if each.task == "concrete"} == {"targets", "none"}
    kinds = {(each.noise, each.rate) for each in planned if each.task == "sst2"}
    assert kinds == {
        ("none", 0.0),
        ("uniform", 0.05),
        ("uniform", 0.1),
        ("uniform", 0.2),
        ("uniform", 0.4),
        ("pairs", 0.2),
        ("features", 0.2),
    }


def test_tasks_without_their_data_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trec").mkdir()
    assert available(["digits", "sst2", "trec"], tmp_path) == ["digits", "trec"]
    assert f"sst2: left out, {tmp_path / 'sst2'} is not there" in capsys.readouterr().out


def test_configurations_have_folders_of_their_own() -> None:
    planned = plan(list(TASKS), seeds=2, quick=False)
    assert len({each.folder for each in planned}) == len(planned)
    assert Configuration("adult", "uniform", 0.05, 0).name == "adult/uniform/0.05"


def test_findings_come_back_as_they_were(tmp_path: Path) -> None:
    flags = {"remove": np.array([True, False]), "remove + review": np.array([True, True])}
    findings = [Finding("winnow", np.array([0.25, 0.125]), flags), Finding("aum", np.array([1.0, 2.0]))]
    save_findings(tmp_path / "findings", findings, np.array([False, True]))
    found, wrong = load_findings(tmp_path / "findings")
    assert wrong.tolist() == [False, True]
    assert set(found) == {"winnow", "aum"}
    assert found["winnow"].suspicion.tolist() == [0.25, 0.125]
    assert {name: flagged.tolist() for name, flagged in found["winnow"].flags.items()} == {
        "remove": [True, False],
        "remove + review": [True, True],
    }
    assert found["aum"].flags == {}
