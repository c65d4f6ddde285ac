"""`winnow lds` on the digits: real trainings at small settings, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_run import digits_config

from benchmarks.inline import Inline
from flows.cli import run
from flows.cli.shared import WRONG
from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.faithfulness import measure as module
from pipeline.faithfulness.measure import FaithfulnessPlan, lds
from pipeline.runs.directory import read_json

PLAN = FaithfulnessPlan(["source", "graddot"], masks=8, retrainings=2, queries=10)


class Here(Inline):
    """Workers in this process that say how many they are."""

    def count(self) -> int:
        return 1


def small(**changes: Any) -> AuditConfig:
    smooth = {"training__weight_decay": 1e-3, "training__epochs": 3, "training__batch_size": 100}
    return digits_config(**smooth, model__hidden=[], detection__halves=False, **changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, list[str]]:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.stages.opening.Workers", Here)
        found, folder = lds(small(), PLAN, tmp_path_factory.mktemp("lds") / "out", say=said.append)
    return found, folder, said


def test_source_predicts_retrainings_of_a_convex_model(
    measured: tuple[dict[str, Any], Path, list[str]],
) -> None:
    found, folder, _ = measured
    assert found == read_json(folder / "lds.json")
    assert (found["rows"], found["validation_rows"], found["queries"]) == (1200, 297, 10)
    for question in ("mean_loss", "single_losses"):
        source = found[question]["methods"]["source"]["lds"]
        assert source["value"] > 0.5
        assert found[question]["ceiling"]["value"] > 0.5


def test_removing_what_harms_most_lowers_the_loss_and_random_rows_do_not(
    measured: tuple[dict[str, Any], Path, list[str]],
) -> None:
    curve = measured[0]["curve"]
    start = np.mean(curve["as_given"])
    fall = {
        method: start - np.array([np.mean(point["losses"]) for point in points])
        for method, points in curve["methods"].items()
    }
    assert [point["share"] for point in curve["methods"]["random"]] == [0.02, 0.05, 0.1, 0.2]
    assert (fall["source"] > 0).all()
    assert (fall["source"] > 3 * np.abs(fall["random"]).max()).any()


def test_the_time_is_said_before_the_rest_is_trained(
    measured: tuple[dict[str, Any], Path, list[str]],
) -> None:
    (said,) = measured[2]
    # 8 masks × 2 less the timed one; as given and 3 lines of 4 shares, × 2.
    assert said.startswith(f"{15 + 26} retrainings of about ")


def test_the_page_names_methods_and_loads_nothing(measured: tuple[dict[str, Any], Path, list[str]]) -> None:
    text = (measured[1] / "lds.html").read_text()
    assert all(name in text for name in ("source", "graddot", "random", "Ceiling"))
    assert "http" not in text.replace("http-equiv", "")


def test_the_same_command_goes_on_and_ends_the_same(
    measured: tuple[dict[str, Any], Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder, _ = measured
    monkeypatch.setattr("pipeline.stages.opening.Workers", Here)
    lost = sorted((folder / "retrainings").iterdir())[3]
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.safetensors") if path != lost}
    before = found | {"seconds_per_training": None}
    lost.unlink()
    again, _ = lds(small(), PLAN, folder)
    assert again | {"seconds_per_training": None} == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_run_is_taken_as_it_is(
    measured: tuple[dict[str, Any], Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Workers", Here)
    path = measured[1] / "run"
    few = FaithfulnessPlan(["source_refined"], masks=5, retrainings=1, queries=1000)
    said: list[str] = []
    found, folder = lds(path, few, say=said.append)
    assert said[0].startswith("--queries is 1,000, and there are 297 validation rows")
    assert found["queries"] == 297
    assert folder == path / "lds"
    assert found["mean_loss"]["ceiling"] is None
    assert list(found["single_losses"]["methods"]) == ["source_refined"]
    assert found["refined"]["rows"] == 1024


def test_scores_go_by_the_settings_of_the_config(
    measured: tuple[dict[str, Any], Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.opening.Workers", Here)
    folder, few = measured[1], FaithfulnessPlan(["source_refined"], masks=5, retrainings=1)
    retrained = {path: path.stat().st_mtime_ns for path in folder.glob("retrainings/*")}
    found = {}
    for prior in (0.0, 100.0):
        settings = {"attribution__method": "source_refined", "attribution__refined_prior": prior}
        found[prior], _ = lds(small(**settings), few, folder)
        assert found[prior]["refined"]["prior"] == prior
    slopes = [each["mean_loss"]["methods"]["source_refined"]["slope"]["value"] for each in found.values()]
    assert slopes[0] != slopes[1]
    assert {path: path.stat().st_mtime_ns for path in retrained} == retrained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks", "3"], "--masks is 3, too few"),
        (["--methods", "sourcery"], "'sourcery' isn't known"),
        (["--methods", "unrolled"], "'unrolled' isn't known"),
        (["--methods", ","], "none is named"),
        (["--removed", "1"], "--removed is 1"),
        (["--retrainings", "0"], "--retrainings is 0"),
        (["--queries", "0"], "--queries is 0"),
        (["--methods", "source,graddot,source"], "'source' is named twice"),
    ],
)
def test_what_can_not_be_measured_is_said_at_once(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lds", "configs/digits.yaml", *options]) == WRONG
    assert message in capsys.readouterr().err


def test_without_validation_rows_there_is_nothing_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.opening.Workers", Here)
    with pytest.raises(InputError, match="no validation rows"):
        lds(small(data__validation=None, data__validation_is_clean=False), PLAN, tmp_path / "out")


@pytest.mark.parametrize(
    ("removed", "said"), [(0.9995, "removes 1,199 of 1,200 rows and keeps 1"), (0.0001, "removes 0 of")]
)
def test_masks_that_leave_too_little_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: float, said: str
) -> None:
    monkeypatch.setattr("pipeline.stages.opening.Workers", Here)
    with pytest.raises(InputError, match=said):
        lds(small(), FaithfulnessPlan(["source"], removed=removed), tmp_path / "out")
    assert not (tmp_path / "out/run/training").exists()


def test_row_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.opening.Workers", Here)
    with pytest.raises(InputError, match="rows have weights"):
        lds(small(training__class_weights="balanced"), PLAN, tmp_path / "out")
