"""A Prefect server for the tests, and an audit of three small stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.data.catalog import NAME, SCHEMA
from pipeline.report.summary import summary
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_json
from pipeline.stages import stages

DIGITS = Path(__file__).parents[2] / "data_samples/digits"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    from flows.server import TemporaryServer

    server = TemporaryServer(tmp_path_factory.mktemp("prefect"))
    server.wait_until_healthy()
    return server.url


@pytest.fixture
def prefect_api(server_url: str) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}):
        yield server_url


@pytest.fixture
def config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    tree = {
        "name": "Small.Set_1",
        "data": {"train": str(DIGITS / "train"), "features": {"image": "image"}, "label": "label"},
        "orchestration": {"retries": 1},
    }
    Path("small.yaml").write_text(yaml.safe_dump(tree))
    return Path("small.yaml")


class SmallStages:
    """Three stages that leave a complete run; `errors` are raised by `verify`, one per call."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.calls: list[str] = []
        self.refused = False

    def prepare(self, context: AuditContext) -> dict[str, Any]:
        self.calls.append("prepare")
        context.progress("encode", 5, 5, "rows")
        rows = {name: ["0" * 16] * 3 for name in SCHEMA.names} | {"row_key": ["a", "b", "c"]}
        rows |= {"row_group": [0] * 3, "row": [0, 1, 2]}
        pq.write_table(pa.table(rows, schema=SCHEMA), context.run / NAME)
        return {"rows": {"train": 3, "validation": 2, "holdout": 0}}

    def verify(self, context: AuditContext) -> dict[str, Any]:
        self.calls.append("verify")
        if self.errors:
            raise self.errors.pop(0)
        write_json(context.run / "verification.json", {"verdict": "not tested", "note": "Small."})
        return {"retrainings": 0, "verdict": "not tested"}

    def export(self, _: AuditContext) -> dict[str, Any]:
        self.calls.append("export")
        if self.refused:
            return {"refused": True, "verdict": "worse"}
        return {"refused": False, "rows_kept": 2, "rows_removed": 1, "rows_relabelled": 0}

    def report(self, context: AuditContext) -> dict[str, Any]:
        self.calls.append("report")
        table = pa.table(
            {
                "row_key": ["a", "b", "c"],
                "label": [0, 1, 2],
                "suggested_label": [None, 2, 0],
                "suspicion": [0.1, 0.9, 0.6],
                "decision": ["keep", "remove", "review"],
                "reasons": [[], ["mislabelled", "harmful"], ["ambiguous"]],
            }
        )
        pq.write_table(table, context.run / "rows.parquet")
        write_json(context.run / "report/summary.json", summary(context.run))
        (context.run / "report/index.html").write_text("<h1>Small</h1>")
        return {"page": "report/index.html"}


@pytest.fixture
def small_stages(monkeypatch: pytest.MonkeyPatch) -> SmallStages:
    small = SmallStages()
    names = ("prepare", "verify", "export", "report")
    monkeypatch.setattr(stages, "STAGES", tuple(stages.Stage(name, "", (), ()) for name in names))
    monkeypatch.setattr(stages.Stage, "run", lambda stage, context: getattr(small, stage.name)(context))
    return small
