"""The first stages of an audit, in this process: prepare and the panel, without any training."""

from __future__ import annotations

from pathlib import Path

from benchmarks.inline import Inline
from pipeline.config import AuditConfig
from pipeline.data.prepare import prepare
from pipeline.panel.stage import panel_stage
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text


def run_panel(config: AuditConfig, run_path: Path) -> None:
    """Prepare the data and judge all rows, on the CPU."""
    config, run = config.with_changes({"compute.device": "cpu"}), RunDirectory(run_path)
    write_text(run / "config.yaml", config.to_yaml())
    context = AuditContext(config, run, Inline(config.compute))
    prepare(context)
    panel_stage(context)
