"""Which source an audit by defaults names, by the stages that decide it: prepare, the panel, the test of sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.inline import Inline
from pipeline.config import load_config
from pipeline.data.prepare import prepare
from pipeline.detection.sources.source_findings import sources_of_run
from pipeline.panel.opinions import read_panel
from pipeline.panel.stage import panel_stage
from pipeline.report.summary import worst_source
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.text.decisions import Decision
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data


def source_that_is_named(config_path: Path, run_path: Path) -> str | None:
    """The value of the source that stands in the summary as the worst, or None; nothing is trained.

    No opinion of the audited model has a say in it, so a whole audit names the same one.
    """
    config, run = load_config(config_path, {"compute.device": "cpu"}), RunDirectory(run_path)
    write_text(run / "config.yaml", config.to_yaml())
    context = AuditContext(config, run, Inline(config.compute))
    prepare(context)
    panel_stage(context)
    given = role_labels(run_data(run.path), "train").numpy()
    kept = np.full(len(given), Decision.KEEP, dtype=np.uint8)
    named = worst_source(sources_of_run(run.path, read_panel(run.path), given, kept, None))
    return None if named is None else str(named["value"])
