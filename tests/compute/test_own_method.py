"""A method that is registered from outside: one object, which `attribute` and audits take by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from digits_run import digits_config, run_until

from pipeline.attribution import AttributionError, Method, Trajectory, attribute, register_method
from pipeline.attribution.methods import METHODS
from pipeline.runs.directory import RunDirectory
from pipeline.training.main_run import whole_trajectory
from pipeline.workers.worker import run_data, run_model

OWN = {
    "mean_influence": Method(
        "influence functions at the mean weights",
        "mean",
        curved=False,
        in_audits="plain products at the mean.",
    ),
    "likeness": Method(
        "likeness", "query", similarity="representation", in_audits="the likeness to the mean validation row."
    ),
}
SMALL = {
    "attribution__group_harm": False,
    "data__validation_is_clean": False,
    "compute__chunk_rows": 350,
    "detection__halves": False,
    "detection__panel": False,
    "training__epochs": 2,
    "training__checkpoints": 2,
    "model__hidden": [12],
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, method in OWN.items():
        register_method(name, method)
    yield
    for name in OWN:
        del METHODS[name]


@pytest.mark.parametrize("name", OWN)
def test_a_registered_method_scores_rows_in_memory_and_in_an_audit_of_other_processes(
    name: str, tmp_path: Path
) -> None:
    run_until(digits_config(**SMALL, attribution__method=name), tmp_path, "detect")
    data = run_data(tmp_path)
    train, validation = data.load_role("train"), data.load_role("validation")
    expected = attribute(
        run_model(tmp_path, 0),
        Trajectory.load(whole_trajectory(tmp_path)),
        [(train.inputs, train.labels)],
        [(validation.inputs, validation.labels)],
        method=name,
    )
    assert RunDirectory(tmp_path).facts("factors")["method"] == name
    rows = pq.read_table(tmp_path / "rows.parquet")
    signals = pq.read_schema(tmp_path / "signals.parquet").names
    for column, wanted in (("validation_harm", expected.harm), ("self_influence", expected.self_influence)):
        assert (column in signals) == (wanted is not None)
        found = rows[column].to_numpy()
        if wanted is None:
            assert rows[column].null_count == len(rows)
        else:
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4 * float(wanted.abs().max()))


def test_a_name_is_registered_once() -> None:
    register_method("likeness", OWN["likeness"])
    with pytest.raises(AttributionError, match="a method called 'source' already"):
        register_method("source", OWN["likeness"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"points": "start"}, "has points='start'"),
        ({"points": "end", "options": ("speed",)}, "an unknown option 'speed'"),
        ({"points": "query"}, "at the query point, or compares features, but not both"),
        ({"points": "checkpoints", "apart": True}, "takes every checkpoint apart"),
        ({"points": "end", "refined": True}, "without the curvature of segments"),
        ({"points": "end", "recorder": "ReplayRecorder", "in_audits": "x"}, "needs a recording"),
    ],
)
def test_attributes_that_do_not_go_together_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(AttributionError, match=said):
        Method("mine", **given)  # type: ignore[arg-type]
