"""The stage `report`: writes report/summary.json and report/index.html from the files of the other stages."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.config import AuditConfig
from pipeline.report.html import page
from pipeline.report.summary import summary
from pipeline.runs.directory import RunDirectory, write_json, write_text


class Context(Protocol):
    @property
    def config(self) -> AuditConfig: ...

    @property
    def run(self) -> RunDirectory: ...


def report(context: Context) -> dict[str, Any]:
    """Write both files; the facts are their paths in the run directory, and the size of the page in bytes."""
    run = context.run
    found = summary(run)
    text = page(run, context.config, found)
    write_json(run / "report/summary.json", found)
    write_text(run / "report/index.html", text)
    return {"summary": "report/summary.json", "page": "report/index.html", "page_bytes": len(text.encode())}
